"""What reproduces is accepted; everything else is refused with a reason, and nothing is written."""

import json
import random
import re
import stat
import struct
import warnings
import zipfile

import pandas as pd
import pytest
import torch

from compressai_gen.codecs import Encoded, PillowCodec
from compressai_gen.codecs.plugins import PluginCodec
from compressai_gen.data import write_image
from compressai_gen.errors import SubmissionError
from compressai_gen.eval import cli as evaluation
from compressai_gen.leaderboard import pack, verify
from compressai_gen.leaderboard.cli import main
from compressai_gen.leaderboard.submission import read_submission, write_submission
from compressai_gen.metrics import METRICS
from compressai_gen.resources import EVAL_DIR


@pytest.fixture
def refused(run, submission, cache, capsys):
    """Verifies and expects a refusal that leaves nothing; returns the reason."""

    def refused(codec="jpeg"):
        before = sorted(submission.parent.iterdir())
        capsys.readouterr()
        assert run("verify", codec) == 3
        assert sorted(submission.parent.iterdir()) == before
        assert not [path for path in cache.rglob("*") if path.is_file()]
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        return line

    return refused


def test_what_is_packed_is_accepted_with_the_figures_of_the_evaluation(submission, run, pictures, tmp_path):
    assert run("verify", "jpeg") == 0
    record = json.loads((submission.parent / "jpeg.accepted.json").read_text())
    argv = ["--models", "jpeg", "--metrics", "psnr", "--dataset", str(pictures), "--output", str(tmp_path / "eval")]
    assert evaluation.main(argv) == 0
    columns = ["quality", "image", "bpp", "psnr"]
    expected = pd.read_csv(tmp_path / "eval" / "images.csv")[columns]
    for rows in (pd.DataFrame(record["rows"]), read_submission(submission).rows):
        pd.testing.assert_frame_equal(rows[columns], expected, rtol=1e-5)
    assert sorted(path.name for path in submission.parent.iterdir()) == ["jpeg.accepted.json", "jpeg.cgensub"]


def test_the_same_submission_gives_the_same_bytes(submission):
    write_submission(read_submission(submission), submission.with_name("again"))
    assert submission.with_name("again").read_bytes() == submission.read_bytes()


def _forge_metric(manifest, streams):
    manifest["rows"][3]["psnr"] += 0.06


def _forge_rate(manifest, streams):
    manifest["rows"][0]["bpp"] *= 0.99


def _pad_stream(manifest, streams):
    streams["streams/3/a.0"] += b"\0"


def _swap_images(manifest, streams):
    streams["streams/10/a.0"], streams["streams/10/b.0"] = streams["streams/10/b.0"], streams["streams/10/a.0"]
    a, b = (row for row in manifest["rows"] if row["quality"] == 10)
    a["bpp"], b["bpp"] = b["bpp"], a["bpp"]


def _damage_stream(manifest, streams):
    streams["streams/30/b.0"] = b"\xff\xd8" + bytes(len(streams["streams/30/b.0"]) - 2)


def _drop_stream(manifest, streams):
    del streams["streams/3/a.0"]


def _add_file(manifest, streams):
    streams["extra"] = b""


def _drop_image(manifest, streams):
    del manifest["images"]["b"]
    manifest["rows"] = [row for row in manifest["rows"] if row["image"] == "a"]
    manifest["shapes"] = manifest["shapes"][::2]
    for name in [name for name in streams if "/b." in name]:
        del streams[name]


def _drop_row(manifest, streams):
    manifest["rows"].pop()


def _other_pixels(manifest, streams):
    manifest["images"]["a"] = "0" * 64


def _hide_bits(manifest, streams):
    manifest["shapes"][0] = [1]


def _hide_bits_in_nothing(manifest, streams):
    manifest["shapes"][0] = [[], [[]], *manifest["shapes"][0]]


def _huge_shape(manifest, streams):
    manifest["shapes"] = [[10**9]] * 6


def _leave_the_archive(manifest, streams):
    streams["../evil"] = b"x"


def _absurd_count(manifest, streams):
    manifest["qualities"] = list(range(10**5))


def _wrong_weights(manifest, streams):
    manifest["model"] = {"name": "cgdm", "weights": "0" * 64}


def _foreign_quality(manifest, streams):
    manifest["qualities"][0] = 4
    for row in manifest["rows"][:2]:
        row["quality"] = 4
    for image in "ab":
        streams[f"streams/4/{image}.0"] = streams.pop(f"streams/3/{image}.0")


