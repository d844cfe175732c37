"""`ccs freeze …`: nothing starts and nothing is promoted while it is on; the way back stays open."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from consistency_service.cli.render import instant
from consistency_service.cli.session import Session, command, in_order

PATH: Final = "/v1/freeze"

app = typer.Typer(
    cls=in_order("on", "off", "status"),
    help="Stop all starts and promotions of rollouts; aborts and rollbacks are never stopped.",
    no_args_is_help=True,
)
ReasonOption = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Why; whoever is refused reads it.", show_default=False)
]


@command(app, "on", changes=True, examples=("ccs freeze on --reason 'stock-taking until Monday'",))
def on(session: Session, reason: ReasonOption = "") -> None:
    """Freeze: no rollout starts, is promoted, retried, or activates a stage until this is lifted."""
    _set(session, frozen=True, reason=reason)


@command(app, "off", changes=True, examples=("ccs freeze off --reason 'counted'",))
def off(session: Session, reason: ReasonOption = "") -> None:
    """Lift the freeze; rollouts go on where they stood."""
    _set(session, frozen=False, reason=reason)


@command(app, "status", examples=("ccs freeze status",))
def status(session: Session) -> None:
    """Say whether there is a freeze, by whom, since when and why."""
    with session.client() as client:
        _show(session, client.get(PATH))


def _set(session: Session, *, frozen: bool, reason: str) -> None:
    with session.client() as client:
        _show(session, client.change("PUT", PATH, body={"frozen": frozen, "reason": reason}))


def _show(session: Session, freeze: dict[str, Any]) -> None:
    if session.json:
        session.screen.document(freeze)
    elif not freeze["frozen"]:
        session.screen.text("not frozen: rollouts may start and go on")
    else:
        why = f": {freeze['reason']}" if freeze["reason"] else ""
        session.screen.text(f"frozen by {freeze['author']} since {instant(freeze['since_unix_ms'])}{why}")
