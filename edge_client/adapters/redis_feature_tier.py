"""The box's own Redis as a tier for features: one string a key, which only moves forward, shared by all processes here.

A string is digits of stamp and writer, digits of when this was last known to be current, sixteen letters for the life of
the machine, and the entry. What is known current is nanoseconds of a clock that starts with the machine; after a restart
nobody can say how old it is. Nothing lies here longer than a day. Redis may lose any of it at any time.

Two ways in: `RedisFeatureTier` for the event loop, and `BlockingFeatureTier`, which reads in the caller's own thread over a
connection of its own, because a hop to another thread costs more than Redis does.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import Any, Final, Protocol
from urllib.parse import quote
from weakref import WeakSet

from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from edge_client.adapters.redis_address import address_of, described
from edge_client.adapters.redis_feature_scripts import DROP, HOLD
from edge_client.adapters.redis_features import DAY_MS, entry_of, lifetime_ms, unix_ms
from edge_client.adapters.redis_wire import RedisWire, run_scripts
from edge_client.errors import FeatureCorruptError, LocalTierError
from edge_client.protocol.feature_codec import encode_entry
from edge_client.protocol.features import Entry
from edge_client.runtime.feature_ports import Held

THREADS_MAX: Final = 64
_KNOWN_END: Final = 60
_BEFORE: Final = 76
_GET_MAX: Final = 512


class _Strings:
    """The form of what lies in the tier."""

    def __init__(self, *, region: str, boot_id: str, clock_unix_ms: Callable[[], int]) -> None:
        self.prefix = f"ccs:{quote(region, safe='')}:t:"
        self._boot = blake2b(boot_id.encode(), digest_size=8).hexdigest().encode()
        self._unix_ms = clock_unix_ms
        self.unreadable_count = 0

    def held(self, data: bytes | None) -> Held | None:
        """What a string says; None, and counted, if it is none of ours; None if it has expired."""
        if data is None:
            return None
        try:
            entry = entry_of(data, before=_BEFORE)
        except FeatureCorruptError:
            self.unreadable_count += 1
            return None
        known_at = data[40:_KNOWN_END]
        if not known_at.isdigit():
            self.unreadable_count += 1
            return None
        if entry.expired(unix_ms=self._unix_ms()):
            return None
        return Held(entry, int(known_at) if data[_KNOWN_END:_BEFORE] == self._boot else None)

    def call(self, key: str, entry: Entry, known_at_ns: int) -> tuple[tuple[str], tuple[Any, ...]] | None:
        """What `HOLD` is given; None if the entry has expired."""
        life_ms = lifetime_ms(entry, now_ms=self._unix_ms())
        if life_ms is None:
            return None
        head = b"%020d%020d%020d%b" % (entry.stamp, entry.writer, known_at_ns, self._boot)
        assert len(head) == _BEFORE, f"no such order or instant: {entry.order}, {known_at_ns}"
        return (self.prefix + key,), (head, encode_entry(entry), min(life_ms or DAY_MS, DAY_MS))


class _Tier:
    """What both ways in have in common."""

    def __init__(
        self,
        url: str,
        *,
        region: str,
        boot_id: str,
        ca: str | None = None,
        clock_unix_ms: Callable[[], int] = unix_ms,
        timeout_ms: int = 1_000,
        connect_timeout_ms: int = 500,
    ) -> None:
        self._address = address_of(url, what="local tier", ca=ca)
        self._timeout_ms, self._connect_timeout_ms = timeout_ms, connect_timeout_ms
        self._strings = _Strings(region=region, boot_id=boot_id, clock_unix_ms=clock_unix_ms)
        self._prefix = self._strings.prefix
        self._prepare()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._address.shown}>"

    @property
    def unreadable_count(self) -> int:
        """Strings that were not in our form, and were taken for absent."""
        return self._strings.unreadable_count

    def _prepare(self) -> None:
        raise NotImplementedError


class RedisFeatureTier(_Tier):
    """A `FeatureTier` at `url`. `boot_id` names this life of the machine; `ca` is a file of certificates to trust instead of
    the system's. Each call ends within `timeout_ms` for each 1,024 commands or 4 MiB that it sends. Raises `LocalTierError`;
    the constructor raises `ConfigError`.
    """

    def _prepare(self) -> None:
        self._wire = RedisWire(
            self._address,
            raised=_error,
            timeout_ms=self._timeout_ms,
            connect_timeout_ms=self._connect_timeout_ms,
        )

    async def connect(self) -> None:
        """Redis answered. Later calls work all the same once it does."""
        await self._wire.call("GET", self._prefix)

    async def close(self) -> None:
        """Release the connections. Does not raise."""
        await self._wire.close()

    async def get(self, key: str) -> Held | None:
        """What is held of a key, unless it has expired."""
        return self._strings.held(await self._wire.call("GET", self._prefix + key))

    async def get_many(self, keys: Sequence[str]) -> list[Held | None]:
        """What is held of each key, unless it has expired."""
        found: list[Held | None] = []
        for start in range(0, len(keys), _GET_MAX):
            part = [self._prefix + key for key in keys[start : start + _GET_MAX]]
            found += map(self._strings.held, await self._wire.call("MGET", *part))
        return found

    async def put_many(self, items: Sequence[tuple[str, Entry, int]]) -> None:
        """Hold each `(key, entry, known_at_ns)` unless what is there is newer, or the same write known current later."""
        calls = [call for item in items if (call := self._strings.call(*item)) is not None]
        await run_scripts(self._wire, HOLD, calls)

    async def drop_many(self, keys: Sequence[tuple[str, int]]) -> None:
        """Let go of what each `(key, stamp)` has that is older than the stamp."""
        calls = [((self._prefix + key,), (b"%020d" % stamp,)) for key, stamp in keys]
        await run_scripts(self._wire, DROP, calls)


class _SyncConnection(Protocol):
    """What is used of redis-py's connection."""

    def send_command(self, *command: Any) -> None: ...
    def read_response(self) -> Any: ...
    def disconnect(self) -> None: ...


