"""Orders to a rollout: pause, resume, promote, abort, retry. Each is carried out at once, and goes on record with its reason."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from consistency_service.cli.rollout import ReasonOption, WatchOption, tell_move
from consistency_service.cli.rollout_file import StrategyFile
from consistency_service.cli.rollout_find import RolloutArgument, find_rollout, rollout_path
from consistency_service.cli.rollout_lint import app
from consistency_service.cli.rollout_strategy import faults_told
from consistency_service.cli.rollout_watch import watch
from consistency_service.cli.session import Session, command

__all__ = ["app"]

StepOption = Annotated[
    int | None,
    typer.Option(
        "--if-step",
        metavar="N",
        min=0,
        help="Only if the rollout is still at this step; refused otherwise.",
        show_default=False,
    ),
]


@command(app, "pause", changes=True, examples=("ccs rollout pause text-detector --reason 'the dock is being rebuilt'",))
def pause(session: Session, rollout: RolloutArgument, reason: ReasonOption = "", step: StepOption = None) -> None:
    """Hold a rollout where it is: its times stop, edges keep what they serve."""
    _order(session, rollout, "pause", reason=reason, step=step)


@command(app, "resume", changes=True, examples=("ccs rollout resume text-detector --watch",))
def resume(
    session: Session,
    rollout: RolloutArgument,
    reason: ReasonOption = "",
    watched: WatchOption = False,
    step: StepOption = None,
) -> int | None:
    """Go on where it was paused."""
    return _order(session, rollout, "resume", reason=reason, step=step, watched=watched)


@command(
    app,
    "promote",
    changes=True,
    examples=(
        "ccs rollout promote text-detector --reason 'looked at 200 images'",
        "ccs rollout promote text-detector --to-end --watch",
    ),
)
def promote(
    session: Session,
    rollout: RolloutArgument,
    to_end: Annotated[bool, typer.Option("--to-end", help="Through all stages that are left.")] = False,
    reason: ReasonOption = "",
    watched: WatchOption = False,
    step: StepOption = None,
) -> int | None:
    """Go on to the next stage, whatever bake time, analysis and gate ask for. Edges still get ready first."""
    return _order(session, rollout, "promote", reason=reason, step=step, watched=watched, to_end=to_end)


@command(app, "abort", changes=True, examples=("ccs rollout abort text-detector --reason 'wrong labels' --watch",))
def abort(
    session: Session,
    rollout: RolloutArgument,
    reason: ReasonOption = "",
    watched: Annotated[
        bool,
        typer.Option("--watch", "-w", help="Go on showing it until everybody is back: exit code 0 aborted, 5 failed."),
    ] = False,
    step: StepOption = None,
) -> int | None:
    """End a rollout and take everybody back to stable, at one instant. Nothing overtakes it."""
    return _order(session, rollout, "abort", reason=reason, step=step, watched=watched, wanted="aborted")


@command(app, "retry", changes=True, examples=("ccs rollout retry text-detector --reason 'the camera is clean now'",))
def retry(
    session: Session,
    rollout: RolloutArgument,
    reason: ReasonOption = "",
    watched: WatchOption = False,
    step: StepOption = None,
) -> int | None:
    """Begin an aborted or failed rollout again from its first stage, with the same edges first."""
    return _order(session, rollout, "retry", reason=reason, step=step, watched=watched)


def _order(
    session: Session,
    name: str,
    move: str,
    *,
    reason: str,
    step: int | None,
    watched: bool = False,
    wanted: str = "completed",
    **more: Any,
) -> int | None:
    with session.client() as client:
        rollout_id = find_rollout(client, name)["rollout_id"]
        with faults_told(session, StrategyFile()):
            path = rollout_path(rollout_id, move)
            rollout = client.change("POST", path, body={"reason": reason, **more}, generation=step)
        if watched:
            return watch(session, client, rollout_id, wanted=wanted)
    tell_move(session, rollout)
    return None
