"""The network between voters, with hands on it: every direction of every pair can be held, cut or slowed.

Picture garden hoses with a tap at each. A held hose keeps its water and gives it later, as a network does whose packets are
sent again; a cut one loses it, and both ends notice. Between two voters there is one link, with two taps. Every voter
reaches every other at a port of its own, so that nothing needs to be read to know who speaks: it may be encrypted.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable
from functools import partial
from typing import Final

CHUNK_BYTES: Final = 1 << 14
LATENESS_S: Final = 0.02
"""Of this process in waking up, which the rate does not suffer from."""


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
    """Voter `one` reaches voter `other` at `ports[one, other]`."""

    def __init__(self) -> None:
        self.ports: dict[tuple[str, str], int] = {}
        self.links: dict[tuple[str, str], Link] = {}
        self._targets: dict[str, int] = {}
        self._servers: dict[tuple[str, str], asyncio.Server] = {}

    async def add(self, name: str, *, port: int) -> None:
        """The voter that listens at `port` reaches all others, and they reach it."""
        others = list(self._targets)
        self._targets[name] = port
        for other in others:  # whoever is added meanwhile sees to the pair of us
            if other in self._targets:
                self.links[min(name, other), max(name, other)] = Link(name, other)
                for dialer, target in ((name, other), (other, name)):
                    accept = partial(self._join, dialer=dialer, target=target)
                    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=CHUNK_BYTES)
                    self.ports[dialer, target] = int(server.sockets[0].getsockname()[1])
                    self._servers[dialer, target] = server

    async def remove(self, name: str) -> None:
        """Nobody reaches this voter any more."""
        del self._targets[name]
        for pair in [pair for pair in self._servers if name in pair]:
            self._servers.pop(pair).close()
            del self.ports[pair]
        await _end([self.links.pop(pair) for pair in list(self.links) if name in pair])

    async def close(self) -> None:
        for server in self._servers.values():
            server.close()
        await _end(list(self.links.values()))

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

    async def _join(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, dialer: str, target: str
    ) -> None:
        link = self.links.get((min(dialer, target), max(dialer, target)))
        if link is None:
            writer.transport.abort()
            return
        ends = {writer}
        link.writers |= ends
        try:
            inward, there = await asyncio.open_connection("127.0.0.1", self._targets[target], limit=CHUNK_BYTES)
            ends.add(there)
            link.writers |= ends
            await asyncio.gather(
                _pump(reader, there, tap=link.taps[dialer, target]),
                _pump(inward, writer, tap=link.taps[target, dialer]),
            )
        except OSError:
            writer.transport.abort()
        finally:
            link.writers -= ends
            for end in ends:
                end.close()


async def _end(links: list[Link]) -> None:
    """Nothing passes any more, and nobody waits."""
    for link in links:
        for tap in link.taps.values():
            tap.release()
            tap.bytes_per_s = None
    while any(link.writers for link in links):
        for link in links:
            link.cut()
        await asyncio.sleep(0.01)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, tap: Tap) -> None:
    """Everything passes the tap, the end of the connection too."""
    with contextlib.suppress(OSError):
        data = await reader.read(CHUNK_BYTES)
        while data:
            await tap.wait(len(data))
            writer.write(data)
            await writer.drain()
            data = await reader.read(CHUNK_BYTES)
    await tap.wait(0)
    writer.close()
