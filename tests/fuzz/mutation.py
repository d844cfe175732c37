"""Damages bytes as wires, disks and enemies do: one seed, one sequence of inputs, the same on every machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Final

BYTES_MAX: Final = 64 * 1024
_TELLING: Final = (
    *(
        b"\x00",
        b"\x7f",
        b"\x80",
        b"\xff",
        b"\xc0",
        b"\xc1",
        b"\xff\xff\xff\xff",
        b"\x7f\xff\xff\xff",
        b"\x80\x00\x00\x00",
    ),
    *(b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x91" * 400, b"\x81\xa1a" * 300),
    *(
        b"\r\n",
        b" ",
        b"-1",
        b"99999999999999999999",
        b"\xed\xa0\x80",
        b"\xf0\x9f",
        b"\x1f\x8b\x08",
        b"\x28\xb5\x2f\xfd",
    ),
    *(b"[" * 500, b"{a: " * 300, b"&a [*a, *a]", b"!!python/object:os.system ", b"NaN", b"1e999", b"0x"),
)
"""Lengths at their ends, nests, numbers and marks at which readers have stumbled."""


def inputs(seeds: Sequence[bytes], *, seed: int, count: int) -> Iterator[bytes]:
    """The seeds themselves, then `count` damaged ones of them, and now and then no relative of theirs."""
    rng = Random(seed)
    yield from seeds
    for _ in range(count):
        if rng.random() < 0.02:
            yield rng.randbytes(rng.randrange(200))
            continue
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
            _damage(data, rng=rng, others=seeds)
        yield bytes(data[:BYTES_MAX])


def _damage(data: bytearray, *, rng: Random, others: Sequence[bytes]) -> None:
    place = rng.randrange(len(data) + 1)
    match rng.randrange(7):
        case 0 if data:
            data[place % len(data)] ^= 1 << rng.randrange(8)
        case 1 if data:
            data[place % len(data)] = rng.randrange(256)
        case 2:
            del data[place:]
        case 3:
            del data[place : place + rng.randrange(1, 16)]
        case 4:
            data[place:place] = rng.choice(_TELLING)
        case 5:
            piece = rng.choice(_TELLING)
            data[place : place + len(piece)] = piece
        case _:
            other = rng.choice(others)
            start = rng.randrange(len(other) + 1)
            data[place:] = other[start:]
