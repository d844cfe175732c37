"""Acts 2 and 3: a bad version is found out on one edge and taken back, a good one goes everywhere and is rolled back.

Both go by managed rollouts, through the same REST calls that `ccs rollout` makes. Nobody tells the region which version
is bad: the edges report what came of their readings, and the analysis compares candidate with stable.
"""

from __future__ import annotations

import time
from typing import Any, Final

from consistency_service.testbed.demo_facts import RolloutFacts
from consistency_service.testbed.demo_play import Play
from consistency_service.testbed.demo_region import Accepted, GenerationSeen, RegionCalls, RolloutSeen, TransitionSeen
from consistency_service.testbed.digits import CORRUPTED_SHARE, MODEL, DigitModel, Digits
from consistency_service.testbed.edge_session import boottime_ns
from consistency_service.testbed.errors import TestbedError
from consistency_service.testbed.history import Operation
from edge_client.protocol.bucketing import SHARE_BP_MAX, bucket_of

FIRST_SHARE_BP: Final = 2_000
POLL_S: Final = 0.1
READ_S: Final = 1.0
"""How often the active version is read through REST, for the history."""
WATCH_S: Final = 3.0
COUNT_S: Final = 10.0
"""How long the region's count may take to be complete: edges report once a second."""
ATTEMPTS_MAX: Final = 10_000

_ANALYSIS: Final = [{"metric": "error_rate", "worse_max": "2%"}]
BAD: Final[dict[str, Any]] = {
    "stages": [{"share": "20%", "bake": "20s"}, {"share": "100%"}],
    "analysis": _ANALYSIS,
    "on_failure": "abort",
}
GOOD: Final[dict[str, Any]] = {
    "stages": [{"share": "20%", "bake": "5s"}, {"share": "100%", "bake": "3s"}],
    "analysis": _ANALYSIS,
    "on_failure": "abort",
}


def fail(play: Play, calls: RegionCalls, digits: Digits) -> None:
    """The version that learnt from corrupted labels was tried on a fifth of the edges, and all are back on stable."""
    bad = digits.corrupted
    play.view.say(
        f"act 2: {bad.version} learnt from corrupted labels ({100 * CORRUPTED_SHARE:.0f} % of them); nobody tells the region"
    )
    found = _roll_out(play, calls, bad, base=digits.strong, strategy=BAD, name="bad")
    back = _require(found, phase="failed")
    play.facts.changes["return"] = back
    play.until(
        "all edges to be back on stable", lambda: play.all_strong(digits.strong.version) and play.all_made("return")
    )
    play.view.say(f"all {len(play.edges)} edges serve {digits.strong.version}; {bad.version} is gone")
    play.watch("edges classify with stable", WATCH_S)

    def count() -> None:
        until_s = time.monotonic() + COUNT_S
        while (found.exposed or 0) < sum(play.facts.classified(bad.version).values()) and time.monotonic() < until_s:
            found.exposed = calls.rollout(found.rollout_id).exposed
            time.sleep(POLL_S)

    play.background("the region's count of what was exposed", count)
    play.view.say(
        f"the region counts {found.exposed:,} classifications by {bad.version}, all by {', '.join(found.cohort)}"
    )


def complete_and_return(play: Play, calls: RegionCalls, digits: Digits) -> None:
    """A good version went everywhere in two stages, and was rolled back at once after all was done."""
    good, base = digits.better, digits.strong
    play.view.say(f"act 3: {good.version} is as good as {base.version} or better; the same way, in two stages")
    found = _roll_out(play, calls, good, base=base, strategy=GOOD, name="good")
    play.facts.changes["completion"] = _require(found, phase="completed")
    play.until("all edges to serve it for good", lambda: play.all_strong(good.version) and play.all_made("completion"))
    play.view.say(f"{good.version} is stable for all {len(play.edges)} edges; the rollout is over")
    play.watch("edges classify with it", WATCH_S)

    def accepted(decided: Accepted) -> None:
        play.view.say(f"rollback decided as generation {decided.generation}; edges have kept {base.version} for this")
        play.facts.changes["rollback"] = decided

    def work() -> None:
        operation = calls.roll_back(MODEL, on_accepted=accepted)
        play.record(operation)
        play.record(calls.read_active(MODEL))
        play.facts.told_ns["rollback"] = operation.returned_ns

    play.background(f"rolling {MODEL} back", work)
    play.until("all edges to be back", lambda: play.all_strong(base.version) and play.all_made("rollback"))
    play.view.say(f"all {len(play.edges)} edges serve {base.version} again")
    play.watch("edges classify with the version before", WATCH_S)


