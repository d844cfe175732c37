"""The trace of a rollout is part of what is replicated: whoever goes on with it goes on with its trace."""

from __future__ import annotations

import pytest

from consistency_service.core import commands as c
from consistency_service.core.machine import MetadataMachine
from consistency_service.core.rollout import Move, Phase
from edge_client.protocol.models import Assignment
from tests.support.rollouts import RolloutRegion

TRACE = "00-" + "a" * 32 + "-" + "1" * 16 + "-01"
STEP = "00-" + "a" * 32 + "-" + "2" * 16 + "-01"
ANOTHER = "00-" + "b" * 32 + "-" + "3" * 16 + "-01"


def test_all_events_of_a_rollout_are_of_its_trace_whoever_moved_it():
    region = RolloutRegion()
    begin = region.state.revision
    region.create(trace=TRACE)
    region.advance(trace=STEP)
    pending = region.state.models["m"].view().pending
    region.settle()
    region.order(Move.PAUSE, trace=ANOTHER)
    region.order(Move.RESUME)

    events = {e.detail["move"]: e.trace for e in region.state.outbox if e.revision > begin and "move" in e.detail}
    assert {"start": TRACE, "activate": STEP, "pause": TRACE, "resume": TRACE} == events
    assert pending is not None and STEP == pending.trace


def test_the_trace_survives_a_snapshot():
    region = RolloutRegion()
    region.create(trace=TRACE)
    other = MetadataMachine()
    other.restore(region.machine.snapshot())

    assert TRACE == other.state.rollouts["r"].trace
    assert TRACE == other.state.outbox[-1].trace


def test_a_plain_activation_carries_its_own_trace():
    region = RolloutRegion()
    region.apply(
        c.ActivateGeneration(
            changes=(c.Change(model="m", assignment=Assignment(stable="2.0.0")),),
            effective_at_ns=5_000_000_000,
            lead_ns=2_006_000_000,
            trace=TRACE,
            **region.fence(),
        )
    )

    pending = region.state.models["m"].pending
    assert pending is not None
    assert TRACE == pending.trace == region.state.outbox[-1].trace


@pytest.mark.parametrize("trace", ["x" * 500_000, TRACE + "0", "00-" + "0" * 32 + "-" + "1" * 16 + "-01"])
def test_what_is_no_trace_does_not_enter_the_state(trace):
    region = RolloutRegion()
    region.create(trace=trace)

    assert "" == region.rollout().trace == region.state.outbox[-1].trace
    assert Phase.PREFETCHING is region.rollout().phase


def test_a_command_of_a_node_that_does_not_trace_is_the_same_bytes_as_ever():
    command = c.SetFreeze(frozen=True, author="ann")

    assert b"trace" not in c.encode_command(command)
    assert command == c.decode_command(c.encode_command(command))
