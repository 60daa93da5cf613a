"""The metrics as torchmetrics' modules agree with the harness, in one process and in two."""

import math
import pickle
import subprocess
import sys

import pytest
import torch
from metric_weights import needs_alex

from compressai_gen.codecs import find_codec
from compressai_gen.data import load_dataset, read_image, write_image
from compressai_gen.errors import MetricError, MissingExtraError
from compressai_gen.eval import tables
from compressai_gen.eval.features import FeatureStore, set_figures
from compressai_gen.eval.processes import Processes
from compressai_gen.eval.runner import Job, measure
from compressai_gen.metrics import PatchFeatures, ReferenceMetrics

torchmetrics = pytest.importorskip("torchmetrics")
from compressai_gen.metrics import FrechetPatchDistance, KernelPatchDistance, ReferenceMetric  # noqa: E402

NAMES = ("psnr", "ssim", "ssimulacra2", "grid")

# Two processes, each with every other picture, as files; the first prints what all of them make.
PROGRAM = """
import sys, torch
import torch.distributed as distributed
from torchmetrics import MetricCollection
from compressai_gen.data import read_image
from compressai_gen.metrics import FrechetPatchDistance, KernelPatchDistance, ReferenceMetric

rank, store, names, *pairs = int(sys.argv[1]), sys.argv[2], sys.argv[3].split(), *sys.argv[4:]
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
metrics = {name: ReferenceMetric(name) for name in names}
if "lpips" in names:
    metrics |= {"alexnet_fd": FrechetPatchDistance("alexnet"), "alexnet_kd": KernelPatchDistance("alexnet")}
metrics = MetricCollection(metrics)
for pair in pairs[rank::2]:
    original, decoded = (read_image(path)[None] for path in pair.split("|"))
    metrics.update(decoded, original)
figures = metrics.compute()
if rank == 0:
    for name, value in figures.items():
        print(name, value.item())
distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Three photographs and what JPEG makes of them, as files, so that two processes have different numbers."""
    folder, codec = tmp_path_factory.mktemp("pairs"), find_codec("jpeg")
    for index, (_, image) in enumerate(load_dataset("samples", limit=3)):
        image = image[:, :300, :400].contiguous()
        write_image(image, folder / f"{index}.png")
        write_image(codec.decode(codec.encode(image, 10)), folder / f"{index}-decoded.png")
    return [(folder / f"{index}.png", folder / f"{index}-decoded.png") for index in range(3)]


@pytest.fixture(scope="module")
def harness(pairs, tmp_path_factory):
    """The figures of the evaluation's own run over these pictures."""

    folder = tmp_path_factory.mktemp("harness")
    (folder / "pictures").mkdir()
    for original, _ in pairs:
        write_image(read_image(original), folder / "pictures" / original.name)

    def run(names, features=None):
        dataset = load_dataset(str(folder / "pictures"))
        store = features and FeatureStore(folder / "features", PatchFeatures(features))
        rows = measure(
            [Job(find_codec("jpeg"), (10,))], dataset, ReferenceMetrics(names), progress=False, features=store
        )
        of_set = set_figures(rows, store, Processes(), progress=False) if features else None
        return tables.summarize(tables.per_image(rows), of_set).iloc[0]

    return run


def test_modules_agree_with_the_harness(pairs, harness):
    metrics = torchmetrics.MetricCollection({name: ReferenceMetric(name) for name in NAMES})
    for original, decoded in pairs:
        metrics.update(read_image(decoded)[None].float() / 255, read_image(original)[None])
    expected = harness(NAMES)
    for name, value in metrics.compute().items():
        assert value.item() == pytest.approx(expected[name], rel=1e-9)
    metrics.reset()
    assert all(value.isnan() for value in metrics.compute().values())


