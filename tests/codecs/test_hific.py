import pytest
import torch
from compressai.registry import MODELS

from compressai_gen.codecs.hific import HiFiC
from compressai_gen.errors import BitstreamError


@pytest.fixture(scope="module")
def narrow():
    torch.manual_seed(0)
    model = HiFiC(N=6, M=4, widths=(4, 6, 8, 10, 12), blocks=2).eval()
    _make_lively(model)
    return model


@torch.no_grad()
def _make_lively(model):
    """Untrained latents would all round to the same: spread them, and let means and scales differ."""
    model.g_a[-1].weight.mul_(20)
    model.h_a[-1].weight.mul_(8)
    for synthesis in (model.h_mean, model.h_scale):
        synthesis[-1].weight.mul_(20)
    model.h_scale[-1].bias.add_(8)
    for name, parameter in model.named_parameters():
        if name.endswith((".gamma", ".beta")):
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.update(force=True)


@pytest.mark.parametrize("size", [(64, 128), (70, 100), (1, 1), (65, 9)])
def test_any_size_goes_through_bytes(narrow, size):
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        out = narrow.compress(x)
        x_hat = narrow.decompress(out["strings"], out["shape"])["x_hat"]
        expected = narrow(narrow._pad(x))["x_hat"][..., : size[0], : size[1]].clamp(0, 1)
    assert [len(strings) for strings in out["strings"]] == [2, 2]
    assert len(out["strings"][0][0]) > 4  # the latent says something
    with torch.no_grad():
        cut = [[string[:4] for string in strings] for strings in out["strings"]]
        assert narrow.decompress(cut, out["shape"])["x_hat"].shape == x.shape
    torch.testing.assert_close(x_hat, expected, atol=1e-5, rtol=1e-5)


def test_bytes_are_what_the_likelihoods_promise(narrow):
    x = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        n_bytes = sum(len(strings[0]) for strings in narrow.compress(x)["strings"])
        bits = sum(-likelihoods.log2().sum().item() for likelihoods in narrow(x)["likelihoods"].values())
    assert 8 * n_bytes == pytest.approx(bits, rel=0.1)


def test_state_says_the_size(narrow):
    x = torch.rand(1, 3, 64, 64)
    copy = MODELS["hific"].from_state_dict(narrow.state_dict()).eval()
    with torch.no_grad():
        torch.testing.assert_close(copy(x)["x_hat"], narrow(x)["x_hat"])


def test_names_of_neuralcompression(narrow):
    """The names that MS-ILLM's checkpoints have; a part is enough of each kind of layer."""
    pairs = {
        "encoder.blocks.0.0.weight": "g_a.0.0.weight",
        "encoder.blocks.4.1.gamma": "g_a.4.1.gamma",
        "encoder.blocks.5.bias": "g_a.5.bias",
        "decoder.block_0.0.beta": "g_s.0.0.beta",
        "decoder.resid_blocks.1.sequence.3.weight": "g_s.1.1.3.weight",
        "decoder.blocks.3.0.weight": "g_s.2.3.0.weight",
        "decoder.blocks.4.weight": "g_s.2.4.weight",
        "hyper_analysis.2.weight": "h_a.2.weight",
        "hyper_synthesis_mean.4.bias": "h_mean.4.bias",
        "hyper_synthesis_scale.0.weight": "h_scale.0.weight",
        "hyper_bottleneck.quantiles": "entropy_bottleneck.quantiles",
        "hyper_bottleneck._matrix0": "entropy_bottleneck.matrices.0",  # as CompressAI called it in 2023
        "latent_bottleneck.scale_table": "gaussian_conditional.scale_table",
    }
    state = narrow.state_dict()
    changed = {theirs: state.pop(ours) + 1 for theirs, ours in pairs.items()}
    loaded = HiFiC.from_state_dict(state | changed).state_dict()
    for theirs, ours in pairs.items():
        torch.testing.assert_close(loaded[ours], changed[theirs])


def test_gradients_reach_every_part(narrow):
    model = HiFiC.from_state_dict(narrow.state_dict()).train()
    out = model(torch.rand(1, 3, 64, 64))
    (out["x_hat"].square().mean() - sum(p.log().mean() for p in out["likelihoods"].values())).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None and not name.endswith("quantiles")]
    assert silent == []


def test_wrong_number_of_strings(narrow):
    with pytest.raises(BitstreamError, match="hyperprior"):
        narrow.decompress([[b""]], (64, 64))


def test_equals_neuralcompression():
    """The same weights give the same pictures and bytes as the implementation that MS-ILLM was trained with."""
    reason = "pip install --no-deps neuralcompression fvcore iopath portalocker termcolor tabulate"
    theirs_module = pytest.importorskip("neuralcompression.models", reason=reason)
    torch.manual_seed(0)
    theirs = theirs_module.HiFiCAutoencoder(latent_features=8, hyper_features=8, num_residual_blocks=2).eval()
    ours = HiFiC.from_state_dict(theirs.state_dict()).eval()
    _make_lively(ours)
    names = dict(zip(ours.state_dict(), theirs.state_dict(), strict=True))
    theirs.load_state_dict({names[name]: value for name, value in ours.state_dict().items()})
    ours.double(), theirs.double()  # in float32 a latent on the edge of two integers may round to either

    x = torch.rand(1, 3, 128, 192, dtype=torch.double)
    with torch.no_grad():
        a, b = ours(x), theirs(x)
        torch.testing.assert_close(a["x_hat"], b.image, atol=1e-4, rtol=0)
        torch.testing.assert_close(a["likelihoods"]["y"], b.latent_likelihoods, atol=1e-4, rtol=0)
        torch.testing.assert_close(a["likelihoods"]["z"], b.hyper_latent_likelihoods, atol=1e-4, rtol=0)
        x = x[..., :100, :150]  # padded by each in its own way
        coded, expected = ours.compress(x), theirs.compress(x)
        assert coded["strings"] == [expected.latent_strings, expected.hyper_latent_strings]
        x_hat = ours.decompress(coded["strings"], coded["shape"])["x_hat"]
        torch.testing.assert_close(x_hat, theirs.decompress(expected), atol=1e-4, rtol=0)
