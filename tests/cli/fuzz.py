"""Throws damaged and forged files at the decoder: ``python tests/cli/fuzz.py --damaged 100000 --forged 2000``.

*Damaged* files are what flaws of storage and transport make of whole ones; the checksums must find them out. *Forged*
ones have right checksums over wrong contents, so that they reach the decoders of masks, tokens, latents and syntax;
whatever picture they give is as good as any, but it must be one of the stated size, or a BitstreamError.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import time

from tqdm import tqdm

import compressai_gen
from compressai_gen.cgen import CgenFile
from compressai_gen.data import load_dataset
from compressai_gen.entropy.container import HEADER_BYTES, Stream, pack
from compressai_gen.errors import BitstreamError
from compressai_gen.zoo import MODELS

SLOWEST_REFUSAL = 1.0
"""Seconds."""


def valid_files() -> list[bytes]:
    """Returns a file of each codec at its lowest and highest quality, of crops of different size."""
    picture = load_dataset("samples", limit=1)[0]
    crops = picture[:, 40:104, 150:246].contiguous(), picture[:, 90:123, 200:265].contiguous()
    return [
        compressai_gen.encode(crop, name, quality, seed=seed)
        for name in MODELS
        for crop, quality, seed in zip(crops, (1, 5), (None, 7), strict=True)
    ]


def damaged(files: list[bytes], rng: random.Random) -> bytes:
    """Returns something that is none of the files."""
    while (data := rng.choice(_DAMAGES)(bytearray(rng.choice(files)), files, rng)) in files:
        pass
    return data


def _flip(data: bytearray, files: list[bytes], rng: random.Random) -> bytes:
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _overwrite(data: bytearray, files: list[bytes], rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    data[start : start + rng.randint(1, 16)] = rng.randbytes(rng.randint(0, 16))
    return bytes(data)


def _truncate(data: bytearray, files: list[bytes], rng: random.Random) -> bytes:
    return bytes(data[: rng.randrange(len(data))])


def _extend(data: bytearray, files: list[bytes], rng: random.Random) -> bytes:
    return bytes(data) + rng.randbytes(rng.randint(1, 64))


def _splice(data: bytearray, files: list[bytes], rng: random.Random) -> bytes:
    other = rng.choice(files)
    return bytes(data[: rng.randrange(len(data))]) + other[rng.randrange(len(other)) :]


def _swap_streams(data: bytearray, files: list[bytes], rng: random.Random) -> bytes:
    # The header of one and everything behind it of another, as a program that mixes up its buffers would write.
    return bytes(data[: rng.choice((10, 14, 18))]) + rng.choice(files)[rng.choice((10, 14, 18)) :]


def _noise(data: bytearray, files: list[bytes], rng: random.Random) -> bytes:
    return bytes(data[: rng.choice((0, 4, 6, 14))]) + rng.randbytes(rng.randrange(400))


_DAMAGES = (_flip, _overwrite, _truncate, _extend, _splice, _swap_streams, _noise)


def forged(files: list[bytes], rng: random.Random) -> bytes:
    """Returns a file with right checksums and wrong contents."""
    file = CgenFile.from_bytes(rng.choice(files))
    payload = bytearray(file.stream[HEADER_BYTES:])
    kind = rng.randrange(4)
    if kind == 0:
        payload = bytearray(_flip(payload, files, rng))
    elif kind == 1:
        payload = bytearray(_truncate(payload, files, rng))
    elif kind == 2:
        payload = bytearray(rng.randbytes(rng.randrange(300)))
    size = file.size if kind < 2 else (rng.randint(1, 130), rng.randint(1, 130))
    stream = Stream(1 + rng.randrange(256 if kind == 3 else 129) / 32, bytes(payload))
    stream = pack(file.model, stream, size)
    return dataclasses.replace(file, size=size, stream=stream, seed=rng.choice((None, 0, 2**32 - 1))).to_bytes()


def check_damaged(data: bytes) -> float:
    """Asserts that a file is refused; returns the seconds that this took."""
    started = time.monotonic()
    try:
        compressai_gen.decode(data)
    except BitstreamError:
        return time.monotonic() - started
    raise AssertionError(f"accepted: {data.hex()}")


def check_forged(data: bytes) -> bool:
    """Asserts that a file gives a picture of the stated size or is refused; returns whether it gave one."""
    try:
        image = compressai_gen.decode(data)
    except BitstreamError:
        return False
    assert image.size == CgenFile.from_bytes(data).size[::-1]
    return True


def main() -> None:
    """Runs as many files as asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--damaged", type=int, default=100_000)
    parser.add_argument("--forged", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    files, rng = valid_files(), random.Random(args.seed)
    slowest = max(check_damaged(damaged(files, rng)) for _ in tqdm(range(args.damaged), "damaged"))
    assert slowest < SLOWEST_REFUSAL
    pictures = sum(check_forged(forged(files, rng)) for _ in tqdm(range(args.forged), "forged"))
    print(
        f"{args.damaged} damaged files refused, the slowest in {slowest:.3f} s; of {args.forged} forged ones", end=" "
    )
    print(f"{pictures} gave some picture and {args.forged - pictures} were refused")


if __name__ == "__main__":
    main()
