"""What the edge may rely on of a bus, asked of the fake and of a real nats-server; then what only the real one can do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path

import nats.errors
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_client.adapters.nats_access import NatsAccess
from edge_client.adapters.nats_bus import NatsBus
from edge_client.adapters.nats_connection import NatsConnection
from edge_client.adapters.nats_wire import WireParser
from edge_client.errors import BusUnavailableError, ConfigError
from edge_client.runtime.ports import Delivery
from tests.fakes.bus import FakeBus, Hub
from tests.support.servers import NatsServer, start_nats

ROOT = Path(__file__).resolve().parents[2]


async def eventually(condition: Callable[[], bool], *, timeout_s: float = 10) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


class FakeRegion:
    def __init__(self) -> None:
        self.hub = Hub()
        self.buses: list[FakeBus] = []

    async def bus(self) -> FakeBus:
        bus = self.hub.edge_bus()
        self.buses.append(bus)
        await bus.connect()
        return bus

    def kill(self) -> None:
        self.hub.take_down()

    def start(self) -> None:
        self.hub.bring_up()


class NatsRegion:
    def __init__(self, server: NatsServer) -> None:
        self.server = server
        self.buses: list[NatsBus] = []

    async def bus(self) -> NatsBus:
        bus = NatsBus(self.server.url, name="conformance")
        self.buses.append(bus)
        await bus.connect()
        await eventually(lambda: bus.connected or not self.server.running)
        return bus

    def kill(self) -> None:
        self.server.kill()

    def start(self) -> None:
        self.server.start()


@asynccontextmanager
async def running(kind: str, directory: Path) -> AsyncIterator[FakeRegion | NatsRegion]:
    with ExitStack() as stack:
        region = (
            FakeRegion() if kind == "fake" else NatsRegion(stack.enter_context(start_nats(directory, jetstream=False)))
        )
        yield region
        for bus in region.buses:
            await bus.close()


@pytest.fixture
async def nats_region(tmp_path) -> AsyncIterator[NatsRegion]:
    async with running("nats", tmp_path) as region:
        assert isinstance(region, NatsRegion)
        yield region


@pytest.fixture(params=["fake", "nats"])
async def region(request, tmp_path) -> AsyncIterator[FakeRegion | NatsRegion]:
    async with running(request.param, tmp_path) as region:
        yield region


class Inbox:
    """A handler that remembers what it was given."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []

    def __call__(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)

    @property
    def payloads(self) -> list[bytes]:
        return [delivery.payload for delivery in self.deliveries]


async def test_messages_arrive_once_in_order_with_their_subject(region):
    source, target = await region.bus(), await region.bus()
    inbox, other = Inbox(), Inbox()
    await target.subscribe("news.a", handler=inbox, pending_max=10_000)
    await target.subscribe("news.b", handler=other, pending_max=10_000)
    sent = [str(number).encode() for number in range(3_000)]
    for payload in sent:
        await source.publish("news.a", payload=payload)
    await eventually(lambda: len(inbox.deliveries) >= len(sent))

    assert inbox.payloads == sent
    assert {delivery.subject for delivery in inbox.deliveries} == {"news.a"}
    assert other.deliveries == []


async def test_a_bus_hears_itself_and_wildcards_match(region):
    bus = await region.bus()
    inbox = Inbox()
    await bus.subscribe("news.*", handler=inbox, pending_max=10)
    await bus.publish("news.a", payload=b"1")
    await bus.publish("news.a.b", payload=b"2")
    await bus.publish("news.c", payload=b"")
    await eventually(lambda: len(inbox.deliveries) == 2)

    assert [Delivery(subject="news.a", payload=b"1"), Delivery(subject="news.c", payload=b"")] == inbox.deliveries


async def test_replies_come_to_an_inbox_of_our_own(region):
    source, target = await region.bus(), await region.bus()
    subject, inbox = source.new_inbox(), Inbox()
    await source.subscribe(subject, handler=inbox, pending_max=10)
    await target.publish(subject, payload=b"reply")
    await eventually(lambda: bool(inbox.deliveries))

    assert subject.startswith("_INBOX.")
    assert len({subject, source.new_inbox(), target.new_inbox()}) == 3


