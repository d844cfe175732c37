"""Strategies before anything moves: what is wrong with one, how two differ, and the schema for editors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from consistency_service.api.rollout_schemas import strategy_schema
from consistency_service.cli.errors import UnavailableError
from consistency_service.cli.render import clean
from consistency_service.cli.rollout import app, models_from
from consistency_service.cli.rollout_file import read_strategy
from consistency_service.cli.rollout_find import PairsArgument, complete_rollout, find_rollout
from consistency_service.cli.rollout_strategy import (
    FaultyStrategyError,
    faults_alone,
    faults_there,
    lines_of,
    strategy_in,
    strategy_of,
    tell,
)
from consistency_service.cli.session import Session, command
from consistency_service.core.strategy import Strategy

__all__ = ["app"]

FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="A strategy, as YAML or JSON.", dir_okay=False, show_default=False)
]
EitherArgument = Annotated[
    str,
    typer.Argument(
        metavar="ROLLOUT|FILE",
        help="A strategy file, a rollout's id, or a model's name.",
        autocompletion=complete_rollout,
        show_default=False,
    ),
]


@command(
    app,
    "lint",
    examples=(
        "ccs rollout lint careful.yaml",
        "ccs rollout lint careful.yaml text-detector 2.0.0",
        "ccs rollout lint careful.yaml --offline",
    ),
)
def lint(
    session: Session,
    file: FileArgument,
    what: PairsArgument = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Ask no region: nothing about sites, labels, models and versions.")
    ] = False,
) -> None:
    """Say everything that is wrong with a strategy, each fault as FILE:LINE:COLUMN. Exit code 1 if there is any.

    The region also says which sites and labels no live edge has, and, with MODEL VERSION, whether these can be rolled out.
    """
    models = models_from(what) if what else {}
    written = read_strategy(file)
    faults = faults_alone(written)
    silence: UnavailableError | None = None
    if not offline and written.value is not None:
        try:
            faults = sorted({*faults, *faults_there(session, written, models)})
        except UnavailableError as error:
            silence = error
    if faults:
        tell(session, written, faults)
        raise FaultyStrategyError(written.name, faults)
    if silence is not None:
        session.screen.note("no fault in the file itself; --offline asks no region")
        raise silence
    if session.json:
        session.screen.document({"faults": []})
    else:
        session.screen.text(f"{file}: no faults" + (" in the file itself" if offline else ""))


@command(
    app,
    "diff",
    examples=("ccs rollout diff text-detector careful.yaml", "ccs rollout diff careful.yaml bold.yaml --json"),
)
def diff(session: Session, left: EitherArgument, right: EitherArgument) -> None:
    """Show how two strategies differ, of files or of rollouts, field by field; defaults count as written."""
    before, after = (lines_of(_strategy(session, given)) for given in (left, right))
    places = [*before, *(place for place in after if place not in before)]
    found: list[dict[str, Any]] = [
        {"place": place, "left": before.get(place), "right": after.get(place)}
        for place in places
        if before.get(place) != after.get(place)
    ]
    if session.json:
        session.screen.document({"differences": found})
        return
    for one in found:
        for sign, side, style in (("-", "left", "red"), ("+", "right", "green")):
            if one[side] is not None:
                session.screen.text(Text(clean(f"{sign} {one['place']}: {one[side]}"), style=style))
    if not found:
        session.screen.note("no difference")


def _strategy(session: Session, given: str) -> Strategy:
    path = Path(given)
    if path.suffix in {".yaml", ".yml", ".json"} or path.is_file():
        return strategy_in(session, path)
    with session.client() as client:
        return strategy_of(find_rollout(client, given))


@command(app, "schema", remote=False, examples=("ccs rollout schema > strategy.schema.json",))
def schema(session: Session) -> None:
    """Print the JSON schema of a strategy, for editors that complete and check while one writes."""
    session.screen.document(strategy_schema())
