"""Signing keys on disk, the region's and publishers': the private half guarded like a certificate's, the public half a line to hand out.

Whoever holds the private key can speak as the region to every edge. So it is made once, never overwritten, and never
read from a file that other users of the machine could have read before us. The public line, which edges are given as
`trust=`, is the protocol's business: see `edge_client.protocol.envelope`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from consistency_service.adapters.private_files import read_private, write_new, write_over
from consistency_service.errors import ConfigError
from edge_client.protocol.envelope import Signer, trust_line

KEY_FILE_BYTES_MAX: Final = 16 * 1024
TRUST_FILE_BYTES_MAX: Final = 256 * 1024
PublicLine = Callable[[Ed25519PublicKey], str]
"""How a public key is told."""


class KeyFiles:
    """The files of a node's keys, as its settings name them."""

    def __init__(self, *, private: Path, trust: Path | None, publishers: Path | None) -> None:
        self._private = private
        self._trust = trust
        self._publishers = publishers
        self.has_trust = trust is not None
        self.has_publishers = publishers is not None

    def signer(self) -> Signer:
        """With the region's private key as it is now. Raises `ConfigError` as `load_private` does."""
        return Signer(load_private(self._private))

    def trust_text(self) -> str:
        """The lines of `region_trust`; raises `ConfigError`."""
        return read_lines(self._trust)

    def publishers_text(self) -> str:
        """The lines of `publishers`; raises `ConfigError`."""
        return read_lines(self._publishers)


def read_lines(path: Path | None) -> str:
    """The text of a file of public lines; empty where there is none. Raises `ConfigError`."""
    if path is None:
        return ""
    try:
        with path.open("rb") as file:
            content = file.read(TRUST_FILE_BYTES_MAX + 1)
        if len(content) > TRUST_FILE_BYTES_MAX:
            raise ConfigError(f"{path} has more than {TRUST_FILE_BYTES_MAX} bytes")
        return content.decode()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is no text in UTF-8") from error


def generate(path_private: Path, path_public: Path, *, line: PublicLine = trust_line) -> Ed25519PrivateKey:
    """Both files exist: a new private key (PEM, mode 0600) and its public line. Raises `ConfigError` if a key is there."""
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    try:
        path_private.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_new(path_private, pem)
        write_public(key, path_public, line=line)
    except FileExistsError as error:
        raise ConfigError(f"{path_private} exists already; a private key is never overwritten") from error
    except OSError as error:
        raise ConfigError(f"cannot write a private key to {path_private}: {error.strerror or error}") from error
    return key


def load_private(path: Path) -> Ed25519PrivateKey:
    """The key in `path`. Raises `ConfigError` if it is missing, no Ed25519 key, or open to group or others."""
    pem = read_private(path, bytes_max=KEY_FILE_BYTES_MAX, what="the private key ")
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path} holds no readable private key in PEM") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path} holds a key of another kind; regions and publishers sign with Ed25519")
    return key


def write_public(key: Ed25519PrivateKey, path: Path, *, line: PublicLine = trust_line) -> None:
    """`path` holds the public line of `key`, whatever it held before. Raises `OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_over(path, f"{line(key.public_key())}\n".encode("ascii"), mode=0o644)
