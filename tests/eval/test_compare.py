import pytest
import torch
from PIL import Image

from compressai_gen.codecs import CLASSICAL_CODECS, LearnedCodec, registry
from compressai_gen.data import read_image, write_image
from compressai_gen.errors import CodecError
from compressai_gen.eval import compare
from compressai_gen.metrics import ReferenceMetrics
from compressai_gen.specs import own_specs


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
        column = compare.Column(codec, codec.qualities)
        decoded, label, mask = compare.nearest_quality(column, image, bpp + 1e-3, metrics)
        assert mask is None
        assert torch.equal(decoded, codec.decode(encoded))
        assert label.splitlines()[:2] == [f"jpeg, quality {quality}", f"{bpp:.4f} bpp"]
        assert label.splitlines()[2].startswith("PSNR ")


def test_crop_is_where_the_detail_is():
    image = torch.full((3, 96, 128), 90, dtype=torch.uint8)
    image[:, 40:72, 64:96] = torch.arange(32).remainder(2).mul(200).byte()
    assert compare.detailed_crop(image, 32) == (64, 40)
    assert compare.detailed_crop(image, 96)[1] == 0


def test_crops_are_magnified_exactly(image, tmp_path):
    panels = [compare.Panel(image[:, :64, :64], "one"), compare.Panel(image[:, 32:96, 64:128], "two")]
    figure = compare.comparison_figure([panels, panels])
    figure.savefig(tmp_path / "figure.png")
    drawn = read_image(tmp_path / "figure.png")
    zoom = round(figure.dpi * 1.7 / 64)
    assert zoom >= 2
    for offset in (0, zoom - 1):
        assert torch.equal(drawn[:, : 64 * zoom, : 64 * zoom][:, offset::zoom, offset::zoom], panels[0].crop)


def test_figure_of_a_decoder_variant(image, tmp_path, monkeypatch, capsys):
    """A model whose `steps` decide the brightness: both variants are columns of the figure."""

    class Model(torch.nn.Module):
        def compress(self, x):
            self.shape = x.shape
            return {"strings": [[b"abc"]], "shape": tuple(x.shape[2:])}

        def decompress(self, strings, shape, steps=1):
            return {"x_hat": torch.full((1, 3, *shape), float(steps))}

    monkeypatch.setattr(registry, "our_models", lambda: {"toy": own_specs()["cgdm"]})
    monkeypatch.setattr(registry, "_zoo_codec", lambda *args: LearnedCodec("toy", (1,), lambda quality: Model()))
    monkeypatch.setattr(compare, "_METRICS", ("psnr",))
    (tmp_path / "set").mkdir()
    write_image(image, tmp_path / "set/a.png")
    options = ["--dataset", str(tmp_path / "set"), "--size", "64"]
    argv = ["toy", "toy:steps=0", "webp", *options, "--crops", "5,7", "--output", str(tmp_path / "out.png")]
    assert compare.main(argv) == 0
    with Image.open(tmp_path / "out.png") as file:
        pixels = file.convert("L")
    column = pixels.width // 4
    assert pixels.getpixel((column + 40, 40)) == 255
    assert pixels.getpixel((2 * column + 40, 40)) == 0

    for arguments, message in (
        (["toy:stepz=0"], "no option 'stepz'"),
        (["webp:steps=0"], "webp has no options"),
        (["webp", "--images", "b"], "has no image b"),
        (["webp", "--crops", "100,7"], "does not lie in a"),
        (["webp", "--size", "97"], "smaller --size"),
        (["webp", "--crops", "1,1", "2,2"], "a corner for each image"),
    ):
        assert compare.main([arguments[0], *options, *arguments[1:], "--output", str(tmp_path / "no.png")]) == 2
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
        compare.parse_column("nothing:steps=0")


def test_quality_of_a_column_is_fixed(image):
    worst = compare.parse_column(f"jpeg@{CLASSICAL_CODECS['jpeg'].qualities[0]}")
    metrics = ReferenceMetrics([])
    metrics.set_original(image)
    assert compare.nearest_quality(worst, image, 8.0, metrics)[1].startswith(f"jpeg, quality {worst.qualities[0]}")
    for text, message in (("jpeg@best", "after @ stands a quality"), ("jpeg@999", "no quality 999")):
        with pytest.raises(CodecError, match=message):
            compare.parse_column(text)


def test_mask_is_drawn_where_tokens_were_sent(image, random_models):
    model = random_models["mridc"]
    codec = LearnedCodec("mridc", (1,), lambda quality: model)
    metrics = ReferenceMetrics([])
    metrics.set_original(image)
    mask = compare.nearest_quality(compare.Column(codec, (1,)), image, 0.01, metrics)[2]
    levels = model.sent_levels(codec.encode(image, 1).strings[0], image.shape[1:])
    assert mask.shape == image.shape
    assert 0 < (levels > 0).sum() < levels.numel()
    for row, column in ((0, 0), (2, 5), (5, 7)):
        block = mask[:, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
        assert (block == int(levels[row, column]) * 255 // 2).all()
