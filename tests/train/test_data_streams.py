"""Training pictures from folders and shards: every one once per epoch, resumed exactly, damage skipped."""

import itertools
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from PIL import Image
from ports import free_port

from compressai_gen.errors import CompressaiGenError, DatasetError, MissingExtraError
from compressai_gen.train import shards
from compressai_gen.train.data import CropStream, open_source
from compressai_gen.train.members import FolderSource, Slot

N, BATCH = 32, 2


def _colour(i):
    return i % 16 * 16, i // 16 % 16 * 16, i // 256 * 16


def _number(crop):
    red, green, blue = ((crop[:, 0, 0] * 255).round().int() // 16).tolist()
    return red + 16 * green + 256 * blue


def _write_pictures(folder, n, size=16):
    for i in range(n):
        path = folder / f"part.{i % 3}" / f"{i:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (size, size), _colour(i)).save(path, compress_level=0)
    return folder


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Folder of a folder of N pictures and of shards of them: 5 and 1."""
    root = tmp_path_factory.mktemp("sources")
    _write_pictures(root / "folder", N)
    pytest.importorskip("webdataset")
    shards.pack(root / "folder", root / "shards", shard_bytes=8192)
    assert 4 < len(list((root / "shards").glob("*.tar"))) < 10
    shards.pack(root / "folder", root / "shard", shard_bytes=2**20)
    return root


def _stream(root, name, **options):
    return CropStream(open_source(root, name), (1.0, 1.0), **({"seed": 1} | options))


def _numbers(batches, count):
    return [_number(crop) for x in itertools.islice(batches, count) for crop in x]


@pytest.mark.parametrize("name", ["folder", "shards", "shards/{00000000..00000003}.tar"])
@pytest.mark.parametrize("slots", [1, 3, 7])
def test_slots_share_each_epoch(sources, name, slots):
    source = open_source(sources, name)
    epochs = []
    for epoch in range(2):
        shares = [[m.name for m in source.members(1, epoch, Slot(i, slots))] for i in range(slots)]
        names = [name for share in shares for name in share]
        assert len(names) == len(set(names))
        for i, share in enumerate(shares):
            for skip in (1, len(share) // 2, len(share)):
                assert [m.name for m in source.members(1, epoch, Slot(i, slots), skip)] == share[skip:]
        epochs.append(names)
    assert set(epochs[0]) == set(epochs[1])
    assert epochs[0] != epochs[1]
    if "{" not in name:
        assert len(epochs[0]) == N


def _one_process(rank, root, name, port, queue):
    multiprocessing.set_start_method("fork", force=True)  # of readers, as by default
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    stream = _stream(root, name, workers=2, rank=rank, world_size=2)
    batches = stream.batches(BATCH, 16)
    before = _numbers(batches, 3)
    state = stream.state_dict()  # of both processes
    after = _numbers(batches, N // (2 * BATCH) - 3)
    resumed = _stream(root, name, workers=2, rank=rank, world_size=2)
    resumed.load_state_dict(state)
    assert _numbers(resumed.batches(BATCH, 16), N // (2 * BATCH) - 3) == after
    queue.put(before + after)
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("name", ["folder", "shard"])
def test_two_processes_with_two_workers_see_every_picture_once(sources, name):
    # Forked from a server that has not computed yet: children of a process whose OpenMP has threads may hang.
    queue = multiprocessing.get_context("forkserver").SimpleQueue()
    args = sources, name, free_port(), queue
    multiprocessing.start_processes(_one_process, args, nprocs=2, start_method="forkserver")
    seen = queue.get() + queue.get()
    assert sorted(seen) == list(range(N))


@pytest.mark.parametrize("name", ["folder", "shards", "shard"])
@pytest.mark.parametrize(("workers", "crops_per_image"), [(0, 1), (2, 3)])
def test_a_stream_goes_on_where_it_was(tmp_path, sources, name, workers, crops_per_image, photograph):
    options = {"workers": workers, "crops_per_image": crops_per_image}

    def stream():
        return CropStream(open_source(sources, name), (0.5, 2.0), 1, **options)

    reference = stream()
    whole = [*itertools.islice(reference.batches(3, 16), 5), *itertools.islice(reference.batches(4, 24), 9)]
    first = stream()
    begun = list(itertools.islice(first.batches(3, 16), 5)) + list(itertools.islice(first.batches(4, 24), 2))
    state = first.state_dict()
    torch.save(state, tmp_path / "state.pt")
    second = stream()
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    begun += itertools.islice(second.batches(4, 24), 7)
    assert all(torch.equal(a, b) for a, b in zip(whole, begun, strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_readers_draw_none_of_pytorchs_numbers(sources, workers):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    next(_stream(sources, "folder", workers=workers).batches(2, 16))
    assert torch.equal(torch.rand(3), expected)


def test_shards_without_an_index_are_read_alike(tmp_path, sources):
    plain = shutil.copytree(sources / "shards", tmp_path / "shards")
    (plain / shards.INDEX).unlink()
    for skip in (0, 5, 20):
        of_both = [
            [m.name for m in shards.ShardSource(folder).members(1, 0, Slot(1, 2), skip)]
            for folder in (plain, sources / "shards")
        ]
        assert of_both[0] == of_both[1]


def test_a_url_is_read_as_a_file_is(sources):
    path = sources / "shard" / "00000000.tar"
    names = [[m.name for m in shards.ShardSource(url).members(1, 0, Slot(0, 1))] for url in (path, f"pipe:cat {path}")]
    assert names[0] == names[1]
    assert len(names[0]) == N


def test_another_number_of_processes_is_told(sources):
    state = _stream(sources, "folder", workers=2).state_dict()
    other = _stream(sources, "folder", workers=2, world_size=2)
    with pytest.raises(DatasetError, match="number of processes was 1, is 2"):
        other.load_state_dict(state)


def test_damaged_members_are_skipped_and_counted(tmp_path, capfd):
    folder = _write_pictures(tmp_path / "folder", 12)
    damaged = sorted(folder.rglob("*.png"))[:3]
    damaged[0].write_bytes(b"")
    damaged[1].write_bytes(damaged[1].read_bytes()[:100])
    damaged[2].write_text("no picture")
    for workers in (0, 2):
        stream = _stream(tmp_path, "folder", workers=workers)
        seen = _numbers(stream.batches(1, 16), 9)
        assert len(set(seen)) >= 7  # two workers do not end an epoch at the same time
        assert stream.skipped >= 2
    assert "skipped: part." in capfd.readouterr().err


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_but_damage_is_told(tmp_path, workers):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.png").write_text("no picture")
    with pytest.raises(DatasetError, match="no picture that can be read") as caught:
        next(_stream(tmp_path, "folder", workers=workers).batches(1, 16))
    assert "\n" not in str(caught.value)


def test_more_readers_than_pictures_are_told(sources):
    with pytest.raises(DatasetError, match="fewer workers"):
        _stream(sources, "folder", workers=N + 1)


@pytest.mark.parametrize("name", ["none", "none/{0..3}.tar", "folder/*.tar"])
def test_missing_data_are_told(sources, name):
    with pytest.raises(CompressaiGenError, match=r"cannot look into|no images|no shard"):
        open_source(sources, name)


def test_a_missing_webdataset_is_told(sources, monkeypatch):
    monkeypatch.setitem(sys.modules, "webdataset.gopen", None)
    with pytest.raises(MissingExtraError, match=r"compressai-gen\[train\]"):
        open_source(sources, "shards")


@pytest.mark.parametrize("share", [0.4, 0.6])
def test_a_shard_that_ends_early_is_told_before_training(tmp_path, sources, share):
    folder = shutil.copytree(sources / "shards", tmp_path / "shards")
    path = folder / "00000001.tar"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size) | 1])
    with pytest.raises(DatasetError, match="copy it again"):
        open_source(tmp_path, "shards")
    (folder / shards.INDEX).unlink()
    with pytest.raises(DatasetError, match=r"00000001\.tar ends early"):
        open_source(tmp_path, "shards")
    assert shards.main(["check", str(folder)]) == 2


def test_a_remote_shard_that_ends_early_is_skipped_from_there(tmp_path, sources, capfd):
    whole = sources / "shard" / "00000000.tar"
    source = shards.ShardSource(f"pipe:head -c {whole.stat().st_size // 2} {whole}")
    members = list(source.members(1, 0, Slot(0, 1)))
    assert N // 3 < len(members) < N
    assert [m for m in members if not m.data] == [(source.name, b"")]
    assert "ends early" in capfd.readouterr().err


def test_packing_keeps_the_files_and_leaves_out_what_is_damaged(tmp_path, capsys):
    folder = _write_pictures(tmp_path / "folder", 9)
    (folder / "bad.jpg").write_text("no picture")
    assert shards.main(["pack", str(folder), str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert "9 pictures in 1 shards" in out
    assert "left out: bad.jpg" in err
    packed = {m.data for m in open_source(tmp_path, "out").members(1, 0, Slot(0, 1))}
    assert packed == {path.read_bytes() for path in folder.rglob("*.png")}
    assert shards.main(["check", str(tmp_path / "out")]) == 0
    assert shards.main(["pack", str(folder), str(tmp_path / "out")]) == 2  # never over what is there
    shards.main(["pack", str(folder), str(tmp_path / "again")])
    index = json.loads((tmp_path / "out" / shards.INDEX).read_text())
    assert json.loads((tmp_path / "again" / shards.INDEX).read_text()) == index
    assert {p.name for p in tmp_path.iterdir()} == {"folder", "out", "again"}


def test_checking_finds_a_damaged_picture_and_a_replaced_shard(tmp_path, sources, capsys):
    folder = shutil.copytree(sources / "shard", tmp_path / "shard")
    path = folder / "00000000.tar"
    data = bytearray(path.read_bytes())
    at = data.index(b"IHDR") + 8
    data[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert shards.main(["check", str(folder)]) == 2
    out = capsys.readouterr().out
    assert f"{N - 1} good pictures, 2 faults" in out
    assert "is not what index.json says" in out


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not tell a process's memory")
def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path):
    """Of 10,000 files a reader keeps names alone; decoded they would be 120 MB."""
    first = tmp_path / "many" / "00000.png"
    first.parent.mkdir()
    Image.new("RGB", (64, 64), (10, 20, 30)).save(first)
    for i in range(1, 10_000):
        os.link(first, first.with_name(f"{i:05d}.png"))

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    source = FolderSource(first.parent)
    assert len(source) == 10_000
    batches = CropStream(source, (1.0, 1.0), 1).batches(50, 64)
    before = [resident() for _ in itertools.islice(batches, 10)][-1]
    after = [resident() for _ in itertools.islice(batches, 190)][-1]
    assert after - before < 2e7
