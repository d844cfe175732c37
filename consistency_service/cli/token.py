"""`ccs token …` and `ccs whoami`: tokens for the `access` file of nodes. Files only; only `whoami` asks a node."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from consistency_service.adapters import access_file
from consistency_service.cli.errors import LocalError
from consistency_service.cli.render import instant
from consistency_service.cli.session import Session, command, in_order

EXPIRES: Final = re.compile(r"([1-9][0-9]{0,4})([mhdw])", re.ASCII)
UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

app = typer.Typer(
    cls=in_order("create", "list", "revoke"),
    help="Tokens by which nodes know callers: made once, kept as digests in the nodes' `access` file.",
    no_args_is_help=True,
)

AccessOption = Annotated[
    Path,
    typer.Option("--access", metavar="FILE", help="The nodes' access file.", dir_okay=False, show_default=False),
]


@command(
    app,
    "create",
    remote=False,
    examples=(
        "ccs token create ada --role operator --access access.toml > ada.token",
        "ccs token create ci --role publisher --models text-,vision- --expires 30d",
    ),
)
def create(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who will have it, for the audit.", show_default=False)],
    role: Annotated[
        Literal["viewer", "publisher", "operator", "admin", "edge"],
        typer.Option("--role", help="What its holder may do; each of the first four may do what those before it may."),
    ],
    models: Annotated[
        str | None,
        typer.Option(
            "--models", metavar="PREFIX,…", help="Only models whose names begin with one of these.", show_default=False
        ),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option("--expires", metavar="30d", help="Ends after so many m, h, d or w.", show_default=False),
    ] = None,
    access: Annotated[
        Path | None,
        typer.Option(
            "--access",
            metavar="FILE",
            help="Append its digest to this access file.",
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
) -> None:
    """Make a token: 256 random bits, told here once and kept nowhere.

    Without `--access` the table to add to the nodes' access file is printed as well. Nodes read the file again when it
    changes; give every node of the region the same one.
    """
    prefixes = tuple(part.strip() for part in models.split(",") if part.strip()) if models is not None else ()
    made = access_file.create_token(name=name, role=role, models=prefixes, expires_at=_expires_at(expires))
    if access is not None:
        access_file.append(access, made.table)
    if session.json:
        session.screen.document(
            {"token": made.token, "table": made.table, "access": None if access is None else str(access)}
        )
        return
    session.screen.text(made.token)
    if access is None:
        session.screen.note("to the access file of every node, add:")
        for line in made.table.splitlines():
            session.screen.note(line)
    else:
        session.screen.note(f"{access} lets it in; it is not told again")


@command(app, "list", remote=False, examples=("ccs token list --access access.toml",))
def list_tokens(session: Session, access: AccessOption) -> None:
    """List the tokens of an access file: whose, what for, until when."""
    grants = sorted(access_file.load(access).tokens.values(), key=lambda grant: (grant.name, grant.sha256))
    now_unix_s = datetime.now(tz=UTC).timestamp()
    if session.json:
        items = [
            {
                "name": grant.name,
                "role": grant.role.value,
                "models": None if grant.models is None else list(grant.models),
                "expires_at_unix_ms": None if grant.expires_at_unix_s is None else grant.expires_at_unix_s * 1_000,
                "sha256": grant.sha256.hex(),
            }
            for grant in grants
        ]
        session.screen.document({"items": items})
        return
    rows = [
        (
            grant.name,
            grant.role.value,
            "all" if grant.models is None else ", ".join(f"{prefix}…" for prefix in grant.models),
            _until(grant.expires_at_unix_s, now_unix_s=now_unix_s),
            grant.sha256.hex()[:12],
        )
        for grant in grants
    ]
    session.screen.table(("NAME", "ROLE", "MODELS", "EXPIRES", "SHA-256"), rows, empty=f"{access} has no tokens")


@command(app, "revoke", remote=False, examples=("ccs token revoke ada --access access.toml",))
def revoke(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose tokens.", show_default=False)],
    access: AccessOption,
) -> None:
    """Take every token of a name out of an access file. Nodes refuse them as soon as they see the new file."""
    count = access_file.revoke(access, name=name)
    if not count:
        raise LocalError(f"{access} has no token of {name!r}")
    if session.json:
        session.screen.document({"revoked": count})
    else:
        session.screen.text(f"revoked {count} {'token' if count == 1 else 'tokens'} of {name}")


def whoami(session: Session) -> None:
    """Tell who you are to the region: name, role, models, until when."""
    with session.client() as client:
        told = client.get("/v1/whoami")
    if session.json:
        session.screen.document(told)
        return
    if not told["authenticated"]:
        session.screen.text("nobody in particular: this region asks nobody, and lets everybody do everything")
        return
    models = "all" if told["models"] is None else ", ".join(f"{prefix}…" for prefix in told["models"])
    expires = told["expires_at_unix_ms"]
    session.screen.fields(
        [
            ("name", told["name"]),
            ("role", told["role"]),
            ("models", models),
            ("known by", told["kind"]),
            ("expires", "never" if expires is None else instant(expires)),
        ]
    )


def _expires_at(text: str | None) -> datetime | None:
    if text is None:
        return None
    match = EXPIRES.fullmatch(text)
    if match is None:
        raise LocalError(f"--expires takes a number and m, h, d or w, such as 30d, not {text!r}")
    return datetime.now(tz=UTC).replace(microsecond=0) + timedelta(**{UNITS[match[2]]: int(match[1])})


def _until(expires_at_unix_s: int | None, *, now_unix_s: float) -> str:
    if expires_at_unix_s is None:
        return "never"
    return instant(expires_at_unix_s * 1_000) + (" (expired)" if now_unix_s >= expires_at_unix_s else "")