def _unknown_metric(manifest, streams):
    manifest["metrics"] = ["beauty"]
    for row in manifest["rows"]:
        row["beauty"] = row.pop("psnr")


def _other_protocol(manifest, streams):
    manifest["protocol"] += 1


def _nan(manifest, streams):
    manifest["rows"][0]["psnr"] = float("nan")


def _script_link(manifest, streams):
    manifest["card"]["links"] = ["javascript:alert(1)"]


def _deep_json(manifest, streams):
    manifest["environment"] = json.loads("[" * 500 + "]" * 500)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_forge_metric, r"1 of 6 figures of psnr, such as that of b at quality 10 \(claimed"),
        (_forge_rate, r"1 of 6 figures of bpp.*tolerance 0\)"),
        (_pad_stream, "1 of 6 figures of bpp"),
        (_swap_images, "2 of 6 figures of psnr"),
        (_damage_stream, "quality 30 does not decode"),
        (_drop_stream, "lacks 1 of 6 streams"),
        (_add_file, "'extra', which is no stream"),
        (_drop_image, "not of all 2 images of pictures; 'b'"),
        (_drop_row, "not one row for each of 6"),
        (_other_pixels, "'a' has other pixels"),
        (_hide_bits, "different shapes"),
        (_hide_bits_in_nothing, "something empty"),
        (_huge_shape, "larger than the picture"),
        (_leave_the_archive, "leads out of the archive"),
        (_absurd_count, "more than 50000 streams"),
        (_wrong_weights, "made with name cgdm, weights 0000"),
        (_foreign_quality, r"it has qualities \(4, 10, 30\), but jpeg has \(3, 10, 30\)"),
        (_unknown_metric, "'beauty', which is no metric"),
        (_other_protocol, "make it again"),
        (_nan, "JSON holds NaN"),
        (_script_link, "https://"),
        (_deep_json, "'environment' must be"),
    ],
)
def test_a_tampered_submission_is_refused(submission, tamper, refused, change, reason):
    tamper(submission, change)
    assert re.search(reason, refused())


def _archive(path, *members):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")  # of duplicate names
        for name, data, attributes, compression in members:
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = attributes, compression
            archive.writestr(info, data)


FILE, LINK = (stat.S_IFREG | 0o644) << 16, (stat.S_IFLNK | 0o777) << 16


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("submission.json", bytes(10**7), FILE, zipfile.ZIP_DEFLATED)], "compressed"),
        ([("submission.json", bytes(17 * 2**20), FILE, zipfile.ZIP_STORED)], "larger than 16 MiB"),
        ([("streams/1/a.0", b"/etc/passwd", LINK, zipfile.ZIP_STORED)], "is a link"),
        ([("submission.json", b"{}", FILE, zipfile.ZIP_STORED)] * 2, "'submission.json' 2 times"),
        ([("/etc/cron.d/x", b"", FILE, zipfile.ZIP_STORED)], "leads out"),
        ([("submission.json", b"[" * 10**5, FILE, zipfile.ZIP_STORED)], "JSON"),
        ([], "JSON is missing"),
    ],
)
def test_a_hostile_archive_is_refused(submission, refused, members, reason):
    _archive(submission, *members)
    assert reason in refused()


def test_a_directory_is_not_read_before_its_size_is_checked(submission, refused, monkeypatch):
    good = submission.read_bytes()
    monkeypatch.setattr(zipfile.ZipFile, "_RealGetContents", lambda self: pytest.fail("the directory was read"))
    for entries, size in ((60_000, None), (None, 2**31)):
        end = bytearray(good[-22:])
        if entries:
            struct.pack_into("<2H", end, 8, entries, entries)
        if size:
            struct.pack_into("<L", end, 12, size)
        submission.write_bytes(good[:-22] + end)
        assert "files are allowed" in refused()
    locator = b"PK\6\7" + bytes(16)
    end = bytearray(good[-22:])
    struct.pack_into("<L", end, 12, struct.unpack_from("<L", end, 12)[0] + len(locator))
    submission.write_bytes(good[:-22] + locator + end)
    assert "bytes were added" in refused()


def test_a_truncated_or_damaged_file_is_refused_or_whole(submission):
    good = submission.read_bytes()
    draw = random.Random(0)
    changed = [good[: draw.randrange(len(good))] for _ in range(20)] + [good + b"\0", b""]
    for data in changed:
        submission.write_bytes(data)
        with pytest.raises(SubmissionError, match=r"refused"):
            read_submission(submission)
    for _ in range(150):
        data = bytearray(good)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        submission.write_bytes(data)
        try:
            read = read_submission(submission)
        except SubmissionError:
            continue
        assert len(read.streams) == 6  # the flipped bit was in a date or the like


