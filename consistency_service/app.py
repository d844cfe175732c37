"""The composition root of a node: reads the configuration, picks adapters, runs until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import resource
import secrets
import signal
from collections import Counter
from pathlib import Path

from consistency_service import __version__
from consistency_service.adapters import rest_security
from consistency_service.adapters.memory_log import MemoryLog
from consistency_service.adapters.nats_bus import NatsEventBus, nats_access_of
from consistency_service.adapters.object_store import ObjectStore
from consistency_service.adapters.raft_log import RaftLog, RaftLogConfig, RaftTls
from consistency_service.adapters.region_key import KeyFiles, load_private
from consistency_service.adapters.telemetry import OpenTelemetry
from consistency_service.adapters.web_caller import HttpWebCaller
from consistency_service.api.app import create_api
from consistency_service.api.peers import Peers
from consistency_service.api.server import serve as serve_http
from consistency_service.config import ServiceConfig
from consistency_service.errors import ConfigError
from consistency_service.runtime.node import Node
from consistency_service.runtime.ports import MetadataLog
from edge_client.adapters.system_clock import open_clock
from edge_client.protocol.envelope import Signer
from edge_client.protocol.subjects import NODE_INBOXES, Subjects, token_of

_log = logging.getLogger(__name__)
SHUTDOWN_S = 5.0
_FAREWELLS = (signal.SIGTERM, signal.SIGINT)


async def serve(config: ServiceConfig) -> None:
    """Run a node until SIGTERM or SIGINT, then leave in order; the second one ends it at once.

    Nothing acknowledged is lost by that: the log is on the disk. Raises `ServiceError` if it cannot start.
    """
    _raise_file_limit()
    shutdown = asyncio.Event()
    loop = asyncio.get_running_loop()

    def leave() -> None:
        shutdown.set()
        for number in _FAREWELLS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in _FAREWELLS:
        loop.add_signal_handler(number, leave)
    await run_node(config, shutdown=shutdown)


def _raise_file_limit() -> None:
    """As many files and sockets as we may have: the usual soft limit is for programs that still use select(2)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def run_node(config: ServiceConfig, *, shutdown: asyncio.Event) -> None:
    """Run a node until `shutdown` is set."""
    rest_security.require_guarded(config)
    config.data_dir.mkdir(parents=True, exist_ok=True)
    counters: Counter[str] = Counter()
    tls = rest_security.server_tls(config, counters=counters)
    authentication = rest_security.authentication(config, counters=counters)
    peers = Peers(tls=rest_security.peers_tls(config, counters=counters))
    node = build_node(config, peers=peers)
    host, _, port = config.http.rpartition(":")
    _log.info("node_starting node_id=%s region=%s http=%s", config.node_id, config.region, config.http)
    try:
        running = asyncio.create_task(node.run(), name="node")
        api = create_api(node, peers=peers, authentication=authentication, counters=counters)
        serving = asyncio.create_task(
            serve_http(api, host=host, port=int(port), shutdown=shutdown, tls=tls), name="http"
        )
        stopping = asyncio.create_task(shutdown.wait(), name="shutdown")
        await asyncio.wait((running, serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        node.resign()
        shutdown.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SHUTDOWN_S):
                await serving
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        stopping.cancel()
    finally:
        await peers.close()
        await asyncio.to_thread(node.telemetry.close)
    _log.info("node_stopped node_id=%s", config.node_id)


def build_node(config: ServiceConfig, *, peers: Peers) -> Node:
    """The object graph of one node on real adapters."""
    clock = open_clock()
    if not clock.counts_suspension:
        raise ConfigError(
            "a node needs Linux: its lease is measured by CLOCK_BOOTTIME, which counts the time that a machine sleeps,"
            " and this platform has no such clock. Edges run here, and are never `strong`."
        )
    signer = Signer(load_private(config.region_key))
    return Node(
        config=config,
        clock=clock,
        log=_metadata_log(config),
        bus=NatsEventBus(
            config.nats,
            name=f"ccs-{config.region}-{config.node_id}",
            subjects=Subjects(config.region),
            stream_replicas=config.stream_replicas,
            inbox_prefix=f"{NODE_INBOXES}.{token_of(config.node_id)}",
            access=nats_access_of(config),
        ),
        artifacts=ObjectStore(config.artifacts_url),
        signer=signer,
        peer_status=peers.self_status,
        rng=random.Random(secrets.randbits(128)),
        web=HttpWebCaller(),
        telemetry=OpenTelemetry(node_id=config.node_id, region=config.region, version=__version__),
        key_files=KeyFiles(private=config.region_key, trust=config.region_trust, publishers=config.publishers),
    )


def _metadata_log(config: ServiceConfig) -> MetadataLog:
    if config.log == "memory":
        return MemoryLog(node_id=config.node_id)
    return RaftLog(raft_config(config))


def raft_config(config: ServiceConfig) -> RaftLogConfig:
    """The settings of the node's log."""
    return RaftLogConfig(
        node_id=config.node_id,
        listen=config.peers[config.node_id].raft,
        peers={node_id: peer.raft for node_id, peer in config.peers.items()},
        urls={node_id: peer.url for node_id, peer in config.peers.items()},
        join=config.join,
        data_dir=config.data_dir / "raft",
        cluster_id=config.region,
        tls=_raft_tls(config),
        insecure=config.raft_insecure,
        election_timeout_min_ms=config.election_ms_min,
        election_timeout_max_ms=config.election_ms_max,
        compaction_min_entries=config.compaction_entries,
    )


def _raft_tls(config: ServiceConfig) -> RaftTls | None:
    match config.raft_ca, config.raft_certificate, config.raft_key:
        case Path() as ca, Path() as certificate, Path() as key:
            return RaftTls(ca=ca, certificate=certificate, key=key)
    return None
