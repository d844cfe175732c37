"""Three voters on loopback, each a process; what the raft benchmarks share."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Voter:
    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.process: asyncio.subprocess.Process | None = None

    @property
    def name(self) -> str:
        return str(self.settings["node_id"])

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(ROOT / "ops/bench/raft_voter.py"),
            json.dumps(self.settings),
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )

    async def ask(self, line: str, *, timeout_s: float = 60) -> dict[str, Any]:
        assert self.process is not None and self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(line.encode() + b"\n")
        async with asyncio.timeout(timeout_s):
            return dict(json.loads(await self.process.stdout.readline()))

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


def voters_in(directory: Path, *, count: int = 3, **settings: Any) -> list[Voter]:
    peers = {f"n{number + 1}": f"127.0.0.1:{free_port()}" for number in range(count)}
    return [
        Voter({"node_id": name, "listen": address, "data_dir": str(directory / name), "peers": peers, **settings})
        for name, address in peers.items()
    ]


async def settled_leader(voters: list[Voter], *, pause_s: float = 0.005) -> Voter:
    async with asyncio.timeout(20):
        while True:
            for voter in voters:
                if (await voter.ask("status"))["settled"]:
                    return voter
            await asyncio.sleep(pause_s)
    raise AssertionError
