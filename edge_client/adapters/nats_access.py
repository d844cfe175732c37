"""How a connection knows the bus's servers, and they it: files, read anew for every attempt to connect.

Renewed files so count with the next connection, and a file that was put there late is found. What is in them is never said:
errors name the file and what is wrong with it. A file that others may read is refused, as their secret may be out already.
"""

from __future__ import annotations

import base64
import os
import re
import ssl
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import nkeys

from edge_client.errors import ConfigError

FILE_BYTES_MAX: Final = 64 * 1024
_JWT: Final = re.compile(rb"-+BEGIN NATS USER JWT-+\s+(\S+)\s+-+END NATS USER JWT-+")
_SEED: Final = re.compile(rb"-+BEGIN USER NKEY SEED-+\s+(SU[A-Z2-7]{56})\s+-+END USER NKEY SEED-+")


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsAccess:
    """Which files. `ca` replaces the system's authorities; `certificate` and `key` are given together or not at all."""

    ca: str | Path | None = None
    certificate: str | Path | None = None
    key: str | Path | None = None
    credentials: str | Path | None = None
    """A `.creds` file: a JWT and the seed that proves it is ours."""

    @property
    def authenticates(self) -> bool:
        """Whether we say who we are."""
        return self.certificate is not None or self.credentials is not None

    def context(self) -> ssl.SSLContext | None:
        """For TLS as these files say; None where they say nothing of it. Raises `ConfigError`."""
        if self.ca is None and self.certificate is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            if self.ca is None:
                context.load_default_certs()
            else:
                context.load_verify_locations(self.ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"nats_ca: no certificates in {self.ca}: {_reason(error)}") from None
        if self.certificate is not None and self.key is not None:
            read_guarded(self.key, what="nats_key")
            try:
                context.load_cert_chain(self.certificate, self.key, password=_no_password)
            except (OSError, ssl.SSLError, ValueError) as error:
                raise ConfigError(
                    f"nats_certificate: {self.certificate} and {self.key} are no pair in PEM: {_reason(error)}"
                ) from None
        return context

    def proof(self) -> Proof | None:
        """What shows a server who we are; None without credentials. Raises `ConfigError`."""
        if self.credentials is None:
            return None
        content = read_guarded(self.credentials, what="nats_credentials")
        token, seed = _JWT.search(content), _SEED.search(content)
        if token is None or seed is None:
            raise ConfigError(f"nats_credentials: {self.credentials} holds no JWT with its seed")
        try:
            nkeys.from_seed(bytearray(seed[1]))
        except (nkeys.NkeysError, ValueError):
            raise ConfigError(f"nats_credentials: {self.credentials} holds a damaged seed") from None
        return Proof(token=token[1], seed=seed[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """A JWT and its seed. Its `repr` shows neither."""

    token: bytes = field(repr=False)
    seed: bytes = field(repr=False)

    def options(self) -> dict[str, Any]:
        """What nats-py asks of whoever connects."""
        return {"user_jwt_cb": lambda: bytearray(self.token), "signature_cb": self._signature}

    def _signature(self, nonce: str) -> bytes:
        return base64.b64encode(nkeys.from_seed(bytearray(self.seed)).sign(nonce.encode()))


def read_guarded(path: str | Path, *, what: str) -> bytes:
    """The content of a file that is ours alone. Raises `ConfigError` that names the setting `what`."""
    try:
        with Path(path).open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise ConfigError(f"{what}: {path} is open to group or others (mode {mode:04o}); run: chmod 600 {path}")
            return file.read(FILE_BYTES_MAX)
    except OSError as error:
        raise ConfigError(f"{what}: cannot read {path}: {error.strerror or error}") from None


def _no_password() -> str:
    raise ValueError("the key is encrypted")  # rather than ask a terminal that nobody watches


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)[:200]