def rollout_id_for(version: str, edges: list[str]) -> str:
    """An id under which the first share is a fifth of these edges, at least one and not all.

    Where an edge falls is decided by its id and the rollout's, so of a few edges a fifth of the buckets can hold any number.
    """
    wanted = max(1, round(len(edges) * FIRST_SHARE_BP / SHARE_BP_MAX))
    names = (f"{MODEL}-{version}" + (f"-{number}" if number else "") for number in range(ATTEMPTS_MAX))
    return next(name for name in names if len(cohort_of(name, edges)) == wanted)


def cohort_of(rollout_id: str, edges: list[str]) -> list[str]:
    """The edges of the first stage."""
    return [edge for edge in edges if bucket_of(edge, salt=rollout_id) < FIRST_SHARE_BP]


def _roll_out(
    play: Play, calls: RegionCalls, model: DigitModel, *, base: DigitModel, strategy: Any, name: str
) -> RolloutFacts:
    """The rollout has ended, in whatever way; all that it decided is recorded."""
    rollout_id = rollout_id_for(model.version, play.edges)
    found = RolloutFacts(
        rollout_id=rollout_id,
        version=model.version,
        stages=[str(stage["share"]).replace("%", " %") for stage in strategy["stages"]],
        cohort=cohort_of(rollout_id, play.edges),
    )
    play.facts.versions = (base.version, model.version)
    play.facts.rollouts[name] = found
    play.view.say(
        f"rollout {rollout_id}: {' → '.join(found.stages)} of the edges; the first are {', '.join(found.cohort)}"
    )

    def work() -> None:
        calls.push(MODEL, version=model.version, path=model.path, digest=model.digest)
        absent_ns = boottime_ns()
        calls.begin_rollout(rollout_id, model=MODEL, version=model.version, strategy=strategy, reason="the demo")
        read_s = 0.0
        while True:
            looked_ns = boottime_ns()
            seen = calls.rollout(rollout_id)
            for generation in calls.generations(MODEL, rollout_id=rollout_id)[len(found.decided) :]:
                _decided(play, found, generation, absent_ns=absent_ns)
            _moved(play, found, seen)
            absent_ns = looked_ns
            if time.monotonic() - read_s >= READ_S:
                read_s = time.monotonic()
                play.record(calls.read_active(MODEL))
            if seen.ended and seen.transitions[-1].revision in [one.activation for one in found.decided]:
                return
            time.sleep(POLL_S)

    play.background(f"rolling out {MODEL} {model.version}", work)
    return found


def _decided(play: Play, found: RolloutFacts, generation: GenerationSeen, *, absent_ns: int) -> None:
    """A generation that was not there at `absent_ns` is in the facts and in the history."""
    now_ns = boottime_ns()
    before_ns = found.decided[-1].at_ns if found.decided else 0
    decided = Accepted(at_ns=now_ns, generation=generation.generation, activation=generation.activation)
    found.decided.append(decided)
    play.facts.changes[found.change(decided)] = decided
    play.record(
        Operation(
            process=f"rollout {found.rollout_id}",
            op="activate",
            invoked_ns=max(absent_ns, before_ns),
            returned_ns=now_ns,
            model=MODEL,
            generation=generation.generation,
            outcome="accepted",
            assignment=generation.assignment,
        )
    )


def _moved(play: Play, found: RolloutFacts, seen: RolloutSeen) -> None:
    """The facts have the newest, and what is new about it was said."""
    known = 0 if found.seen is None else len(found.seen.transitions)
    now_ns = boottime_ns()
    for transition in seen.transitions[known:]:
        if transition.move == "fail" and found.failed_at_ns is None:
            found.failed_at_ns = now_ns
        if (words := _words(found, transition)) is not None:
            play.view.say(words)
    found.seen = seen
    if seen.live is not None and seen.live.findings:
        found.finding = seen.live.findings[0]


def _words(found: RolloutFacts, transition: TransitionSeen) -> str | None:
    stage = f"stage {transition.stage + 1} of {len(found.stages)}"
    match transition.move:
        case "start":
            return f"{', '.join(found.cohort)} fetches and loads {found.version}; nobody serves it yet"
        case "activate":
            share = found.stages[transition.stage]
            return f"{stage} is decided: {share} at one instant; candidate is watched against stable"
        case "pass":
            return f"passed: {transition.reason}"
        case "fail":
            return f"FAILED: {transition.reason}"
        case "return":
            return "the return to stable is decided; all change at one instant"
        case "complete":
            return f"{found.version} becomes stable for everybody, at one instant"
        case _:
            return f"{transition.move}: {transition.reason}"


def _require(found: RolloutFacts, *, phase: str) -> Accepted:
    """The rollout's last decision, if it ended as it should. Raises `TestbedError`."""
    assert found.seen is not None
    if found.seen.phase != phase:
        last = found.seen.transitions[-1]
        raise TestbedError(f"rollout {found.rollout_id} is {found.seen.phase}, not {phase}: {last.reason}")
    return found.decided[-1]
