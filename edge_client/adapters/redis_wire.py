"""The way to a Redis for whoever counts microseconds: few connections, used directly, and failures said once.

Picture a handful of telephones. `redis.asyncio.Redis` wraps every call in a pool with its condition, a task for the
writing, a retry and a measurement, which costs as much again as the call itself. Here a free connection of redis-py's is
taken, spoken to, and put back. It is made again by itself when the server closed it; a call that was lost with it is
repeated once, so that only commands that may be done twice belong here.

Nothing of redis-py's leaves: every failure becomes what `raised` makes of its text and of whether it may pass by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha1
from typing import Any, Final, NamedTuple, Protocol

from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisClusterException, RedisError, ResponseError

from edge_client.adapters.redis_address import Address, cause_of, described
from edge_client.errors import ConfigError, EdgeError

CONNECTIONS_MAX: Final = 8
COMMANDS_MAX: Final = 1_024
"""Of one pipeline; more become several, one after the other."""
PIPELINE_BYTES_MAX: Final = 4 << 20

Command = tuple[Any, ...]
Raised = Callable[[str, bool], EdgeError]
"""Makes the error to raise of what happened and whether it may pass by itself."""


class Script(NamedTuple):
    """A Lua script and the name under which a server that knows it runs it."""

    source: str
    sha: str

    @classmethod
    def of(cls, source: str) -> Script:
        return cls(source, sha1(source.encode(), usedforsecurity=False).hexdigest())

    def command(self, keys: Sequence[str], *arguments: Any) -> Command:
        return ("EVALSHA", self.sha, len(keys), *keys, *arguments)


class Wire(Protocol):
    """Commands to one Redis or one cluster. Each call ends within the timeout, or within one for each pipeline of it."""

    raised: Raised

    async def call(self, *command: Any) -> Any:
        """The reply. Raises what `raised` makes of a failure or of an error reply."""
        ...

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """The replies, in order; error replies are values among them. Raises for failures of the way."""
        ...

    async def close(self) -> None: ...

    def failed(self, error: BaseException) -> EdgeError:
        """What to raise for it."""
        ...


class _BaseWire:
    """What both kinds of `Wire` have in common."""

    def __init__(
        self,
        address: Address,
        *,
        raised: Raised,
        timeout_ms: int,
        connect_timeout_ms: int,
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        self.address = address
        self.raised = raised
        self._timeout_s = timeout_ms / 1000
        # With RESP3, redis-py listens for maintenance news and hands out connections that the server closed.
        self._options = address.options | {"socket_connect_timeout": connect_timeout_ms / 1000, "protocol": 2}
        self._connections_max = connections_max
        self._free = asyncio.Semaphore(connections_max)
        self._prepare()

    async def call(self, *command: Any) -> Any:
        """The reply. Raises what `raised` makes of a failure or of an error reply."""
        (reply,) = await self._replies((command,))
        if isinstance(reply, Exception):
            raise self.failed(reply) from cause_of(reply, address=self.address)
        return reply

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """The replies, in order; error replies are values among them. Raises for failures of the way."""
        replies: list[Any] = []
        for part in _parts(commands):
            replies += await self._replies(part)
        return replies

    def failed(self, error: BaseException) -> EdgeError:
        """What to raise for it."""
        return self.raised(*described(error, address=self.address))

    async def _replies(self, commands: Sequence[Command]) -> list[Any]:
        try:
            async with asyncio.timeout(self._timeout_s), self._free:
                return await self._exchange(commands)
        except (RedisError, RedisClusterException, OSError) as error:
            raise self.failed(error) from cause_of(error, address=self.address)

    def _prepare(self) -> None:
        raise NotImplementedError

    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        raise NotImplementedError


class RedisWire(_BaseWire):
    """A `Wire` to one server, over at most `connections_max` connections. Belongs to one event loop."""

    def _prepare(self) -> None:
        # A socket timeout would make a task of every write; the whole call has one instead.
        self._options |= {"socket_timeout": None}
        self._idle: list[Any] = []
        self._all: list[Any] = []
        self._closed = False

    async def close(self) -> None:
        """Release the connections. Does not raise."""
        self._closed = True
        for connection in self._all:
            with suppress(RedisError, OSError):
                await connection.disconnect()

    def _take(self) -> Any:
        if self._closed:
            raise RedisConnectionError("closed")
        if self._idle:
            return self._idle.pop()
        connection = self.address.connection_class(retry=Retry(NoBackoff(), 0), **self._options)
        self._all.append(connection)
        return connection

    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        connection = self._take()
        try:
            known = connection.is_connected
            packed = connection.pack_commands(commands)
            try:
                return await _exchanged(connection, packed, count=len(commands))
            except RedisConnectionError:
                if not known or self._closed:
                    raise
            # The server had closed it since its last use.
            await connection.disconnect(nowait=True)
            return await _exchanged(connection, packed, count=len(commands))
        except BaseException:
            # A reply that nobody waits for any longer must not become the next call's.
            await connection.disconnect(nowait=True)
            raise
        finally:
            self._idle.append(connection)


class ClusterWire(_BaseWire):
    """A `Wire` to a Redis Cluster; what belongs together must share a hash tag. Belongs to one event loop."""

    def _prepare(self) -> None:
        if self.address.scheme == "unix" or self.address.options.get("db"):
            raise ConfigError("a Redis cluster has neither sockets nor numbered databases")
        options: dict[str, Any] = {"host": "localhost"} | self._options | {"ssl": self.address.scheme == "rediss"}
        self._cluster: Any = RedisCluster(
            **options,
            socket_timeout=self._timeout_s,
            max_connections=self._connections_max,
            retry=Retry(NoBackoff(), 1),
        )

    async def close(self) -> None:
        """Release the connections. Does not raise."""
        with suppress(RedisError, RedisClusterException, OSError):
            await self._cluster.aclose()

    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        for is_last in (False, True):
            pipeline = self._cluster.pipeline()
            for command in commands:
                pipeline.execute_command(*command)
            replies: list[Any] = await pipeline.execute(raise_on_error=False)
            lost = next((each for each in replies if _is_lost(each)), None)
            if lost is None:
                return replies
            if is_last:
                await self._cluster.aclose()  # the next call asks again who has which slots
                raise lost
        raise AssertionError("unreachable")


async def run_scripts(wire: Wire, script: Script, calls: Sequence[tuple[Sequence[str], tuple[Any, ...]]]) -> list[Any]:
    """Run `script` with each `(keys, arguments)` and return the replies in order.

    A server that has forgotten the script is told it again with the call itself. Raises the first failure.
    """
    replies = await wire.run([script.command(keys, *arguments) for keys, arguments in calls])
    unknown = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
    if unknown:
        again = [("EVAL", script.source, len(calls[index][0]), *calls[index][0], *calls[index][1]) for index in unknown]
        for index, reply in zip(unknown, await wire.run(again), strict=True):
            replies[index] = reply
    raise_first(wire, replies)
    return replies


def raise_first(wire: Wire, replies: Sequence[Any]) -> None:
    """Raise the first error among the replies."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise wire.failed(reply) from None


async def _exchanged(connection: Any, packed: Sequence[bytes], *, count: int) -> list[Any]:
    await connection.send_packed_command(packed)
    replies: list[Any] = []
    for _ in range(count):
        try:
            replies.append(await connection.read_response())
        except ResponseError as error:
            replies.append(error)
    return replies


def _is_lost(reply: Any) -> bool:
    """Whether a reply is a failure of the way, not an answer."""
    return isinstance(reply, Exception) and not isinstance(reply, ResponseError)


def _parts(commands: Sequence[Command]) -> list[Sequence[Command]]:
    """The commands in pipelines that are neither too many nor too large."""
    parts: list[Sequence[Command]] = []
    start = size_bytes = 0
    for index, command in enumerate(commands):
        command_bytes = sum(len(part) for part in command if isinstance(part, bytes))
        if index > start and (index - start == COMMANDS_MAX or size_bytes + command_bytes > PIPELINE_BYTES_MAX):
            parts.append(commands[start:index])
            start, size_bytes = index, 0
        size_bytes += command_bytes
    parts.append(commands[start:])
    return [part for part in parts if part]
