"""The network between voters, with hands on it: every direction of every pair can be held, cut or slowed.

Picture garden hoses with a tap at each. A held hose keeps its water and gives it later, as a network does whose packets are
sent again; a cut one loses it, and both ends notice. The voters hold one connection per pair, so a link is a listening port
beside a voter, and two taps.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable
from typing import Final

CHUNK_BYTES: Final = 1 << 14


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
            self._free_at_s = max(now, self._free_at_s) + size_bytes / self.bytes_per_s
            await asyncio.sleep(self._free_at_s - now)
        self.passed_bytes += size_bytes


class Link:
    """The connections that `dialer` makes to `target`; `taps` by (from, to)."""

    def __init__(self, *, dialer: str, target: str, target_port: int) -> None:
        self.dialer, self.target = dialer, target
        self.port = 0
        self.taps = {(dialer, target): Tap(), (target, dialer): Tap()}
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", self.port, limit=CHUNK_BYTES)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for tap in self.taps.values():
            tap.bytes_per_s = None
            tap.release()
        while self._writers:
            self.cut()
            await asyncio.sleep(0.01)

    def cut(self) -> None:
        """Whatever is under way is lost."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        there = None
        try:
            inward, there = await asyncio.open_connection("127.0.0.1", self._target_port, limit=CHUNK_BYTES)
            self._writers.add(there)
            await asyncio.gather(
                self._pump(reader, there, tap=self.taps[self.dialer, self.target]),
                self._pump(inward, writer, tap=self.taps[self.target, self.dialer]),
            )
        except OSError:
            writer.transport.abort()
        finally:
            for each in (writer, there):
                if each is not None:
                    self._writers.discard(each)
                    each.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, tap: Tap) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                await tap.wait(len(data))
                writer.write(data)
                await writer.drain()
        await tap.wait(0)
        writer.close()


class Network:
    """All links of a cluster. A voter reaches those whose id sorts lower through a link of its own."""

    def __init__(self, ports: dict[str, int]) -> None:
        names = sorted(ports)
        self.links = {
            (dialer, target): Link(dialer=dialer, target=target, target_port=ports[target])
            for dialer in names
            for target in names
            if target < dialer
        }

    async def open(self) -> None:
        for link in self.links.values():
            await link.open()

    async def close(self) -> None:
        for link in self.links.values():
            await link.close()

    def tap(self, source: str, target: str) -> Tap:
        return self._link(source, target).taps[source, target]

    def hold(self, directions: Iterable[tuple[str, str]]) -> None:
        for source, target in directions:
            self.tap(source, target).hold()

    def cut(self, directions: Iterable[tuple[str, str]]) -> None:
        """What these pairs had under way, in either direction, is lost, and they must connect anew."""
        for source, target in directions:
            self._link(source, target).cut()

    def heal(self) -> None:
        for link in self.links.values():
            for tap in link.taps.values():
                tap.release()

    def shape(self, node: str, *, bytes_per_s: float | None) -> None:
        """Whatever goes to or comes from `node`, each direction of each pair for itself."""
        for (dialer, target), link in self.links.items():
            if node in {dialer, target}:
                for tap in link.taps.values():
                    tap.bytes_per_s = bytes_per_s

    def _link(self, one: str, other: str) -> Link:
        return self.links[max(one, other), min(one, other)]
