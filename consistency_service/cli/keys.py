"""`ccs keys …`: who is believed. Publishers' keys, which sign versions, and the region's own, which signs what it says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.text import Text

from consistency_service.adapters import region_key
from consistency_service.adapters.private_files import write_over
from consistency_service.cli.arguments import LimitOption, ModelArgument, VersionArgument, note_truncated
from consistency_service.cli.errors import LocalError
from consistency_service.cli.models import MetadataOption, metadata_of
from consistency_service.cli.render import instant
from consistency_service.cli.session import Session, command, in_order
from consistency_service.cli.signing import SignOption, hashed, signatures_of, signing_key
from edge_client.protocol.envelope import key_id_of, parse_trust, trust_line
from edge_client.protocol.models import NAME_PATTERN
from edge_client.protocol.signatures import KEY_ID_PATTERN, publisher_line

REVOKED_PATH: Final = "/v1/publishers/revoked"

app = typer.Typer(
    cls=in_order("publisher", "sign", "revoke", "revoked", "region"),
    help="Publishers' keys, which sign versions, and the region's key, which signs what the region says.",
    no_args_is_help=True,
)
region_app = typer.Typer(
    cls=in_order("new", "show", "rotate"),
    help="The key that the region signs with: make one, see who uses which, change it.",
    no_args_is_help=True,
)
app.add_typer(region_app, name="region")

DirectoryOption = Annotated[
    Path, typer.Option("--directory", "-d", metavar="DIR", help="Where to put both files.", file_okay=False)
]


@command(
    app,
    "publisher",
    remote=False,
    examples=("ccs keys publisher ana", "ccs keys publisher ocr-team --models ocr-,plates --directory keys"),
)
def publisher(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="For the names of the files.", show_default=False)],
    models: Annotated[
        str,
        typer.Option(
            "--models",
            metavar="PREFIX,PREFIX",
            help="Only models whose names begin so may be signed with it. [dim]Default: all[/dim]",
            show_default=False,
        ),
    ] = "",
    directory: DirectoryOption = Path(),
) -> None:
    """Make the key pair of a publisher: NAME.key, for nobody else, and NAME.pub, a line for the `publishers` of edges and nodes.

    Nothing is overwritten. The limit by --models is in the public line: whoever keeps the `publishers` file decides it.
    """
    if NAME_PATTERN.fullmatch(name) is None:
        raise LocalError(f"a publisher is named by 1 to 128 of a-z 0-9 . _ - (at either end a-z 0-9), not {name!r}")
    prefixes = tuple(filter(None, models.split(",")))
    for prefix in prefixes:
        if not prefix.isascii() or not prefix.isprintable() or " " in prefix:
            raise LocalError(f"--models takes beginnings of model names, not {prefix!r}")
    private, public = directory / f"{name}.key", directory / f"{name}.pub"
    told = partial(publisher_line, prefixes=prefixes)
    line = told(region_key.generate(private, public, line=told).public_key())
    _show_pair(session, private=private, public=public, line=line, whose="nobody but the publisher")


@command(
    app,
    "sign",
    remote=False,
    examples=("ccs keys sign text-detector 2.3.0 ./det.onnx --sign ana.key",),
)
def sign(
    session: Session,
    name: ModelArgument,
    version: VersionArgument,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The bytes.", exists=True, dir_okay=False, show_default=False)
    ],
    sign_with: SignOption = None,
    metadata: MetadataOption = None,
) -> None:
    """Print the signature line of a version without sending anything: for a `bundle.json`, or for whoever may push.

    It covers model, version, bytes and metadata; pushed with anything else it is worth nothing.
    """
    key = signing_key(sign_with)
    if key is None:
        raise LocalError("name the key to sign with: --sign KEY, or CCS_SIGNING_KEY")
    digest, size_bytes = hashed(file)
    (line,) = signatures_of(
        key, model=name, version=version, digest=digest, size_bytes=size_bytes, metadata=metadata_of(metadata or [])
    )
    if session.json:
        session.screen.document({"model": name, "version": version, "digest": digest, "signature": line})
    else:
        session.screen.text(line)


@command(
    app,
    "revoke",
    changes=True,
    examples=("ccs keys revoke 0123456789abcdef --reason 'laptop stolen'",),
)
def revoke(
    session: Session,
    key_id: Annotated[
        str, typer.Argument(metavar="KEY_ID", help="16 digits, the third word of the public line.", show_default=False)
    ],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why.", show_default=False)] = "",
) -> None:
    """Tell every edge to load nothing any more that only this publisher's key signed. There is no way back.

    What edges serve already they go on serving, and say so (`ccs edges`): take it back with `ccs rollback`, or sign it with
    another key and push it again.
    """
    if KEY_ID_PATTERN.fullmatch(key_id) is None:
        raise LocalError(f"a key id is 16 of 0-9 a-f, not {key_id!r}")
    with session.client() as client:
        revoked = client.change("PUT", f"{REVOKED_PATH}/{key_id}", body={"reason": reason})
    if session.json:
        session.screen.document(revoked)
    else:
        session.screen.text(f"revoked {key_id}: nothing that only it signed is loaded any more")


@command(app, "revoked", examples=("ccs keys revoked",))
def revoked(session: Session, limit: LimitOption = 1_000) -> None:
    """List the publishers' keys that were revoked in the region."""
    with session.client() as client:
        page = client.items(REVOKED_PATH, limit=limit)
    if session.json:
        session.screen.document(page)
        return
    rows = [(k["key_id"], instant(k["revoked_at_unix_ms"]), k["author"], k["reason"]) for k in page["items"]]
    session.screen.table(("KEY", "AT", "BY", "REASON"), rows, empty="no key was revoked")
    note_truncated(session, page)


