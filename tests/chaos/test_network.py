"""The network of chaos does what it is told: it carries, stalls one way, slows, resets, and nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from consistency_service.testbed.chaos.proxy import HOST, Link, Switchboard, Weather
from consistency_service.testbed.processes import free_ports

THERE, BACK = ("a", "b"), ("b", "a")


class Line:
    """An echo server behind a line from a to b."""

    def __init__(self, board: Switchboard, port: int) -> None:
        self.board = board
        self.port = port

    async def dial(self) -> Call:
        return Call(*await asyncio.open_connection(HOST, self.port))


class Call:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def say(self, text: bytes) -> None:
        self.writer.write(text)

    async def hear(self, count: int, *, within_s: float = 5.0) -> bytes:
        async with asyncio.timeout(within_s):
            return await self.reader.readexactly(count)

    async def hears_nothing(self) -> bool:
        try:
            return not await self.hear(1, within_s=0.3)
        except TimeoutError:
            return True


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1_000):
            writer.write(data)
        writer.close()

    with free_ports() as ports:
        near, far = next(ports), next(ports)
    board = Switchboard()
    servers = [await asyncio.start_server(echo, HOST, far)]
    servers.append(await board.serve(Link(source="a", target="b", listen=near, port=far)))
    yield Line(board, near)
    board.set_weather(Weather(reset=[THERE]))
    for server in servers:
        server.close()


async def test_it_carries_both_ways(line: Line) -> None:
    call = await line.dial()
    call.say(b"x" * 200_000)

    assert b"x" * 200_000 == await call.hear(200_000)


@pytest.mark.parametrize("blocked", [[THERE], [BACK], [THERE, BACK]])
async def test_a_blocked_direction_stalls_and_then_delivers_late(line: Line, blocked: list[tuple[str, str]]) -> None:
    call = await line.dial()
    call.say(b"1")
    await call.hear(1)
    line.board.set_weather(Weather(blocked=blocked))
    call.say(b"2")
    assert await call.hears_nothing()
    line.board.set_weather(Weather())

    assert b"2" == await call.hear(1)


async def test_nobody_connects_while_one_direction_is_blocked(line: Line) -> None:
    line.board.set_weather(Weather(blocked=[BACK]))
    call = await line.dial()
    call.say(b"1")
    assert await call.hears_nothing()
    line.board.set_weather(Weather())

    assert b"1" == await call.hear(1)


async def test_a_reset_loses_what_was_under_way(line: Line) -> None:
    call = await line.dial()
    call.say(b"1")
    await call.hear(1)
    line.board.set_weather(Weather(blocked=[THERE, BACK]))
    call.say(b"2")
    await asyncio.sleep(0.1)
    line.board.set_weather(Weather(reset=[BACK]))

    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await call.hear(1)


async def test_others_notice_nothing(line: Line) -> None:
    call = await line.dial()
    line.board.set_weather(Weather(blocked=[("a", "c"), ("c", "b")], reset=[("a", "c")], delayed=[("b", "c", 5_000)]))
    call.say(b"1")

    assert b"1" == await call.hear(1)


async def test_a_slow_line_takes_longer_each_way(line: Line) -> None:
    call = await line.dial()
    call.say(b"1")
    await call.hear(1)
    line.board.set_weather(Weather(delayed=[("a", "b", 100), ("b", "a", 150)]))
    begun = time.monotonic()
    call.say(b"2")
    await call.hear(1)

    assert time.monotonic() - begun >= 0.25
