"""Every phase and every move: what the table allows happens and leads where it says, everything else is refused."""

from __future__ import annotations

import ast
from pathlib import Path

import msgspec
import pytest

from consistency_service import core
from consistency_service.cli.rollout_reference import rollout_reference
from consistency_service.core.refusals import REFUSALS
from consistency_service.core.rollout import CALLERS, STEPS, TRANSITIONS, Move, Phase
from consistency_service.core.strategy import Gate, OnFailure, Stage, Strategy
from tests.support.rollouts import RolloutRegion

STAGES = (Stage(share_bp=100, gate=Gate.MANUAL), Stage(share_bp=1_000), Stage(share_bp=10_000))
MANUAL = Strategy(stages=STAGES)
PAIRS = [(phase, move) for phase in Phase for move in Move]


def taken(region: RolloutRegion, move: Move) -> str:
    """The code of trying the move; activations by the command that makes them."""
    if move in CALLERS:
        return region.order(move).code
    if move in STEPS:
        return region.step(move).code
    return region.advance().code


def decided_by(region: RolloutRegion) -> bytes:
    """All that a refusal leaves alone."""
    state = region.state
    return msgspec.msgpack.encode([state.revision, state.models, state.rollouts, state.freeze])


def brought(phase: Phase, *, strategy: Strategy = MANUAL) -> RolloutRegion:
    region = RolloutRegion()
    if phase is Phase.COMPLETED:
        strategy = Strategy(stages=tuple(Stage(share_bp=stage.share_bp) for stage in STAGES))
    region.bring_to(phase, strategy=strategy)
    return region


@pytest.mark.parametrize(("phase", "move"), PAIRS)
def test_a_move_is_possible_exactly_where_the_table_has_it(phase: Phase, move: Move) -> None:
    region = brought(phase)
    before, step = decided_by(region), region.rollout().step
    here = {Move.ACTIVATE, Move.COMPLETE, Move.RETURN}  # one command: phase and stage tell which of them it is
    possible = move in TRANSITIONS[phase] or bool(move in here and here.intersection(TRANSITIONS[phase]))

    code = taken(region, move)

    rollout = region.rollout()
    if not possible:
        assert code == "move_refused" and (rollout.phase, rollout.step) == (phase, step)
        assert decided_by(region) == before
        return
    assert code == "ok" and rollout.step == step + 1
    last = rollout.transitions[-1]
    assert last.phase is rollout.phase and rollout.phase in TRANSITIONS[phase][last.move]
    assert last.move is move or move in here
    assert last.author == ("ann" if move in CALLERS else "")


@pytest.mark.parametrize(
    ("phase", "on_failure", "ended"),
    [
        (Phase.PREFETCHING, OnFailure.ABORT, Phase.FAILED),
        (Phase.PREFETCHING, OnFailure.PAUSE, Phase.PAUSED),
        (Phase.BAKING, OnFailure.ABORT, Phase.ABORTING),
        (Phase.BAKING, OnFailure.PAUSE, Phase.PAUSED),
        (Phase.WAITING, OnFailure.ABORT, Phase.ABORTING),
        (Phase.WAITING, OnFailure.PAUSE, Phase.PAUSED),
    ],
)
def test_what_a_failure_leads_to_is_the_strategy_s(phase: Phase, on_failure: OnFailure, ended: Phase) -> None:
    region = brought(phase, strategy=Strategy(stages=STAGES, on_failure=on_failure))

    region.step(Move.FAIL, reason="12 % wrong", evidence={"wrong": 12})

    rollout = region.rollout()
    assert rollout.phase is ended
    assert (rollout.transitions[-1].reason, rollout.transitions[-1].evidence) == ("12 % wrong", {"wrong": 12})


@pytest.mark.parametrize("phase", [Phase.PREFETCHING, Phase.BAKING, Phase.WAITING])
def test_a_pause_keeps_everything_and_resume_goes_back(phase: Phase) -> None:
    region = brought(phase)
    if phase is not Phase.WAITING:
        region.accrue(waited_ms=700)
    prefetch = region.state.models["m"].prefetch
    waited_ms = region.rollout().waited_ms

    region.order(Move.PAUSE)
    assert region.state.models["m"].prefetch == prefetch
    assert region.accrue().code == "invalid"
    region.order(Move.RESUME)

    assert (region.rollout().phase, region.rollout().waited_ms) == (phase, waited_ms)


@pytest.mark.parametrize(
    ("phase", "ended"),
    [
        (Phase.DRAFT, Phase.ABORTED),
        (Phase.PREFETCHING, Phase.ABORTED),
        (Phase.BAKING, Phase.ABORTING),
        (Phase.WAITING, Phase.ABORTING),
        (Phase.PAUSED, Phase.ABORTING),
    ],
)
def test_an_abort_returns_only_what_was_activated(phase: Phase, ended: Phase) -> None:
    region = brought(phase)

    region.order(Move.ABORT)

    assert region.rollout().phase is ended
    assert region.state.models["m"].prefetch is None


def test_callers_do_not_give_the_authority_s_orders_nor_the_other_way_round() -> None:
    region = brought(Phase.BAKING)

    assert [region.order(move).code for move in Move if move not in CALLERS] == ["invalid"] * 6
    assert [region.step(move).code for move in Move if move not in STEPS] == ["invalid"] * 9
    assert region.order(Move.PAUSE, to_end=True).code == "invalid"


def test_every_refusal_is_documented_and_every_documented_one_exists() -> None:
    named = {
        str(call.args[0].value)
        for path in Path(core.__file__).parent.glob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "RefusalError"
        if isinstance(call.args[0], ast.Constant)
    }

    assert named == REFUSALS.keys()


def test_the_reference_is_what_the_table_says() -> None:
    """If this fails: python -m consistency_service.cli.rollout_reference > docs/reference/rollouts.md."""
    page = Path(__file__).resolve().parents[3] / "docs" / "reference" / "rollouts.md"

    assert page.read_text(encoding="utf-8") == rollout_reference()


def test_the_diagram_has_an_arrow_for_every_entry_of_the_table() -> None:
    lines = rollout_reference().splitlines()

    for phase, moves in TRANSITIONS.items():
        for move, targets in moves.items():
            for target in targets:
                arrow = f"    {phase.value} --> {target.value}: "
                assert any(line.startswith(arrow) and move.value in line[len(arrow) :].split(", ") for line in lines)
