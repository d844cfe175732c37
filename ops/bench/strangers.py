"""Attackers of ports: each attack is one connection, made again and again as long as the assault lasts."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

LINGER_S: Final = 10.0
"""How long an attacker waits for the other side to hang up."""

Attack = Callable[[str, int], Awaitable[None]]
Target = tuple[str, int]


async def speak(
    host: str,
    port: int,
    *,
    pieces: Sequence[bytes],
    pause_s: float = 0.0,
    context: ssl.SSLContext | None = None,
    deaf: bool = False,
    linger_s: float = LINGER_S,
) -> None:
    """Connect, say everything, and stay until the other side hangs up; `deaf`: without reading what it says."""
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    try:
        async with asyncio.timeout(linger_s + pause_s * len(pieces)):
            if deaf:
                writer.transport.pause_reading()  # type: ignore[attr-defined]
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                if pause_s:
                    await asyncio.sleep(pause_s)
            if deaf:
                await asyncio.sleep(linger_s)
            while await reader.read(65_536):
                pass
    finally:
        writer.close()
        with contextlib.suppress(OSError, ssl.SSLError, TimeoutError):
            async with asyncio.timeout(1):
                await writer.wait_closed()


async def hold(host: str, port: int) -> None:
    """A bare connection, cheap for whoever makes thousands."""
    loop, gone = asyncio.get_running_loop(), asyncio.Event()

    class Holder(asyncio.Protocol):
        def connection_lost(self, exc: Exception | None) -> None:
            gone.set()

    transport, _ = await loop.create_connection(Holder, host, port)
    try:
        await gone.wait()
    finally:
        transport.abort()


class Storm:
    """All attacks on all targets, and `connections` more that only want to be there."""

    def __init__(
        self,
        attacks: Mapping[str, tuple[Attack, Sequence[Target]]],
        *,
        held: Sequence[Target],
        connections: int,
        per_s: int,
        seed: int,
        pause_s: float = 0.2,
    ) -> None:
        self.attempts: Counter[str] = Counter()
        self.holding = 0
        self._attacks = attacks
        self._held = held
        self._rng = random.Random(seed)
        self._connections = connections
        self._hold_pause_s = connections / per_s
        self._pause_s = pause_s

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            for name, (attack, targets) in self._attacks.items():
                for target in targets:
                    group.create_task(self._repeat(name, attack, target=target, pause_s=self._pause_s))
            for number in range(self._connections):
                target = self._held[number % len(self._held)]
                group.create_task(self._repeat("held", self._hold, target=target, pause_s=self._hold_pause_s))

    async def _hold(self, host: str, port: int) -> None:
        self.holding += 1
        try:
            await hold(host, port)
        finally:
            self.holding -= 1

    async def _repeat(self, name: str, attack: Attack, *, target: Target, pause_s: float) -> None:
        await asyncio.sleep(self._rng.random() * pause_s)
        while True:
            self.attempts[name] += 1
            with contextlib.suppress(OSError, ssl.SSLError, TimeoutError, asyncio.IncompleteReadError):
                await attack(*target)
            await asyncio.sleep(pause_s)
