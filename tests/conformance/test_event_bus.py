"""What the service may rely on of its bus and of the event stream, asked of the fake and of a real nats-server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from consistency_service.adapters.nats_bus import NatsEventBus
from consistency_service.errors import BusUnavailableError, StreamFencedError
from consistency_service.runtime.ports import Delivery, StreamTail
from edge_client.adapters.nats_bus import NatsBus
from edge_client.protocol.subjects import Subjects
from tests.fakes.bus import FakeBus, FakeEventBus, Hub
from tests.support.servers import NatsServer, start_nats

SUBJECTS = Subjects("eu-west")


async def eventually(condition: Callable[[], bool], *, timeout_s: float = 10) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


TRACE = "00-" + "a" * 32 + "-" + "1" * 16 + "-01"


class FakeRegion:
    def __init__(self, *, jetstream: bool) -> None:
        self.hub = Hub(jetstream=jetstream)
        self.buses: list[FakeBus | FakeEventBus] = []

    async def edge_bus(self) -> FakeBus:
        bus = self.hub.edge_bus()
        self.buses.append(bus)
        await bus.connect()
        return bus

    async def bus(self) -> FakeEventBus:
        bus = self.hub.event_bus(SUBJECTS)
        self.buses.append(bus)
        await bus.connect()
        return bus

    def kill(self) -> None:
        self.hub.take_down()

    def start(self) -> None:
        self.hub.bring_up()

    def wipe(self) -> None:
        self.hub.wipe_streams()


class NatsRegion:
    def __init__(self, server: NatsServer) -> None:
        self.server = server
        self.buses: list[NatsBus | NatsEventBus] = []

    async def edge_bus(self) -> NatsBus:
        bus = NatsBus(self.server.url, name="edge")
        self.buses.append(bus)
        await bus.connect()
        await eventually(lambda: bus.connected or not self.server.running)
        return bus

    async def bus(self) -> NatsEventBus:
        bus = NatsEventBus([self.server.url], name="node", subjects=SUBJECTS)
        self.buses.append(bus)
        await bus.connect()
        await eventually(lambda: bus.connected or not self.server.running)
        return bus

    def kill(self) -> None:
        self.server.kill()

    def start(self) -> None:
        self.server.start()

    def wipe(self) -> None:
        self.server.wipe_storage()


@asynccontextmanager
async def running(kind: str, directory: Path, *, jetstream: bool) -> AsyncIterator[FakeRegion | NatsRegion]:
    with ExitStack() as stack:
        if kind == "fake":
            region: FakeRegion | NatsRegion = FakeRegion(jetstream=jetstream)
        else:
            region = NatsRegion(stack.enter_context(start_nats(directory, jetstream=jetstream)))
        yield region
        for bus in region.buses:
            await bus.close()


@pytest.fixture(params=["fake", "nats"])
async def region(request, tmp_path) -> AsyncIterator[FakeRegion | NatsRegion]:
    async with running(request.param, tmp_path, jetstream=True) as region:
        yield region


@pytest.fixture(params=["fake", "nats"])
async def region_without_jetstream(request, tmp_path) -> AsyncIterator[FakeRegion | NatsRegion]:
    async with running(request.param, tmp_path, jetstream=False) as region:
        yield region


class Inbox:
    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []

    def __call__(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)

    @property
    def payloads(self) -> list[bytes]:
        return [delivery.payload for delivery in self.deliveries]


async def append_three(bus: FakeEventBus | NatsEventBus) -> None:
    sequence = (await bus.stream_tail()).sequence
    for revision in (1, 2, 3):
        sequence = await bus.append(payload=b"event", message_id=f"7-{revision}", expected_sequence=sequence)


async def test_a_request_reaches_one_of_a_queue_group_and_everybody_outside_it(region):
    edge, nodes = await region.edge_bus(), [await region.bus() for _ in range(3)]
    members, everybody = [Inbox() for _ in nodes], [Inbox() for _ in nodes]
    for node, member, each in zip(nodes, members, everybody, strict=True):
        await node.subscribe(SUBJECTS.snapshot, handler=member, pending_max=100, queue="snapshot")
        await node.subscribe(SUBJECTS.clock, handler=each, pending_max=100)
    for number in range(30):
        await edge.publish(SUBJECTS.snapshot, payload=b"%d" % number)
        await edge.publish(SUBJECTS.clock, payload=b"%d" % number)
    await eventually(lambda: all(len(each.deliveries) == 30 for each in everybody))
    await eventually(lambda: sum(len(member.deliveries) for member in members) == 30)

    assert len({payload for member in members for payload in member.payloads}) == 30


async def test_a_reply_finds_its_way_back(region):
    edge, node = await region.edge_bus(), await region.bus()
    requests = Inbox()
    replies: list = []
    inbox = edge.new_inbox()
    await edge.subscribe(inbox, handler=replies.append, pending_max=10)
    await node.subscribe(SUBJECTS.clock, handler=requests, pending_max=10)
    await edge.publish(SUBJECTS.clock, payload=b"?", reply_to=inbox)
    await edge.publish(SUBJECTS.clock, payload=b"no reply wanted")
    await eventually(lambda: len(requests.deliveries) == 2)

    expected = Delivery(subject=SUBJECTS.clock, payload=b"?", reply_to=inbox)

    assert expected == requests.deliveries[0]
    assert requests.deliveries[1].reply_to is None

    await node.publish(inbox, payload=b"!")
    await eventually(lambda: bool(replies))

    assert b"!" == replies[0].payload


@pytest.mark.parametrize("reply_to", [SUBJECTS.event, SUBJECTS.beacon, "$JS.API.STREAM.DELETE.X"])
async def test_nobody_makes_a_node_publish_to_the_regions_own_subjects(region, reply_to):
    edge, node = await region.edge_bus(), await region.bus()
    requests = Inbox()
    await node.subscribe(SUBJECTS.clock, handler=requests, pending_max=10)
    await edge.publish(SUBJECTS.clock, payload=b"?", reply_to=reply_to)
    await eventually(lambda: bool(requests.deliveries))

    assert requests.deliveries[0].reply_to is None
    assert 1 == node.counters["reply_refused"]


async def test_a_subject_is_heard_no_more(region):
    edge, node = await region.edge_bus(), await region.bus()
    gone, kept = Inbox(), Inbox()
    await node.subscribe(SUBJECTS.clock, handler=gone, pending_max=10)
    await node.subscribe(SUBJECTS.snapshot, handler=kept, pending_max=10)
    await node.unsubscribe(SUBJECTS.clock)
    await node.unsubscribe("never.heard.of")
    for subject in (SUBJECTS.clock, SUBJECTS.snapshot):
        await edge.publish(subject, payload=b"?")
    await eventually(lambda: bool(kept.deliveries))

    assert [] == gone.deliveries


async def test_the_stream_is_made_when_first_asked_for_and_empty(region):
    bus, other = await region.bus(), await region.bus()

    tails = await asyncio.gather(bus.stream_tail(), other.stream_tail())

    assert {StreamTail(sequence=0, message_id=None)} == set(tails)


async def test_the_tail_is_the_last_event_appended(region):
    bus = await region.bus()
    await append_three(bus)

    assert StreamTail(sequence=3, message_id="7-3") == await (await region.bus()).stream_tail()


async def test_readers_hear_what_is_appended(region):
    edge, node = await region.edge_bus(), await region.bus()
    heard: list = []
    await edge.subscribe(SUBJECTS.event, handler=heard.append, pending_max=10)
    await append_three(node)
    await eventually(lambda: len(heard) == 3)

    assert {SUBJECTS.event} == {delivery.subject for delivery in heard}


@pytest.mark.parametrize("expected_sequence", [0, 2, 4, 1_000_000])
async def test_an_append_behind_anything_but_the_last_event_is_fenced(region, expected_sequence):
    bus = await region.bus()
    await append_three(bus)
    with pytest.raises(StreamFencedError):
        await bus.append(payload=b"late", message_id="7-4", expected_sequence=expected_sequence)

    assert StreamTail(sequence=3, message_id="7-3") == await bus.stream_tail()
    assert 4 == await bus.append(payload=b"event", message_id="7-4", expected_sequence=3)


async def test_of_two_relays_one_is_fenced(region):
    bus, other = await region.bus(), await region.bus()
    await append_three(bus)
    outcomes = await asyncio.gather(
        bus.append(payload=b"mine", message_id="7-4", expected_sequence=3),
        other.append(payload=b"mine", message_id="8-1", expected_sequence=3),
        return_exceptions=True,
    )

    assert {int, StreamFencedError} == {type(outcome) for outcome in outcomes}
    assert 4 == (await bus.stream_tail()).sequence


@pytest.mark.parametrize("revision", [1, 2, 3])
async def test_an_event_appended_again_keeps_its_place(region, revision):
    bus = await region.bus()
    await append_three(bus)

    assert revision == await bus.append(payload=b"event", message_id=f"7-{revision}", expected_sequence=3)
    assert StreamTail(sequence=3, message_id="7-3") == await bus.stream_tail()


async def test_an_event_whose_acknowledgement_was_lost_is_found_at_the_tail(region):
    bus = await region.bus()
    await append_three(bus)
    with pytest.raises(StreamFencedError):
        await bus.append(payload=b"event", message_id="7-3", expected_sequence=2)

    assert StreamTail(sequence=3, message_id="7-3") == await bus.stream_tail()


async def test_the_stream_survives_a_kill(region):
    bus = await region.bus()
    await append_three(bus)
    region.kill()
    await eventually(lambda: not bus.connected)
    region.start()
    await eventually(lambda: bus.connected)

    assert StreamTail(sequence=3, message_id="7-3") == await bus.stream_tail()


async def test_the_stream_is_made_anew_when_all_was_lost(region):
    bus = await region.bus()
    await append_three(bus)
    region.kill()
    await eventually(lambda: not bus.connected)
    region.wipe()
    region.start()
    await eventually(lambda: bus.connected)
    with pytest.raises((BusUnavailableError, StreamFencedError)):
        await bus.append(payload=b"event", message_id="7-4", expected_sequence=3)

    assert StreamTail(sequence=0, message_id=None) == await bus.stream_tail()

    with pytest.raises(StreamFencedError):
        await bus.append(payload=b"event", message_id="7-4", expected_sequence=3)

    assert 1 == await bus.append(payload=b"event", message_id="7-3", expected_sequence=0)


async def test_a_bus_that_is_away_says_so_in_time(region):
    bus = await region.bus()
    await bus.stream_tail()
    region.kill()
    started = time.monotonic()
    for call in (
        bus.stream_tail,
        lambda: bus.append(payload=b"event", message_id="7-1", expected_sequence=0),
    ):
        with pytest.raises(BusUnavailableError):
            await call()
    await eventually(lambda: not bus.connected)
    with pytest.raises(BusUnavailableError):
        await bus.publish(SUBJECTS.beacon, payload=b"beacon")

    assert time.monotonic() - started < 1, "nobody waits for an answer that a lost connection cannot bring"


async def test_a_server_without_jetstream_is_a_bus_without_a_stream(region_without_jetstream):
    bus = await region_without_jetstream.bus()
    inbox = Inbox()
    await bus.subscribe(SUBJECTS.beacon, handler=inbox, pending_max=10)
    with pytest.raises(BusUnavailableError):
        await bus.stream_tail()
    with pytest.raises(BusUnavailableError):
        await bus.append(payload=b"event", message_id="7-1", expected_sequence=0)
    await bus.publish(SUBJECTS.beacon, payload=b"beacon")
    await eventually(lambda: bool(inbox.deliveries))


async def test_an_event_beyond_what_the_bus_takes_is_a_clear_error(region):
    bus = await region.bus()
    await bus.stream_tail()
    with pytest.raises(BusUnavailableError, match="limit of 1048576"):
        await bus.append(payload=bytes(1024 * 1024 + 1), message_id="7-1", expected_sequence=0)

    assert 1 == await bus.append(payload=bytes(512 * 1024), message_id="7-1", expected_sequence=0)


async def test_a_silent_server_is_given_two_seconds(tmp_path):
    async with running("nats", tmp_path, jetstream=True) as region:
        assert isinstance(region, NatsRegion)
        bus = await region.bus()
        await bus.stream_tail()
        region.server.pause()
        for call in (
            bus.stream_tail,
            lambda: bus.append(payload=b"event", message_id="7-1", expected_sequence=0),
        ):
            started = time.monotonic()
            with pytest.raises(BusUnavailableError):
                await call()

            assert time.monotonic() - started < 2.5


async def test_headers_that_would_make_the_server_hang_up_are_counted_in(tmp_path):
    """nats-py looks at the payload alone; the server at headers and payload, and closes the connection."""
    async with running("nats", tmp_path, jetstream=True) as region:
        bus = await region.bus()
        await bus.stream_tail()
        with pytest.raises(BusUnavailableError, match="limit of 1048576"):
            await bus.append(payload=bytes(1024 * 1024 - 50), message_id="7-1", expected_sequence=0)

        assert bus.connected
        assert StreamTail(sequence=0, message_id=None) == await bus.stream_tail()


async def test_the_oldest_events_give_way(tmp_path):
    async with running("nats", tmp_path, jetstream=True) as region:
        assert isinstance(region, NatsRegion)
        bus = NatsEventBus(region.server.url, name="node", subjects=SUBJECTS, max_msgs=2)
        region.buses.append(bus)
        await bus.connect()
        await append_three(bus)
        client = bus._connection.client()
        state = (await client.jetstream().stream_info(SUBJECTS.stream)).state

    assert (2, 3) == (state.messages, state.last_seq)


async def test_the_trace_of_an_event_reaches_edges_in_its_head(region):
    edge, node = await region.edge_bus(), await region.bus()
    heard: list = []
    await edge.subscribe(SUBJECTS.event, handler=heard.append, pending_max=10)
    tail = await node.stream_tail()
    sequence = await node.append(payload=b"1", message_id="1-1", expected_sequence=tail.sequence, trace=TRACE)
    await node.append(payload=b"2", message_id="1-2", expected_sequence=sequence)
    await eventually(lambda: len(heard) == 2)

    assert [(b"1", TRACE), (b"2", "")] == [(delivery.payload, delivery.trace) for delivery in heard]
