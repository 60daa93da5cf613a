"""The networks of the default sizes, with random weights."""

import pytest
import torch

from compressai_gen.arithmetic import kmacs_per_pixel
from compressai_gen.models import CGDM, MRIDC

CLASSES = {"cgdm": CGDM, "mridc": MRIDC}


@pytest.fixture(scope="module", params=CLASSES)
def model(request):
    torch.manual_seed(0)
    model = CLASSES[request.param]()
    for parameter in model.parameters():
        if parameter.dim() > 1 and not parameter.any():  # what starts at zero hides faults
            torch.nn.init.normal_(parameter, std=0.01)
    if request.param == "mridc":
        model.quantizer.codebooks.normal_()
    model.eval().update(force=True)
    return model


@pytest.fixture(scope="module")
def x():
    return torch.rand(1, 3, 192, 256, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_arithmetic_is_bounded(model, x):
    """60 kMAC/px to encode and 50 to decode, the restorer's default step included."""
    n_pixels = x[0, 0].numel()
    encoded, of_encoder = kmacs_per_pixel(lambda: model.compress(x, quality=5), n_pixels)
    _, of_decoder = kmacs_per_pixel(lambda: model.decompress(encoded["strings"], encoded["shape"]), n_pixels)
    print(of_encoder, of_decoder)
    assert 10 < of_encoder <= 60
    assert 10 < of_decoder <= 50


@torch.no_grad()
@pytest.mark.parametrize("quality", [1, 2.5, 5])
def test_streams_decode_to_what_was_coded(model, x, quality):
    encoded = model.compress(x[..., :150, :200], quality=quality)
    decoded = model.decompress(encoded["strings"], encoded["shape"])["x_hat"]
    assert decoded.shape == (1, 3, 150, 200)
    assert torch.equal(decoded, model.decompress(encoded["strings"], encoded["shape"])["x_hat"])
    likelihoods = model(x[..., :150, :200], quality)["likelihoods"]
    bits = sum(-p.log2().sum().item() for p in likelihoods.values())
    assert 8 * len(encoded["strings"][0][0]) == pytest.approx(bits, rel=0.01, abs=128)


@torch.no_grad()
def test_the_first_step_of_training_runs_and_reaches_all(model, x):
    """See also the tests of training; here, that no part of the configuration is idle."""
    model.train()
    try:
        with torch.enable_grad():
            out = model(x[..., :128, :128], torch.tensor([2.5]))
            bits = sum(-p.log2().sum() for p in out["likelihoods"].values())
            loss = out["x_hat"].square().mean() + bits / 1e4 + out["terms"].get("commitment", torch.zeros(1)).sum()
            loss = loss - out["terms"]["completion"].log().mean() if "completion" in out["terms"] else loss
            loss.backward()
        used = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        assert {"g_a", "g_s"} < used
        assert "latent_codec" in used or "predictor" in used
    finally:
        model.zero_grad()
        model.eval()


@torch.no_grad()
@pytest.mark.parametrize("steps", [0, 1])
def test_tiles_are_parts_of_the_whole(model, steps):
    x = torch.rand(1, 3, 384, 640, generator=torch.Generator().manual_seed(2))
    encoded = model.compress(x, quality=4)
    whole, tiled = (
        model.decompress(encoded["strings"], encoded["shape"], steps=steps, seed=1, tile=tile)["x_hat"]
        for tile in (1024, 320)
    )
    assert (tiled - whole).abs().max() < 2e-3
