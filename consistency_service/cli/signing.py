"""A file becomes a signed version: the key is read here, used once, and shown to nobody."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consistency_service.adapters.region_key import load_private
from consistency_service.cli.errors import LocalError
from consistency_service.cli.upload import CHUNK_BYTES
from edge_client.protocol.digest import Hasher
from edge_client.protocol.models import Version
from edge_client.protocol.signatures import sign_version

SIGNING_KEY: Final = "CCS_SIGNING_KEY"

SignOption = Annotated[
    Path | None,
    typer.Option(
        "--sign",
        metavar="KEY",
        help="Sign with this publisher's private key, a file that `ccs keys publisher` made. [dim]Default: the file that "
        "$CCS_SIGNING_KEY names, else no signature[/dim]",
        dir_okay=False,
        show_default=False,
    ),
]


def signing_key(given: Path | None) -> Ed25519PrivateKey | None:
    """The key to sign with; None if none is named. Raises `ConfigError` for a file that is none or open to others."""
    path = given or (Path(named) if (named := os.environ.get(SIGNING_KEY)) else None)
    return None if path is None else load_private(path)


def signatures_of(
    key: Ed25519PrivateKey | None,
    *,
    model: str,
    version: str,
    digest: str,
    size_bytes: int,
    metadata: Mapping[str, str],
) -> list[str]:
    """What to register the version with: one line by the key, or none without one. Raises `LocalError`."""
    if key is None:
        return []
    try:
        asked = Version(version=version, digest=digest, size_bytes=size_bytes, metadata=dict(metadata))
        return [sign_version(key, model=model, version=asked)]
    except ValueError as error:
        raise LocalError(str(error)) from None


def hashed(file: Path) -> tuple[str, int]:
    """Digest and size of a file's bytes, never more than a chunk of them in memory."""
    hasher = Hasher()
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            hasher.update(chunk)
    return str(hasher.digest()), hasher.size_bytes
