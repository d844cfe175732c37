"""How an edge believes nodes, and they it: a file of authorities, and a file that holds a token.

Both may be replaced while the edge runs. Authorities are looked at for every connection; the token is read again when a node
refuses the one that we have. It goes to https addresses and to this machine, and nowhere else.
"""

from __future__ import annotations

import ssl
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import httpx

from edge_client.adapters.nats_access import read_guarded
from edge_client.errors import ConfigError

TOKEN_CHARS_MAX: Final = 8 * 1024


class HttpAccess:
    """Raises `ConfigError` for files that are of no use to begin with."""

    def __init__(self, *, ca: str | Path | None = None, token: str | Path | None = None) -> None:
        self._token_file = token
        self._token = None if token is None else _token(token)
        self.context: ssl.SSLContext | bool = True if ca is None else _Renewed.of(Path(ca))

    def __repr__(self) -> str:
        return f"<HttpAccess token={'no' if self._token is None else 'yes'}>"

    def headers(self, url: httpx.URL) -> dict[str, str]:
        """What shows a node who we are."""
        if self._token is None or not (url.scheme == "https" or _is_loopback(url.host)):
            return {}
        return {"authorization": f"Bearer {self._token}"}

    def renewed(self) -> bool:
        """Whether there is another token now; it is used from then on."""
        if self._token_file is None:
            return False
        try:
            token = _token(self._token_file)
        except ConfigError:  # half written, or away: the one that we have stays
            return False
        known, self._token = self._token, token
        return token != known


class _Renewed(ssl.SSLContext):
    """Believes what the file holds when a connection is made; what made sense last, while it makes none."""

    path: Path
    stamp: tuple[int, int, int] | None
    present: ssl.SSLContext

    @classmethod
    def of(cls, path: Path) -> _Renewed:
        context = cls(ssl.PROTOCOL_TLS_CLIENT)
        context.path, context.stamp, context.present = path, _stamp(path), _believing(path)
        return context

    def wrap_bio(self, *args: Any, **values: Any) -> ssl.SSLObject:
        stamp = _stamp(self.path)
        if stamp not in (None, self.stamp):
            try:
                self.present = _believing(self.path)
            except ConfigError:
                stamp = self.stamp
            self.stamp = stamp
        return self.present.wrap_bio(*args, **values)


def _believing(path: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(path)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"http_ca: no certificates in {path}: {error}") from None
    return context


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _token(path: str | Path) -> str:
    token = read_guarded(path, what="http_token").decode("latin-1").strip()
    if not 1 <= len(token) <= TOKEN_CHARS_MAX or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(f"http_token: {path} does not hold one token")
    return token


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
