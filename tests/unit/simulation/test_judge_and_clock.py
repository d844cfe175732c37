"""The judge itself is judged: what it must accuse, what it must not, and that a clock is exact."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from consistency_service.core import commands as c
from edge_client.protocol.models import Assignment, Policy, Terms
from edge_client.protocol.position import Position
from tests.simulation.clock import GRAIN_NS, MS, S, SimClock, on_grain
from tests.simulation.judge import Era, Judge, Key, Truth
from tests.simulation.knobs import FAULTS, drawn
from tests.simulation.nemesis import restored_state
from tests.simulation.world import World
from tests.support.region import activation, version

G0, G1, G2 = (Key(1, 2, generation) for generation in range(3))


@pytest.fixture
def clock() -> SimClock:
    return SimClock(rng=Random(1), rho_ppm=50_000, varying=False, horizon_ns=100 * S)


@pytest.fixture
def judge(clock) -> Judge:
    """Generation 1 of `m` is active from 5 s on, generation 2 from 9 s on."""
    truth = Truth({"c": clock})
    truth.commit(c.Bootstrap(region="test", region_epoch=1, terms=Terms()), now_ns=0)
    truth.commit(c.CreateModel(model="m", policy=Policy()), now_ns=0)
    for name in ("1.0.0", "2.0.0"):
        truth.commit(c.RegisterVersion(model="m", version=version(name)), now_ns=0)
    truth.commit(c.AssumeAuthority(clock_id="c", node_id="n", replaces=0), now_ns=0)
    for i, (stable, at_ns) in enumerate((("1.0.0", 5 * S), ("2.0.0", 9 * S))):
        number = 2 * i + 1
        command = activation(stable, clock_id="c", assumption=5, number=number, at_ns=clock.read(at_ns))
        assert truth.commit(command, now_ns=at_ns - 2 * S).ok
        settle = c.ConfirmAuthority(
            clock_id="c",
            assumption=5,
            number=number + 1,
            t0_ns=clock.read(at_ns),
            settled=(truth.position.revision,),
        )
        assert truth.commit(settle, now_ns=at_ns).ok
    return Judge(truth)


def era(judge: Judge, key: Key) -> Era:
    return judge._truth.era("m", key)


def rules(judge: Judge) -> list[str]:
    return [violation.rule for violation in judge.violations]


def test_what_is_true_may_be_said(judge):
    judge.strong(era(judge, G0), begin_ns=0, end_ns=5 * S, who="a")
    judge.strong(era(judge, G1), begin_ns=5 * S, end_ns=9 * S, who="a")
    judge.strong(era(judge, G2), begin_ns=9 * S, end_ns=20 * S, who="b")
    judge.told(era(judge, G1), at_ns=5 * S, who="n")
    judge.strong_call(era(judge, G1), invoked_ns=4 * S, returned_ns=6 * S, who="n")
    judge.strong_call(era(judge, G1), invoked_ns=9 * S, returned_ns=30 * S, who="n")
    judge.bound(era(judge, G1), bound_ns=1 * S, at_ns=10 * S, who="a")

    assert [] == rules(judge)


@pytest.mark.parametrize(
    ("key", "begin_ns", "end_ns"), [(G0, 0, 5 * S + 1), (G1, 5 * S - 1, 6 * S), (G2, 1, 2), (Key(1, 2, 3), 10, 11)]
)
def test_a_nanosecond_outside_is_noticed(judge, key, begin_ns, end_ns):
    judge.strong(era(judge, key), begin_ns=begin_ns, end_ns=end_ns, who="a")

    assert ["active"] == rules(judge)


def test_two_readers_that_overlap_contradict_each_other_in_either_order(judge):
    judge.strong(era(judge, G1), begin_ns=6 * S, end_ns=9 * S, who="a")
    judge.strong(era(judge, G2), begin_ns=9 * S - 1, end_ns=10 * S, who="b")
    assert ["active", "inversion"] == rules(judge)
    judge.violations.clear()
    judge.strong(era(judge, G1), begin_ns=5 * S, end_ns=9 * S, who="c")

    assert ["inversion"] == rules(judge)


def test_what_a_caller_was_told_counts_as_an_answer(judge):
    judge.strong(era(judge, G0), begin_ns=0, end_ns=4 * S, who="a")
    judge.told(era(judge, G1), at_ns=4 * S, who="n")
    assert [] == rules(judge)
    judge.told(era(judge, G1), at_ns=4 * S - 1, who="n")

    assert ["inversion"] == rules(judge)


def test_a_call_is_judged_by_when_it_began_and_when_it_ended(judge):
    judge.strong_call(era(judge, G1), invoked_ns=3 * S, returned_ns=5 * S - 1, who="n")
    judge.strong_call(era(judge, G1), invoked_ns=9 * S + 1, returned_ns=10 * S, who="n")

    assert ["active", "active"] == rules(judge)


def test_a_bound_that_is_too_short_by_a_nanosecond_is_noticed(judge):
    judge.bound(era(judge, G0), bound_ns=None, at_ns=50 * S, who="a")
    judge.bound(era(judge, G1), bound_ns=S, at_ns=10 * S, who="a")
    judge.bound(era(judge, G1), bound_ns=S - 1, at_ns=10 * S, who="a")

    assert ["bound"] == rules(judge)


def test_a_bound_counts_from_the_end_of_the_epoch_and_what_is_strong_does_not(judge):
    truth = judge._truth
    truth.restored(restored_state(truth.machine.snapshot(), epoch=2), now_ns=20 * S)
    for strong in (False, True):
        judge.bound(era(judge, G2), bound_ns=S, at_ns=21 * S, who="a", strong=strong)
        judge.bound(era(judge, Key(1, 2, 3)), bound_ns=S, at_ns=21 * S, who="a", strong=strong)
    assert [] == rules(judge)
    for key in (G2, Key(1, 2, 3)):
        judge.bound(era(judge, key), bound_ns=S - 1, at_ns=21 * S, who="a", strong=True)
        judge.bound(era(judge, key), bound_ns=S - 1, at_ns=21 * S, who="a")

    assert ["bound", "bound"] == rules(judge)


def test_a_restored_region_has_the_history_of_its_backup(judge):
    truth = judge._truth
    truth.restored(restored_state(truth.machine.snapshot(), epoch=2), now_ns=20 * S)
    restored = truth.position

    assert restored.epoch == 2 and truth.machine.state.models["m"].generation == 2
    for generation in (1, 2):
        key = truth.key("m", restored, generation)
        assert truth.assignments["m"][key] == truth.assignments["m"][Key(1, 2, generation)]
    assert truth.era_at("m", restored, 1).superseded_ns == truth.era_at("m", restored, 2).start_ns == 20 * S


def test_a_model_created_anew_is_another(judge):
    truth = judge._truth
    truth.commit(c.DeleteModel(model="m"), now_ns=20 * S)
    truth.commit(c.CreateModel(model="m", policy=Policy()), now_ns=21 * S)

    assert G2 < truth.key("m", truth.position, 0)
    assert G1 == truth.key("m", Position(1, 7), 1)
    assert {"m"} == set(truth.views[truth.position])
    assert Assignment(stable="1.0.0") == truth.assignments["m"][G1]


@pytest.mark.parametrize("varying", [False, True])
def test_a_clock_is_exact_on_the_grain_and_keeps_to_its_rate(varying):
    for seed in range(20):
        clock = SimClock(rng=Random(seed), rho_ppm=50_000, varying=varying, horizon_ns=100 * S)
        instants = [on_grain(Random(seed).randrange(100 * S)) for _ in range(50)]
        for real_ns in instants:
            local_ns = clock.read(real_ns)
            assert real_ns == clock.real_ns(local_ns) == clock.reached_ns(local_ns)
            assert real_ns + GRAIN_NS == clock.reached_ns(local_ns + 1)
            elapsed_ns = clock.read(real_ns + 10 * S) - local_ns
            assert 9_500_000_000 <= elapsed_ns <= 10_500_000_000


def test_a_clock_broken_twice_after_one_pause_keeps_its_rate_once_it_is_trusted():
    """Both blows fell before the first could take effect; the second was to end within the first."""
    world = World(drawn(1, faults=frozenset({"distrust", "loose_clock"}), rho_ppm=500, pause_chance=0.0))
    node = world.nodes[0]
    world.play(10 * MS)
    node.free_at_ns = 100 * MS
    for until_ns, rate in ((900 * MS, 2 * GRAIN_NS), (300 * MS, GRAIN_NS // 2)):
        node.run(None, node.clock_broke, until_ns, rate)
        world.at(until_ns, node.run, None, node.clock_trusted_again)
    trusted_ns = 200 * MS
    world.play(trusted_ns)
    assert not node.clock_trusted
    while not node.clock_trusted:
        trusted_ns += MS
        world.play(trusted_ns)

    elapsed_ns = node.clock.read(trusted_ns + S) - node.clock.read(trusted_ns)
    assert 900 * MS <= trusted_ns
    assert abs(elapsed_ns - S) <= 500_000
    assert 800 * 2 * MS == node.clock.read(900 * MS) - node.clock.read(100 * MS)


@pytest.mark.parametrize("faults", [{"distrust"}, {"distrust", "loose_clock"}], ids=sorted)
def test_a_blow_at_a_clock_is_over_with_the_life_it_was_dealt_to(faults):
    world = World(drawn(1, faults=frozenset(faults), pause_chance=0.0, lease_ms=10, fault_every_ns=100 * S))
    processes: list[Any] = [*world.nodes, *world.edges]
    for process in processes:
        process.free_at_ns = 500 * MS
    for _ in range(20):
        world.nemesis._distrust()
    for process in processes:
        process.crash()
    world.play(400 * MS)
    for process in processes:
        process.start()
    world.play(S)

    trusted = [node.clock_trusted for node in world.nodes] + [edge.state._reader.trusted for edge in world.edges]
    assert {True} == set(trusted)


def test_a_fault_switched_off_leaves_the_rest_as_it_was():
    knobs = drawn(next(seed for seed in range(50) if {"loss", "drift"} <= drawn(seed).faults))
    less = drawn(knobs.seed, without=("loss", "drift"), edges=1)

    assert (0.0, 500, 1) == (less.loss_chance, less.rho_ppm, less.edges)
    assert knobs.faults - {"loss", "drift"} == less.faults
    assert knobs.repeat_chance == less.repeat_chance
    assert knobs.faults <= set(FAULTS)
