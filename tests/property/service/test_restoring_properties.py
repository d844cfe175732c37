"""Whatever a region was doing when its backup was made, what is restored of it can be begun with, and lies to nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consistency_service.core import commands as c
from consistency_service.core.machine import MetadataMachine
from consistency_service.core.restoring import _Restoring, new_epoch, restored
from consistency_service.core.rollout import TRANSITIONS, Move, Phase
from consistency_service.core.state import State, encode_state
from tests.property.service.test_rollout_properties import ACTIONS, drawn
from tests.support.region import activation, bootstrapped, version
from tests.support.rollout_judge import Action, Judge
from tests.support.rollouts import RolloutRegion

OF_A_CLOCK = {"clock_id", "assumption", "effective_at_ns", "t0_ns", "early_at_ns"}


def names_in(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield str(name)
            yield from names_in(part)
    elif isinstance(value, list):
        for part in value:
            yield from names_in(part)


def check(before: State) -> State:
    """Everything that holds of a restored state, whatever it was made of."""
    payload = encode_state(before)
    found = restored(payload, epoch=9, author="olga", at_unix_ms=1_000)
    state, machine = found.state, MetadataMachine()
    machine.restore(encode_state(state))
    machine.check_invariants()

    assert encode_state(before) == payload, "the backup was changed"
    assert state.position > before.position and state.epoch == 9 and state.revision == before.revision + 1
    assert not OF_A_CLOCK & set(names_in(msgspec.msgpack.decode(encode_state(state))))
    assert [event.name for event in state.outbox] == ["RegionRestored"]
    assert state.audit[: len(before.audit)] == before.audit and state.audit[len(before.audit)].author == "olga"
    assert not [r for r in state.rollouts.values() if r.running and Move.PAUSE in TRANSITIONS[r.phase]]
    assert found.dropped.keys() | found.settled.keys() == before.pendings().keys()
    for request_id, result in before.requests.items():
        freed = result.outcome.ok and result.outcome.revision in found.dropped
        assert (request_id in state.requests) != freed
    for name, model in before.models.items():
        after = state.models[name]
        assert all(entry.activation not in found.dropped for entry in after.history)
        if model.pending is None or model.pending.revision in found.dropped:
            assert (after.generation, after.assignment) == (model.generation, model.assignment)
        else:
            assert (after.generation, after.assignment) == (model.pending.generation, model.pending.assignment)
            assert after.history[-1].assignment == after.assignment
    return state


def go_on(state: State) -> None:
    """The restored region decides again: another clock takes over, and what was struck out is ordered anew."""
    machine = MetadataMachine()
    machine.restore(encode_state(state))
    outcome = machine.apply(c.AssumeAuthority(clock_id="new", node_id="n", replaces=0))
    assert outcome.ok
    for number, (name, model) in enumerate(machine.state.models.items(), start=1):
        if machine.state.rollout_of(name) is None and model.versions:
            stable = next(v for v in model.versions if model.assignment is None or v != model.assignment.stable)
            again = activation(stable, clock_id="new", assumption=outcome.revision, number=number, model=name)
            assert machine.apply(again).ok
    machine.check_invariants()


@settings(max_examples=150)
@given(st.lists(ACTIONS, min_size=5, max_size=60))
def test_what_is_restored_can_be_begun_with(actions: list[Action]) -> None:
    judge = Judge()
    judge.play([Action("create", flag=True), *actions])
    go_on(check(judge.region.state))


@pytest.mark.parametrize("seed", range(12))
def test_long_plays_can_be_restored_at_every_step(seed: int) -> None:
    judge = Judge()
    for action in drawn(seed, count=150):
        judge.act(action)
        go_on(check(judge.region.state))


def region_with_pending() -> MetadataMachine:
    machine = bootstrapped()
    assumption = machine.apply(c.AssumeAuthority(clock_id="old", node_id="n", replaces=0)).revision
    command = activation("2.0.0", clock_id="old", assumption=assumption, number=1, request_id="q", author="ann")
    assert machine.apply(command).ok
    return machine


def test_an_order_that_was_pending_is_free_to_be_given_again() -> None:
    machine = region_with_pending()

    found = restored(machine.snapshot(), epoch=2, author="olga", at_unix_ms=5)

    assert list(found.dropped.values()) == [("m",)] and found.settled == {}
    assert "q" not in found.state.requests and found.state.models["m"].history == []
    assert [(entry.command, entry.code) for entry in found.state.audit[-2:]] == [
        ("RestoreRegion", "ok"),
        ("ActivateGeneration", "dropped_by_restore"),
    ]


def test_what_a_rollout_stands_on_is_settled_and_the_rollout_waits_for_somebody() -> None:
    region = RolloutRegion()
    region.create()
    region.advance()

    found = restored(region.machine.snapshot(), epoch=2, author="olga", at_unix_ms=5)

    rollout = found.state.rollouts["r"]
    assert (rollout.phase, rollout.resume_to, found.paused) == (Phase.PAUSED, Phase.BAKING, ("r",))
    assert found.state.models["m"].generation == 2 and list(found.settled.values()) == [("m",)]
    assert rollout.transitions[-1].author == "olga" and "backup of 1-" in rollout.transitions[-1].reason


def test_a_rollout_on_its_way_back_goes_on() -> None:
    region = RolloutRegion()
    region.bring_to(Phase.ABORTING)

    assert restored(region.machine.snapshot(), epoch=2, author="o", at_unix_ms=5).paused == ()


def test_the_epoch_is_greater_than_any_before() -> None:
    machine = bootstrapped()

    assert new_epoch(backup_epoch=1, at_unix_ms=1_800_000_000_000) == 1_800_000_000
    assert new_epoch(backup_epoch=1_900_000_000, at_unix_ms=1_800_000_000_000) == 1_900_000_001
    assert new_epoch(backup_epoch=1, at_unix_ms=0, epoch_min=7) == 7
    with pytest.raises(ValueError, match="not greater"):
        restored(machine.snapshot(), epoch=1, author="o", at_unix_ms=0)
    with pytest.raises(ValueError, match="not greater"):
        restored(MetadataMachine().snapshot(), epoch=1, author="o", at_unix_ms=0)
    with pytest.raises(ValueError, match="not a state"):
        restored(b"\x00", epoch=1, author="o", at_unix_ms=0)


def test_a_full_audit_keeps_its_limit() -> None:
    machine = region_with_pending()
    machine.state.audit = machine.state.audit * 10_000

    assert len(restored(machine.snapshot(), epoch=2, author="o", at_unix_ms=0).state.audit) == 10_000


def _off(name: str, value: Any) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setattr(_Restoring, name, lambda *_, **__: value)


RULES = {
    "pending activations dropped": _off("_drop_the_rest", {}),
    "what rollouts stand on settled": _off("_is_built_on", False),
    "everything pending settled": _off("_is_built_on", True),
    "request ids freed": _off("_free_requests", None),
    "rollouts paused": _off("_pause_rollouts", ()),
    "audit goes on": _off("_write_audit", None),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_switched_off_is_noticed(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    RULES[rule](monkeypatch)

    with pytest.raises((AssertionError, KeyError)):
        _play_many()


def _play_many() -> None:
    test_an_order_that_was_pending_is_free_to_be_given_again()
    for seed in range(6):
        test_long_plays_can_be_restored_at_every_step(seed)


def test_a_version_that_only_a_dropped_order_named_can_be_deleted() -> None:
    machine = region_with_pending()
    machine.apply(c.RegisterVersion(model="m", version=version("9.0.0")))
    again = MetadataMachine()
    again.restore(encode_state(restored(machine.snapshot(), epoch=2, author="o", at_unix_ms=0).state))

    assert again.apply(c.DeleteVersion(model="m", version="2.0.0")).ok
