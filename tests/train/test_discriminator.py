import pytest
import torch

from compressai_gen.train.discriminator import KINDS, Adversary, PatchDiscriminator


def test_every_position_of_a_picture_is_seen_alike():
    """Blurred before strides: a pattern of two pixels looks the same wherever it starts, which strides alone break."""
    torch.manual_seed(0)
    network, base = PatchDiscriminator(8), torch.full((1, 3, 64, 64), 0.5)
    wave = 0.5 + 0.4 * (torch.arange(64) % 4 < 2).float().expand(1, 3, 64, 64)
    inner = (..., slice(4, -4), slice(4, -4))
    here, shifted, flat = (network(x, base)[inner].mean() for x in (wave, wave.roll(1, 3), torch.full_like(base, 0.7)))
    assert (here - shifted).abs() < 0.2 * (here - flat).abs()
    assert network(wave, base).shape == (1, 1, 16, 16)


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_to_tell_blurred_pictures_and_pushes_them_towards_originals(kind, photograph):
    torch.manual_seed(0)
    x = torch.cat([photograph(64, 64, top) for top in (0, 60, 120, 180)])
    x_base = torch.nn.functional.avg_pool2d(x, 5, 1, 2)
    adversary = Adversary(kind, width=8, learning_rate=1e-3, penalty_every=2)
    optimizer = torch.optim.AdamW(adversary.parameters(), adversary.learning_rate)
    before = adversary.judge(x_base, x, x_base)
    for step in range(40):
        loss, logs = adversary(x_base, x, x_base, step)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert logs["d_right"] > 0.6
    assert adversary.judge(x_base, x, x_base) > before
    x_hat = x_base.clone().requires_grad_()
    adversary.judge(x_hat, x, x_base).backward()
    assert x_hat.grad.abs().sum() > 0
    assert all(p.grad is None for p in adversary.parameters())
    with torch.no_grad():
        assert adversary.judge(x, x, x_base) < adversary.judge(x_base, x, x_base)


def test_penalties_come_at_their_steps_and_flatten(photograph):
    x, x_hat = photograph(64, 64), photograph(64, 64, 100)
    torch.manual_seed(0)
    adversary = Adversary("hinge", width=8, r1=10.0, r2=10.0, penalty_every=3)
    plain, penalized = (adversary(x_hat, x, x, step)[0] for step in (1, 3))
    assert penalized > plain
    assert adversary(x_hat, x, x, 2)[0] == plain


def test_unknown_kind_is_told():
    with pytest.raises(TypeError, match="relativistic"):
        Adversary("wasserstein")
