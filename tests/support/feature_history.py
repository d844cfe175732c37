"""Was any reading of a feature older than it said? An exact judge of what readers were told and writers did.

All instants are of one machine's clock. A reading of write `w`, invoked at `i`, says with its bound `b`: "`w` was the
current value at some instant of [c − b, c]", where `c` lies between `i` and its return. A write takes effect somewhere
between its invocation and its acknowledgement, or, if it was never acknowledged, perhaps never. So the reading is
certainly false if a write of greater order was acknowledged before `i − b`: whatever `c` and the instants of effect are,
`w` was gone by then. If there is none, there is a choice of instants under which it is true: the judge is exact. A reading
without a bound claims nothing; a reading of what nobody had begun to write by its return, or never wrote, is false always.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

MS = 1_000_000


@dataclass(frozen=True, slots=True)
class Write:
    """Orders of one key grow with real time: there is one writer of it. `acknowledged_ns` None: nobody knows."""

    key: str
    order: int
    invoked_ns: int
    acknowledged_ns: int | None
    deletes: bool = False


@dataclass(frozen=True, slots=True)
class Read:
    """`order` None: there was nothing. `bound_ms` None: the reading vouched for nothing."""

    key: str
    order: int | None
    invoked_ns: int
    returned_ns: int
    bound_ms: int | None
    reader: str = ""


@dataclass(frozen=True, slots=True)
class Violation:
    read: Read
    reason: str


def judge(writes: Iterable[Write], reads: Iterable[Read]) -> list[Violation]:
    """Every reading that is certainly false."""
    of_key: dict[str, _Key] = defaultdict(_Key)
    for write in writes:
        of_key[write.key].add(write)
    for key in of_key.values():
        key.settle()
    return [
        Violation(read, reason)
        for read in reads
        if (reason := of_key.get(read.key, _NOTHING).falsehood(read)) is not None
    ]


class _Key:
    """The writes of one key, and from which instant on each of them was certainly superseded."""

    def __init__(self) -> None:
        self._writes: dict[int, Write] = {}
        self._orders: list[int] = []
        self._gone_at_ns: list[float] = []

    def add(self, write: Write) -> None:
        assert write.order not in self._writes, f"two writes of order {write.order} of {write.key}"
        self._writes[write.order] = write
        insort(self._orders, write.order)

    def settle(self) -> None:
        """For each place: the earliest acknowledgement of any write after it."""
        earliest = float("inf")
        gone: list[float] = []
        for order in reversed(self._orders):
            gone.append(earliest)
            acknowledged_ns = self._writes[order].acknowledged_ns
            earliest = earliest if acknowledged_ns is None else min(earliest, acknowledged_ns)
        self._gone_at_ns = [*reversed(gone)]

    def falsehood(self, read: Read) -> str | None:
        if read.order is not None:
            write = self._writes.get(read.order)
            if write is None:
                return "it was never written"
            if write.deletes:
                return "it was a deletion"
            if write.invoked_ns > read.returned_ns:
                return "it was not written yet"
        if read.bound_ms is None:
            return None
        latest_ns = read.invoked_ns - read.bound_ms * MS
        if read.order is not None:
            gone_at_ns = self._gone_at_ns[bisect_left(self._orders, read.order)]
            late_ns = latest_ns - gone_at_ns
            return f"it was replaced {late_ns / MS:.1f} ms before its bound began" if late_ns > 0 else None
        return self._falsehood_of_absence(read, latest_ns)

    def _falsehood_of_absence(self, read: Read, latest_ns: float) -> str | None:
        """There was nothing before the first write took effect, and there was nothing after each deletion."""
        for place, order in enumerate(self._orders):
            write = self._writes[order]
            if write.deletes and write.invoked_ns <= read.returned_ns and self._gone_at_ns[place] >= latest_ns:
                return None
        first = min((w.acknowledged_ns for w in self._writes.values() if w.acknowledged_ns is not None), default=None)
        if first is None or first >= latest_ns:
            return None
        return f"there was something {(latest_ns - first) / MS:.1f} ms before its bound began"


_NOTHING = _Key()