@pytest.mark.parametrize("names", [NAMES, pytest.param(("lpips", "grid"), marks=needs_alex)], ids=["plain", "networks"])
def test_two_processes_agree_with_the_harness(names, pairs, harness, tmp_path):
    arguments = [str(tmp_path / "store"), " ".join(names), *(f"{original}|{decoded}" for original, decoded in pairs)]
    running = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, str(rank), *arguments], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=240)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0]
    found = {name: float(value) for name, value in (line.split() for line in outputs[0].splitlines())}
    expected = harness(names, "alexnet" if "lpips" in names else None)
    assert len(found) == len(names) + 2 * ("lpips" in names)
    for name, value in found.items():
        assert value == pytest.approx(expected[name], rel=1e-5), name


def test_batches_and_sums(pairs):
    """A batch is its pictures one by one, and `forward` gives the batch's own figure."""
    x = torch.stack([read_image(original)[:, :200, :200] for original, _ in pairs])
    y = torch.stack([read_image(decoded)[:, :200, :200] for _, decoded in pairs])
    metric, single = ReferenceMetric("psnr"), ReferenceMetric("psnr")
    first = metric(y, x)
    alone = [single(b[None], a[None]) for a, b in zip(x, y, strict=True)]
    assert first.item() == pytest.approx(torch.stack(alone).mean().item())
    assert metric.compute() == single.compute()
    assert pickle.loads(pickle.dumps(metric)).compute() == metric.compute()
    assert metric.higher_is_better
    assert not ReferenceMetric("grid").higher_is_better


def test_distances_are_those_of_the_features(monkeypatch):
    pytest.importorskip("torchvision")
    from compressai_gen.metrics import FEATURES, FeatureDistance
    from compressai_gen.metrics.distribution import FeatureSpec

    monkeypatch.setitem(FEATURES, "alexnet", FeatureSpec(("a", "b"), 3, lambda device: lambda x: x.mean((2, 3))))
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randint(0, 256, (4, 3, 256, 400), dtype=torch.uint8, generator=generator) for _ in range(2))
    frechet, kernel = FrechetPatchDistance("alexnet"), KernelPatchDistance("alexnet")
    assert math.isnan(frechet.compute().item())
    for part in (slice(0, 3), slice(3, 4)):
        frechet.update(y[part], x[part])
        kernel.update(y[part], x[part])
    features = PatchFeatures("alexnet")
    distance = FeatureDistance([features(picture) for picture in x])
    decoded = [features(picture) for picture in y]
    assert frechet.compute().item() == pytest.approx(distance.frechet(decoded))
    assert kernel.compute().item() == pytest.approx(distance.kernel(decoded))


def test_small_pictures_have_no_figure():
    metric = ReferenceMetric("grid")
    picture = torch.zeros(1, 3, 64, 70, dtype=torch.uint8)
    metric.update(picture, picture)
    assert metric.compute() == 0
    metric.update(picture[..., :40], picture[..., :40])
    assert metric.compute().isnan()


@pytest.mark.parametrize(
    ("batch", "reason"), [(torch.zeros(3, 8, 8), "shape"), (torch.zeros(1, 3, 8, 8, dtype=torch.int32), "int32")]
)
def test_what_is_no_batch_of_pictures_is_told(batch, reason):
    with pytest.raises(MetricError, match=reason):
        ReferenceMetric("psnr").update(batch, batch)


def test_unknown_names_list_the_known():
    with pytest.raises(MetricError, match="ssimulacra2"):
        ReferenceMetric("vmaf")
    with pytest.raises(MetricError, match="inception"):
        FrechetPatchDistance("vgg")


def test_without_torchmetrics_one_line_says_what_to_install(monkeypatch):
    import compressai_gen.metrics as package

    monkeypatch.delitem(sys.modules, "compressai_gen.metrics.modules", raising=False)
    monkeypatch.delattr(package, "modules", raising=False)
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(MissingExtraError, match=r"compressai-gen\[torchmetrics\]"):
        _ = package.ReferenceMetric
    with pytest.raises(AttributeError):
        _ = package.Nothing
