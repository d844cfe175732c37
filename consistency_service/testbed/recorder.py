"""Writes a history of every read without writing every read.

Picture a tachograph: of a long stretch at one speed it keeps the two ends. A *run* is a stretch of consecutive reads of
one process, of one model, with the same generation, guarantee and version. Of each run we write the first read, the last, and
the sharpest, which is the one with the greatest `invoked − bound`. The check in `history` finds a violation in what we
write if and only if there is one in the whole:

- What we write is a part of the whole, so what is found in it is there.
- Let read B of generation g be convicted by proof A of a later one: A.returned < B.invoked − B.bound (the bound is 0 if B
  is strong). If A is a read, take the first read F of its run: the same generation, strong too, and, since a process
  reads one at a time, F.returned ≤ A.returned. Take the sharpest read S of B's run: the same generation and guarantee,
  and S.invoked − S.bound ≥ B.invoked − B.bound. So F.returned < S.invoked − S.bound: F convicts S. (For strong reads the
  sharpest is the last.)
- A read of a generation or version that nobody activated has the first of its run beside it, the same. One that
  returned before its activation was invoked has the first of its run beside it, which returned earlier still. The
  generations which an activation of unknown outcome excuses are claimed by first reads, in the same order.

Splitting a run does not spoil this, so `flush` may end one at any time; it does so regularly, that a process killed
later leaves a history that is whole up to then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from consistency_service.testbed.history import Operation

LINES_MAX: Final = 1_000_000

_Read = tuple[int, int, int | None]
"""Invoked, returned, bound."""


class Recorder:
    """Of one model at one process, which reads it one at a time. After `lines_max` lines it says so and stops."""

    def __init__(
        self,
        *,
        process: str,
        model: str,
        write: Callable[[bytes], object],
        lines_max: int = LINES_MAX,
        site: str = "",
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self._process = process
        self._model = model
        self._write = write
        self._lines_left = lines_max
        self._place = ({"site": site} if site else {}) | ({"labels": dict(labels)} if labels else {})
        self._answer: tuple[int | None, str | None, str | None] | None = None
        self._first: _Read = (0, 0, None)
        self._sharpest: _Read = self._first
        self._last: _Read = self._first
        self._count = 0

    def read(
        self,
        *,
        invoked_ns: int,
        returned_ns: int,
        generation: int | None,
        guarantee: str | None,
        version: str | None,
        bound_ns: int | None,
    ) -> None:
        """A read returned this answer; `guarantee` is None if it failed."""
        answer = (generation, guarantee, version)
        read = (invoked_ns, returned_ns, bound_ns)
        if answer != self._answer:
            self.flush()
            self._answer = answer
            self._first = self._sharpest = read
        elif _sharpness(read) >= _sharpness(self._sharpest):
            self._sharpest = read
        self._last = read
        self._count += 1

    def flush(self) -> None:
        """Everything read so far is written."""
        if self._answer is None:
            return
        reads = sorted({self._first, self._sharpest, self._last}, key=lambda read: read[:2])
        for read in reads[:-1]:
            self._put(read, count=1)
        self._put(reads[-1], count=self._count - len(reads) + 1)
        self._answer = None
        self._count = 0

    def _put(self, read: _Read, *, count: int) -> None:
        assert self._answer is not None
        generation, guarantee, version = self._answer
        line = {
            "process": self._process,
            "op": "read",
            "invoked_ns": read[0],
            "returned_ns": read[1],
            "model": self._model,
            "generation": generation,
            "guarantee": guarantee,
            "version": version,
            "bound_ns": read[2],
            "outcome": "failed" if guarantee is None else "ok",
            "reads": count,
            **self._place,
        }
        if self._lines_left > 0:
            self._write(msgspec.json.encode(line) + b"\n")
        elif self._lines_left == 0:
            self._write(msgspec.json.encode({"process": self._process, "op": "limit"}) + b"\n")
        self._lines_left -= 1


def line_of(operation: Operation) -> bytes:
    """The line of an operation that is written whole: an activation, or a read through REST."""
    return msgspec.json.encode(operation) + b"\n"


def _sharpness(read: _Read) -> tuple[bool, int]:
    """How early a proof must be to be harmless; a read without a bound says nothing."""
    invoked_ns, _, bound_ns = read
    return (False, 0) if bound_ns is None else (True, invoked_ns - bound_ns)
