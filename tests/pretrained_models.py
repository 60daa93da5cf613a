"""Small random instances of the classes that foundation codecs load, saved as their users' are."""

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from narrow import CGDM_PARTS, MRIDC_PARTS, NARROW
from torch import nn

from compressai_gen.models import CGDM, MRIDC

UNET = {
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (16, 32),
    "layers_per_block": 2,
    "attention_head_dim": (2, 4),
    "cross_attention_dim": 24,
    "norm_num_groups": 8,
    "use_linear_projection": True,
}
AUTOENCODER = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (8, 8, 16, 16),
    "norm_num_groups": 8,
    "latent_channels": 4,
    "scaling_factor": 0.5,
}

PARTS = {"cgdm": CGDM_PARTS, "mridc": MRIDC_PARTS}
CLASSES = {"cgdm": CGDM, "mridc": MRIDC}


def save_unet(folder, **config):
    torch.manual_seed(3)
    model = UNet2DConditionModel(**(UNET | config))
    model.save_pretrained(folder / "unet")
    return folder


def save_autoencoder(folder, **config):
    torch.manual_seed(4)
    AutoencoderKL(**(AUTOENCODER | config)).save_pretrained(folder / "vae")
    return folder


def save_tiny_autoencoder(folder, **config):
    torch.manual_seed(4)
    widths = (8, 8, 8, 8)
    model = AutoencoderTiny(encoder_block_out_channels=widths, decoder_block_out_channels=widths, **config)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):  # by default activations fade: what is decoded would hang on biases alone
            nn.init.kaiming_normal_(module.weight)
    model.save_pretrained(folder / "vae")
    return folder


def restorer_of(folder, **denoiser):
    """Configuration of a restorer with the models in a folder."""
    return {
        "space": {"class": "AutoencoderSpace", "pretrained": str(folder)},
        "denoiser": {"class": "LatentUNet", "pretrained": str(folder), "tokens": 3} | denoiser,
        "guidance": {"class": "ControlBranch", "widths": [8, 8]},
    }


def small_codec(name, folder, **denoiser):
    """A codec on the models in a folder, in which no weights are zeros."""
    torch.manual_seed(5)
    model = CLASSES[name](restorer=restorer_of(folder, **denoiser), **NARROW, **PARTS[name])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2 and not parameter.any():
                parameter.normal_(std=0.05)
        if name == "mridc":
            codebooks = torch.randn(model.quantizer.codebooks.shape)
            model.quantizer.set_codebooks(codebooks, torch.ones(codebooks.shape[:2]))
        else:  # as a warm start does, so that qualities differ
            model.latent_codec.init_statistics(torch.ones(16), steps=(1.6, 1.15, 0.8, 0.55, 0.38))
    model.eval().update()
    return model
