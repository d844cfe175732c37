"""Connections between nodes: certified, greeted, framed, bounded, and replaced when they fall silent.

Picture one pipe per pair of nodes; of the two, the one whose id sorts higher dials, and whoever is all alone dials
everybody: perhaps it was removed, and nobody told it. What comes out of a pipe is a decoded message of the node that the
certificate names. Without TLS it is a node that said who it is, which is good enough on loopback and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final

from consistency_service.adapters.raft_log import lineage, wire
from consistency_service.adapters.raft_log.config import RaftLogConfig, split_address
from consistency_service.adapters.raft_log.connection import Connection
from consistency_service.adapters.raft_log.listener import Listener, SpareDescriptors, canonical, shed
from consistency_service.adapters.raft_log.tls import CertificateRefusedError, TlsFiles
from consistency_service.errors import ConfigError, LogStorageError

logger = logging.getLogger(__name__)

STRANGERS_MAX: Final = 32
"""Accepted and not greeted yet, from addresses of peers and from others each; the oldest gives way, and is counted."""

SPARE_PER_PEER: Final = 2
HOUSEKEEPING_S: Final = 1.0
NEWCOMERS_MAX: Final = 8
"""Connections at once with nodes of this cluster that our table of members does not name."""

LONELY_S: Final = 5.0
"""A peer that should dial us and has not done so for as long is dialled: it may not know us, or have been removed."""
ADDRESSES_EVERY: Final = 30
"""Rounds of housekeeping between two looks at where the peers live."""
REFUSALS_LOGGED_EVERY_S: Final = 1.0


class PeerTransport:
    """Best effort: a message is lost with its connection. In order as long as a connection lives.

    Calls back on the event loop only; never from within `send_nowait` or `close`.
    """

    def __init__(
        self,
        config: RaftLogConfig,
        *,
        on_connected: Callable[[str], None],
        on_disconnected: Callable[[str], None],
        on_message: Callable[[str, wire.Peer], None],
    ) -> None:
        self.config = config
        self.peers = dict(config.peers)
        self.removed: frozenset[str] = frozenset()
        """Whoever of these comes is told so, and let go."""
        self.lineage: lineage.Lineage | None = None
        """Which of the cluster's histories our log belongs to."""
        self.counters: Counter[str] = Counter()
        self.strangers: list[Connection] = []
        self.closing = False
        self._on_connected = on_connected
        self._on_disconnected = on_disconnected
        self._on_message = on_message
        self._tls: TlsFiles | None = None
        self._connections: dict[str, Connection] = {}
        self._dialled: dict[str, Connection] = {}
        self._arrivals: asyncio.Queue[tuple[socket.socket, bool]] = asyncio.Queue(maxsize=STRANGERS_MAX)
        self._spare: SpareDescriptors | None = None
        self._listener: Listener | None = None
        self._tasks: asyncio.Task[None] | None = None
        self._group: asyncio.TaskGroup | None = None
        self._dialers: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._logged_at = 0.0

    async def start(self) -> None:
        """Listening. Raises `LogStorageError` if the address cannot be bound, `ConfigError` for useless certificates."""
        config = self.config
        if config.tls is not None:
            self._tls = TlsFiles(config.tls, cluster_id=config.cluster_id, node_id=config.node_id)
        self._spare = SpareDescriptors(count=SPARE_PER_PEER * len(config.peers))
        self._listener = Listener(on_arrived=self._arrived, spare=self._spare, counters=self.counters)
        try:
            await self._listener.open(*split_address(config.listen))
        except OSError as error:
            raise LogStorageError(f"cannot listen on {config.listen} for raft peers: {error}") from error
        self._tasks = asyncio.get_running_loop().create_task(self._run(), name="raft-transport")
        self._tasks.add_done_callback(_report)

    async def close(self) -> None:
        """Nothing is called back any more."""
        self.closing = True
        if self._listener is not None:
            self._listener.close()
        if self._tasks is not None:
            self._tasks.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._tasks
        while not self._arrivals.empty():
            shed(self._arrivals.get_nowait()[0])
        open_connections = {*self._connections.values(), *self._dialled.values(), *self.strangers}
        for connection in open_connections:
            connection.drop()
        for connection in open_connections:
            await connection.closed.wait()
        if self._spare is not None:
            self._spare.close()

    def set_peers(self, peers: Mapping[str, str], *, removed: Iterable[str] = ()) -> None:
        """Only these nodes are peers from here on; connections with others end, and new addresses are dialled."""
        self.removed = frozenset(removed)
        moved = {node_id for node_id, address in self.peers.items() if peers.get(node_id) != address}
        self.peers = dict(peers)
        for connection in [*self._connections.values(), *self._dialled.values()]:
            if connection.peer_id in self.removed:
                connection.part()
            elif {connection.peer_id, connection.expected} & moved:
                connection.drop()
        if self._group is not None:
            self._dial_peers()

    def send_nowait(self, node_id: str, message: wire.Message) -> bool:
        """Whether there was a connection to write to, and room in it."""
        connection = self._connections.get(node_id)
        if connection is None:
            return False
        if connection.backlog_bytes() > self.config.backlog_bytes_max + wire.FRAME_BYTES_MAX:
            self.counters["messages_dropped"] += 1
            return False
        connection.write(wire.encode(message))
        return True

    def backlog_bytes(self, node_id: str) -> int:
        connection = self._connections.get(node_id)
        return 0 if connection is None else connection.backlog_bytes()

    # What connections ask: see `connection.Owner`.

    def identified(self, connection: Connection) -> None:
        identity = connection.identity
        assert identity is not None
        if identity.cluster_id != self.config.cluster_id:
            raise CertificateRefusedError(f"a node of another cluster: {identity}")
        if identity.node_id == self.config.node_id:
            raise CertificateRefusedError(f"our own certificate in other hands: {identity}")
        if not self._welcomes(identity.node_id) or connection.expected not in {None, identity.node_id}:
            raise CertificateRefusedError(f"not whom we expect: {identity}")

    def _welcomes(self, node_id: str) -> bool:
        """A member, one that was removed and will be told so, or, so many at once, a node that we have not heard of.

        A node that was away while members were added knows its leader only by what the leader itself sends it (Raft
        dissertation, section 4.1: servers act on requests of servers that are not in their configuration). Of such a
        node's messages those count that would count from anybody: terms and logs protect them, and nobody counts its votes
        or its acknowledgements.
        """
        if node_id in self.peers or node_id in self.removed or node_id in self._connections:
            return True
        return len(self._connections.keys() - self.peers.keys()) < NEWCOMERS_MAX

    def greet(self, connection: Connection, *, target: str) -> None:
        name = lineage.named(self.config.cluster_id, number=0 if self.lineage is None else self.lineage.number)
        hello = wire.Hello(version=wire.PROTOCOL_VERSION, cluster_id=name, sender=self.config.node_id, target=target)
        connection.write(wire.encode(hello))

    def greeted(self, connection: Connection, hello: wire.Hello) -> None:
        """The connection is the peer's from here on; an older one of the same peer is dropped."""
        known = hello.sender != self.config.node_id and self._welcomes(hello.sender)
        cluster_id, number = lineage.split(hello.cluster_id)
        if hello.version != wire.PROTOCOL_VERSION or cluster_id != self.config.cluster_id or not known:
            raise wire.WireError(f"greeting of a stranger: {hello}")
        if hello.target != self.config.node_id or connection.expected not in {None, hello.sender}:
            raise wire.WireError(f"greeting for or from somebody else: {hello}")
        if connection.identity is not None and connection.identity.node_id != hello.sender:
            raise wire.WireError(f"greeting in the name of another than {connection.identity}: {hello}")
        if not self._of_our_history(number):
            self.counters["histories_refused"] += 1
            if connection.expected is None:
                self.greet(connection, target=hello.sender)
            connection.part()
            return
        if hello.sender in self.removed:
            self.counters["removed_peers_told"] += 1
            self.greet(connection, target=hello.sender)
            connection.write(wire.encode(wire.Dismissal()))
            connection.part()
            return
        older = self._connections.get(hello.sender)
        if older is not None:
            self.counters["connections_replaced"] += 1
            older.drop()
            self._forget(older)
        if connection.expected is None:
            self.strangers.remove(connection)
            self.greet(connection, target=hello.sender)
        connection.peer_id = hello.sender
        self._connections[hello.sender] = connection
        self._on_connected(hello.sender)

    def _of_our_history(self, number: int) -> bool:
        """A node without memory takes over a greater one, and lets go of whoever is of another."""
        own = self.lineage
        if own is None or own.number == number:
            return True
        if not own.adopts(number):
            return False
        for connection in [*self._connections.values()]:
            connection.drop()
        return True

    def received(self, connection: Connection, message: wire.Peer) -> None:
        if connection.peer_id is not None and not isinstance(message, wire.Ping):
            self._on_message(connection.peer_id, message)

    def refused(self, connection: Connection, kind: str, reason: str) -> None:
        self.counters[kind] += 1
        now = asyncio.get_running_loop().time()
        if now - self._logged_at > REFUSALS_LOGGED_EVERY_S:
            self._logged_at = now
            peer = connection.peer_id or connection.expected
            logger.warning("raft_connection_refused", extra={"kind": kind, "peer": peer, "reason": reason[:200]})

    def ended(self, connection: Connection) -> None:
        if connection in self.strangers:
            self.strangers.remove(connection)
        self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        peer_id = connection.peer_id
        if peer_id is not None and self._connections.get(peer_id) is connection:
            del self._connections[peer_id]
            if not self.closing:
                self._on_disconnected(peer_id)

    # Who comes.

    def _arrived(self, accepted: socket.socket, from_peer_host: bool) -> None:
        try:
            self._arrivals.put_nowait((accepted, from_peer_host))
        except asyncio.QueueFull:
            self.counters["connections_refused"] += 1
            shed(accepted)

    async def _welcome(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            accepted, from_peer_host = await self._arrivals.get()
            wing = [stranger for stranger in self.strangers if stranger.from_peer_host == from_peer_host]
            if len(wing) >= STRANGERS_MAX:
                self.counters["strangers_evicted"] += 1
                self.strangers.remove(wing[0])
                wing[0].drop()
            connection = self._connection(expected=None, from_peer_host=from_peer_host)
            self.strangers.append(connection)
            try:
                await loop.connect_accepted_socket(partial(_itself, connection), accepted)
            except OSError:
                self.strangers.remove(connection)
                accepted.close()

    def _connection(self, *, expected: str | None, from_peer_host: bool) -> Connection:
        return Connection(
            self,
            channel=None if self._tls is None else self._tls.channel(server_side=expected is None),
            timeout_s=self.config.connection_timeout_ms / 1_000,
            expected=expected,
            from_peer_host=from_peer_host,
        )

    # Whom we dial.

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._welcome(), name="raft-welcome")
            group.create_task(self._keep_house(), name="raft-housekeeping")
            self._group = group
            self._dial_peers()

    def _dial_peers(self) -> None:
        """Whoever we may have to dial is being dialled, at the right address, and nobody else."""
        own_id = self.config.node_id
        wanted = {(node_id, address) for node_id, address in self.peers.items() if node_id != own_id}
        for former in self._dialers.keys() - wanted:
            self._dialers.pop(former).cancel()
        for node_id, address in sorted(wanted - self._dialers.keys()):
            assert self._group is not None
            dialling = self._dial(node_id, address=address)
            self._dialers[node_id, address] = self._group.create_task(dialling, name=f"raft-dial-{node_id}")

    async def _dial(self, node_id: str, *, address: str) -> None:
        while True:
            while node_id > self.config.node_id and not await self._missed(node_id):
                pass
            connection = self._dialled[node_id] = self._connection(expected=node_id, from_peer_host=True)
            try:
                async with asyncio.timeout(self.config.connection_timeout_ms / 1_000):
                    await self._connect(connection, address=address)
                await connection.closed.wait()
            except (OSError, TimeoutError):
                pass
            if connection.peer_id is None:
                self.counters["dials_failed"] += 1
            await asyncio.sleep(self.config.connection_retry_ms / 1_000)

    async def _missed(self, node_id: str) -> bool:
        """After `LONELY_S`: the peer, which should have dialled us, is not connected, nor was then. It may not know us."""
        before = node_id in self._connections
        await asyncio.sleep(LONELY_S)
        return not before and node_id not in self._connections

    async def _connect(self, connection: Connection, *, address: str) -> None:
        """The connection is made, to the first address of the peer that answers. Raises `OSError`."""
        loop, spare = asyncio.get_running_loop(), self._spare
        assert spare is not None
        host, port = split_address(address)
        failure: OSError | None = None
        for family, kind, protocol, _, where in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            dialling = spare.spend(partial(socket.socket, family, kind, protocol))
            try:
                dialling.setblocking(False)
                await loop.sock_connect(dialling, where)
                await loop.create_connection(partial(_itself, connection), sock=dialling)
                return
            except OSError as error:
                dialling.close()
                failure = error
            except BaseException:
                dialling.close()
                raise
        raise failure or OSError(f"{host} has no address")

    async def _keep_house(self) -> None:
        rounds = 0
        while True:
            if rounds % ADDRESSES_EVERY == 0:
                await self._find_peers()
            rounds += 1
            await asyncio.sleep(HOUSEKEEPING_S)
            if self._spare is not None:
                self._spare.refill()
            self._renew()

    async def _find_peers(self) -> None:
        """The listener knows at which addresses peers live, as far as names can be resolved."""
        loop = asyncio.get_running_loop()
        hosts: set[str] = set()
        for address in self.peers.values():
            with contextlib.suppress(OSError):
                found = await loop.getaddrinfo(*split_address(address), type=socket.SOCK_STREAM)
                hosts.update(canonical(str(where[0])) for *_, where in found)
        if self._listener is not None and hosts:
            self._listener.peer_hosts = hosts

    def _renew(self) -> None:
        try:
            if self._tls is not None and self._tls.reload():
                logger.info("raft_certificate_renewed", extra={"identity": repr(self._tls.identity)})
        except ConfigError as error:
            self.counters["renewals_failed"] += 1
            logger.warning("raft_certificate_not_renewed", extra={"reason": str(error)})


def _report(tasks: asyncio.Task[None]) -> None:
    if not tasks.cancelled() and (error := tasks.exception()) is not None:
        logger.critical("raft_transport_failed", exc_info=error)


def _itself(connection: Connection) -> Connection:
    return connection
