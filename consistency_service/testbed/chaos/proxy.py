"""The network between the processes of a region, as one process that can be told to fail.

    python -m consistency_service.testbed.chaos.proxy --config FILE.json

Picture a switchboard: every ordered pair that talks has a line of its own, so each line can be cut or slowed in either
direction without anybody else noticing. A blocked direction stalls: bytes wait, in our hands or in the kernel's, and
nobody is told, as on a network that drops packets. A connection is made only while both directions are open, because a
handshake needs both. `reset` ends connections the rude way, with what was in flight.

The state is set whole by one line of JSON on the control port, and answered by one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import signal
import socket
from pathlib import Path
from typing import Final

import msgspec

from consistency_service.testbed.errors import TestbedError

HOST: Final = "127.0.0.1"
CHUNK_BYTES: Final = 65_536
CONNECTIONS_MAX: Final = 128
"""Of one line; one more is closed."""
CONTROL_BYTES_MAX: Final = 200_000
CONTROL_TIMEOUT_S: Final = 10.0
_log = logging.getLogger(__name__)

Pair = tuple[str, str]


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """A line from `source`, who connects to `listen`, to `target`, who listens on `port`."""

    source: str
    target: str
    listen: int
    port: int


class ProxyConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the configuration file says."""

    control: int
    links: list[Link]


class Weather(msgspec.Struct, frozen=True, kw_only=True):
    """What the network does from now on; `reset` names pairs whose connections end now, in either direction."""

    blocked: list[Pair] = []
    delayed: list[tuple[str, str, int]] = []
    """(from, to, ms)."""
    reset: list[Pair] = []


class Switchboard:
    """All lines. One event loop."""

    def __init__(self) -> None:
        self._blocked: frozenset[Pair] = frozenset()
        self._delay_s: dict[Pair, float] = {}
        self._changed = asyncio.Event()
        self._connections: dict[Link, set[asyncio.StreamWriter]] = {}

    def set_weather(self, weather: Weather) -> None:
        """From now on it is so."""
        self._blocked = frozenset(weather.blocked)
        self._delay_s = {(a, b): delay_ms / 1_000 for a, b, delay_ms in weather.delayed}
        reset = {frozenset(pair) for pair in weather.reset}
        for link, writers in self._connections.items():
            if frozenset((link.source, link.target)) in reset:
                for writer in list(writers):
                    writer.transport.abort()
        self._changed.set()
        self._changed = asyncio.Event()

    async def serve(self, link: Link) -> asyncio.Server:
        """Listens for `link.source`. Raises `OSError` if the port is taken."""
        writers = self._connections.setdefault(link, set())

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if len(writers) >= 2 * CONNECTIONS_MAX:
                writer.transport.abort()
                return
            writers.add(writer)
            try:
                await self._carry(link, reader, writer, writers)
            except (OSError, asyncio.IncompleteReadError) as error:
                _log.debug("connection_ended link=%s error=%r", link, error)
            finally:
                writers.discard(writer)
                writer.close()

        return await asyncio.start_server(connected, HOST, link.listen)

    async def _carry(
        self,
        link: Link,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        writers: set[asyncio.StreamWriter],
    ) -> None:
        there, back = (link.source, link.target), (link.target, link.source)
        while there in self._blocked or back in self._blocked:
            await self._changed.wait()
        far_reader, far_writer = await asyncio.open_connection(HOST, link.port)
        writers.add(far_writer)
        try:
            pumps = (
                asyncio.create_task(self._pump(reader, far_writer, there)),
                asyncio.create_task(self._pump(far_reader, writer, back)),
            )
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            writers.discard(far_writer)
            far_writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pair: Pair) -> None:
        """Bytes go through until one side ends; what was read when the pair became blocked waits here."""
        while True:
            await self._passable(pair)
            data = await reader.read(CHUNK_BYTES)
            await self._passable(pair)
            if delay_s := self._delay_s.get(pair):
                await asyncio.sleep(delay_s)
                await self._passable(pair)
            if not data:
                return
            writer.write(data)
            await writer.drain()

    async def _passable(self, pair: Pair) -> None:
        while pair in self._blocked:
            await self._changed.wait()


async def run(config: ProxyConfig) -> None:
    """Carry everything until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    board = Switchboard()

    async def told(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ValueError):
            async with asyncio.timeout(CONTROL_TIMEOUT_S):
                line = await reader.readline()
            try:
                board.set_weather(msgspec.json.decode(line, type=Weather))
                answer = b'{"ok":true}\n'
            except msgspec.MsgspecError as error:
                answer = msgspec.json.encode({"error": str(error)}) + b"\n"
            writer.write(answer)
            await writer.drain()
        writer.close()

    servers = [await board.serve(link) for link in config.links]
    servers.append(await asyncio.start_server(told, HOST, config.control, limit=CONTROL_BYTES_MAX))
    await stopping.wait()
    for server in servers:
        server.close()


def tell(port: int, weather: Weather) -> None:
    """The proxy whose control port this is does so from now on. Raises `TestbedError`."""
    try:
        with socket.create_connection((HOST, port), timeout=CONTROL_TIMEOUT_S) as connection:
            connection.sendall(msgspec.json.encode(weather) + b"\n")
            with connection.makefile("rb") as file:
                answer = json.loads(file.readline(CONTROL_BYTES_MAX) or b"{}")
    except (OSError, ValueError) as error:
        raise TestbedError(f"the network's proxy does not answer: {error}") from error
    if answer.get("ok") is not True:
        raise TestbedError(f"the network's proxy refuses: {answer.get('error')}")


def main() -> int:
    """Run the proxy; the process's exit code."""
    parser = argparse.ArgumentParser(prog="python -m consistency_service.testbed.chaos.proxy")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE.json")
    config = msgspec.json.decode(parser.parse_args().config.read_bytes(), type=ProxyConfig)
    asyncio.run(run(config))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
