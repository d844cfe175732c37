"""`ccs webhook …`: who is told of rollouts, what they missed, and telling them again."""

from __future__ import annotations

import base64
import secrets
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import quote

import typer
from rich.text import Text

from consistency_service.cli.arguments import LIST_LIMIT, LimitOption, note_truncated
from consistency_service.cli.errors import LocalError
from consistency_service.cli.render import instant
from consistency_service.cli.session import Session, command, completing, in_order
from consistency_service.core.rollout import Move

WEBHOOKS: Final = "/v1/webhooks"
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 -- the beginning of every secret
SECRET_BYTES: Final = 32
_FILE_BYTES_MAX: Final = 1_000
_STYLES: Final = {"dead": "red", "again": "yellow"}

app = typer.Typer(
    cls=in_order("add", "list", "remove", "deliveries", "replay"),
    help="Tell other systems of every move of every rollout: signed, in order, at least once.",
    no_args_is_help=True,
)


def complete_webhook(incomplete: str) -> list[str]:
    """Ids of webhooks for the shell; nothing if no node answers at once."""
    try:
        with completing() as client:
            names = [str(item["webhook_id"]) for item in client.get(WEBHOOKS, limit=100)["items"]]
    except Exception:  # a shell that waits for words has no use for an error
        return []
    return [name for name in names if name.startswith(incomplete)]


WebhookArgument = Annotated[
    str,
    typer.Argument(
        metavar="WEBHOOK",
        help="Its id, as `ccs webhook list` names it.",
        autocompletion=complete_webhook,
        show_default=False,
    ),
]


@command(
    app,
    "add",
    changes=True,
    examples=(
        "ccs webhook add https://hooks.example.org/rollouts",
        "ccs webhook add https://hooks.example.org/pager --event fail --event hold --secret-file pager.secret",
    ),
)
def add(
    session: Session,
    address: Annotated[str, typer.Argument(metavar="URL", help="Called by POST, http or https.", show_default=False)],
    events: Annotated[
        list[Move] | None,
        typer.Option(
            "--event",
            metavar="MOVE",
            help="Only these moves; may be repeated. [dim]Default: all[/dim]",
            show_default=False,
        ),
    ] = None,
    secret_file: Annotated[
        Path | None,
        typer.Option(
            "--secret-file",
            metavar="FILE",
            help="With whsec_ and the base64 of 24 to 64 random bytes, which sign each call. [dim]Default: drawn, and "
            "printed once[/dim]",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
) -> None:
    """Tell an address of every move of every rollout from now on.

    Calls are signed as Standard Webhooks has it; whoever receives them needs the secret, which is never shown again.
    """
    secret = _drawn() if secret_file is None else _read(secret_file)
    body = {"url": address, "secret": secret, "events": [move.value for move in events or []]}
    with session.client() as client:
        made = client.change("POST", WEBHOOKS, body=body)
    if session.json:
        session.screen.document(made | ({"secret": secret} if secret_file is None else {}))
        return
    session.screen.text(f"{made['webhook_id']} is told of {_events(made['events'])} from now on: {made['url']}")
    if secret_file is None:
        session.screen.text(f"its secret, shown this once: {secret}")


@command(app, "list", examples=("ccs webhook list", "ccs webhook list --json"))
def list_webhooks(session: Session, limit: LimitOption = LIST_LIMIT) -> None:
    """List webhooks: what each was told, what is on its way, and what was given up."""
    with session.client() as client:
        page = client.items(WEBHOOKS, limit=limit)
    if session.json:
        session.screen.document(page)
        return
    rows = [
        (
            w["webhook_id"],
            w["url"],
            _events(w["events"]),
            str(w["delivered_count"]),
            str(w["pending_count"]),
            Text(str(w["dead_count"] + w["forgotten_count"]), style="red" if w["dead_count"] else ""),
            w["author"],
        )
        for w in page["items"]
    ]
    columns = ("WEBHOOK", "URL", "MOVES", ">TOLD", ">PENDING", ">GIVEN UP", "BY")
    session.screen.table(columns, rows, empty="nobody is told of anything; add one with: ccs webhook add URL")
    note_truncated(session, page)


@command(app, "remove", changes=True, examples=("ccs webhook remove w-5d1c0a77e2",))
def remove(session: Session, webhook: WebhookArgument) -> None:
    """Tell an address nothing any more; what it missed is forgotten with it."""
    with session.client() as client:
        answer = client.change("DELETE", _path(webhook))
    if session.json:
        session.screen.document(answer or {"deleted": True})
    else:
        session.screen.text(f"removed {webhook}")


@command(app, "deliveries", examples=("ccs webhook deliveries w-5d1c0a77e2",))
def deliveries(session: Session, webhook: WebhookArgument, limit: LimitOption = 100) -> None:
    """List what a webhook was not told: given up (dead), asked for again, or still to be told (pending)."""
    with session.client() as client:
        page = client.items(_path(webhook, "deliveries"), limit=limit)
    if session.json:
        session.screen.document(page)
        return
    rows = [
        (
            d["delivery_id"],
            Text(d["state"], style=_STYLES.get(d["state"], "")),
            instant(d["at_unix_ms"])[:19] + "Z",
            str(d["attempts"]),
            d["reason"] or "-",
        )
        for d in page["items"]
    ]
    columns = ("DELIVERY", "STATE", "SINCE", ">ATTEMPTS", "WHY")
    session.screen.table(columns, rows, empty="it was told everything")
    note_truncated(session, page)


@command(
    app,
    "replay",
    changes=True,
    examples=("ccs webhook replay w-5d1c0a77e2", "ccs webhook replay w-5d1c0a77e2 r-0a77e25d1c-4"),
)
def replay(
    session: Session,
    webhook: WebhookArgument,
    chosen: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DELIVERY", help="Only these. [dim]Default: all that were given up[/dim]", show_default=False
        ),
    ] = None,
) -> None:
    """Tell a webhook again what was given up, before anything new."""
    with session.client() as client:
        answer = client.change("POST", _path(webhook, "replay"), body={"delivery_ids": chosen or []})
    if session.json:
        session.screen.document(answer)
    else:
        session.screen.text(f"{answer['replayed']} will be told again")


def _path(webhook: str, *rest: str) -> str:
    return "/".join((WEBHOOKS, *(quote(part, safe="") for part in (webhook, *rest))))


def _events(events: list[str]) -> str:
    return ", ".join(events) or "every move"


def _drawn() -> str:
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def _read(path: Path) -> str:
    with path.open("rb") as stream:
        content = stream.read(_FILE_BYTES_MAX).strip()
    if not content.startswith(SECRET_PREFIX.encode()) or not content.isascii():
        raise LocalError(f"{path} holds no secret that begins with {SECRET_PREFIX}")
    return content.decode()
