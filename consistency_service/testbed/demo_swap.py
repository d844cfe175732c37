"""Act 1: running edges change to a better model at one instant, and the death of the leader takes `strong` from nobody."""

from __future__ import annotations

import copy
import time
from typing import Final

from consistency_service.testbed.demo_play import Play
from consistency_service.testbed.demo_region import Accepted, RegionCalls
from consistency_service.testbed.digits import MODEL, DigitModel, Digits
from consistency_service.testbed.edge_session import boottime_ns

WATCH_S: Final = 5.0
"""How long the edges work with each version before the next thing happens."""
AFTERMATH_S: Final = 6.0
"""How long is watched after the leader was killed: three leases."""


def swap(play: Play, calls: RegionCalls, digits: Digits) -> None:
    """All edges serve the second version, after some time with the first."""
    weak, strong = digits.weak, digits.strong
    play.facts.versions = (weak.version, strong.version)
    _activate(play, calls, weak, change="first")
    play.until("all edges to serve it strongly", lambda: play.all_strong(weak.version))
    play.watch("edges classify images they have never seen", WATCH_S)
    _activate(play, calls, strong, change="swap")
    play.until("all edges to make the switch", lambda: play.all_strong(strong.version) and play.all_made("swap"))
    spread_ms = play.facts.spread_ms("swap") or 0
    play.view.say(f"all {len(play.edges)} edges serve {strong.version}; spread {spread_ms:.2f} ms")
    play.watch("edges classify with the better model", WATCH_S)


def kill_leader(play: Play, calls: RegionCalls) -> None:
    """The leader is dead, and a change was committed without it; its aftermath was watched."""
    facts, view = play.facts, play.view
    leader = play.background("asking who leads", calls.leader)
    assert play.testbed is not None
    play.until("all edges to be strong", lambda: play.all_strong(facts.versions[1]))
    facts.statuses_at_kill = copy.copy(facts.statuses)
    killed_s = time.monotonic()
    calls.forget(leader)
    play.testbed.kill(leader)
    facts.killed = leader
    view.say(f"killed {leader}, the leader (SIGKILL); it stays dead")

    def work() -> None:
        calls.commit_something(MODEL, number=1)
        facts.commit_after_ms = (time.monotonic() - killed_s) * 1_000
        facts.leader_after = calls.leader()
        view.say(f"{facts.leader_after} leads; a change was committed {facts.commit_after_ms:,.0f} ms after the kill")
        play.record(calls.read_active(MODEL))

    play.background("a change to be committed without it", work)
    play.watch("no edge loses strong", max(0.0, AFTERMATH_S - (time.monotonic() - killed_s)))
    facts.statuses_after_kill = copy.copy(facts.statuses)


def _activate(play: Play, calls: RegionCalls, model: DigitModel, *, change: str) -> None:
    """The version is active, and its caller was told."""
    facts, view = play.facts, play.view
    begun_ns = boottime_ns()

    def accepted(decided: Accepted) -> None:
        view.say(f"activation of {model.version} decided as generation {decided.generation}; all change at one instant")
        facts.changes[change] = decided

    def work() -> None:
        calls.push(MODEL, version=model.version, path=model.path, digest=model.digest)
        operation = calls.activate(MODEL, version=model.version, on_accepted=accepted)
        play.record(operation)
        play.record(calls.read_active(MODEL))
        facts.told_ns[change] = operation.returned_ns

    play.background(f"activating {MODEL} {model.version}", work)
    view.say(f"{model.version} is active; pushed, prefetched and activated in {(boottime_ns() - begun_ns) / 1e9:.1f} s")
