"""Who could read what, when: the history as stretches of time, for a picture and for one number.

Of each process and model the history has runs of equal answers. A stretch lasts from the first read of a run to the
first of the next; where nobody read for a while (dead, or standing still) there is none.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from consistency_service.testbed.history import Operation

SILENCE_NS: Final = 1_500_000_000
"""Two reads further apart than this have nothing between them; histories are flushed every second."""

STATES: Final = ("strong", "bounded", "fallback", "failed")


class Stretch(msgspec.Struct, frozen=True, kw_only=True):
    """From `begin_ns` to `end_ns` every read answered so."""

    begin_ns: int
    end_ns: int
    state: str


def stretches_of(operations: Iterable[Operation]) -> dict[tuple[str, str], list[Stretch]]:
    """By process and model, in order; every read belongs to one."""
    made: dict[tuple[str, str], list[Stretch]] = {}
    for operation in operations:
        if operation.op != "read":
            continue
        row = made.setdefault((operation.process, operation.model), [])
        state = operation.guarantee or "failed"
        begin_ns, end_ns = operation.invoked_ns, operation.returned_ns
        if row and begin_ns - row[-1].end_ns <= SILENCE_NS:
            last = row[-1]
            if last.state == state:
                row[-1] = Stretch(begin_ns=last.begin_ns, end_ns=end_ns, state=state)
                continue
            row[-1] = Stretch(begin_ns=last.begin_ns, end_ns=begin_ns, state=last.state)
        row.append(Stretch(begin_ns=begin_ns, end_ns=end_ns, state=state))
    return made


def worst_of(rows: Sequence[Sequence[Stretch]]) -> list[Stretch]:
    """One row for several: at each instant the worst of what they say; nothing where none says anything."""
    cuts = sorted({instant for row in rows for stretch in row for instant in (stretch.begin_ns, stretch.end_ns)})
    places = [0] * len(rows)
    made: list[Stretch] = []
    for begin_ns, end_ns in itertools.pairwise(cuts):
        worst = -1
        for number, row in enumerate(rows):
            while places[number] < len(row) and row[places[number]].end_ns <= begin_ns:
                places[number] += 1
            if places[number] < len(row) and row[places[number]].begin_ns <= begin_ns:
                worst = max(worst, STATES.index(row[places[number]].state))
        if worst < 0:
            continue
        state = STATES[worst]
        if made and made[-1].end_ns == begin_ns and made[-1].state == state:
            made[-1] = Stretch(begin_ns=made[-1].begin_ns, end_ns=end_ns, state=state)
        else:
            made.append(Stretch(begin_ns=begin_ns, end_ns=end_ns, state=state))
    return made


def share_by_bucket(
    rows: Sequence[Sequence[Stretch]], *, begin_ns: int, end_ns: int, buckets: int, state: str = "strong"
) -> list[float]:
    """For each of so many equal parts of the time: the share of it, over all rows, in which the state was so."""
    width_ns = max(1, (end_ns - begin_ns) // buckets)
    sums = [0] * buckets
    for row in rows:
        for stretch in row:
            if stretch.state != state:
                continue
            first = max(0, (stretch.begin_ns - begin_ns) // width_ns)
            last = min(buckets - 1, (stretch.end_ns - begin_ns) // width_ns)
            for bucket in range(first, last + 1):
                low_ns = begin_ns + bucket * width_ns
                sums[bucket] += max(0, min(stretch.end_ns, low_ns + width_ns) - max(stretch.begin_ns, low_ns))
    return [min(1.0, total / (width_ns * len(rows))) if rows else 0.0 for total in sums]
