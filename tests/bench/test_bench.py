import pandas as pd
import pytest
import torch

from compressai_gen import bench


def _rows(**seconds):
    return pd.DataFrame(
        {"size": size, "codec": codec, "encode_s": s / 2, "decode_s": s / 2}
        for codec, times in seconds.items()
        for size, s in zip(("384x512", "768x512"), times, strict=True)
    )


def test_ratios():
    table = bench.with_ratios(_rows(a=(1.0, 3.0), b=(4.0, 6.0)))
    assert list(table["size"]) == ["384x512", "384x512", "768x512", "768x512"]
    assert list(table["codec"]) == ["a", "b", "a", "b"]
    assert list(table["times_first"]) == [1, 4, 1, 2]
    assert list(table["per_pixel"]) == pytest.approx([2 / 3, 4 / 3, 1, 1])
    assert list(table["decode_mp_s"]) == pytest.approx([0.393216, 0.098304, 0.262144, 0.131072])


def test_a_picture_of_any_size_continues_by_its_mirror_image():
    image = bench.picture(1100, 700)
    assert image.shape == (3, 1100, 700)
    small = bench.picture(64, 80)
    assert torch.equal(image[:, :64, :80], small)
    height = next(n for n in range(300, 700) if torch.equal(image[:, n], image[:, n - 1]))
    assert torch.equal(image[:, height : height + 50], image[:, height - 50 : height].flip(1))


def test_a_codec_is_measured(tmp_path, capsys):
    argv = ["--codecs", "avif speed=6", "--sizes", "64x48", "96x64", "--repeat", "1", "--output", str(tmp_path)]
    assert bench.main(argv) == 0
    assert "avif speed=6" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "bench.csv")
    assert list(table["size"]) == ["64x48", "96x64"]
    assert (table[["bpp", "encode_s", "decode_s", "encode_gib"]] > 0).all(axis=None)
    assert list(table["times_first"]) == [1, 1]


def test_one_thread_is_a_row_of_its_own():
    table = pd.concat(
        [_rows(a=(1.0, 3.0)), pd.DataFrame([{"size": "768x512, 1 thread", "codec": "a", "encode_s": 3, "decode_s": 3}])]
    )
    assert list(bench.with_ratios(table)["per_pixel"]) == pytest.approx([2 / 3, 1, 2])


def test_a_run_at_least_is_wanted(capsys):
    assert bench.main(["--repeat", "0"]) == 2
    assert "--repeat" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["768", "0x5", "ax5"])
def test_sizes_that_are_none_are_told(size, capsys):
    with pytest.raises(SystemExit):
        bench.main(["--sizes", size])
    assert "no size such as 768x512" in capsys.readouterr().err