def test_missing_file_is_told(tmp_path):
    with pytest.raises(SubmissionError, match="no such file"):
        read_submission(tmp_path / "gone")


def test_nothing_is_measured_of_another_dataset_than_the_verifiers(submission, run, pictures, tamper, capsys):
    assert verify.verify(submission, str(pictures)).is_file()
    tamper(submission, lambda manifest, streams: manifest.update(dataset=str(pictures)))
    capsys.readouterr()
    assert main(["verify", str(submission)]) == 2  # its name for the dataset is not a path of ours
    assert "is not a known dataset" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["pack", "verify"])
def test_a_stopped_run_goes_on(run, monkeypatch, submission, command):
    method = {"pack": "encode", "verify": "decode"}[command]
    original = getattr(PillowCodec, method)
    calls, limit = [], 5

    def counting(self, *args):
        if len(calls) == limit:
            raise KeyboardInterrupt
        calls.append(args)
        return original(self, *args)

    monkeypatch.setattr(PillowCodec, method, counting)
    assert run(command, "jpeg") == 130
    assert not (submission.parent / "jpeg.accepted.json").exists()
    first, limit = len(calls), 100
    assert run(command, "jpeg") == 0
    assert len(calls) - first < 6 + 3  # with warm-ups, a run from nothing
    assert read_submission(submission).sha256
    assert not [path for path in submission.parent.iterdir() if path.name.startswith(".")]


class Posterize:
    """A codec without a version, with two strings and a shape."""

    name, qualities = "posterize", (1, 2)

    def encode(self, image, quality):
        levels = (image >> (8 - quality)).numpy().tobytes()
        return Encoded([bytes([quality]), levels], (tuple(image.shape),))

    def decode(self, encoded, quality=None):
        levels = torch.frombuffer(bytearray(encoded.strings[1]), dtype=torch.uint8)
        return levels.reshape(encoded.shape[0]) << (8 - encoded.strings[0][0])


def test_a_codec_of_another_package_needs_that_version(run, refused, monkeypatch):
    def install(package):
        codec = PluginCodec("posterize", package, Posterize())
        monkeypatch.setattr(pack, "find_codec", lambda name, device: codec)
        monkeypatch.setattr(verify, "find_decoder", lambda reference, device: codec)

    install("paintbox 1.2")
    assert run("pack", "posterize") == 0
    assert run("verify", "posterize") == 0
    install("paintbox 1.3")
    assert "made with name posterize, package paintbox 1.2, but name posterize, package paintbox 1.3" in refused(
        "posterize"
    )


def test_our_own_codec_is_accepted_with_its_weights_only(run, refused, pictures, tamper, tmp_path):
    assert run("pack", "cgdm", "--qualities", "1") == 0
    assert run("verify", "cgdm") == 0
    path = tmp_path / "board" / "cgdm.cgensub"
    tamper(path, lambda manifest, streams: manifest["model"].update(weights="0" * 64))
    assert "what decodes here" in refused("cgdm")


def test_users_errors_before_any_work(run, card, tmp_path, capsys, pictures):
    assert run("pack", "jpeg", "--qualities", "4") == 2
    assert "no quality 4" in capsys.readouterr().err
    (tmp_path / "kodak").mkdir()
    write_image(torch.zeros(3, 8, 8, dtype=torch.uint8), tmp_path / "kodak" / "a.png")
    assert run("pack", "jpeg", "--dataset", str(tmp_path / "kodak")) == 2
    assert "cannot be called 'kodak'" in capsys.readouterr().err
    for text in (
        'title = "x"',
        'title = "x"\nauthor = "y\\u0007"',
        "title",
        'title = "x"\nauthor = "y"\nlinks = ["ftp://x"]',
    ):
        card.write_text(text)
        assert run("pack", "jpeg") == 3
        assert "card" in capsys.readouterr().err
    assert not (tmp_path / "board").exists()


def test_the_protocol_states_the_tolerances():
    text = (EVAL_DIR / "protocol.md").read_text(encoding="utf-8")
    assert set(verify.TOLERANCES) == {"bpp", *METRICS}
    for metric, tolerance in verify.TOLERANCES.items():
        assert re.search(rf"^\| `{metric}` \| {tolerance:g} \|$", text, re.MULTILINE), metric