async def test_a_bus_that_is_away_is_no_error_and_found_when_it_comes(region):
    region.kill()
    started = time.monotonic()
    bus = await region.bus()
    inbox = Inbox()
    await bus.subscribe("news", handler=inbox, pending_max=10)

    assert time.monotonic() - started < 1
    assert not bus.connected
    with pytest.raises(BusUnavailableError):
        await bus.publish("news", payload=b"lost")

    region.start()
    await eventually(lambda: bus.connected)
    await bus.publish("news", payload=b"found")
    await eventually(lambda: bool(inbox.deliveries))

    assert [b"found"] == inbox.payloads


async def test_it_comes_back_with_its_subscriptions_as_often_as_it_takes(region):
    source, target = await region.bus(), await region.bus()
    inbox = Inbox()
    await target.subscribe("news", handler=inbox, pending_max=10)
    for life in range(3):
        region.kill()
        await eventually(lambda: not source.connected and not target.connected)
        with pytest.raises(BusUnavailableError):
            await source.publish("news", payload=b"into the void")
        region.start()
        await eventually(lambda: source.connected and target.connected)
        await source.publish("news", payload=b"%d" % life)
        await eventually(lambda count=life + 1: len(inbox.deliveries) == count)  # type: ignore[misc]

    assert [b"0", b"1", b"2"] == inbox.payloads


async def test_beyond_pending_max_the_oldest_go_and_are_counted(region):
    source, target = await region.bus(), await region.bus()
    inbox = Inbox()

    def slow(delivery: Delivery) -> None:
        if not inbox.deliveries:
            time.sleep(0.2)  # the loop stands still while the rest arrives
        inbox(delivery)

    await target.subscribe("news", handler=slow, pending_max=10)
    for number in range(3_000):
        await source.publish("news", payload=b"%d" % number)
    await eventually(lambda: b"2999" in inbox.payloads)

    numbers = [int(payload) for payload in inbox.payloads]
    assert sorted(numbers) == numbers
    assert target.counters["pending_dropped"] > 0
    assert 3_000 == len(numbers) + target.counters["pending_dropped"]


async def test_more_than_the_bus_takes_is_a_clear_error_and_changes_nothing_else(region):
    bus = await region.bus()
    inbox = Inbox()
    await bus.subscribe("news", handler=inbox, pending_max=10)
    with pytest.raises(BusUnavailableError, match="limit of 1048576"):
        await bus.publish("news", payload=bytes(1024 * 1024 + 1))
    await bus.publish("news", payload=bytes(1024 * 1024))
    await eventually(lambda: bool(inbox.deliveries))

    assert [1024 * 1024] == [len(payload) for payload in inbox.payloads]
    assert 1 == bus.counters["oversized"]


async def test_a_handler_that_raises_costs_its_message_and_is_counted(region):
    bus = await region.bus()
    inbox = Inbox()

    def picky(delivery: Delivery) -> None:
        if delivery.payload == b"bad":
            raise RuntimeError("cannot stand it")
        inbox(delivery)

    await bus.subscribe("news", handler=picky, pending_max=10)
    for payload in (b"bad", b"good"):
        await bus.publish("news", payload=payload)
    await eventually(lambda: bool(inbox.deliveries))

    assert [b"good"] == inbox.payloads
    assert 1 == bus.counters["handler_failed"]


async def test_after_close_nothing_is_handled_and_nothing_published(region):
    source, target = await region.bus(), await region.bus()
    inbox, witness = Inbox(), Inbox()
    await target.subscribe("news", handler=inbox, pending_max=10)
    await source.subscribe("news", handler=witness, pending_max=10)
    await target.close()
    await target.close()
    await source.publish("news", payload=b"too late")
    await eventually(lambda: bool(witness.deliveries))

    assert inbox.deliveries == []
    assert not target.connected
    with pytest.raises(BusUnavailableError):
        await target.publish("news", payload=b"")


