"""What a stream's symbols are, as the encoder meant them and as a decoder gets them."""

import hashlib
from unittest import mock

import torch

from compressai_gen.layers.masking import levels_of
from compressai_gen.layers.precision import bfloat16_autocast
from compressai_gen.models import CGDM

WITHOUT_AVX = {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ONEDNN_MAX_CPU_ISA": "SSE41"}
"""Environment in which PyTorch computes as on a processor without AVX."""


def decoded_symbols(model, strings, shape):
    """What the entropy decoder gives (N, symbols): all that decompress() hands to the synthesis."""
    seen = []

    def keep(decoded, quality, seeds, options):
        seen.extend(decoded)
        return torch.zeros(len(decoded), 3, *shape)

    with mock.patch.object(model, "synthesize", keep):
        model.decompress([strings], shape)
    return torch.stack([_flat(decoded) for decoded in seen]).cpu()


def _flat(decoded):
    return torch.cat([part.flatten() for part in decoded])


@torch.no_grad()
def sent_symbols(model, x, quality):
    """What forward() takes to be sent (N, symbols): CGDM's ``y_hat`` and syntax, MRIDC's tokens and mask."""
    index = torch.full((len(x),), quality - 1.0)
    x = model.pad(x)
    with bfloat16_autocast(x.device):
        y = model.analyze(x, index)
    if isinstance(model, CGDM):
        rows = []
        for x_i, y_i, index_i in zip(x, y, index, strict=True):
            y_hat = model.latent_codec(y_i[None], index_i[None])["y_hat"]
            syntax = model._analyze_syntax(x_i[None], y_hat, index_i[None])
            rows.append(_flat((y_hat, model.syntax.entropy_bottleneck.nearest(syntax))))
        return torch.stack(rows)
    rows = []
    for latent in y:
        tokens = model.quantizer(latent.y[None], levels_of(latent.densities)[None])[1]
        rows.append(_flat((tokens, latent.densities)))
    return torch.stack(rows)


def digest(symbols):
    """Fingerprint of one image's symbols."""
    return hashlib.sha256(symbols.numpy().tobytes()).hexdigest()
