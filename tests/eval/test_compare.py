import pytest
import torch
from PIL import Image

from compressai_gen.codecs import CLASSICAL_CODECS, LearnedCodec, registry
from compressai_gen.data import write_image
from compressai_gen.errors import CodecError
from compressai_gen.eval import compare
from compressai_gen.metrics import ReferenceMetrics


@pytest.fixture
def image(photograph):
    return (photograph(96, 128)[0] * 255).round().byte()


def test_quality_with_the_nearest_bytes(image):
    codec, metrics = CLASSICAL_CODECS["jpeg"], ReferenceMetrics(["psnr"])
    metrics.set_original(image)
    pixels = 96 * 128
    for quality in codec.qualities:
        encoded = codec.encode(image, quality)
        bpp = 8 * encoded.n_bytes / pixels
        decoded, label = compare.nearest_quality(codec, image, bpp + 1e-3, metrics)
        assert torch.equal(decoded, codec.decode(encoded))
        assert label.splitlines()[:2] == [f"jpeg, quality {quality}", f"{bpp:.4f} bpp"]
        assert label.splitlines()[2].startswith("PSNR ")


def test_crop_is_where_the_detail_is():
    image = torch.full((3, 96, 128), 90, dtype=torch.uint8)
    image[:, 40:72, 64:96] = torch.arange(32).remainder(2).mul(200).byte()
    assert compare.detailed_crop(image, 32) == (64, 40)
    assert compare.detailed_crop(image, 96)[1] == 0


def test_crops_are_magnified_exactly(image):
    panels = [compare.Panel(image[:, :64, :64], "one"), compare.Panel(image[:, 32:96, 64:128], "two")]
    figure = compare.comparison_figure([panels, panels])
    figure.canvas.draw()
    drawn = torch.from_numpy(figure.canvas.buffer_rgba().__array__()[..., :3].copy())
    zoom = round(figure.dpi * 1.7 / 64)
    first = drawn[: 64 * zoom, : 64 * zoom][zoom // 2 :: zoom, zoom // 2 :: zoom].permute(2, 0, 1)
    assert torch.equal(first, panels[0].crop)


def test_figure_of_a_decoder_variant(image, tmp_path, monkeypatch, capsys):
    """A model whose `steps` decide the brightness: both variants are columns of the figure."""

    class Model(torch.nn.Module):
        def compress(self, x):
            self.shape = x.shape
            return {"strings": [[b"abc"]], "shape": tuple(x.shape[2:])}

        def decompress(self, strings, shape, steps=1):
            return {"x_hat": torch.full((1, 3, *shape), float(steps))}

    monkeypatch.setattr(registry, "our_models", lambda: {"toy": (1,)})
    monkeypatch.setattr(registry, "_zoo_codec", lambda *args: LearnedCodec("toy", (1,), lambda quality: Model()))
    monkeypatch.setattr(compare, "_METRICS", ("psnr",))
    write_image(image, tmp_path / "a.png")
    argv = ["toy", "toy:steps=0", "webp", "--dataset", str(tmp_path), "--size", "64", "--crops", "5,7"]
    assert compare.main([*argv, "--output", str(tmp_path / "out.png")]) == 0
    with Image.open(tmp_path / "out.png") as file:
        pixels = file.convert("L")
    column = pixels.width // 4
    assert pixels.getpixel((column + 40, 40)) == 255
    assert pixels.getpixel((2 * column + 40, 40)) == 0

    for arguments, message in (
        (["toy:stepz=0"], "no decoder options"),
        (["webp:steps=0"], "only the models of this package"),
        (["webp", "--images", "b"], "has no image b"),
        (["webp", "--crops", "100,7"], "does not lie in a"),
        (["webp", "--size", "97"], "smaller --size"),
        (["webp", "--crops", "1,1", "2,2"], "a corner for each image"),
    ):
        assert compare.main([*arguments, *argv[3:7], *arguments[1:], "--output", str(tmp_path / "no.png")]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "no.png").exists()


def test_variant_shares_the_models():
    loaded = []
    codec = LearnedCodec("toy", (1, 2), lambda quality: loaded.append(quality) or torch.nn.Module(), version="1")
    variant = codec.variant("toy base", ({}, {"steps": 0}))
    assert variant.model(2) is codec.model(2)
    assert loaded == [2]
    assert variant.version != codec.version


def test_unknown_codec_is_told():
    with pytest.raises(CodecError, match="unknown codec"):
        compare.parse_codec("nothing:steps=0")
