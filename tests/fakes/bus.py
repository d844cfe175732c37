"""A bus in memory, for both sides: one `Hub` is the server, and whoever takes a bus from it is connected to it.

It has no clock and no chance of its own: a test says what is lost, held back or forgotten. Deliveries happen in later
turns of the event loop, in order, and beyond `pending_max` the oldest go, as with the real one.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import edge_client.errors
import edge_client.runtime.ports as edge_ports
from consistency_service.errors import BusUnavailableError, StreamFencedError
from consistency_service.runtime.ports import Delivery, StreamTail
from edge_client.protocol.subjects import Subjects

TURN_MESSAGES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    subject: str
    payload: bytes
    reply_to: str | None
    trace: str = ""


@dataclass(slots=True)
class Stream:
    """What the event stream holds; sequences count from 1 and are never used twice in one life of the stream."""

    messages: list[tuple[int, str]] = field(default_factory=list)
    last_sequence: int = 0
    sequence_of: dict[str, int] = field(default_factory=dict)


class Hub:
    """A server and its faults. `down` refuses everybody; `cut` one bus; `drop` says which messages are lost."""

    def __init__(self, *, max_payload: int = 1024 * 1024, jetstream: bool = True) -> None:
        self.max_payload = max_payload
        self.jetstream = jetstream
        self.drop: Callable[[Message], bool] = lambda _: False
        self.carry: Callable[[Inflow, Message], None] = Inflow.offer
        """Brings a message to one subscription: at once, unless a test has other ideas."""
        self.published: list[Message] = []
        self.streams: dict[str, Stream] = {}
        self._up = True
        self._buses: list[Connection] = []
        self._held: list[Message] | None = None
        self._turn_of_group: Counter[tuple[str, str]] = Counter()
        self._inboxes_count = 0

    def edge_bus(self) -> FakeBus:
        return FakeBus(self)

    def event_bus(self, subjects: Subjects) -> FakeEventBus:
        return FakeEventBus(self, subjects=subjects)

    @property
    def up(self) -> bool:
        return self._up

    def take_down(self) -> None:
        """Killed: everybody is disconnected, what was held back is lost; the streams stay."""
        self._up = False
        self._held = None

    def bring_up(self) -> None:
        """Back, with everybody's subscriptions."""
        self._up = True

    def wipe_streams(self) -> None:
        """Everything that was stored is gone."""
        self.streams.clear()

    def hold(self) -> None:
        """Nothing published from now on arrives before `release`."""
        self._held = [] if self._held is None else self._held

    def release(self, *, newest_first: bool = False) -> None:
        """What was held back arrives, in order or the other way round."""
        held, self._held = self._held or [], None
        for message in reversed(held) if newest_first else held:
            self._deliver(message)

    def publish(self, message: Message) -> None:
        self.published.append(message)
        if self.drop(message):
            return
        if self._held is not None:
            self._held.append(message)
            return
        self._deliver(message)

    def _deliver(self, message: Message) -> None:
        groups: dict[tuple[str, str], list[Inflow]] = {}
        for bus in self._buses:
            if not bus.connected:
                continue
            for inflow in bus.inflows:
                if not matches(message.subject, pattern=inflow.subject):
                    continue
                if inflow.queue:
                    groups.setdefault((inflow.subject, inflow.queue), []).append(inflow)
                else:
                    self.carry(inflow, message)
        for group, members in groups.items():
            self.carry(members[self._turn_of_group[group] % len(members)], message)
            self._turn_of_group[group] += 1

    def _new_inbox(self) -> str:
        self._inboxes_count += 1
        return f"_INBOX.{self._inboxes_count}"


class Inflow:
    """One subscription."""

    def __init__(
        self,
        bus: Connection,
        subject: str,
        *,
        queue: str,
        handler: Callable[[Message], None],
        pending_max: int,
    ) -> None:
        self.bus = bus
        self.subject = subject
        self.queue = queue
        self._handler: Callable[[Message], None] | None = handler
        self._pending: deque[Message] = deque()
        self._pending_max = pending_max
        self._counters = bus._counters

    def offer(self, message: Message) -> None:
        if not self._pending:
            asyncio.get_running_loop().call_soon(self._turn)
        self._pending.append(message)
        if len(self._pending) > self._pending_max:
            self._pending.popleft()
            self._counters["pending_dropped"] += 1

    def close(self) -> None:
        self._handler = None

    def _turn(self) -> None:
        for _ in range(min(TURN_MESSAGES, len(self._pending))):
            message = self._pending.popleft()
            try:
                if self._handler is not None:
                    self._handler(message)
            except Exception:
                self._counters["handler_failed"] += 1
        if self._pending:
            asyncio.get_running_loop().call_soon(self._turn)


