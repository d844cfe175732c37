"""Short looks at a bus server or a Redis, for people who want to know why nothing works. Each connects, asks and leaves.

What a server says is told without names and passwords; what a library raises is a sentence.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import nats
import nats.errors
import nats.js.errors
import redis
import redis.exceptions

from edge_client.adapters.nats_access import NatsAccess
from edge_client.protocol.subjects import Subjects

CONNECT_S: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSeen:
    """What a bus server says of the region's stream of events."""

    fault: str | None = None
    missing: bool = False
    events: int = 0
    replicas: int = 0
    servers: int = 0
    late: tuple[str, ...] = ()
    """Servers whose copy has not caught up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BusSeen:
    fault: str | None = None
    version: str = ""
    stream: StreamSeen | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisSeen:
    fault: str | None = None
    policy: str = ""
    limit_bytes: int = 0


def shown(url: str) -> str:
    """A URL without what may be a name and a password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def look_at_bus(url: str, *, access: NatsAccess, region: str, stream: bool) -> BusSeen:
    """What one server says; with `stream`, of the region's stream too. Raises nothing."""
    return asyncio.run(_look_at_bus(url, access=access, region=region, stream=stream))


async def _look_at_bus(url: str, *, access: NatsAccess, region: str, stream: bool) -> BusSeen:
    options: dict[str, Any] = {"allow_reconnect": False, "connect_timeout": CONNECT_S, "error_cb": _ignore}
    if access.credentials is not None:
        options["user_credentials"] = str(access.credentials)
    try:
        if (context := access.context()) is not None:
            options["tls"] = context
        async with asyncio.timeout(2 * CONNECT_S):
            client = await nats.connect(url, **options)
    except Exception as error:  # nats-py raises whatever sockets, TLS, keys and the server's words lead to
        return BusSeen(fault=_cleaned(error, url=url))
    try:
        said = client.connected_server_version
        seen = await _look_at_stream(client, region=region) if stream else None
        return BusSeen(version=f"{said.major}.{said.minor}.{said.patch}", stream=seen)
    finally:
        with contextlib.suppress(Exception):
            await client.close()


async def _look_at_stream(client: Any, *, region: str) -> StreamSeen:
    try:
        info = await client.jetstream(timeout=CONNECT_S).stream_info(Subjects(region).stream)
    except nats.js.errors.NotFoundError:
        return StreamSeen(missing=True)
    except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as error:
        return StreamSeen(fault=str(error) or type(error).__name__)
    peers = (info.cluster.replicas or []) if info.cluster else []
    return StreamSeen(
        events=info.state.messages,
        replicas=info.config.num_replicas or 1,
        servers=len(client.servers),
        late=tuple(str(peer.name) for peer in peers if not peer.current),
    )


async def _ignore(_: Exception) -> None:
    """What a connection that we end ourselves says at its end."""


def look_at_redis(url: str, *, ca: str | None) -> RedisSeen:
    """Whether it answers, and what it does when it is full. Raises nothing."""
    options: dict[str, Any] = {"socket_timeout": CONNECT_S, "socket_connect_timeout": CONNECT_S}
    if ca is not None:
        options["ssl_ca_certs"] = ca
    try:
        client = redis.Redis.from_url(url, **options)
        client.ping()
    except (redis.exceptions.RedisError, ValueError, OSError) as error:
        return RedisSeen(fault=_cleaned(error, url=url))
    try:
        memory: Any = client.info("memory")
    except redis.exceptions.RedisError:  # a user with few rights may not ask
        memory = {}
    finally:
        client.close()
    return RedisSeen(policy=str(memory.get("maxmemory_policy", "")), limit_bytes=int(memory.get("maxmemory", 0)))


def _cleaned(error: Exception, *, url: str) -> str:
    said = str(error).replace(url, shown(url)) or type(error).__name__
    parts = urlsplit(url)
    for secret in filter(None, (parts.password, parts.username)):
        said = said.replace(secret, "***")
    return said[:300]
