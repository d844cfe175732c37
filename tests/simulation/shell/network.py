"""The network between nodes, in memory: what `PeerTransport` is to the real log, with the bytes it would send.

Picture a patch panel. A connection carries messages each way in order; while a direction is cut they pile up, as TCP's
would, and go on if it is mended in time. Who hears nothing for `connection_timeout_ms` hangs up; the other end notices.
What was under way on a connection that ended is lost. Of two nodes the one whose id sorts higher dials.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from random import Random
from typing import TYPE_CHECKING

from consistency_service.adapters.raft_log import RaftLogConfig, wire
from tests.simulation.clock import MS
from tests.simulation.shell.loop import PROCESS, Process, VirtualLoop

if TYPE_CHECKING:
    from consistency_service.adapters.raft_log.wire import Message, Peer

HOUSEKEEPING_NS = 500 * MS


class Connection:
    """Between two lives. Each end is open from its greeting until it notices the end."""

    def __init__(self, dialler: SimTransport, acceptor: SimTransport) -> None:
        self.ends = {dialler.name: dialler, acceptor.name: acceptor}
        self.broken = False
        self.due_ns: Counter[str] = Counter()
        """When the newest message to this end arrives: none overtakes another."""
        self.stalled: dict[str, list[bytes]] = {name: [] for name in self.ends}
        self.heard_ns = dict.fromkeys(self.ends, dialler.process.loop.now_ns)

    def other(self, name: str) -> SimTransport:
        return next(end for end in self.ends.values() if end.name != name)


class Network:
    """Who can reach whom, and how fast."""

    def __init__(self, *, loop: VirtualLoop, rng: Random) -> None:
        self.loop = loop
        self.rng = rng
        self.delay_ns = 1 * MS
        self.late_chance = 0.0
        self.late_ns = 0
        self.cut: set[tuple[str, str]] = set()
        """Directions in which nothing gets through."""
        self.listening: dict[str, SimTransport] = {}
        self.connections: list[Connection] = []
        self.sent: Callable[[str, str, Message], None] = lambda *_: None
        loop.at_ns(loop.now_ns + HOUSEKEEPING_NS, self._keep_house)

    def travel_ns(self) -> int:
        late_ns = self.rng.randrange(self.late_ns) if self.rng.random() < self.late_chance else 0
        return late_ns + self.rng.randrange(self.delay_ns // 20, self.delay_ns)

    def set_cut(self, cut: set[tuple[str, str]]) -> None:
        """Only these directions are cut; what piled up in the others goes on."""
        mended, self.cut = self.cut - cut, cut
        for source, target in sorted(mended):
            for connection in [c for c in self.connections if {source, target} == set(c.ends)]:
                piled, connection.stalled[target] = connection.stalled[target], []
                for data in piled:
                    self._carry(connection, target=target, data=data)

    def dial(self, dialler: SimTransport, name: str) -> bool:
        acceptor = self.listening.get(name)
        both = {(dialler.name, name), (name, dialler.name)}
        if acceptor is None or not acceptor.process.alive or both & self.cut or dialler.name not in acceptor.peers:
            return False
        connection = Connection(dialler, acceptor)
        self.connections.append(connection)
        dialler.dialled[name] = connection
        accepted_ns = self.loop.now_ns + self.travel_ns()
        greeted_ns = connection.due_ns[dialler.name] = accepted_ns + self.travel_ns()
        self.loop.at_ns(accepted_ns, acceptor.greeted, dialler.name, connection, context=acceptor.process.context)
        self.loop.at_ns(greeted_ns, dialler.greeted, name, connection, context=dialler.process.context)
        return True

    def send(self, connection: Connection, *, source: str, message: Message) -> None:
        target = connection.other(source).name
        self.sent(source, target, message)
        data = wire.encode(message)
        if (source, target) in self.cut:
            connection.stalled[target].append(data)
        else:
            self._carry(connection, target=target, data=data)

    def hang_up(self, connection: Connection, *, silently: bool = False) -> None:
        """What is under way is lost; each end notices, after a while, unless nobody tells it."""
        connection.broken = True
        if connection in self.connections:
            self.connections.remove(connection)
        for end in connection.ends.values():
            peer = connection.other(end.name).name
            notices_ns = self.loop.now_ns + self.travel_ns() + (3_000 * MS if silently else 0)
            self.loop.at_ns(notices_ns, end.ended, peer, connection, context=end.process.context)

    def gone(self, transport: SimTransport, *, silently: bool) -> None:
        """This life is over. A kernel says so to the others; without power nobody does."""
        if self.listening.get(transport.name) is transport:
            del self.listening[transport.name]
        for connection in [c for c in self.connections if transport in c.ends.values()]:
            self.hang_up(connection, silently=silently)

    def _carry(self, connection: Connection, *, target: str, data: bytes) -> None:
        end = connection.ends[target]
        due_ns = max(connection.due_ns[target], self.loop.now_ns + self.travel_ns())
        connection.due_ns[target] = due_ns
        source = connection.other(target).name
        self.loop.at_ns(due_ns, end.received, source, connection, data, context=end.process.context)

    def _keep_house(self) -> None:
        now_ns = self.loop.now_ns
        for connection in list(self.connections):
            for name, end in connection.ends.items():
                other = connection.other(name)
                if (other.name, name) not in self.cut and other.process.alive and not other.process.paused:
                    connection.heard_ns[name] = now_ns
                elif now_ns - connection.heard_ns[name] > end.config.connection_timeout_ms * MS:
                    self.hang_up(connection)
                    break
        self.loop.at_ns(now_ns + HOUSEKEEPING_NS, self._keep_house)


def transport_type(network: Network) -> type[SimTransport]:
    """What a log takes for `PeerTransport`, plugged into this network."""
    return type("Plugged", (SimTransport,), {"network": network})


class SimTransport:
    """The methods of `PeerTransport` that the log calls."""

    network: Network

    def __init__(
        self,
        config: RaftLogConfig,
        *,
        on_connected: Callable[[str], None],
        on_disconnected: Callable[[str], None],
        on_message: Callable[[str, Peer], None],
    ) -> None:
        self.config = config
        self.name = config.node_id
        self.process: Process = PROCESS.get()
        self.peers = dict(config.peers)
        self.counters: Counter[str] = Counter()
        self.dialled: dict[str, Connection] = {}
        self.closing = False
        self._connections: dict[str, Connection] = {}
        self._on_connected = on_connected
        self._on_disconnected = on_disconnected
        self._on_message = on_message

    async def start(self) -> None:
        self.network.listening[self.name] = self
        self._dial()

    async def close(self) -> None:
        self.closing = True
        self.network.gone(self, silently=False)

    def set_peers(self, peers: Mapping[str, str], *, removed: Collection[str] = ()) -> None:
        gone = self.peers.keys() - peers.keys()
        self.peers = dict(peers)
        for connection in [c for name, c in sorted(self._connections.items()) if name in gone]:
            self.network.hang_up(connection)

    def send_nowait(self, node_id: str, message: Message) -> bool:
        connection = self._connections.get(node_id)
        if connection is None or not self.process.alive:
            return False
        if self.backlog_bytes(node_id) > self.config.backlog_bytes_max + wire.FRAME_BYTES_MAX:
            self.counters["messages_dropped"] += 1
            return False
        if not connection.broken:
            self.network.send(connection, source=self.name, message=message)
        return True

    def backlog_bytes(self, node_id: str) -> int:
        connection = self._connections.get(node_id)
        return 0 if connection is None else sum(len(data) for data in connection.stalled[node_id])

    # What the network says.

    def greeted(self, name: str, connection: Connection) -> None:
        if self.closing or connection.broken or name not in self.peers:
            return
        if self._connections.get(name) is not None:
            self.counters["connections_replaced"] += 1
            self._forget(name)
        self._connections[name] = connection
        self._on_connected(name)

    def received(self, name: str, connection: Connection, data: bytes) -> None:
        if not connection.broken and not self.closing and self._connections.get(name) is connection:
            self._on_message(name, wire.decode_peer(data[wire.LENGTH.size :]))

    def ended(self, name: str, connection: Connection) -> None:
        if self._connections.get(name) is connection:
            self._forget(name)
        if self.dialled.get(name) is connection:
            del self.dialled[name]

    def _forget(self, name: str) -> None:
        del self._connections[name]
        if not self.closing:
            self._on_disconnected(name)

    def _dial(self) -> None:
        if self.closing:
            return
        for name in sorted(self.peers):
            if name < self.name and name not in self.dialled and not self.network.dial(self, name):
                self.counters["dials_failed"] += 1
        loop = self.network.loop
        loop.at_ns(loop.now_ns + self.config.connection_retry_ms * MS, self._dial, context=self.process.context)
