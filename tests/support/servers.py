"""Real servers for tests: on a free loopback port, in a directory of the test, gone when the test is.

Each is a context manager. `kill` is SIGKILL, `stop` asks first; both wait. `restart` keeps the port and the directory.
The servers die with the test process, however that ends.
"""

from __future__ import annotations

import ctypes
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self, TypeVar

from consistency_service.testbed.binaries import find_nats_server, find_redis_server

START_TIMEOUT_S = 10.0
_PORT_TRIES = 5
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def free_port() -> int:
    """A loopback port nobody listens on just now; somebody else may take it before we do."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """One server process that can be stopped, killed, paused and brought back under the same port."""

    scheme = ""

    def __init__(self, *, port: int, directory: Path) -> None:
        self.port = port
        self.directory = directory
        self.log_path = directory / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start, and return when it answers. Raises `RuntimeError` with the end of its log if it does not."""
        assert not self.running
        self.directory.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self.directory,
                preexec_fn=lambda: _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),  # noqa: PLW1509  (one call into a loaded libc)
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.running and time.monotonic() < deadline:
            with suppress(OSError):
                if self._answers():
                    return
            time.sleep(0.01)
        self.kill()
        raise RuntimeError(f"no answer on port {self.port}: {self.log_path.read_text(errors='replace')[-2000:]}")

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that is not enough within five seconds."""
        if self._process is None:
            return
        self._process.terminate()
        self.resume()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=5)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=5)

    def restart(self) -> None:
        """Stop it if it runs; start it again."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """It keeps its connections and says nothing: every thread of it has stopped."""
        self._signal(signal.SIGSTOP)
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.running and not self._stopped() and time.monotonic() < deadline:
            time.sleep(0.001)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _stopped(self) -> bool:
        """A signal to stop is delivered to one thread after the other, a moment after it was sent."""
        assert self._process is not None
        threads = Path(f"/proc/{self._process.pid}/task").glob("*/stat")
        return all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in threads)

    def _signal(self, number: signal.Signals) -> None:
        if self.running and self._process is not None:
            self._process.send_signal(number)

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError


S = TypeVar("S", bound=Server)


class RedisServer(Server):
    scheme = "redis"

    def __init__(self, *, port: int, directory: Path, maxmemory: str | None) -> None:
        super().__init__(port=port, directory=directory)
        self._maxmemory = maxmemory

    def flush(self) -> None:
        """Everything it held is gone."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
            connection.sendall(b"FLUSHALL\r\n")
            assert connection.recv(64).startswith(b"+OK")

    def _command(self) -> list[str]:
        command = [str(find_redis_server()), "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        command += ["--appendonly", "no", "--dir", str(self.directory), "--daemonize", "no"]
        return command if self._maxmemory is None else [*command, "--maxmemory", self._maxmemory]

    def _answers(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), timeout=0.5) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")


class NatsServer(Server):
    scheme = "nats"

    def __init__(self, *, port: int, directory: Path, jetstream: bool) -> None:
        super().__init__(port=port, directory=directory)
        self.store_dir = directory / "jetstream"
        self._jetstream = jetstream

    def wipe_storage(self) -> None:
        """Everything it stored is gone; it must not be running."""
        assert not self.running, "stop or kill it first"
        shutil.rmtree(self.store_dir, ignore_errors=True)

    def _command(self) -> list[str]:
        command = [str(find_nats_server()), "--addr", "127.0.0.1", "--port", str(self.port)]
        return [*command, "--jetstream", "--store_dir", str(self.store_dir)] if self._jetstream else command

    def _answers(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), timeout=0.5) as connection:
            connection.settimeout(0.5)
            connection.recv(4096)
            connection.sendall(b'CONNECT {"verbose":false}\r\nPING\r\n')
            return b"PONG" in connection.recv(4096)


def start_redis(tmp_path: Path, *, maxmemory: str | None = None) -> RedisServer:
    """A redis-server without persistence, bounded by `maxmemory` ("16mb"; it then refuses writes) if that is given."""
    return _started(lambda port: RedisServer(port=port, directory=tmp_path / f"redis-{port}", maxmemory=maxmemory))


def start_nats(tmp_path: Path, *, jetstream: bool = True) -> NatsServer:
    """A nats-server, with JetStream on files below `tmp_path` if that is asked for."""
    return _started(lambda port: NatsServer(port=port, directory=tmp_path / f"nats-{port}", jetstream=jetstream))


def _started(make: Callable[[int], S]) -> S:
    """The server that `make` makes, on a free port; on another one if somebody was quicker."""
    for _ in range(_PORT_TRIES - 1):
        with suppress(RuntimeError):
            server = make(free_port())
            server.start()
            return server
    server = make(free_port())
    server.start()
    return server