class Connection:
    """What both buses have in common."""

    unavailable: type[Exception]

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.inflows: list[Inflow] = []
        self._counters: Counter[str] = Counter()
        self._open = False
        self._cut = False
        hub._buses.append(self)

    async def connect(self) -> None:
        self._open = True

    async def close(self) -> None:
        self._open = False
        for inflow in self.inflows:
            inflow.close()
        self.inflows.clear()

    def cut(self) -> None:
        """This bus alone loses its connection, until `mend`."""
        self._cut = True

    def mend(self) -> None:
        self._cut = False

    @property
    def connected(self) -> bool:
        return self._open and not self._cut and self.hub.up

    @property
    def fault(self) -> str:
        return "" if self.connected else "away"

    @property
    def counters(self) -> Mapping[str, int]:
        return self._counters

    def _subscribe(
        self, subject: str, *, handler: Callable[[Message], None], pending_max: int, queue: str = ""
    ) -> None:
        self.inflows.append(Inflow(self, subject, queue=queue, handler=handler, pending_max=pending_max))

    def _publish(self, subject: str, *, payload: bytes, reply_to: str | None = None, trace: str = "") -> None:
        if not self.connected:
            raise self.unavailable("not connected")
        if len(payload) > self.hub.max_payload:
            self._counters["oversized"] += 1
            raise self.unavailable(f"{len(payload)} bytes exceed the bus's limit of {self.hub.max_payload}")
        self.hub.publish(Message(subject=subject, payload=payload, reply_to=reply_to, trace=trace))


class FakeBus(Connection):
    """The edge's `Bus`."""

    unavailable = edge_client.errors.BusUnavailableError

    async def subscribe(
        self, subject: str, *, handler: Callable[[edge_ports.Delivery], None], pending_max: int
    ) -> None:
        def deliver(message: Message) -> None:
            handler(edge_ports.Delivery(subject=message.subject, payload=message.payload, trace=message.trace))

        self._subscribe(subject, handler=deliver, pending_max=pending_max)

    async def publish(self, subject: str, *, payload: bytes, reply_to: str | None = None) -> None:
        self._publish(subject, payload=payload, reply_to=reply_to)

    def new_inbox(self) -> str:
        return self.hub._new_inbox()


class FakeEventBus(Connection):
    """The service's `EventBus`."""

    unavailable = BusUnavailableError

    def __init__(self, hub: Hub, *, subjects: Subjects) -> None:
        super().__init__(hub)
        self._subjects = subjects

    async def subscribe(
        self, subject: str, *, handler: Callable[[Delivery], None], pending_max: int, queue: str = ""
    ) -> None:
        def deliver(message: Message) -> None:
            reply_to = message.reply_to
            if reply_to is not None and not reply_to.startswith("_INBOX."):
                self._counters["reply_refused"] += 1
                reply_to = None
            handler(Delivery(subject=message.subject, payload=message.payload, reply_to=reply_to))

        self._subscribe(subject, handler=deliver, pending_max=pending_max, queue=queue)

    async def unsubscribe(self, subject: str) -> None:
        for inflow in [inflow for inflow in self.inflows if inflow.subject == subject]:
            inflow.close()
            self.inflows.remove(inflow)

    async def publish(self, subject: str, *, payload: bytes, reply_to: str | None = None) -> None:
        self._publish(subject, payload=payload, reply_to=reply_to)

    async def stream_tail(self) -> StreamTail:
        self._check_jetstream()
        stream = self.hub.streams.setdefault(self._subjects.stream, Stream())
        return StreamTail(sequence=stream.last_sequence, message_id=stream.messages[-1][1] if stream.messages else None)

    async def append(self, *, payload: bytes, message_id: str, expected_sequence: int, trace: str = "") -> int:
        self._check_jetstream()
        self._publish(
            self._subjects.event, payload=payload, trace=trace
        )  # core subscribers hear it, whatever the stream says
        stream = self.hub.streams.get(self._subjects.stream)
        if stream is None:
            raise BusUnavailableError("nobody stores this subject")
        if expected_sequence != stream.last_sequence:
            self._counters["fenced"] += 1
            raise StreamFencedError(f"the stream ends at {stream.last_sequence}, not at {expected_sequence}")
        if message_id in stream.sequence_of:
            return stream.sequence_of[message_id]
        stream.last_sequence += 1
        stream.messages.append((stream.last_sequence, message_id))
        stream.sequence_of[message_id] = stream.last_sequence
        return stream.last_sequence

    def _check_jetstream(self) -> None:
        if not self.connected or not self.hub.jetstream:
            raise BusUnavailableError("not connected" if not self.connected else "no JetStream here")


def matches(subject: str, *, pattern: str) -> bool:
    """NATS's rule: `*` is one word, `>` the rest, of at least one word."""
    words, wanted = subject.split("."), pattern.split(".")
    for index, want in enumerate(wanted):
        if want == ">":
            return len(words) > index
        if index >= len(words) or want not in ("*", words[index]):
            return False
    return len(words) == len(wanted)
