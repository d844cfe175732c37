"""Where a Redis is, who we are there, and what its failures mean: read once, said without secrets.

A URL holds a password, and redis-py's words may repeat parts of it. So whatever is said of a server, in a `repr`, an error
or a log, is made here: it names the server, and never shows the URL, the password, or what a server repeated of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)
from redis.connection import Connection as BlockingConnection
from redis.connection import SSLConnection as BlockingSSLConnection
from redis.connection import UnixDomainSocketConnection as BlockingSocketConnection
from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    ClusterError,
    MovedError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from edge_client.errors import ConfigError

TEXT_MAX: Final = 300
_OPTIONS: Final = {"host", "port", "db", "username", "password", "path", "connection_class"}
_PASSING: Final = re.compile(
    r"\b(OOM|READONLY|LOADING|CLUSTERDOWN|MASTERDOWN|TRYAGAIN|BUSY|MISCONF|NOREPLICAS|max number of clients)\b"
)
"""What servers say of a state that ends by itself or by an operator; scripts report it in the middle of a sentence."""
_PASSING_ERRORS: Final = (OutOfMemoryError, ReadOnlyError, ClusterDownError, TryAgainError, AskError, ClusterError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a Redis is and who we are there; made of a URL by `address_of`. Its `repr` has no secrets in it."""

    shown: str
    scheme: str
    options: dict[str, Any] = field(repr=False)
    """`host`, `port`, `path`, `db`, `username`, `password`, and what TLS needs."""

    @property
    def connection_class(self) -> type[AbstractConnection]:
        """Of redis-py's, for asyncio."""
        return {"rediss": SSLConnection, "unix": UnixDomainSocketConnection}.get(self.scheme, Connection)

    @property
    def blocking_class(self) -> Any:
        """Of redis-py's, for threads."""
        return {"rediss": BlockingSSLConnection, "unix": BlockingSocketConnection}.get(self.scheme, BlockingConnection)

    @property
    def secrets(self) -> tuple[str, ...]:
        """The password, as it is and as it stands in a URL."""
        password = self.options.get("password")
        return (password, quote(password, safe="")) if password else ()

    def cleaned(self, text: str) -> str:
        """The text without the password, in case a server repeats what it was sent."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text[:TEXT_MAX]


def address_of(
    url: str, *, what: str, ca: str | None = None, certificate: str | None = None, certificate_key: str | None = None
) -> Address:
    """What `url` (`redis://`, `rediss://` or `unix://`) names. Raises `ConfigError`, whose text does not repeat the URL."""
    scheme = url.partition("://")[0]
    if scheme not in {"redis", "rediss", "unix"}:
        raise ConfigError(f"{what} URL: it must begin with redis://, rediss:// or unix://")
    try:
        options: dict[str, Any] = dict(parse_url(url))
    except (ValueError, TypeError):
        raise ConfigError(f"{what} URL: not understood; escape what is special in the password") from None
    unknown = sorted(set(options) - _OPTIONS)
    if unknown:
        raise ConfigError(f"{what} URL: no such option: {', '.join(unknown)}")
    options.pop("connection_class", None)
    if scheme == "unix" and "path" not in options:
        raise ConfigError(f"{what} URL: unix:// needs the path of a socket")
    if scheme == "rediss":
        options |= {"ssl_ca_certs": ca, "ssl_certfile": certificate, "ssl_keyfile": certificate_key}
        options |= {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
    elif ca or certificate or certificate_key:
        raise ConfigError(f"{what} URL: a CA or a certificate needs rediss://")
    place = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
    return Address(shown=f"{scheme}://{place}", scheme=scheme, options=options)


def described(error: BaseException, *, address: Address) -> tuple[str, bool]:
    """What an exception of redis-py's means, and whether it may pass by itself."""
    said = address.cleaned(str(error)) or type(error).__name__
    if isinstance(error, TimeoutError | RedisTimeoutError):
        return f"{address.shown} did not answer in time", True
    if isinstance(error, AuthenticationError | AuthorizationError):
        return f"{address.shown} refused user or password: {said}", False
    if isinstance(error, MovedError):
        return f"{address.shown} is a node of a cluster; say that it is one: {said}", False
    if isinstance(error, OSError | RedisConnectionError | RedisClusterException):
        return f"{address.shown} is unreachable: {said}", True
    if isinstance(error, OutOfMemoryError) or re.search(r"\bOOM\b", said):
        return f"{address.shown} is full: {said}", True
    if isinstance(error, _PASSING_ERRORS) or _PASSING.search(said):
        return f"{address.shown} cannot just now: {said}", True
    return f"{address.shown} refused: {said}", False


def cause_of(error: BaseException, *, address: Address) -> BaseException | None:
    """The cause to chain: none, if it or one before it has the password in its text."""
    link: BaseException | None = error
    while link is not None:
        if any(secret in str(link) for secret in address.secrets):
            return None
        link = link.__cause__ or link.__context__
    return error