async def test_what_was_published_before_close_arrives(region):
    source, target = await region.bus(), await region.bus()
    inbox = Inbox()
    await target.subscribe("news", handler=inbox, pending_max=1_000)
    for number in range(100):
        await source.publish("news", payload=b"%d" % number)
    await source.close()
    await eventually(lambda: len(inbox.deliveries) == 100)


# ------------------------------------------------------------------------------------------------- only the real one


async def test_closing_is_quick_when_nobody_is_there_and_when_somebody_is_silent(nats_region):
    bus = await nats_region.bus()
    nats_region.server.pause()
    started = time.monotonic()
    await bus.close()

    assert time.monotonic() - started < 2.5

    nats_region.server.kill()
    bus = await nats_region.bus()
    started = time.monotonic()
    await bus.close()

    assert time.monotonic() - started < 2.5


async def test_a_server_that_takes_nothing_costs_bounded_memory(nats_region):
    bus = await nats_region.bus()
    nats_region.server.pause()
    accepted_count = 0
    with pytest.raises(BusUnavailableError, match="takes nothing"):  # noqa: PT012
        for _ in range(64):
            await bus.publish("news", payload=bytes(1024 * 1024))
            accepted_count += 1
            await asyncio.sleep(0)

    assert accepted_count < 32
    assert 1 == bus.counters["outbound_full"]


@pytest.mark.slow
async def test_a_line_that_went_dead_is_noticed_and_replaced(nats_region):
    bus = await nats_region.bus()
    nats_region.server.pause()
    await eventually(lambda: not bus.connected, timeout_s=12)
    nats_region.server.resume()
    await eventually(lambda: bus.connected)

    assert 2 == bus.counters["connected"]


@pytest.mark.parametrize("reply", [b"\xff\xfe", b"a\x0bb", b"a\x0b3", b"\xc0\x80.x"])
async def test_no_message_of_another_client_disturbs_the_connection(nats_region, reply):
    """nats-py itself goes deaf for good on the first of these, and loses its connection on the second."""
    bus = await nats_region.bus()
    inbox = Inbox()
    await bus.subscribe("news.>", handler=inbox, pending_max=100)
    reader, writer = await asyncio.open_connection("127.0.0.1", nats_region.server.port)
    await reader.readline()
    writer.write(b'CONNECT {"verbose":false,"headers":true}\r\n')
    writer.write(b"PUB news.a " + reply + b" 2\r\nhi\r\n")
    writer.write(b"PUB news.\xff\xfe 2\r\nhi\r\n")
    writer.write(b"HPUB news.h 19 21\r\nNATS/1.0 \xff\xff\xff\xff\xff\xff\r\n\r\nhi\r\n")
    writer.write(b"PUB news.last 2\r\nok\r\nPING\r\n")
    await writer.drain()
    with suppress(TimeoutError):
        await eventually(lambda: b"ok" in inbox.payloads, timeout_s=3)
    writer.close()

    assert b"ok" in inbox.payloads, inbox.deliveries
    assert bus.connected
    assert 1 == bus.counters["connected"]
    assert bus.counters["undecodable"] >= 1
    assert 0 == bus.counters["disconnected"]


async def test_that_nobody_listens_is_counted_and_no_message(nats_region):
    bus = await nats_region.bus()
    inbox, subject = Inbox(), bus.new_inbox()
    await bus.subscribe(subject, handler=inbox, pending_max=10)
    await bus.publish("nobody.listens", payload=b"?", reply_to=subject)
    await eventually(lambda: bus.counters["no_responders"] == 1)
    await bus.publish(subject, payload=b"")
    await eventually(lambda: bool(inbox.deliveries))

    assert [b""] == inbox.payloads


