"""`ccs nats …`: keys by which the bus knows nodes, edges, observers and sites. Files only; no server is asked."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from consistency_service.adapters import nats_accounts
from consistency_service.cli.session import Session, command, in_order
from consistency_service.core.bus_access import BusRole

DIRECTORY: Final = Path("nats-keys")

app = typer.Typer(
    cls=in_order("init", "node", "edge", "observer", "leaf", "revoke"),
    help="Keys for the bus: who may speak as the region, as which edge, and who may only listen.",
    no_args_is_help=True,
)

DirectoryOption = Annotated[
    Path,
    typer.Option("--directory", "-d", metavar="DIR", help="Where the keys live; on no server.", file_okay=False),
]
IntoOption = Annotated[
    Path | None,
    typer.Option(
        "--into",
        metavar="FILE",
        help="The credentials file to write. [dim]Default: NAME.creds[/dim]",
        dir_okay=False,
        show_default=False,
    ),
]
DaysOption = Annotated[
    int | None,
    typer.Option(
        "--days",
        metavar="N",
        min=1,
        help="How long it counts. [dim]Default: until it is revoked[/dim]",
        show_default=False,
    ),
]


@command(app, "init", remote=False, examples=("ccs nats init --region harbour",))
def init(
    session: Session,
    region: Annotated[
        str, typer.Option("--region", metavar="NAME", help="As in the settings of nodes and edges.")
    ] = "default",
    directory: DirectoryOption = DIRECTORY,
) -> None:
    """Make the keys of a region's bus, and the file by which servers know whose credentials count. Nothing is overwritten.

    Whoever has the directory can speak as the region on the bus: keep it off the servers and backed up.
    """
    servers = nats_accounts.create(directory, region=region, now=_now())
    system = directory / nats_accounts.SYSTEM_CREDENTIALS
    if session.json:
        session.screen.document(
            {"servers": str(servers), "system": str(system), "account": nats_accounts.account_key(directory)}
        )
        return
    session.screen.fields([("servers", str(servers)), ("monitoring", str(system))])
    session.screen.note(f"copy {servers} beside server.conf on every bus server, then: ccs nats node NODE_ID")


@command(app, "node", remote=False, examples=("ccs nats node node-1 --into node-1.creds",))
def node(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NODE_ID", help="As in the node's settings.", show_default=False)],
    into: IntoOption = None,
    days: DaysOption = None,
    directory: DirectoryOption = DIRECTORY,
) -> None:
    """Make the credentials of a node, which speaks as the region. The servers need not be told."""
    _issue(session, BusRole.NODE, name, into=into, days=days, directory=directory)


@command(app, "edge", remote=False, examples=("ccs nats edge cam-17 --into cam-17.creds",))
def edge(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="EDGE_ID", help="As in the edge's settings.", show_default=False)],
    into: IntoOption = None,
    days: DaysOption = None,
    directory: DirectoryOption = DIRECTORY,
) -> None:
    """Make the credentials of an edge, which reports under this id and no other. The servers need not be told."""
    _issue(session, BusRole.EDGE, name, into=into, days=days, directory=directory)


@command(app, "observer", remote=False, examples=("ccs nats observer wallboard --days 365",))
def observer(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="For the servers' logs.", show_default=False)],
    into: IntoOption = None,
    days: DaysOption = None,
    directory: DirectoryOption = DIRECTORY,
) -> None:
    """Make credentials that read what the region and its edges say, and change nothing."""
    _issue(session, BusRole.OBSERVER, name, into=into, days=days, directory=directory)


@command(
    app, "leaf", remote=False, examples=("ccs nats leaf dock-3", "ccs nats leaf dock-3 --edge cam-17 --edge cam-18")
)
def leaf(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="SITE", help="For the servers' logs.", show_default=False)],
    edges: Annotated[
        list[str] | None,
        typer.Option(
            "--edge",
            metavar="EDGE_ID",
            help="An edge that stands there; may be repeated. [dim]Default: any[/dim]",
            show_default=False,
        ),
    ] = None,
    into: IntoOption = None,
    days: DaysOption = None,
    directory: DirectoryOption = DIRECTORY,
) -> None:
    """Make the credentials of a site's own server, which carries the words of the edges behind it.

    With --edge it can carry the words of these alone, whatever becomes of that server; one more edge then needs new ones.
    """
    _issue(session, BusRole.LEAF, name, into=into, days=days, directory=directory, edge_ids=tuple(edges or ()))


@command(app, "revoke", remote=False, examples=("ccs nats revoke edge cam-17",))
def revoke(
    session: Session,
    role: Annotated[BusRole, typer.Argument(metavar="ROLE", help="node, edge, observer or leaf.", show_default=False)],
    name: Annotated[str, typer.Argument(metavar="NAME", help="As when they were made.", show_default=False)],
    directory: DirectoryOption = DIRECTORY,
) -> None:
    """Have the servers refuse every credential made for this holder so far. New ones may be made at once.

    It counts where the new file was copied and the server reloaded: at the region's servers, and at every site's.
    """
    keys = nats_accounts.revoke(directory, role=role, name=name, now=_now())
    servers = directory / nats_accounts.SERVER_FILE
    if session.json:
        session.screen.document({"servers": str(servers), "revoked": list(keys)})
        return
    session.screen.fields([("revoked", key) for key in keys])
    session.screen.note(
        f"copy {servers} over the one at every bus server and site, then at each: nats-server --signal reload"
    )


def _issue(
    session: Session,
    role: BusRole,
    name: str,
    *,
    into: Path | None,
    days: int | None,
    directory: Path,
    edge_ids: tuple[str, ...] = (),
) -> None:
    """The lines that belong into settings, or into a script."""
    badge = nats_accounts.issue(
        directory,
        role=role,
        name=name,
        into=into or Path(f"{name}.creds"),
        now=_now(),
        days=days,
        edge_ids=edge_ids,
    )
    account = nats_accounts.account_key(directory)
    if session.json:
        session.screen.document(
            {
                "credentials": str(badge.path),
                "key": badge.key,
                "account": account,
                "expires_at_unix_ms": None if badge.expires_at is None else int(badge.expires_at.timestamp() * 1_000),
            }
        )
        return
    path = str(badge.path.absolute())
    named = [("NATS_LEAF_CREDENTIALS", path), ("NATS_ACCOUNT", account)]
    fields = named if role is BusRole.LEAF else [("nats_credentials", path), ("key", badge.key)]
    expires = "when revoked" if badge.expires_at is None else f"{badge.expires_at:%Y-%m-%d}"
    session.screen.fields([*fields, ("expires", expires)])


def _now() -> datetime:
    return datetime.now(tz=UTC)
