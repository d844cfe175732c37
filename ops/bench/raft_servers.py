"""Log servers as processes, their disks, and a lean client: what the nemesis and the benchmarks share."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from consistency_service.adapters import certificates
from consistency_service.testbed import processes
from consistency_service.testbed.log_server import Command
from ops.bench.raft_proxy import Network

ROOT: Final = Path(__file__).parents[2]
FOUNDERS: Final = ("n1", "n2", "n3")
NOBODY_LISTENS: Final = "127.0.0.2"


class LostError(Exception):
    """The connection ended, or no answer came: the request may have been carried out."""


class RefusedError(Exception):
    """No connection: nothing was asked."""


class Client(asyncio.Protocol):
    """One connection with many requests under way."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._unparsed = bytearray()
        self._number = 0
        self._waiting: dict[int, asyncio.Future[list[Any]]] = {}
        self._unsent: list[bytes] = []

    @classmethod
    async def connect(cls, port: int, *, timeout_s: float = 1.0) -> Client:
        """Raises `RefusedError`."""
        try:
            async with asyncio.timeout(timeout_s):
                _, client = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        except (OSError, TimeoutError) as error:
            raise RefusedError(str(error)) from error
        return client

    @property
    def connected(self) -> bool:
        return self._transport is not None

    def ask(self, verb: str, *argument: Any) -> asyncio.Future[list[Any]]:
        """Ends with `LostError` when the connection does. Raises `RefusedError` if it has already."""
        if self._transport is None:
            raise RefusedError("not connected")
        self._number += 1
        body = msgspec.msgpack.encode((self._number, verb, argument))
        loop = asyncio.get_running_loop()
        if not self._unsent:
            loop.call_soon(self._flush)
        self._unsent += (len(body).to_bytes(4, "big"), body)
        answer: asyncio.Future[list[Any]] = loop.create_future()
        self._waiting[self._number] = answer
        return answer

    async def call(self, verb: str, *argument: Any, timeout_s: float = 5.0) -> list[Any]:
        """Raises `LostError` or `RefusedError`."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self.ask(verb, *argument)
        except TimeoutError as error:
            raise LostError(f"no answer within {timeout_s} s") from error

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(LostError("the connection ended"))
                answer.exception()  # nobody may be waiting any more
        self._waiting.clear()

    def data_received(self, data: bytes) -> None:
        unparsed = self._unparsed
        unparsed += data
        begin = 0
        while len(unparsed) - begin >= 4:
            end = begin + 4 + int.from_bytes(unparsed[begin : begin + 4], "big")
            if len(unparsed) < end:
                break
            number, answer = msgspec.msgpack.decode(unparsed[begin + 4 : end])
            begin = end
            waiting = self._waiting.pop(number, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(answer)
        del unparsed[:begin]

    def _flush(self) -> None:
        unsent, self._unsent = b"".join(self._unsent), []
        if self._transport is not None:
            self._transport.write(unsent)


def command(action: str, key: str, value: Any, *, expected: Any = None, session: str = "", number: int = 0) -> bytes:
    return msgspec.msgpack.encode(Command(session, number, action, key, value, expected))


class Disk:
    """A small file system of its own, so that it can be filled. Needs the right to mount; see `possible`."""

    def __init__(self, directory: Path, *, size_mib: int) -> None:
        self.directory = directory
        self._image = directory.with_suffix(".image")
        self._size_mib = size_mib

    @staticmethod
    def possible(directory: Path) -> bool:
        disk = Disk(directory / "probe", size_mib=8)
        try:
            disk.mount()
        except (OSError, subprocess.CalledProcessError):
            return False
        disk.unmount()
        disk.directory.rmdir()
        return True

    def mount(self) -> None:
        self.directory.mkdir(parents=True)
        with self._image.open("wb") as image:
            image.truncate(self._size_mib << 20)
        _run("mkfs.ext4", "-q", "-m", "0", str(self._image))
        _run("mount", "-o", "loop", str(self._image), str(self.directory))

    def unmount(self) -> None:
        _run("umount", str(self.directory))
        self._image.unlink()

    def fill(self) -> None:
        """No byte of room is left."""
        with (self.directory / "ballast").open("ab", buffering=0) as ballast:
            for size in (1 << 20, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while True:
                        ballast.write(bytes(size))

    def empty(self) -> None:
        (self.directory / "ballast").unlink(missing_ok=True)


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)


class Server:
    """One voter. Its process may be away."""

    def __init__(self, settings: dict[str, Any], *, directory: Path) -> None:
        self.settings = settings
        self.port = int(settings["serve"])
        self.name = str(settings["node_id"])
        self.log_path = directory / f"{self.name}.log"
        self.data_dir = Path(settings["data_dir"])
        self.paused = False
        self._started_at_s = 0.0
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert not self.running
        self.paused = False
        self._started_at_s = time.monotonic()
        self._process = processes.spawn(
            (sys.executable, "-m", "consistency_service.testbed.log_server", json.dumps(self.settings)),
            env={"PYTHONPATH": str(ROOT)},
            cwd=str(ROOT),
            log=self.log_path,
            directory=self._directory,
        )

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def age_s(self) -> float:
        """Since its last start."""
        return time.monotonic() - self._started_at_s

    @property
    def exit_code(self) -> int | None:
        return None if self._process is None else self._process.poll()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        if self.running:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.collect()

    def collect(self) -> None:
        if self._process is not None:
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        self.signal(signal.SIGSTOP)
        self.paused = True

    def resume(self) -> None:
        self.signal(signal.SIGCONT)
        self.paused = False

    def log_tail(self, *, lines: int = 12) -> str:
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])


class Cluster:
    """Servers and the network between them; three in the beginning. `settings` go to every node's `RaftLogConfig`.

    `certified`: they speak mutual TLS, by an authority made for them.
    """

    def __init__(
        self,
        directory: Path,
        *,
        disk_mib: int | None = None,
        proxied: bool = True,
        certified: bool = False,
        **settings: Any,
    ) -> None:
        self.directory = directory
        self.proxied = proxied
        self.certificates = directory / "certificates" if certified else None
        self.servers: dict[str, Server] = {}
        self.disks: dict[str, Disk] = {}
        self._settings = settings
        self._disk_mib = disk_mib
        self.network = Network()
        self._raft_ports: dict[str, int] = {}

    async def open(self) -> None:
        """Every process was started; none may be ready."""
        if self.certificates is not None:
            certificates.create_authority(self.certificates, cluster_id="ccs", now=datetime.now(tz=UTC))
        for name in FOUNDERS:
            await self._give_port(name)
        for name in FOUNDERS:
            self._start(name)

    async def join(self, name: str) -> str:
        """Its process was started with an empty directory, to be added. Returns the raft address to add it with.

        Names grow, so that each newcomer dials all who were there before, at ports of its own; nobody dials it.
        """
        assert all(name > other for other in self.servers)
        await self._give_port(name)
        self._start(name, join=True)
        return f"{NOBODY_LISTENS if self.proxied else '127.0.0.1'}:{self._raft_ports[name]}"

    async def leave(self, name: str) -> None:
        """It is gone, with all it had."""
        self.servers.pop(name).kill()
        del self._raft_ports[name]
        if self.proxied:
            await self.network.remove(name)
        if name in self.disks:
            self.disks.pop(name).unmount()
        shutil.rmtree(self.directory / name)

    def peers_of(self, name: str) -> dict[str, str]:
        """Everybody who is here now, at the addresses at which this one reaches them."""
        ports = {other: self.network.ports.get((name, other), port) for other, port in self._raft_ports.items()}
        return {other: f"127.0.0.1:{port}" for other, port in ports.items()}

    async def _give_port(self, name: str) -> None:
        port = self._raft_ports[name] = free_port()
        if self.proxied:
            await self.network.add(name, port=port)

    def _start(self, name: str, *, join: bool = False) -> None:
        data_dir = self.directory / name
        if self._disk_mib is not None:
            self.disks[name] = Disk(data_dir, size_mib=self._disk_mib)
            self.disks[name].mount()
        settings: dict[str, Any] = {
            "node_id": name,
            "listen": f"127.0.0.1:{self._raft_ports[name]}",
            "peers": self.peers_of(name),
            "join": join,
            "data_dir": str(data_dir / "log"),
            "serve": free_port(),
            **self._settings,
        }
        if self.certificates is not None:
            pair = certificates.issue(self.certificates, node_id=name, now=datetime.now(tz=UTC))
            authority = certificates.authority_files(self.certificates).certificate
            settings["tls"] = {"ca": str(authority), "certificate": str(pair.certificate), "key": str(pair.key)}
        elif "tls" in settings:
            settings["tls"] = settings["tls"][name]
        self.servers[name] = Server(settings, directory=self.directory)
        self.servers[name].start()

    async def close(self) -> None:
        for server in self.servers.values():
            server.kill()
        await self.network.close()
        for disk in self.disks.values():
            disk.unmount()

    async def status(self, name: str) -> dict[str, Any] | None:
        """None from a server that does not answer."""
        client = None
        try:
            client = await Client.connect(self.servers[name].port)
            return dict((await client.call("status", timeout_s=1.0))[1])
        except (LostError, RefusedError):
            return None
        finally:
            if client is not None:
                client.close()

    async def ask(self, name: str, verb: str, *argument: Any, timeout_s: float = 1.0) -> list[Any] | None:
        """None if it does not listen or answer."""
        client = None
        try:
            client = await Client.connect(self.servers[name].port)
            return await client.call(verb, *argument, timeout_s=timeout_s)
        except (LostError, RefusedError, KeyError):
            return None
        finally:
            if client is not None:
                client.close()

    async def leader(self, *, timeout_s: float = 20.0) -> str:
        """Who leads and has applied the first entry of its term. Raises `TimeoutError`, with what the servers logged."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for name, server in list(self.servers.items()):
                status = await self.status(name) if server.running and not server.paused else None
                if status is not None and status["settled"]:
                    return name
            await asyncio.sleep(0.02)
        logs = "\n".join(f"{name}: {server.log_tail()}" for name, server in self.servers.items())
        raise TimeoutError(f"nobody leads: {[await self.status(name) for name in self.servers]}\n{logs}")

    async def equal(self, *, timeout_s: float = 30.0) -> str | None:
        """All servers run and hold the same state: None. Otherwise, after the timeout, what they hold."""
        deadline = time.monotonic() + timeout_s
        while True:
            found: dict[str, Any] = {}
            for name, server in self.servers.items():
                found[name] = None
                with contextlib.suppress(LostError, RefusedError):
                    client = await Client.connect(server.port)
                    found[name] = (await client.call("digest"))[1:]
                    client.close()
            if None not in found.values() and len({digest for _, digest in found.values()}) == 1:
                return None
            if time.monotonic() > deadline:
                statuses = {name: await self.status(name) for name in self.servers}
                return f"{found}, {statuses}"
            await asyncio.sleep(0.2)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[int(share * (len(ordered) - 1))] if ordered else float("nan")
