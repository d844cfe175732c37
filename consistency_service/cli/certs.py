"""`ccs certs …`: an authority for a region's nodes, and a certificate for each. Files only; no node is asked."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from consistency_service.adapters import certificates
from consistency_service.cli.session import Session, command, in_order

DIRECTORY: Final = Path("certs")

app = typer.Typer(
    cls=in_order("init", "issue", "client"),
    help="Certificates of a region: one authority, one certificate for each node, others for people and programs.",
    no_args_is_help=True,
)

DirectoryOption = Annotated[
    Path, typer.Option("--directory", "-d", metavar="DIR", help="Where the authority lives.", file_okay=False)
]
DaysOption = Annotated[int, typer.Option("--days", metavar="N", min=1, help="How long it is believed.")]
IntoOption = Annotated[
    Path | None,
    typer.Option(
        "--into",
        metavar="DIR",
        help="Where to put it. [dim]Default: beside the authority[/dim]",
        file_okay=False,
        show_default=False,
    ),
]


@command(app, "init", remote=False, examples=("ccs certs init --region harbour",))
def init(
    session: Session,
    region: Annotated[
        str,
        typer.Option("--region", metavar="NAME", help="As in the nodes' settings; other regions' nodes are refused."),
    ] = "default",
    days: DaysOption = certificates.AUTHORITY_DAYS,
    directory: DirectoryOption = DIRECTORY,
) -> None:
    """Make the authority of a region. Nothing is overwritten.

    Whoever has its key can make itself a node and change what the region decided: keep ca.key off the nodes and backed up.
    """
    files = certificates.create_authority(directory, cluster_id=region, now=datetime.now(tz=UTC), days=days)
    _print(session, files, authority=files.certificate)


@command(
    app,
    "issue",
    remote=False,
    examples=("ccs certs issue node-1 --host node-1.example.org", "ccs certs issue node-1 --into renewed"),
)
def issue(
    session: Session,
    node_id: Annotated[str, typer.Argument(metavar="NODE_ID", help="As in the node's settings.", show_default=False)],
    hosts: Annotated[
        list[str] | None,
        typer.Option(
            "--host",
            metavar="HOST",
            help="A name or address by which REST callers reach it; may be repeated.",
            show_default=False,
        ),
    ] = None,
    days: DaysOption = certificates.NODE_DAYS,
    directory: DirectoryOption = DIRECTORY,
    into: IntoOption = None,
) -> None:
    """Make the key and certificate of one node. Nothing is overwritten.

    To renew, issue into another directory and move both files over the old ones: a running node uses them within seconds.
    """
    files = certificates.issue(
        directory, node_id=node_id, hosts=hosts or (), days=days, into=into, now=datetime.now(tz=UTC)
    )
    _print(session, files, authority=certificates.authority_files(directory).certificate, rest=bool(hosts))


@command(app, "client", remote=False, examples=("ccs certs client ada", "ccs certs client ci --days 30"))
def client(
    session: Session,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="As in an entry `certificate` of the nodes' access file.", show_default=False
        ),
    ],
    days: DaysOption = certificates.NODE_DAYS,
    directory: DirectoryOption = DIRECTORY,
    into: IntoOption = None,
) -> None:
    """Make the key and certificate of a person or a program, which nodes know by `http_client_ca`. Nothing is overwritten.

    It makes nobody a node. What its holder may do says the entry `certificate` of this name in the nodes' access file.
    """
    files = certificates.issue_client(directory, name=name, days=days, into=into, now=datetime.now(tz=UTC))
    authority = certificates.authority_files(directory).certificate
    if session.json:
        _print(session, files, authority=authority)
        return
    expires_at = certificates.load_certificate(files.certificate).not_valid_after_utc
    session.screen.fields(
        [
            ("--certificate", str(files.certificate.absolute())),
            ("--key", str(files.key.absolute())),
            ("--ca", str(authority.absolute())),
            ("expires", f"{expires_at:%Y-%m-%d}"),
        ]
    )


def _print(session: Session, files: certificates.KeyPair, *, authority: Path, rest: bool = False) -> None:
    """The lines that belong into the node's settings, or into a script."""
    expires_at = certificates.load_certificate(files.certificate).not_valid_after_utc
    if session.json:
        session.screen.document(
            {
                "certificate": str(files.certificate),
                "key": str(files.key),
                "authority": str(authority),
                "expires_at_unix_ms": int(expires_at.timestamp() * 1_000),
            }
        )
        return
    lines = [("raft_ca", str(authority.absolute()))]
    if files.certificate != authority:
        lines += [("raft_certificate", str(files.certificate.absolute())), ("raft_key", str(files.key.absolute()))]
        if rest:
            lines += [("http_ca", lines[0][1]), ("http_certificate", lines[1][1]), ("http_key", lines[2][1])]
    else:
        lines.append(("key", f"{files.key}, for nobody but you"))
    session.screen.fields([*lines, ("expires", f"{expires_at:%Y-%m-%d}")])
