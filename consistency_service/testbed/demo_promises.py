"""What the demo promises, line by line: the limit, what was measured, and whether that is within.

Limits of time are several times what a quiet machine takes (docs/measurements.md), because a demo runs wherever it is
started; limits of behaviour are exact. What was never measured was not held.
"""

from __future__ import annotations

from typing import Final

import msgspec

from consistency_service.testbed.demo_facts import Facts, RolloutFacts

CHANGE_MS_MAX: Final = 4_000
"""From decided to the last edge: two seconds of leases, and as much again."""
SPREAD_MS_MAX: Final = 50
COMMIT_MS_MAX: Final = 5_000
NOTICED_MS_MAX: Final = 10_000
RETURNED_MS_MAX: Final = 15_000
NOT_MEASURED: Final = "not measured"


class Promise(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the outcome."""

    about: str
    """Which act, or `all`."""
    promise: str
    limit: str
    value: str
    held: bool


def promises_of(
    facts: Facts,
    *,
    edges: list[str],
    duration_s: float,
    duration_s_max: float,
    failover: bool,
    rollouts: bool,
) -> list[Promise]:
    """Every promise, in the order of the demo."""
    promises = _of_swap(facts, edges)
    if failover:
        promises += _of_failover(facts, edges)
    if rollouts:
        promises += [*_of_bad(facts, edges), *_of_good(facts, edges)]
    return [*promises, *_of_all(facts, edges, duration_s=duration_s, duration_s_max=duration_s_max)]


def _of_swap(facts: Facts, edges: list[str]) -> list[Promise]:
    about = "1"
    return [
        _everybody(about, "edges that changed to the better model", facts, "swap", edges),
        _at_most(about, "from decided to the last edge", facts.took_ms("swap"), CHANGE_MS_MAX, "ms"),
        *_spread(about, "between the first and the last edge's instant", facts, "swap", edges),
    ]


def _of_failover(facts: Facts, edges: list[str]) -> list[Promise]:
    lost = [facts.not_strong_since_kill(edge) for edge in edges]
    known = [count for count in lost if count is not None]
    total = sum(known) if known and len(known) == len(edges) else None
    return [
        _at_most("1", "leader killed: the next change is committed", facts.commit_after_ms, COMMIT_MS_MAX, "ms"),
        _exactly("1", "leader killed: readings that were not strong", total, 0),
    ]


def _of_bad(facts: Facts, edges: list[str]) -> list[Promise]:
    about, rollout = "2", facts.rollouts.get("bad")
    name = rollout.version if rollout else "the bad version"
    noticed_ms = facts.noticed_ms(rollout) if rollout else None
    returned_ms = facts.returned_ms(rollout) if rollout else None
    return [
        *_exposure(about, facts, rollout, name=name),
        _at_most(about, f"from {name}'s first answer to the verdict", noticed_ms, NOTICED_MS_MAX, "ms"),
        _at_most(about, f"from {name}'s first answer to the last return", returned_ms, RETURNED_MS_MAX, "ms"),
        _everybody(about, "edges that returned to stable", facts, "return", edges),
        *_spread(about, "between the first and the last edge's return", facts, "return", edges),
    ]


def _exposure(about: str, facts: Facts, rollout: RolloutFacts | None, *, name: str) -> list[Promise]:
    """By the recorded histories, and by the edges' own counts, which must agree."""
    served = None if rollout is None or facts.verdict is None else facts.served.get(rollout.version, {})
    cohort = rollout.cohort if rollout else []
    said = facts.classified(rollout.version) if rollout else {}
    exposed = rollout.exposed if rollout else None
    outside = None if served is None else sum(count for edge, count in served.items() if edge not in cohort)
    at_cohort = None if served is None else sum(count for edge, count in served.items() if edge in cohort)
    of = ", ".join(cohort) or "?"
    return [
        _exactly(about, f"readings of {name} outside its cohort ({of})", outside, 0),
        Promise(
            about=about,
            promise=f"classifications by {name}: in the histories, at the edges, in the region",
            limit="all equal",
            value=" = ".join(dict.fromkeys(map(_number, (at_cohort, sum(said.values()) if said else None, exposed)))),
            held=bool(served) and served == said and exposed == sum(said.values()),
        ),
    ]


def _of_good(facts: Facts, edges: list[str]) -> list[Promise]:
    about, rollout = "3", facts.rollouts.get("good")
    seen = rollout.seen if rollout else None
    wanted = len(rollout.stages) if rollout else 0
    moves = [transition.move for transition in seen.transitions] if seen else []
    return [
        Promise(
            about=about,
            promise="stages that a good version went through",
            limit=f"{wanted} of {wanted}",
            value=f"{moves.count('activate')} of {wanted}" if seen else NOT_MEASURED,
            held=seen is not None and seen.phase == "completed" and moves.count("activate") == wanted,
        ),
        _everybody(about, "edges that it became stable for", facts, "completion", edges),
        _everybody(about, "edges that a later rollback took back", facts, "rollback", edges),
        _at_most(about, "rollback: from decided to the last edge", facts.took_ms("rollback"), CHANGE_MS_MAX, "ms"),
        *_spread(about, "rollback: between the first and the last edge", facts, "rollback", edges),
    ]


def _of_all(facts: Facts, edges: list[str], *, duration_s: float, duration_s_max: float) -> list[Promise]:
    statuses = list(facts.statuses.values())
    whole = len(statuses) == len(edges)
    broken = None if facts.verdict is None else sum(facts.verdict.violation_count.values())
    about = "all"
    return [
        _exactly(
            about, "readings that were not what they said", sum(s.wrong_reads for s in statuses) if whole else None, 0
        ),
        _exactly(about, "reads that failed", sum(s.failed_reads for s in statuses) if whole else None, 0),
        _exactly(about, "violations in the history (exact check)", broken, 0),
        _at_most(about, "from start to end", duration_s, duration_s_max, "s"),
    ]


def _everybody(about: str, promise: str, facts: Facts, change: str, edges: list[str]) -> Promise:
    count = sum(facts.made(change, edge) for edge in edges)
    return Promise(
        about=about,
        promise=promise,
        limit=f"{len(edges)} of {len(edges)}",
        value=f"{count} of {len(edges)}",
        held=count == len(edges),
    )


def _spread(about: str, promise: str, facts: Facts, change: str, edges: list[str]) -> list[Promise]:
    """Of one edge there is none."""
    return [_at_most(about, promise, facts.spread_ms(change), SPREAD_MS_MAX, "ms")] if len(edges) > 1 else []


def _at_most(about: str, promise: str, value: float | None, limit: float, unit: str) -> Promise:
    return Promise(
        about=about,
        promise=promise,
        limit=f"≤ {limit:,.0f} {unit}",
        value=NOT_MEASURED if value is None else f"{value:,.{1 if abs(value) < 100 else 0}f} {unit}",
        held=value is not None and value <= limit,
    )


def _exactly(about: str, promise: str, value: int | None, wanted: int) -> Promise:
    return Promise(about=about, promise=promise, limit=f"{wanted:,}", value=_number(value), held=value == wanted)


def _number(value: int | None) -> str:
    return NOT_MEASURED if value is None else f"{value:,}"