async def test_a_server_that_talks_nonsense_is_left_and_tried_again():
    lives_count = 0

    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal lives_count
        lives_count += 1
        writer.write(b'INFO {"max_payload":1048576}\r\n')
        while (await reader.readline()) not in (b"PING\r\n", b""):
            pass
        writer.write(b"PONG\r\n" + (b"GARBAGE\r\n" if lives_count == 1 else b"x" * 100_000))
        with suppress(ConnectionError):
            await writer.drain()
            await reader.read()
        writer.close()

    async with await asyncio.start_server(nonsense, "127.0.0.1", 0) as server:
        connection = NatsConnection(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", name="test")
        await connection.open()
        await eventually(lambda: lives_count >= 3)
        await connection.close()

    assert connection.counters["disconnected"] >= 2


@pytest.mark.parametrize("servers", ["http://host", "nats://", "nats://host:port", []])
def test_servers_that_can_never_work_are_refused(servers):
    with pytest.raises(ConfigError):
        NatsBus(servers, name="test")


def test_a_password_in_a_url_is_not_shown():
    with pytest.raises(ConfigError) as caught:
        NatsBus("ftp://user:secret@host", name="test")

    assert "secret" not in str(caught.value)


def test_missing_credentials_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"nats_credentials: cannot read .*No such file"):
        NatsBus("nats://host", name="test", access=NatsAccess(credentials=tmp_path / "none.creds"))


class RecordingClient:
    def __init__(self) -> None:
        self.heard: list[tuple] = []

    def receive(self, sid: int, *, subject: bytes, reply: bytes, payload: bytes, head: bytes) -> bool:
        self.heard.append((sid, subject, reply, payload))
        return sid != 9

    async def receive_internal(self, sid: int, *, subject: bytes, reply: bytes, payload: bytes, head: bytes) -> None:
        self.heard.append(("internal", sid, head))

    async def _process_ping(self) -> None:
        self.heard.append(("ping",))

    async def _process_pong(self) -> None:
        self.heard.append(("pong",))

    async def _process_err(self, text: str) -> None:
        self.heard.append(("err", text))

    async def _process_info(self, info: dict) -> None:
        self.heard.append(("info", info))


WIRE = (
    b'INFO {"a":1}\r\nPING\r\nMSG s 1 5\r\nhello\r\nMSG s.t 2 _INBOX.\xff 0\r\n\r\n+OK\r\n'
    b"HMSG h 9 r 12 14\r\nNATS/1.0\r\n\r\nhi\r\nPONG\r\n-ERR 'Stale Connection'\r\nMSG s 1 4\r\n\r\n\r\n\r\n"
)
HEARD = [
    ("info", {"a": 1}),
    ("ping",),
    (1, b"s", b"", b"hello"),
    (2, b"s.t", b"_INBOX.\xff", b""),
    (9, b"h", b"r", b"hi"),
    ("internal", 9, b"NATS/1.0\r\n\r\n"),
    ("pong",),
    ("err", "'stale connection'"),
    (1, b"s", b"", b"\r\n\r\n"),
]


@given(cuts=st.lists(st.integers(0, len(WIRE))))
def test_where_the_bytes_are_cut_makes_no_difference(cuts):
    client = RecordingClient()
    parser = WireParser(client)
    edges = [0, *sorted(cuts), len(WIRE)]
    for start, end in pairwise(edges):
        asyncio.run(parser.parse(WIRE[start:end]))

    assert client.heard == HEARD


@given(junk=st.one_of(st.binary(max_size=200), st.text("MSGH 0159-\r\n", max_size=60).map(str.encode)))
def test_junk_is_refused_or_waited_on_and_nothing_else(junk):
    parser = WireParser(RecordingClient())
    with suppress(nats.errors.ProtocolError):
        asyncio.run(parser.parse(junk + b"\r\n"))


@pytest.mark.parametrize(
    "line", [b"MSG s 1", b"MSG s 1 2 3 4", b"MSG s x 1", b"MSG s 1 -1", b"MSG s 1 999999999", b"HMSG s 1 9 3", b"HI"]
)
def test_a_malformed_line_ends_the_connection(line):
    parser = WireParser(RecordingClient())
    with pytest.raises(nats.errors.ProtocolError):
        asyncio.run(parser.parse(line + b"\r\n"))
