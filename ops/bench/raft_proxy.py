"""The network between voters, with hands on it: every direction of every pair can be held, cut or slowed.

Picture garden hoses with a tap at each. A held hose keeps its water and gives it later, as a network does whose packets are
sent again; a cut one loses it, and both ends notice. Between two voters there is one link, with two taps.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable
from functools import partial
from typing import Final

import msgspec

CHUNK_BYTES: Final = 1 << 14
LATENESS_S: Final = 0.02
"""Of this process in waking up, which the rate does not suffer from."""
GREETING_BYTES_MAX: Final = 1 << 10
GREETING_S: Final = 5.0


class Tap:
    """One direction."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self._free_at_s = 0.0
        self.bytes_per_s: float | None = None
        self.passed_bytes = 0

    def hold(self) -> None:
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    async def wait(self, size_bytes: int) -> None:
        """Until so many bytes may pass."""
        await self._open.wait()
        if self.bytes_per_s is not None:
            now = time.monotonic()
            self._free_at_s = max(now - LATENESS_S, self._free_at_s) + size_bytes / self.bytes_per_s
            await asyncio.sleep(max(0.0, self._free_at_s - now))
        self.passed_bytes += size_bytes


class Link:
    """The connections between two voters; `taps` by (from, to)."""

    def __init__(self, one: str, other: str) -> None:
        self.taps = {(one, other): Tap(), (other, one): Tap()}
        self.writers: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Whatever is under way is lost."""
        for writer in list(self.writers):
            writer.transport.abort()


class Network:
    """Every voter is reached at `ports[its name]`, by all others alike. Who dials is read from the greeting, so that
    without TLS each pair has its own link.
    """

    def __init__(self, targets: dict[str, int]) -> None:
        names = sorted(targets)
        self.ports: dict[str, int] = {}
        self.links = {(one, other): Link(one, other) for one in names for other in names if one < other}
        self._targets = targets
        self._servers: list[asyncio.Server] = []

    async def open(self) -> None:
        for name in self._targets:
            server = await asyncio.start_server(partial(self._accepted, name), "127.0.0.1", 0, limit=CHUNK_BYTES)
            self.ports[name] = int(server.sockets[0].getsockname()[1])
            self._servers.append(server)

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        self.heal()
        for link in self.links.values():
            for tap in link.taps.values():
                tap.bytes_per_s = None
        while any(link.writers for link in self.links.values()):
            for link in self.links.values():
                link.cut()
            await asyncio.sleep(0.01)

    def link(self, one: str, other: str) -> Link:
        return self.links[min(one, other), max(one, other)]

    def tap(self, source: str, target: str) -> Tap:
        return self.link(source, target).taps[source, target]

    def hold(self, directions: Iterable[tuple[str, str]]) -> None:
        for source, target in directions:
            self.tap(source, target).hold()

    def cut(self, directions: Iterable[tuple[str, str]]) -> None:
        """What these pairs had under way, in either direction, is lost, and they must connect anew."""
        for source, target in directions:
            self.link(source, target).cut()

    def heal(self) -> None:
        for link in self.links.values():
            for tap in link.taps.values():
                tap.release()

    def shape(self, node: str, *, bytes_per_s: float | None) -> None:
        """Whatever goes to or comes from `node`, each direction of each pair for itself."""
        for pair, link in self.links.items():
            if node in pair:
                for tap in link.taps.values():
                    tap.bytes_per_s = bytes_per_s

    async def _accepted(self, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(GREETING_S):
                size = await reader.readexactly(4)
                greeting = await reader.readexactly(min(int.from_bytes(size, "big"), GREETING_BYTES_MAX))
            words = msgspec.msgpack.decode(greeting)
            dialer = next(word for word in words if word in self._targets and word != target)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, msgspec.MsgspecError, TypeError, StopIteration):
            writer.transport.abort()
            return
        await self._join(reader, writer, dialer=dialer, target=target, begun=size + greeting)

    async def _join(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, dialer: str, target: str, begun: bytes
    ) -> None:
        link = self.link(dialer, target)
        ends = {writer}
        link.writers |= ends
        try:
            inward, there = await asyncio.open_connection("127.0.0.1", self._targets[target], limit=CHUNK_BYTES)
            ends.add(there)
            link.writers |= ends
            await asyncio.gather(
                _pump(reader, there, tap=link.taps[dialer, target], begun=begun),
                _pump(inward, writer, tap=link.taps[target, dialer]),
            )
        except OSError:
            writer.transport.abort()
        finally:
            link.writers -= ends
            for end in ends:
                end.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, tap: Tap, begun: bytes = b"") -> None:
    """Everything passes the tap, the end of the connection too."""
    with contextlib.suppress(OSError):
        data = begun or await reader.read(CHUNK_BYTES)
        while data:
            await tap.wait(len(data))
            writer.write(data)
            await writer.drain()
            data = await reader.read(CHUNK_BYTES)
    await tap.wait(0)
    writer.close()