class _Line:
    """One thread's connection. It goes with its thread, and the socket with it."""

    __slots__ = ("__weakref__", "connection", "is_known")

    def __init__(self, connection: _SyncConnection) -> None:
        self.connection = connection
        self.is_known = False
        """Whether it has answered since it was last made."""


class BlockingFeatureTier(_Tier):
    """Reads the same tier in the caller's thread. Each thread has one connection; a thread beyond 64 is refused.

    After a fork the child makes connections of its own. Each wait ends within `timeout_ms`. Raises `LocalTierError`; the
    constructor raises `ConfigError`. Any thread may call anything.
    """

    threads_max = THREADS_MAX

    def _prepare(self) -> None:
        self._options = self._address.options | {
            "socket_timeout": self._timeout_ms / 1000,
            "socket_connect_timeout": self._connect_timeout_ms / 1000,
            "protocol": 2,
        }
        self._class = self._address.blocking_class
        self._closed = False
        self._begin()

    def get(self, key: str) -> Held | None:
        """What is held of a key, unless it has expired."""
        return self._strings.held(self._call("GET", self._prefix + key))

    def get_many(self, keys: Sequence[str]) -> list[Held | None]:
        """What is held of each key, unless it has expired."""
        found: list[Held | None] = []
        for start in range(0, len(keys), _GET_MAX):
            part = [self._prefix + key for key in keys[start : start + _GET_MAX]]
            found += map(self._strings.held, self._call("MGET", *part))
        return found

    def close(self) -> None:
        """Release every thread's connection. Does not raise; later calls do."""
        self._closed = True
        with self._lock:
            lines = list(self._lines)
        for line in lines:
            with suppress(RedisError, OSError):
                line.connection.disconnect()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._local = threading.local()
        self._lock = threading.Lock()
        self._lines: WeakSet[_Line] = WeakSet()

    def _line(self) -> _Line:
        if self._pid != os.getpid():
            self._begin()  # the sockets are the parent's: dropped here, they stay open there
        line: _Line | None = getattr(self._local, "line", None)
        if line is None:
            with self._lock:
                if len(self._lines) >= self.threads_max:
                    raise LocalTierError(f"more than {self.threads_max} threads read from the local tier at once")
                line = self._local.line = _Line(self._class(retry=Retry(NoBackoff(), 0), **self._options))
                self._lines.add(line)
        return line

    def _call(self, *command: Any) -> Any:
        if self._closed:
            raise LocalTierError("the local tier was closed")
        line = self._line()
        connection = line.connection
        try:
            try:
                connection.send_command(*command)
                reply = connection.read_response()
            except RedisConnectionError:
                if not line.is_known or self._closed:
                    raise
                # The server had closed it since its last use.
                connection.disconnect()
                connection.send_command(*command)
                reply = connection.read_response()
        except ResponseError as error:
            raise _error(*described(error, address=self._address)) from error
        except (RedisError, OSError) as error:
            line.is_known = False
            with suppress(RedisError, OSError):
                connection.disconnect()
            raise _error(*described(error, address=self._address)) from error
        except BaseException:
            line.is_known = False
            connection.disconnect()  # the reply that an interrupted caller left would be the next call's
            raise
        line.is_known = True
        return reply


def _error(text: str, _: bool) -> LocalTierError:
    return LocalTierError(text)
