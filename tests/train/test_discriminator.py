import pytest
import torch
from metric_weights import needs_vgg

from compressai_gen.metrics.weights import convolutions
from compressai_gen.train.discriminator import KINDS, Adversary, FeatureDiscriminator, PatchDiscriminator

NETWORKS = ["PatchDiscriminator", pytest.param("FeatureDiscriminator", marks=needs_vgg)]


def test_every_position_of_a_picture_is_seen_alike():
    """Blurred before strides: a pattern of two pixels looks the same wherever it starts, which strides alone break."""
    torch.manual_seed(0)
    network, base = PatchDiscriminator(8), torch.full((1, 3, 64, 64), 0.5)
    wave = 0.5 + 0.4 * (torch.arange(64) % 4 < 2).float().expand(1, 3, 64, 64)
    inner = (..., slice(4, -4), slice(4, -4))
    here, shifted, flat = (
        network(x, base)[0][inner].mean() for x in (wave, wave.roll(1, 3), torch.full_like(base, 0.7))
    )
    assert (here - shifted).abs() < 0.2 * (here - flat).abs()
    assert network(wave, base)[0].shape == (1, 1, 16, 16)


@needs_vgg
def test_heads_judge_what_a_frozen_network_sees_beside_the_base_picture(photograph):
    torch.manual_seed(0)
    x, x_base = photograph(61, 70), photograph(61, 70, 90)
    network, seen = FeatureDiscriminator(8), []
    for head in network.heads.values():
        head.features.register_forward_hook(lambda module, inputs, _: seen.append(inputs[0]))
    logits = network(x, x_base)
    assert [v.shape for v in logits] == [(1, 1, 28, 32), (1, 1, 14, 16), (1, 1, 7, 8)]
    h = (x[..., :56, :64] - network.mean) / network.std
    for i, layer in enumerate(convolutions("a test", "vgg16")[:23]):
        h = layer(h)
        if i in (8, 15, 22):
            assert torch.equal(seen.pop(0), h)
    assert not torch.equal(network(x, x)[0], logits[0])
    kept = [*network.state_dict(), *(name for name, _ in network.named_parameters())]
    assert all(name.startswith("heads.") for name in kept)


def test_an_adversary_sees_as_many_pictures_as_it_is_told_and_all_of_them_shifted_alike(photograph):
    torch.manual_seed(0)
    adversary, x, seen = Adversary("hinge", width=8, images=2, shift=5), photograph(64, 64).repeat(3, 1, 1, 1), []
    adversary.discriminator.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    places = set()
    for step in range(8):
        seen.clear()
        adversary(x, x, x, step)
        assert [v.shape for v in seen] == [(2, 3, 59, 59)] * 4
        assert all(torch.equal(v, seen[0]) for v in seen)
        places.add(
            next((i, j) for i in range(6) for j in range(6) if torch.equal(x[:2, :, i : i + 59, j : j + 59], seen[0]))
        )
    assert len(places) > 3


@pytest.mark.parametrize("discriminator", NETWORKS)
@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_to_tell_blurred_pictures_and_pushes_them_towards_originals(kind, discriminator, photograph):
    torch.manual_seed(0)
    x = torch.cat([photograph(64, 64, top) for top in (0, 60, 120, 180)])
    x_base = torch.nn.functional.avg_pool2d(x, 5, 1, 2)
    adversary = Adversary(kind, discriminator, width=8, learning_rate=1e-3, penalty_every=2)
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


def test_unknown_kinds_and_networks_are_told():
    with pytest.raises(TypeError, match="relativistic"):
        Adversary("wasserstein")
    with pytest.raises(TypeError, match="FeatureDiscriminator"):
        Adversary(discriminator="dino")
