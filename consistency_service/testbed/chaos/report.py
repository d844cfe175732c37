"""What a chaos run was: one value, its words for a terminal, and (in `page`) its page for a browser."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from consistency_service.testbed.chaos.availability import Stretch, share_by_bucket, stretches_of, worst_of
from consistency_service.testbed.chaos.ledger import Request
from consistency_service.testbed.chaos.nemesis import Deed
from consistency_service.testbed.chaos.verdict import Check
from consistency_service.testbed.history import Operation

BUCKETS = 400


class FaultDone(msgspec.Struct, frozen=True, kw_only=True):
    """One fault, in milliseconds after the start; `skipped` says why it was not done."""

    number: int
    kind: str
    words: str
    target: str
    begin_ms: int
    end_ms: int
    skipped: str | None = None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What one reader could read over time: the worst over its models, in milliseconds after the start."""

    reader: str
    strong_share: float
    spans: list[tuple[int, int, str]]


class ChaosReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that came of a run; also the document of `--json`."""

    ok: bool
    seed: int
    minutes: float
    kinds: list[str]
    beyond: str | None
    nodes: int
    edges: int
    begun_at: str
    checks: list[Check]
    converged_ms: int | None
    requests: dict[str, dict[str, int]]
    """By command, then by what was told."""
    faults: list[FaultDone]
    rows: list[Row]
    strong_edges: list[float]
    """The share of strong reading at edges, in equal parts of the time."""
    strong_nodes: list[float]
    end_ms: int
    notes: list[str]
    """What was left out, and why."""
    directory: str | None = None
    """Where everything is kept."""


def faults_done(deeds: Sequence[Deed], *, begun_ns: int, end_ns: int) -> list[FaultDone]:
    """In order; a fault that never ended lasted to the end."""
    return [
        FaultDone(
            number=deed.fault.number,
            kind=deed.fault.kind.value,
            words=str(deed.fault),
            target=deed.target,
            begin_ms=(deed.begun_ns - begun_ns) // 10**6,
            end_ms=((deed.ended_ns or end_ns) - begun_ns) // 10**6,
            skipped=deed.skipped,
        )
        for deed in deeds
    ]


def rows_of(
    operations: Sequence[Operation], *, begun_ns: int, end_ns: int
) -> tuple[list[Row], list[float], list[float]]:
    """One row for each reader, and the shares of strong reading over time at edges and at nodes."""
    by_reader: dict[str, list[list[Stretch]]] = {}
    for (process, _), stretches in sorted(stretches_of(operations).items()):
        by_reader.setdefault(process, []).append(stretches)
    rows: list[Row] = []
    shares: dict[bool, list[list[Stretch]]] = {True: [], False: []}
    for reader, models in sorted(by_reader.items()):
        worst = worst_of(models)
        shares[reader.startswith("edge-")].append(worst)
        rows.append(
            Row(
                reader=reader.removeprefix("rest-"),
                strong_share=share_by_bucket([worst], begin_ns=begun_ns, end_ns=end_ns, buckets=1, state="strong")[0],
                spans=[
                    (max(0, (s.begin_ns - begun_ns) // 10**6), (s.end_ns - begun_ns) // 10**6, s.state)
                    for s in worst
                    if s.end_ns > begun_ns and s.begin_ns < end_ns
                ],
            )
        )
    over_time = [
        share_by_bucket(shares[edges], begin_ns=begun_ns, end_ns=end_ns, buckets=BUCKETS) for edges in (True, False)
    ]
    return rows, over_time[0], over_time[1]


def requests_by_command(requests: Sequence[Request]) -> dict[str, dict[str, int]]:
    """How many of each command were told what."""
    counts = Counter((request.command, request.told.value) for request in requests)
    made: dict[str, dict[str, int]] = {}
    for (command, told), count in sorted(counts.items()):
        made.setdefault(command, {})[told] = count
    return made


def mean(shares: Sequence[float]) -> float:
    return sum(shares) / len(shares) if shares else 0.0
