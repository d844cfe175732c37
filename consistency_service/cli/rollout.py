"""`ccs rollout …`: start one, see where it stands, what it would do, what it did, and which there are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.text import Text

from consistency_service.cli.arguments import LimitOption, complete_model, note_truncated
from consistency_service.cli.bundle import push_bundle
from consistency_service.cli.client import Client
from consistency_service.cli.errors import LocalError
from consistency_service.cli.render import instant, size
from consistency_service.cli.rollout_file import StrategyFile
from consistency_service.cli.rollout_find import (
    ROLLOUTS,
    PairsArgument,
    RolloutArgument,
    find_rollout,
    newest_first,
    rollout_path,
)
from consistency_service.cli.rollout_strategy import (
    AnalysisOption,
    BakeOption,
    CohortOption,
    GateOption,
    OnFailureOption,
    SiteOption,
    StagesOption,
    StrategyOption,
    faults_told,
    require_sound,
    strategy_from,
    strategy_of,
)
from consistency_service.cli.rollout_view import cohort_text, line_of, models_of, phase_of, says, share, view_of
from consistency_service.cli.rollout_watch import freeze_of, watch
from consistency_service.cli.session import Session, command, in_order
from edge_client.protocol.bucketing import CohortSelector

START_S: Final = 15.0
_ORDER: Final = (
    *("start", "status", "list", "plan", "lint", "history", "diff"),
    *("pause", "resume", "promote", "abort", "retry", "schema"),
)

app = typer.Typer(
    cls=in_order(*_ORDER),
    help="Bring a version to the fleet in stages, watched, and back at one instant if it is worse.",
    no_args_is_help=True,
)

ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the record.", show_default=False)]
WatchOption = Annotated[
    bool,
    typer.Option(
        "--watch",
        "-w",
        help="Go on showing it until it has ended: exit code 0 completed, 4 aborted, 5 failed.",
    ),
]
IdOption = Annotated[
    str | None,
    typer.Option(
        "--id",
        metavar="ID",
        help="Its id, which decides which edges come first. [dim]Default: drawn[/dim]",
        show_default=False,
    ),
]


@command(
    app,
    "start",
    changes=True,
    examples=(
        "ccs rollout start text-detector 2.0.0 --stages 1%,10%,100% --bake 5m --watch",
        "ccs rollout start text-detector 2.0.0 --strategy careful.yaml --reason 'retrained on November'",
        "ccs rollout start detector 2.0.0 tracker 1.4.0 --strategy careful.yaml",
        "ccs rollout start --bundle vision-2.tar.gz --strategy careful.yaml",
        "ccs rollout start r-5d1c0a77e2",
    ),
)
def start(
    session: Session,
    what: PairsArgument = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            "--bundle",
            metavar="PATH",
            help="Push this bundle first, and roll out what is in it.",
            exists=True,
            show_default=False,
        ),
    ] = None,
    strategy: StrategyOption = None,
    stages: StagesOption = None,
    bake: BakeOption = None,
    gate: GateOption = None,
    analysis: AnalysisOption = None,
    cohort: CohortOption = None,
    site: SiteOption = None,
    on_failure: OnFailureOption = None,
    rollout_id: IdOption = None,
    draft: Annotated[bool, typer.Option("--draft", help="Write it down, and begin later.")] = False,
    watched: WatchOption = False,
    reason: ReasonOption = "",
) -> int | None:
    """Start a rollout: edges get ready, then the version becomes active stage by stage, each at one instant.

    A stage that fails takes everybody back. With a rollout's id (or a model's name) alone, begins what --draft wrote down.
    """
    if draft and watched:
        raise LocalError("--draft and --watch exclude each other: nothing begins that could be watched")
    if what is not None and len(what) == 1 and bundle is None:
        if strategy or stages:
            raise LocalError(f"{what[0]} needs a version: ccs rollout start {what[0]} VERSION …")
        return _begin(session, what[0], reason=reason, watched=watched)
    written = strategy_from(
        strategy,
        stages=stages,
        bake=bake,
        gate=gate,
        analysis=analysis,
        cohort=cohort,
        site=site,
        on_failure=on_failure,
    )
    if bundle is not None and what:
        raise LocalError("either --bundle, or MODEL VERSION, says what is rolled out")
    models = {} if bundle else models_from(what)
    require_sound(session, written, models)
    with session.client() as client:
        if bundle is not None:
            models = push_bundle(session, client, bundle, create_missing=False).versions
        body = _body(models, written, rollout_id=rollout_id) | {"start": not draft, "reason": reason}
        with faults_told(session, written):
            rollout = client.change("POST", ROLLOUTS, body=body, step="start", wait_s=START_S)
        return _started(session, client, rollout, watched=watched)


def _begin(session: Session, name: str, *, reason: str, watched: bool) -> int | None:
    with session.client() as client:
        rollout = find_rollout(client, name)
        path = rollout_path(rollout["rollout_id"], "start")
        with faults_told(session, StrategyFile()):
            rollout = client.change("POST", path, body={"reason": reason}, wait_s=START_S)
        return _started(session, client, rollout, watched=watched)


def _started(session: Session, client: Client, rollout: dict[str, Any], *, watched: bool) -> int | None:
    if watched:
        return watch(session, client, rollout["rollout_id"])
    if session.json:
        session.screen.document(rollout)
        return None
    verb = "wrote down" if rollout["phase"] == "draft" else "started"
    session.screen.text(f"{verb} rollout {rollout['rollout_id']}: {models_of(rollout)}")
    then = (
        "begin it with: ccs rollout start {}"
        if rollout["phase"] == "draft"
        else "watch it with: ccs rollout status {} -w"
    )
    session.screen.text(then.format(rollout["rollout_id"]))
    return None


@command(app, "status", examples=("ccs rollout status text-detector", "ccs rollout status r-5d1c0a77e2 --watch --json"))
def status(session: Session, rollout: RolloutArgument, watched: WatchOption = False) -> int | None:
    """Show where a rollout stands: stages, who is ready, who is behind and why, what the analysis found."""
    with session.client() as client:
        found = find_rollout(client, rollout)
        if watched:
            return watch(session, client, found["rollout_id"])
        freeze = freeze_of(client, found)
    if session.json:
        session.screen.document(found)
    else:
        session.screen.show(view_of(found, freeze=freeze))
    return None


@command(app, "list", examples=("ccs rollout list --running", "ccs rollout list --model text-detector --json"))
def list_rollouts(
    session: Session,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="NAME", help="Only of this model.", autocompletion=complete_model, show_default=False
        ),
    ] = None,
    running: Annotated[bool, typer.Option("--running", help="Only those that hold their models now.")] = False,
    limit: LimitOption = 50,
) -> None:
    """List rollouts, newest first."""
    with session.client() as client:
        page = client.items(ROLLOUTS, limit=limit, model=model, running="true" if running else None)
    if session.json:
        session.screen.document(page)
        return
    rows = [
        (r["rollout_id"], models_of(r), phase_of(r), instant(r["created_at_unix_ms"])[:19] + "Z", r["author"])
        for r in page["items"]
    ]
    empty = "no rollout is running" if running else "no rollouts yet; start one with: ccs rollout start"
    session.screen.table(("ROLLOUT", "MODELS", "PHASE", "WRITTEN DOWN", "BY"), rows, empty=empty)
    note_truncated(session, page)


@command(
    app,
    "plan",
    examples=(
        "ccs rollout plan text-detector 2.0.0 --strategy careful.yaml",
        "ccs rollout plan text-detector 2.0.0 --stages 5%,100% --json",
    ),
)
def plan(
    session: Session,
    what: PairsArgument = None,
    strategy: StrategyOption = None,
    stages: StagesOption = None,
    cohort: CohortOption = None,
    site: SiteOption = None,
    rollout_id: IdOption = None,
) -> None:
    """Show who would get what in each stage, and what would be downloaded. Nothing is changed.

    Edges come and go: it counts those that are heard now. Start the rollout under the id that is shown, and the same edges
    come first.
    """
    written = strategy_from(
        strategy, stages=stages, bake=None, gate=None, analysis=None, cohort=cohort, site=site, on_failure=None
    )
    models = models_from(what)
    require_sound(session, written, models)
    with session.client() as client, faults_told(session, written):
        body = _body(models, written, rollout_id=rollout_id)
        found = client.change("POST", f"{ROLLOUTS}/plan", body=body)
    if session.json:
        session.screen.document(found)
        return
    rows = [
        (
            "stable" if stage["stage"] is None else str(stage["stage"] + 1),
            share(stage["share_bp"]),
            cohort_text(CohortSelector(**stage["cohort"])),
            str(stage["edge_count"]),
            f"+{stage['added_count']}",
            str(stage["download_count"]),
            size(stage["download_bytes"]),
            _first(stage["added"], stage["added_count"]),
        )
        for stage in found["stages"]
    ]
    columns = (">STAGE", ">SHARE", "COHORT", ">EDGES", ">NEW", ">DOWNLOADS", ">BYTES", "WHO IS NEW")
    session.screen.table(columns, rows, empty="no stages")
    session.screen.text()
    session.screen.text(
        f"{found['edge_count']} live edges follow what is rolled out; {found['download_count']} downloads, "
        f"{size(found['download_bytes'])} in all"
    )
    session.screen.text(f"the same edges come first with: ccs rollout start … --id {found['rollout_id']}")


def _first(names: list[str], count: int) -> str:
    shown = names[:5]
    return ", ".join(shown) + (f" and {count - len(shown)} more" if count > len(shown) else "")


@command(app, "history", examples=("ccs rollout history text-detector", "ccs rollout history r-5d1c0a77e2 --json"))
def history(session: Session, rollout: RolloutArgument, limit: LimitOption = 200) -> None:
    """Show every move of a rollout, or of all rollouts of a model: who, when, why, and where it led; oldest first."""
    with session.client() as client:
        found = newest_first(client, model=rollout)
        if not found:
            found = [find_rollout(client, rollout)]
    moves = sorted(
        ((move["at_unix_ms"], move["revision"], r, move) for r in found for move in r["transitions"]),
        key=lambda entry: entry[:2],
    )[-limit:]
    if session.json:
        session.screen.document({"items": [{"rollout_id": r["rollout_id"], **move} for _, _, r, move in moves]})
        return
    shown = None
    for _, _, one, move in moves:
        if one["rollout_id"] != shown:
            session.screen.text(f"rollout {one['rollout_id']}: {models_of(one)}")
            shown = one["rollout_id"]
        session.screen.text(line_of(one, move))
    if not moves:
        session.screen.note("nothing has moved yet")


def models_from(what: list[str] | None) -> dict[str, str]:
    """Models and versions in turn. Raises `LocalError`."""
    given = what or []
    if not given or len(given) % 2:
        raise LocalError("name each model with its version: MODEL VERSION [MODEL VERSION …]")
    models = dict(zip(given[::2], given[1::2], strict=True))
    if len(models) < len(given) // 2:
        raise LocalError("a model is named twice")
    return models


def _body(models: dict[str, str], written: StrategyFile, *, rollout_id: str | None) -> dict[str, Any]:
    return {"models": models, "strategy": written.value, "rollout_id": rollout_id}


def tell_move(session: Session, rollout: dict[str, Any]) -> None:
    """Where it is now, in one line."""
    if session.json:
        session.screen.document(rollout)
        return
    session.screen.text(Text(f"rollout {rollout['rollout_id']}, {models_of(rollout)}: ").append_text(phase_of(rollout)))
    session.screen.text(says(rollout, strategy_of(rollout)))
