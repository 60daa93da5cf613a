import copy

import pytest
import torch
from compressai.ans import BufferedRansEncoder

from compressai_gen.entropy.rans import open_stream
from compressai_gen.entropy.two_pass import TwoPassHyperprior

INDEX = torch.tensor(1)


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    codec = TwoPassHyperprior(12, hyper_channels=6, width=8, n_qualities=3)
    codec.init_statistics(torch.linspace(4, 0.2, 12), (2.0, 1.0, 0.5))
    for layer in (codec.prior.first.out, codec.prior.second.out):
        torch.nn.init.normal_(layer.weight, std=0.5)
    codec.eval().update()
    return codec


@pytest.fixture(scope="module")
def y():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(12, 8, 12, generator=generator) * torch.linspace(4, 0.2, 12)[:, None, None]


def _code(codec, y, quality=INDEX):
    encoder = BufferedRansEncoder()
    sent = codec.compress(y, quality, encoder)
    payload = encoder.flush()
    decoded = _decode(codec, payload, y.shape[1:], quality)
    assert torch.equal(sent, decoded)
    return payload, decoded


def _decode(codec, payload, shape, quality):
    return codec.decompress(shape, quality, open_stream(payload, codec.n_symbols(shape)))


def test_decoded_latent_is_the_estimated_one(codec, y):
    assert torch.equal(_code(codec, y)[1], codec(y[None], INDEX[None])["y_hat"])


@pytest.mark.parametrize("quality", [0, 0.5, 1, 1.75, 2])
def test_error_is_at_most_half_a_step(codec, y, quality):
    step = 2.0 ** (1 - quality)
    error = (_code(codec, y, torch.tensor(quality))[1] - y).abs()
    assert 0.4 * step < error.max() <= (0.5 + 1e-5) * step


def test_likelihoods_are_the_length_of_the_stream(codec, y):
    out = codec(y[None], INDEX[None])
    bits = sum(-p.log2().sum().item() for p in out["likelihoods"].values())
    assert 8 * len(_code(codec, y)[0]) == pytest.approx(bits, rel=0.01, abs=64)


def test_far_outliers_are_coded(codec, y):
    wild = y.clone()
    wild[3, 2, 5], wild[9, 7, 11] = 5000, -700
    assert (_code(codec, wild)[1] - wild).abs().max() < 0.51


def test_each_position_is_predicted_from_earlier_ones_only(codec, y):
    """Otherwise the decoder could not follow: a change of what comes last changes no probability of the rest."""
    other = y.clone()
    if isinstance(codec, TwoPassHyperprior):
        other[0::2, 0, 1] += 3  # the second pass, at white positions
    else:
        other[4:, 0, 0] += 3  # the last group's second pass
    shapes = [codec(t[None], INDEX[None])["likelihoods"]["y"] for t in (y, other)]
    assert (shapes[0] != shapes[1]).sum() <= 8


def test_training_reaches_every_parameter(codec, y):
    trained = copy.deepcopy(codec).train()
    torch.nn.init.normal_(list(trained.h_a.children())[-1].weight)  # untrained, z is zero
    out = trained(torch.stack((y, y.flip(2), y.flip(1))), torch.tensor([0, 1, 2]))
    (sum(-p.log2().sum() for p in out["likelihoods"].values()) + out["y_hat"].square().sum()).backward()
    silent = [name for name, p in trained.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == ["entropy_bottleneck.quantiles"]


def test_rounded_likelihoods_are_nearer_to_the_stream_than_noisy_ones(codec, y):
    trained = copy.deepcopy(codec).train()
    # Where the latent is far below a step, noise costs bits that rounding to zero does not.
    out = trained(y[None] / 50, INDEX[None])
    noisy, rounded = (-out[key]["y"].log2().sum() for key in ("likelihoods", "rounded_likelihoods"))
    assert rounded < noisy


def test_update_is_idempotent(codec):
    fresh = copy.deepcopy(codec)
    assert not fresh.update()
    before = {name: b.clone() for name, b in fresh.named_buffers()}
    assert fresh.update(force=True)
    assert all(torch.equal(b, before[name]) for name, b in fresh.named_buffers())


@pytest.mark.parametrize("payload", [b"", b"\xff" * 11, bytes(range(256)) * 4])
def test_bytes_that_no_encoder_made_give_some_latent(codec, payload):
    decoded = _decode(codec, payload, (8, 12), INDEX)
    assert decoded.shape == (1, 12, 8, 12)
    assert torch.isfinite(decoded).all()
