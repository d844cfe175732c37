"""`ccs bundle push`: versions of several models that must match go into the region together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consistency_service.cli.arguments import path_of
from consistency_service.cli.bundle_archive import opened
from consistency_service.cli.client import Client
from consistency_service.cli.models import require_model
from consistency_service.cli.render import size
from consistency_service.cli.session import Session, command
from consistency_service.cli.signing import SignOption, signatures_of, signing_key
from consistency_service.cli.upload import upload

app = typer.Typer(help="Several models that must match, as one archive.", no_args_is_help=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What a bundle became in the region."""

    versions: dict[str, str]
    registered: dict[str, Any]
    """By model: the version as the region tells it, and whether its bytes were sent."""


@command(
    app,
    "push",
    changes=True,
    examples=("ccs bundle push vision-2.tar.gz", "ccs bundle push ./vision-2 --create"),
)
def push(
    session: Session,
    bundle: Annotated[
        Path,
        typer.Argument(
            metavar="BUNDLE",
            help="A .tar.gz or a directory, with a bundle.json that names each model's version and file.",
            exists=True,
            readable=True,
            show_default=False,
        ),
    ],
    create_missing: Annotated[bool, typer.Option("--create", help="Create the models that there are not.")] = False,
    sign: SignOption = None,
) -> None:
    """Upload and register a version of each model of a bundle; nothing becomes active by it.

    `bundle.json` is {"models": {NAME: {"version": "2.0.0", "file": "det.onnx", "metadata": {}, "signatures": []}}}, with up to
    16 models; `ccs keys sign` makes the lines of `signatures`, and with --sign one is added to each. An archive is looked through before anything is sent: links, paths that lead out of it and archives that unpack to far
    more than they are turned away. Doing it again sends nothing twice.
    """
    with session.client() as client:
        pushed = push_bundle(session, client, bundle, create_missing=create_missing, key=signing_key(sign))
    if session.json:
        session.screen.document({"models": pushed.registered})
    else:
        pairs = " ".join(f"{model} {version}" for model, version in pushed.versions.items())
        session.screen.text(f"roll them out together with: ccs rollout start {pairs} --stages 10%,100%")


def push_bundle(
    session: Session, client: Client, path: Path, *, create_missing: bool, key: Ed25519PrivateKey | None = None
) -> Pushed:
    """Every version of the bundle is registered, after all of it was looked at. Raises as `opened`, `upload`, `change`."""
    registered: dict[str, Any] = {}
    with opened(path) as bundle:
        for number, model in enumerate(bundle.manifest.models):
            require_model(client, model, create_missing=create_missing, session=session, step=f"create-{number}")
        for number, (model, entry) in enumerate(bundle.manifest.models.items()):
            stored = upload(client, bundle.files[model], screen=session.screen)
            mine = signatures_of(
                key,
                model=model,
                version=entry.version,
                digest=stored.digest,
                size_bytes=stored.size_bytes,
                metadata=entry.metadata,
            )
            body = {
                "version": entry.version,
                "digest": stored.digest,
                "metadata": entry.metadata,
                "signatures": _joined(entry.signatures, mine),
            }
            version = client.change("POST", path_of(model, "versions"), body=body, step=f"register-{number}")
            registered[model] = {"version": version, "uploaded": stored.sent}
            if not session.json:
                verb = "uploaded" if stored.sent else "already stored:"
                session.screen.text(
                    f"registered {model} {entry.version}  ({verb} {entry.file}, {size(stored.size_bytes)})"
                )
    versions = {model: entry.version for model, entry in bundle.manifest.models.items()}
    return Pushed(versions=versions, registered=registered)


def _joined(told: list[str], mine: list[str]) -> list[str]:
    """The signatures of the bundle, and ours unless its key is among them."""
    keys = {line.split()[1] for line in told}
    return [*told, *(line for line in mine if line.split()[1] not in keys)]
