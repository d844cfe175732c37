"""What a command shows a node, and by what it believes the node: a token, a certificate, authorities.

A token comes from a file or the environment, never from the command line, where every user of the machine would see it.
It is sent by TLS or to this machine, and nowhere else.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

import typer

from consistency_service.adapters.private_files import require_private
from consistency_service.adapters.rest_tls import client_context
from consistency_service.cli.errors import LocalError

TOKEN_CHARS_MAX: Final = 8 * 1024
PANEL: Final = "Shared options"

TokenFileOption = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help="Holds the token to show. [dim]Default: $CCS_TOKEN_FILE, else the token in $CCS_TOKEN[/dim]",
        rich_help_panel=PANEL,
        show_default=False,
    ),
]
CaOption = Annotated[
    Path | None,
    typer.Option(
        "--ca",
        metavar="FILE",
        help="Certificates by which https nodes are believed. [dim]Default: $CCS_CA, else the system's[/dim]",
        rich_help_panel=PANEL,
        show_default=False,
    ),
]
CertificateOption = Annotated[
    Path | None,
    typer.Option(
        "--certificate",
        metavar="FILE",
        help="A client certificate to show. [dim]Default: $CCS_CERTIFICATE[/dim]",
        rich_help_panel=PANEL,
        show_default=False,
    ),
]
CertificateKeyOption = Annotated[
    Path | None,
    typer.Option(
        "--key",
        metavar="FILE",
        help="Its key. [dim]Default: $CCS_KEY, else in the same file[/dim]",
        rich_help_panel=PANEL,
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What the options and the environment say. None: nothing to show, and the system's authorities."""

    token: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.token is None else {"Authorization": f"Bearer {self.token}"}


def credentials_of(
    *, token_file: Path | None, ca: Path | None, certificate: Path | None, key: Path | None
) -> Credentials:
    """Options, and what the environment says where they say nothing. Raises `LocalError`, `ConfigError`."""
    token_file = token_file or _path("CCS_TOKEN_FILE")
    ca, certificate, key = ca or _path("CCS_CA"), certificate or _path("CCS_CERTIFICATE"), key or _path("CCS_KEY")
    if key is not None and certificate is None:
        raise LocalError("--key goes with --certificate")
    token = os.environ.get("CCS_TOKEN") if token_file is None else _read(token_file)
    tls = None
    if ca is not None or certificate is not None:
        tls = client_context(ca=ca, certificate=certificate, key=key or certificate)
    return Credentials(token=_checked(token) if token else None, tls=tls)


def _path(name: str) -> Path | None:
    text = os.environ.get(name)
    return Path(text) if text else None


def _read(path: Path) -> str:
    require_private(path)
    try:
        with path.open(encoding="ascii") as file:
            return file.read(TOKEN_CHARS_MAX + 2)
    except OSError as error:
        raise LocalError(f"cannot read the token in {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise LocalError(f"{path} holds no token") from None


def _checked(text: str) -> str:
    token = text.strip()
    if not 1 <= len(token) <= TOKEN_CHARS_MAX or not token.isascii() or not token.isprintable() or " " in token:
        raise LocalError("the token is none: one word of visible ASCII, on one line")  # and is not shown
    return token
