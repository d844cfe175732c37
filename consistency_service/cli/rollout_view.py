"""A rollout as people read it: where it stands, its stages, who is ready, what was measured, what happened last.

Everything here turns the region's JSON into tables and lines; nothing asks, waits or decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from rich.console import RenderableType
from rich.text import Text

from consistency_service.cli.render import Cell, clean, duration, grid, instant, pairs_of
from consistency_service.cli.rollout_strategy import strategy_of, written_duration
from consistency_service.core.strategy import Check, Metric, Strategy
from edge_client.protocol.bucketing import CohortSelector

STRAGGLERS_SHOWN: Final = 8
MOVES_SHOWN: Final = 4
REASON_SHOWN: Final = 400
AUTHORITY: Final = "the authority"
ENDED: Final = frozenset({"completed", "aborted", "failed"})

_STYLES: Final = {
    "prefetching": "cyan",
    "baking": "green",
    "waiting": "yellow",
    "paused": "yellow",
    "aborting": "red",
    "aborted": "bold red",
    "failed": "bold red",
    "completed": "bold green",
    "successful": "green",
    "inconclusive": "yellow",
}
"""Of phases and of results; a result that failed looks like a phase that did."""


def view_of(rollout: Mapping[str, Any], *, freeze: Mapping[str, Any] | None = None) -> list[RenderableType]:
    """All of it, from top to bottom."""
    strategy = strategy_of(rollout)
    parts: list[RenderableType] = [pairs_of(_head(rollout, strategy, freeze)), Text()]
    parts.append(grid((">STAGE", ">SHARE", "COHORT", "BAKE", "GATE", "STATE"), list(_stages(rollout, strategy))))
    live = rollout.get("live")
    if live is not None:
        edges = list(_edges(rollout, live))
        if edges:
            parts += [Text(), pairs_of(edges)]
        if live["findings"]:
            parts += [Text(), _findings(live["findings"], several=len(rollout["targets"]) > 1)]
    if rollout["transitions"]:
        moves = [_move_row(rollout, move) for move in rollout["transitions"][-MOVES_SHOWN:]]
        parts += [Text(), grid(("AT", "MOVE", "LED TO", "BY", "WHY"), moves)]
    return parts


def models_of(rollout: Mapping[str, Any]) -> str:
    """`digits 1.0.0 → 2.0.0`, of every model."""
    return ", ".join(f"{t['model']} {t['base']['stable']} → {t['candidate']}" for t in rollout["targets"])


def phase_of(rollout: Mapping[str, Any]) -> Text:
    """One word for where it stands, and the stage where that says more."""
    phase = str(rollout["phase"])
    return styled(f"{phase}{_at(rollout)}", phase)


def styled(text: str, word: str) -> Text:
    """In the colour that goes with a phase or a result."""
    return Text(clean(text), style=_STYLES.get(word, ""))


def line_of(rollout: Mapping[str, Any], move: Mapping[str, Any]) -> Text:
    """One move in one line: when, what, where that led, by whom, why."""
    return Text.assemble(
        (instant(move["at_unix_ms"]), "dim"),
        f"  {move['move']:<8}  ",
        styled(_led_to(rollout, move).ljust(16), move["phase"]),
        f"  by {clean(move['author'] or AUTHORITY)}",
        f": {clean(move['reason'])[:REASON_SHOWN]}" if move["reason"] else "",
    )


def _move_row(rollout: Mapping[str, Any], move: Mapping[str, Any]) -> tuple[Cell, ...]:
    return (
        Text(instant(move["at_unix_ms"])[11:19], style="dim"),
        move["move"],
        styled(_led_to(rollout, move), move["phase"]),
        move["author"] or AUTHORITY,
        move["reason"][:REASON_SHOWN] or "-",
    )


def _led_to(rollout: Mapping[str, Any], move: Mapping[str, Any]) -> str:
    """The phase, and in which stage: `baking 2/3`; the last step is `end`."""
    phase, count = str(move["phase"]), len(rollout["strategy"]["stages"])
    if phase in ENDED or phase in {"draft", "aborting"}:
        return phase
    return f"{phase} {move['stage'] + 1}/{count}" if move["stage"] < count else f"{phase} end"


def share(share_bp: int) -> str:
    return f"{share_bp / 100:g} %"


def cohort_text(cohort: CohortSelector) -> str:
    """Which edges, in words."""
    words = [f"site {' or '.join(cohort.sites)}"] if cohort.sites else []
    words += [f"{name}={value}" for name, value in cohort.labels.items()]
    return ", ".join(words) or "every edge"


def check_text(check: Check) -> str:
    """What a check looks at, and its limit."""
    name = check.metric.value.replace("_", " ")
    if check.metric is Metric.EXTERNAL:
        return f"external check {check.url}"
    if check.metric is Metric.LATENCY:
        name = f"latency p{check.quantile * 100:g}"
    if check.bound is not None:
        word = "at least" if check.metric is Metric.SCORE else "at most"
        return f"{name} {word} {_value(check.bound, check.metric)}"
    return f"{name} worse by at most {_worse(check.worse_max, check.metric)}"


# ---- parts


def _at(rollout: Mapping[str, Any]) -> str:
    phase, count = rollout["phase"], len(rollout["strategy"]["stages"])
    if phase in ENDED or phase in {"draft", "aborting"}:
        return ""
    stage = rollout["stage"]
    return f", stage {stage + 1} of {count}" if stage < count else ", all stages passed"


def _head(
    rollout: Mapping[str, Any], strategy: Strategy, freeze: Mapping[str, Any] | None
) -> Iterator[tuple[str, Cell]]:
    targets = rollout["targets"]
    for number, target in enumerate(targets):
        text = Text.assemble(
            clean(f"{target['model']} {target['base']['stable']} → "), (clean(target["candidate"]), "bold")
        )
        yield ("models" if len(targets) > 1 else "model") if number == 0 else "", text
    yield "rollout", f"{rollout['rollout_id']}  by {rollout['author']}, {instant(rollout['created_at_unix_ms'])[:19]}Z"
    yield "phase", phase_of(rollout)
    yield "", says(rollout, strategy)
    if freeze is not None and freeze["frozen"] and rollout["phase"] not in ENDED:
        why = f": {freeze['reason']}" if freeze["reason"] else ""
        yield "frozen", styled(f"by {freeze['author']} since {instant(freeze['since_unix_ms'])[:19]}Z{why}", "paused")
    stage = min(rollout["stage"], len(strategy.stages) - 1)
    if rollout["phase"] not in ENDED and not (rollout.get("live") or {}).get("findings") and strategy.stages:
        checks = strategy.checks_of(stage)
        if checks:
            yield "checks", "; ".join(check_text(check) for check in checks)
    for target in targets:
        exposure = ((rollout.get("live") or {}).get("exposure") or {}).get(target["model"])
        if exposure and exposure["readings"]:
            told = f"{exposure['readings']:,} readings of {target['model']} {target['candidate']}"
            yield "exposed", f"{told} on {_plural(exposure['edges'], 'edge')}"


def says(rollout: Mapping[str, Any], strategy: Strategy) -> str:
    """What is going on, in a sentence, and what somebody may have to do."""
    phase, stage, name = rollout["phase"], rollout["stage"], rollout["rollout_id"]
    last = rollout["transitions"][-1] if rollout["transitions"] else None
    why = f": {last['reason']}" if last and last["reason"] else ""
    stable = ", ".join(dict.fromkeys(t["base"]["stable"] for t in rollout["targets"]))
    match phase:
        case "draft":
            return f"nothing has begun; begin with: ccs rollout start {name}"
        case "prefetching" if stage >= len(strategy.stages):
            return "edges get ready; then the candidate becomes stable for everybody"
        case "prefetching":
            return f"edges get ready for {share(strategy.stages[stage].share_bp)}"
        case "baking" if rollout["to_end"]:
            return "promoted to the end: goes on when its activation has taken effect"
        case "baking":
            bake_ms = strategy.stages[stage].bake_ms
            healthy = f"healthy for {duration(min(rollout['baked_ms'], bake_ms))} of {duration(bake_ms)}"
            return healthy if rollout["baked_ms"] < bake_ms else f"{healthy}; waits for {_awaited(strategy, stage)}"
        case "waiting":
            return f"it has passed and waits for somebody: ccs rollout promote {name}"
        case "paused":
            return f"held{why}; go on with: ccs rollout resume {name}"
        case "aborting":
            return f"everybody goes back to {stable}{why}"
        case "completed":
            return "the candidate is stable for everybody; ccs rollback goes back at once"
    if rollout["active_stage"] is None and phase in {"aborted", "failed"}:
        return f"nothing was activated{why}"
    return f"everybody is back on {stable}{why}"


def _awaited(strategy: Strategy, stage: int) -> str:
    return "the analysis" if strategy.checks_of(stage) else "its activation to take effect"


def _stages(rollout: Mapping[str, Any], strategy: Strategy) -> Iterator[tuple[Cell, ...]]:
    for index, stage in enumerate(strategy.stages):
        yield (
            str(index + 1),
            share(stage.share_bp),
            cohort_text(strategy.cohort_of(index)),
            written_duration(stage.bake_ms) if stage.bake_ms else "-",
            stage.gate.value,
            _stage_state(rollout, index, stage.bake_ms),
        )


def _stage_state(rollout: Mapping[str, Any], index: int, bake_ms: int) -> Text:
    phase, active = rollout["phase"], rollout["active_stage"]
    if phase == "completed":
        return styled("passed", "completed")
    if active is not None and index < active:
        return styled(
            "taken back" if phase in {"aborted", "failed"} else "passed", phase if phase in ENDED else "baking"
        )
    if phase in ENDED:
        return styled("taken back", phase) if index == active else Text("-", style="dim")
    if index == active:
        if rollout["stage"] > index:
            return styled("passed", "baking")
        if phase == "baking" and rollout["baked_ms"] < bake_ms:
            return styled(f"baking {100 * rollout['baked_ms'] // bake_ms} %", phase)
        return styled({"baking": "baked", "waiting": "passed, waits"}.get(phase, phase), phase)
    if index == rollout["stage"] and phase in {"prefetching", "paused"}:
        return styled("gets ready" if phase == "prefetching" else phase, phase)
    return Text("-", style="dim")


def _edges(rollout: Mapping[str, Any], live: Mapping[str, Any]) -> Iterator[tuple[str, Cell]]:
    ready, waiting, failed = live["ready_count"], live["waiting_count"], live["failed_count"]
    total = ready + waiting + failed
    back = rollout["phase"] in {"aborting", "aborted", "failed"}
    what = "stable" if back else "the candidate"
    if total:
        others = [f"{waiting} not yet" if waiting else "", f"{failed} cannot" if failed else ""]
        more = "".join(f", {other}" for other in others if other)
        yield "ready", f"{ready} of {_plural(total, 'live edge')} with {what} loaded{more}"
    else:
        yield "ready", "no live edge follows this"
    if rollout["active_stage"] is None:
        stragglers = dict(live["failed"])
    else:
        serving = live["switched_count"] + live["straggler_count"]
        yield "switched", f"{live['switched_count']} of {serving} serve what is active for them"
        stragglers = {
            **live["stragglers"],
            **{e: why for e, why in live["failed"].items() if e not in live["stragglers"]},
        }
    listed = sorted(stragglers.items())
    for number, (edge, why) in enumerate(listed[:STRAGGLERS_SHOWN]):
        yield "" if number else "behind", Text.assemble((clean(edge), "bold"), f": {clean(why)[:160]}")
    count = max(len(listed), live["straggler_count"] if rollout["active_stage"] is not None else live["failed_count"])
    if count > STRAGGLERS_SHOWN:
        yield "", f"and {count - STRAGGLERS_SHOWN} more"


def _findings(findings: Sequence[Mapping[str, Any]], *, several: bool) -> RenderableType:
    head = ("CHECK", ">CANDIDATE", ">STABLE", ">WORSE BY", ">LIMIT", ">READINGS", "RESULT")
    return grid((("MODEL", *head) if several else head), [_finding(found, several=several) for found in findings])


def _finding(found: Mapping[str, Any], *, several: bool) -> tuple[Cell, ...]:
    metric, check = Metric(found["metric"]), found["check"]
    name = f"latency p{check['quantile'] * 100:g}" if metric is Metric.LATENCY else metric.value.replace("_", " ")
    sides = metric not in {Metric.LABEL_DRIFT, Metric.SCORE_DRIFT}
    compares = check["bound"] is None or not sides
    given = check["bound"] if check["worse_max"] is None else check["worse_max"]
    limit = _worse(given, metric) if compares else _value(given, metric)
    samples = f"{found['samples_candidate']}/{found['samples_stable']}" if compares else str(found["samples_candidate"])
    row: tuple[Cell, ...] = (
        name,
        _value(found["value_candidate"], metric) if sides else "-",
        _value(found["value_stable"], metric) if sides else "-",
        _worse(found["difference"], metric) if compares else "-",
        "-" if metric is Metric.EXTERNAL else limit,
        "-" if metric is Metric.EXTERNAL else samples,
        styled(found["result"], found["result"]),
    )
    return (found["model"], *row) if several else row


def _value(value: float | None, metric: Metric) -> str:
    if value is None:
        return "-"
    if metric is Metric.ERROR_RATE:
        return f"{100 * value:.3g} %"
    return f"{value:.3g} ms" if metric is Metric.LATENCY else f"{value:.3g}"


def _worse(value: float | None, metric: Metric) -> str:
    if value is None:
        return "-"
    if metric is Metric.ERROR_RATE:
        return f"{100 * value:.3g} pt"
    return f"×{value:.3g}" if metric is Metric.LATENCY else f"{value:.3g}"


def _plural(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"
