"""What the doctor sees of everything that a node or an edge must reach: ports, bus, object store, Redis, trust."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from consistency_service.adapters import link_probes
from consistency_service.adapters.link_probes import StreamSeen
from consistency_service.adapters.nats_bus import NatsAccess
from consistency_service.adapters.object_store import ObjectStore
from consistency_service.cli.doctor_findings import Finding, fine, warning, wrong
from consistency_service.cli.doctor_machine import port_is_free
from consistency_service.config import ServiceConfig
from consistency_service.errors import ServiceError
from edge_client.protocol.envelope import Verifier

CONNECT_S: Final = 2.0


def look_at_ports(config: ServiceConfig) -> Iterator[Finding]:
    """Whether the node runs, or could; and whether the other nodes can be reached from here."""
    peers = dict(config.peers)
    own = peers.pop(config.node_id)
    taken = [address for address in (config.http, own.raft) if not _free(address)]
    if not taken:
        yield fine("port-taken", f"{config.http} and {own.raft} are free: the node does not run")
    elif len(taken) == 2 and _is_node(own.url, config.node_id):
        yield fine("port-taken", f"{config.node_id} runs")
    else:
        yield wrong("port-taken", f"something listens on {' and '.join(taken)}, and it is not {config.node_id}")
    for node_id, peer in peers.items():
        closed = [address for address in (peer.raft, _address(peer.url)) if not _reached(address)]
        if closed:
            yield wrong("peer-unreachable", f"{node_id}: nobody answers at {' and '.join(closed)}")
        else:
            yield fine("peer-unreachable", f"{node_id} at {peer.raft} and {_address(peer.url)}")


def _free(address: str) -> bool:
    try:
        return port_is_free(address)
    except OSError:
        return True  # an address of somebody else in between, such as a proxy


def _is_node(url: str, node_id: str) -> bool:
    """Something at its address says that it is this node, or does not say who it is to strangers."""
    try:
        with httpx.Client(timeout=CONNECT_S, trust_env=False, verify=False) as http:  # noqa: S501 -- asks for a name, shows nothing
            answer = http.get(f"{url}/v1/cluster/self")
    except httpx.HTTPError:
        return False
    if answer.status_code in {401, 403, 429}:
        return True
    try:
        return bool(answer.json().get("node_id") == node_id)
    except (ValueError, AttributeError):
        return False


def _address(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def _reached(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S):
            return True
    except OSError:
        return False


def look_at_bus(
    servers: tuple[str, ...], *, access: NatsAccess, region: str, replicas: int | None
) -> Iterator[Finding]:
    """Each server; and, for a node, whose settings say how many `replicas`, the stream."""
    for url in servers:
        seen = link_probes.look_at_bus(url, access=access, region=region, stream=replicas is not None)
        where = link_probes.shown(url)
        if seen.fault is not None:
            yield wrong("bus-unreachable", f"{where}: {seen.fault}")
            continue
        yield fine("bus-unreachable", f"{where}, NATS {seen.version}")
        if seen.stream is not None and replicas is not None:
            yield from judged_stream(seen.stream, where=where, replicas=replicas)


def judged_stream(seen: StreamSeen, *, where: str, replicas: int) -> Iterator[Finding]:
    """What a server says of the stream."""
    if seen.fault is not None:
        yield wrong("bus-jetstream", f"{where}: {seen.fault}")
        return
    yield fine("bus-jetstream", f"{where}: {'no stream yet' if seen.missing else f'{seen.events} events kept'}")
    if seen.missing:
        return
    text = f"the stream is on {seen.replicas} of {seen.servers} servers"
    if seen.replicas < min(3, seen.servers):
        yield warning("bus-replicas", f"{text}; settings say {replicas}")
    elif seen.late:
        yield warning("bus-replicas", f"{text}, and has not caught up at {', '.join(seen.late)}")
    else:
        yield fine("bus-replicas", text)


def look_at_artifacts(config: ServiceConfig) -> Iterator[Finding]:
    """Whether the object store takes and gives back a few bytes."""

    async def probe() -> str:
        store = ObjectStore(config.artifacts_url, request_timeout_ms=5_000)
        content = b"ccs doctor %d" % time.time_ns()

        async def chunks() -> Any:
            yield content

        try:
            digest, _ = await store.put(chunks(), size_max_bytes=100, digest=None)
            read = b"".join([chunk async for chunk in store.read(digest)])
            await store.delete(digest)
        finally:
            await store.close()
        return "" if read == content else "gives back other bytes than it was given"

    where = link_probes.shown(config.artifacts_url) if "@" in config.artifacts_url else config.artifacts_url
    try:
        fault = asyncio.run(probe())
    except (ServiceError, OSError) as error:
        fault = str(error)
    yield wrong("artifacts", f"{where}: {fault}") if fault else fine("artifacts", where)


# ---- of an edge


def look_at_redis(url: str, *, what: str, ca: str | None = None) -> Iterator[Finding]:
    """Whether it answers, and what it does when it is full."""
    seen, where = link_probes.look_at_redis(url, ca=ca), link_probes.shown(url)
    if seen.fault is not None:
        yield wrong("redis-unreachable", f"{what}: {where}: {seen.fault}")
        return
    yield fine("redis-unreachable", f"{what}: {where}")
    if seen.limit_bytes and seen.policy == "noeviction":
        text = f"{what}: takes nothing more beyond {seen.limit_bytes >> 20} MiB (maxmemory-policy noeviction)"
        yield warning("redis-memory", text)
    else:
        yield fine("redis-memory", f"{what}: {seen.policy or 'policy not told'}")


def look_at_trust(text: str) -> Finding:
    """Whether an edge could believe anybody by these lines."""
    try:
        count = len(Verifier.from_trust(text).keys)
    except ValueError as error:
        return wrong("trust", str(error))
    return fine("trust", f"believes {count} of the region's keys") if count else wrong("trust", "no key in it")