# ---- the region's key


@command(region_app, "new", remote=False, examples=("ccs keys region new region-2",))
def new(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="For the names of the files.", show_default=False)],
    directory: DirectoryOption = Path(),
) -> None:
    """Make a key pair for a region: NAME.key, which every node needs, and NAME.pub, a line that every edge needs.

    Nothing is overwritten. Whoever has NAME.key can speak as the region to every edge.
    """
    private, public = directory / f"{name}.key", directory / f"{name}.pub"
    line = trust_line(region_key.generate(private, public).public_key())
    _show_pair(session, private=private, public=public, line=line, whose="the nodes alone")


@command(region_app, "show", examples=("ccs keys region show",))
def show(session: Session) -> None:
    """Show with which key each node signs and which keys it believes, by id: where a rotation stands."""
    with session.client() as client:
        nodes = client.get("/v1/cluster")["nodes"]
    told = [
        {"node_id": node["node_id"], "reachable": node["reachable"], **node.get("region_keys", {})} for node in nodes
    ]
    if session.json:
        session.screen.document({"nodes": told})
        return
    rows = [
        (one["node_id"], one.get("signing", "-"), " ".join(one.get("trusted", [])) or _unknown(one)) for one in told
    ]
    session.screen.table(("NODE", "SIGNS WITH", "BELIEVES"), rows, empty="no nodes")


def _unknown(node: Mapping[str, Any]) -> str | Text:
    return "does not say" if node["reachable"] else Text("not reachable", style="red")


@command(
    region_app,
    "rotate",
    remote=False,
    examples=("ccs keys region rotate --key region.key --new region-2.key --trust region.trust",),
)
def rotate(
    session: Session,
    key: Annotated[
        Path, typer.Option("--key", metavar="FILE", help="The node's `region_key`.", dir_okay=False, exists=True)
    ],
    replacement: Annotated[
        Path, typer.Option("--new", metavar="FILE", help="The private key to sign with.", dir_okay=False, exists=True)
    ],
    trust: Annotated[
        Path, typer.Option("--trust", metavar="FILE", help="The node's `region_trust`.", dir_okay=False, exists=True)
    ],
) -> None:
    """On one node's machine: put the new private key in the place of the old one, which becomes FILE.retired.

    Refuses unless the node's `region_trust` names both keys. The node signs with the new key within two seconds; see
    `ccs keys region show`, and docs/how-to/rotate-keys.md for the order of all steps.
    """
    old_id, new_id = (key_id_of(region_key.load_private(path).public_key()) for path in (key, replacement))
    if old_id == new_id:
        raise LocalError(f"{key} is that key already")
    try:
        named = parse_trust(region_key.read_lines(trust))
    except ValueError as error:
        raise LocalError(f"{trust}: {error}") from None
    for key_id in (old_id, new_id):
        if key_id not in named:
            raise LocalError(f"{trust} does not name {key_id.hex()}; nodes and edges must believe both keys first")
    retired = key.with_name(f"{key.name}.retired")
    if retired.exists():
        raise LocalError(f"{retired} is there from another time; remove it first")
    content = replacement.read_bytes()
    os.link(key, retired)
    try:
        write_over(key, content, mode=0o600)
    except BaseException:
        retired.unlink()
        raise
    if session.json:
        session.screen.document({"signed_with": old_id.hex(), "signs_with": new_id.hex(), "retired": str(retired)})
    else:
        session.screen.text(f"{key} is {new_id.hex()} now; the one before, {old_id.hex()}, is {retired}")


def _show_pair(session: Session, *, private: Path, public: Path, line: str, whose: str) -> None:
    if session.json:
        session.screen.document(
            {"key_id": line.split()[2], "private": str(private), "public": str(public), "line": line}
        )
    else:
        session.screen.fields([("private", f"{private}, for {whose}"), ("public", str(public)), ("line", line)])
