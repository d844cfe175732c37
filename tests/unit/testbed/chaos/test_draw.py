"""The programme of chaos: a pure function of the seed that never asks for two things of one process at once."""

import itertools
from collections import Counter

import pytest

from consistency_service.testbed.chaos.draw import RATE_PPM_MAX, draw
from consistency_service.testbed.chaos.plan import LEADER, Action, Break, FaultKind, parse_break, parse_kinds
from consistency_service.testbed.errors import TestbedError as BedError

NODES = ("node-1", "node-2", "node-3")
EDGES = ("edge-1", "edge-2")
STANDING = {Action.KILL, Action.WIPE, Action.PAUSE, Action.SUSPEND}


def programme(seed, *, minutes=10, kinds=frozenset(FaultKind), nodes=NODES, breaking=None):
    return draw(seed, duration_ms=minutes * 60_000, kinds=kinds, nodes=nodes, edges=EDGES, breaking=breaking)


def test_equal_seeds_give_equal_programmes_and_others_do_not():
    assert programme(1) == programme(1)
    assert programme(1) != programme(2)


def test_every_kind_and_action_comes():
    faults = programme(3, minutes=60).faults

    assert {fault.kind for fault in faults} == set(FaultKind)
    assert {fault.action for fault in faults} == set(Action) - {Action.BREAK_CLOCK}
    assert any(fault.target == LEADER for fault in faults)


@pytest.mark.parametrize("kind", FaultKind)
def test_only_what_was_asked_for_comes(kind):
    assert {kind} == {fault.kind for fault in programme(4, kinds=frozenset({kind})).faults}


@pytest.mark.parametrize("seed", range(20))
def test_every_fault_lies_in_a_storm_and_calms_lie_between(seed):
    made = programme(seed)

    assert all(any(begin <= f.begin_ms <= f.end_ms <= end for begin, end in made.storms) for f in made.faults)
    assert made.storms[-1][1] == made.duration_ms
    assert all(later[0] >= earlier[1] + 7_000 for earlier, later in itertools.pairwise(made.storms))


@pytest.mark.parametrize("seed", range(20))
def test_nobody_is_killed_while_he_is_down(seed):
    by_target: Counter[str] = Counter()
    for fault in programme(seed).faults:
        if fault.action in STANDING:
            assert by_target[fault.target] <= fault.begin_ms
            by_target[fault.target] = fault.end_ms


@pytest.mark.parametrize("seed", range(20))
def test_clocks_stay_within_the_assumption_and_pauses_outlast_the_lease(seed):
    made = programme(seed)

    assert all(abs(clock.rate_ppm) <= RATE_PPM_MAX < 500 and clock.offset_ns >= 0 for clock in made.clocks.values())
    for fault in made.faults:
        if fault.action is Action.RATE:
            assert abs(fault.amount) <= RATE_PPM_MAX
        if fault.action in (Action.PAUSE, Action.SUSPEND):
            assert fault.end_ms - fault.begin_ms > 2_500


def test_partitions_are_one_way_too():
    partitions = [fault for fault in programme(5, minutes=60).faults if fault.action in (Action.CUT, Action.HOLD)]
    one_way = [fault for fault in partitions if all((b, a) not in fault.pairs for a, b in fault.pairs)]

    assert one_way and len(one_way) < len(partitions)


def test_five_nodes_may_lose_two():
    alone = [f for f in programme(6, minutes=60, nodes=("a", "b", "c", "d", "e")).faults if " and " in f.target]

    assert alone and all(len(fault.pairs) >= 2 * 2 * 3 for fault in alone)


def test_beyond_the_assumption_only_that_is_done():
    made = programme(7, minutes=1, breaking=Break.CLOCK_RATE)

    assert made.faults and {fault.action for fault in made.faults} == {Action.BREAK_CLOCK}
    assert all(fault.amount == -500_000 and ("edge" in fault.target) for fault in made.faults)


def test_words_that_mean_nothing_are_refused():
    assert parse_kinds("kill, bus") == {FaultKind.KILL, FaultKind.BUS}
    for text in ("", "kill,fire"):
        with pytest.raises(BedError):
            parse_kinds(text)
    assert parse_break(None) is None and parse_break("clock-rate") is Break.CLOCK_RATE
    with pytest.raises(BedError, match="clock-rate"):
        parse_break("raft")
