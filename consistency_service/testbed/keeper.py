"""The one thread that is parent to every process of a testbed.

Picture a night porter: starts everybody in order, writes down who left and why, brings nobody back unasked, and when he
drops dead the kernel clears the house, because every child dies with the thread that started it. He answers a small
socket in the testbed's directory, so that `restart` and `down` reach him from any process.

`run_supervisor` is him in a process of his own; `supervisor.Testbed` has him in a thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from consistency_service.testbed.errors import TestbedError
from consistency_service.testbed.processes import (
    Condition,
    Identity,
    condition_of,
    listens,
    port_is_free,
    send_signal,
    spawn,
    sweep,
)
from consistency_service.testbed.state import Lock, Phase, ProcessState, State, log_path, write_state
from consistency_service.testbed.topology import ProcessSpec, Ready, ReadyKind, Topology

REQUEST_BYTES_MAX: Final = 4_096
REQUEST_TIMEOUT_S: Final = 1.0
STEP_S: Final = 0.05
PROBE_TIMEOUT_S: Final = 0.5
STOP_TIMEOUT_S: Final = 3.0
LOG_CHECK_NS: Final = 1_000_000_000
LOG_PROBE_BYTES_MAX: Final = 4_000_000


@dataclass(slots=True)
class _Child:
    """A process of the plan and what became of it."""

    spec: ProcessSpec
    state: ProcessState
    popen: subprocess.Popen[bytes] | None = None
    log_start_bytes: int = 0


class Keeper:
    """Keeps one topology running from the thread that calls `run`, and releases `lock` when nothing runs any more."""

    def __init__(self, topology: Topology, *, lock: Lock, embedded: bool) -> None:
        self._topology = topology
        self._directory = Path(topology.directory)
        self._lock = lock
        self._embedded = embedded
        self._supervisor = Identity.of(os.getpid())
        self._children = {
            spec.name: _Child(spec, ProcessState(name=spec.name, ports=spec.ports, url=spec.url))
            for spec in topology.processes
        }
        self._phase = Phase.STARTING
        self._failure: str | None = None
        self._port_collision = False
        self._stopping = False
        self._written: State | None = None
        self._ready_deadline_ns = time.monotonic_ns() + topology.ready_timeout_ms * 1_000_000
        self._logs_checked_at_ns = 0
        (self._directory / "logs").mkdir(exist_ok=True)
        self._save()

    def stop(self) -> None:
        """`run` takes everything down and returns soon; safe from signal handlers and other threads."""
        self._stopping = True

    def run(self) -> None:
        """Start everything, keep it until `stop` or a request to go down, take it down. Whatever is raised, all is down."""
        try:
            with control_listener(self._directory) as listener:
                while not self._stopping:
                    self._step()
                    self._answer(listener)
        except Exception as error:
            self._fail(f"the keeper itself failed: {error!r}")
            raise
        finally:
            try:
                self._take_down()
                self._save()
            finally:
                self._lock.release()

    def _step(self) -> None:
        for child in self._children.values():
            self._collect(child)
            if child.popen is not None and not child.state.ready and _is_ready(child, self._directory):
                child.state = replace(child.state, ready=True)
            if self._phase is Phase.STARTING and child.state.condition is Condition.WAITING and not self._stopping:
                self._start_if_due(child)
        if self._phase is Phase.STARTING:
            self._judge_start()
        self._rotate_logs()
        self._save()

    def _start_if_due(self, child: _Child) -> None:
        if not all(self._children[name].state.ready for name in child.spec.depends_on):
            return
        if taken := [port for port in child.spec.ports if not port_is_free(port)]:
            self._fail(f"port {taken[0]}, meant for {child.spec.name}, was taken by somebody else", collision=True)
            return
        try:
            self._start(child)
        except TestbedError as error:
            self._fail(f"{child.spec.name}: {error}")

    def _start(self, child: _Child) -> None:
        """The child runs a new life. Raises `TestbedError` if it cannot be started."""
        log = log_path(self._directory, child.spec.name)
        child.log_start_bytes = log.stat().st_size if log.exists() else 0
        if child.spec.ready.kind is ReadyKind.FILE:
            Path(child.spec.ready.target).unlink(missing_ok=True)
        child.popen = spawn(child.spec.argv, env=child.spec.env, cwd=child.spec.cwd, log=log, directory=self._directory)
        child.state = replace(
            child.state,
            identity=Identity.of(child.popen.pid),
            condition=Condition.ALIVE,
            ready=False,
            exit_code=None,
            start_count=child.state.start_count + 1,
        )

    def _collect(self, child: _Child) -> None:
        """Write down how a child ended, if it did."""
        if child.popen is None or (code := child.popen.poll()) is None:
            return
        child.popen = None
        child.state = replace(child.state, condition=Condition.STOPPED, ready=False, exit_code=code)

    def _judge_start(self) -> None:
        for child in self._children.values():
            if child.state.exit_code is not None and not self._stopping:
                taken = [port for port in child.spec.ports if not port_is_free(port)]
                self._fail(
                    f"{child.spec.name} ended with exit code {child.state.exit_code} before the testbed was ready;"
                    f" its log ends with:\n{_tail(log_path(self._directory, child.spec.name))}",
                    collision=bool(taken),
                )
                return
        waiting = [child.spec.name for child in self._children.values() if not child.state.ready]
        if not waiting:
            self._phase = Phase.READY
        elif time.monotonic_ns() > self._ready_deadline_ns:
            log = log_path(self._directory, waiting[0])
            self._fail(f"{', '.join(waiting)}: not ready in time; the log of {waiting[0]} ends with:\n{_tail(log)}")

    def _fail(self, text: str, *, collision: bool = False) -> None:
        if self._failure is None:
            self._phase, self._failure, self._port_collision = Phase.FAILED, text, collision
        self._stopping = True

    def _save(self) -> None:
        state = State(
            directory=str(self._directory),
            phase=self._phase,
            supervisor=self._supervisor,
            embedded=self._embedded,
            processes=tuple(child.state for child in self._children.values()),
            failure=self._failure,
            port_collision=self._port_collision,
        )
        if state != self._written:
            with contextlib.suppress(OSError):  # a full disk ends nothing here; the next step tries again
                write_state(state)
                self._written = state

    def _answer(self, listener: socket.socket) -> None:
        """Wait up to one step for a request, and answer it."""
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            return
        with connection:
            connection.settimeout(REQUEST_TIMEOUT_S)
            try:
                with connection.makefile("rb") as file:
                    request = json.loads(file.readline(REQUEST_BYTES_MAX))
                answer = self._obey(request)
            except (TestbedError, ValueError, OSError) as error:
                answer = {"error": str(error)}
            with contextlib.suppress(OSError):  # whoever asked has gone
                connection.sendall(json.dumps(answer).encode() + b"\n")

    def _obey(self, request: object) -> dict[str, object]:
        match request:
            case {"do": "down"}:
                self.stop()
            case {"do": "restart", "name": str(name)} if name in self._children:
                self._restart(self._children[name])
            case _:
                raise TestbedError("the keeper knows down and restart NAME")
        return {"ok": True}

    def _restart(self, child: _Child) -> None:
        self._collect(child)
        if self._phase is not Phase.READY:
            raise TestbedError("the testbed is not up yet")
        if child.popen is not None:
            raise TestbedError(f"{child.spec.name} is running; kill it first")
        if taken := [port for port in child.spec.ports if not port_is_free(port)]:
            raise TestbedError(f"{child.spec.name} cannot start: port {taken[0]} is taken by somebody else")
        self._start(child)
        self._save()

    def _take_down(self) -> None:
        """No child runs any more: dependants first, asked politely, then not; nor does any grandchild."""
        while self._running():
            needed = {name for child in self._running() for name in child.spec.depends_on}
            wave = [child for child in self._running() if child.spec.name not in needed]
            for child in wave:
                if child.state.identity is not None:
                    send_signal(child.state.identity, signal.SIGTERM)
                    send_signal(child.state.identity, signal.SIGCONT)
            deadline_ns = time.monotonic_ns() + int(STOP_TIMEOUT_S * 1e9)
            for child in wave:
                self._end(child, deadline_ns=deadline_ns)
        sweep(self._directory)

    def _running(self) -> list[_Child]:
        return [child for child in self._children.values() if child.popen is not None]

    def _end(self, child: _Child, *, deadline_ns: int) -> None:
        popen, identity = child.popen, child.state.identity
        assert popen is not None and identity is not None
        while condition_of(identity) is not Condition.STOPPED and time.monotonic_ns() < deadline_ns:
            time.sleep(0.01)
        send_signal(identity, signal.SIGKILL)
        popen.wait()
        self._collect(child)

    def _rotate_logs(self) -> None:
        """Bound every log: copied aside and emptied in place, because the child keeps its descriptor."""
        now_ns = time.monotonic_ns()
        if now_ns - self._logs_checked_at_ns < LOG_CHECK_NS:
            return
        self._logs_checked_at_ns = now_ns
        for child in self._children.values():
            log = log_path(self._directory, child.spec.name)
            if log.exists() and log.stat().st_size > self._topology.log_bytes_max:
                with contextlib.suppress(OSError):  # no room for the copy: bounded matters more
                    shutil.copyfile(log, log.with_name(log.name + ".1"))
                os.truncate(log, 0)
                child.log_start_bytes = 0


def request(directory: Path, message: dict[str, str], *, timeout_ms: int = 10_000) -> None:
    """The keeper of this directory did as asked. Raises `TestbedError` with its objection, or if it does not answer."""
    try:
        with _socket_path(directory) as path, socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout_ms / 1_000)
            connection.connect(path)
            connection.sendall(json.dumps(message).encode() + b"\n")
            with connection.makefile("rb") as file:
                answer = json.loads(file.readline(REQUEST_BYTES_MAX) or b"{}")
    except (OSError, ValueError) as error:
        raise TestbedError(f"the testbed's keeper does not answer: {error}") from error
    if not isinstance(answer, dict) or answer.get("ok") is not True:
        reason = answer.get("error") if isinstance(answer, dict) else None
        raise TestbedError(str(reason or "the testbed's keeper went away"))


@contextlib.contextmanager
def control_listener(directory: Path) -> Iterator[socket.socket]:
    """A listening socket for `request`, for this user alone; gone when the block ends."""
    with _socket_path(directory) as path, socket.socket(socket.AF_UNIX) as listener:
        Path(path).unlink(missing_ok=True)
        listener.bind(path)
        Path(path).chmod(0o600)
        listener.listen(8)
        listener.settimeout(STEP_S)
        try:
            yield listener
        finally:
            Path(path).unlink(missing_ok=True)


@contextlib.contextmanager
def _socket_path(directory: Path) -> Iterator[str]:
    """The socket's path by way of a descriptor: a long directory name would not fit into a socket address."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/control.sock"
    finally:
        os.close(descriptor)


def _is_ready(child: _Child, directory: Path) -> bool:
    ready: Ready = child.spec.ready
    assert child.popen is not None
    if ready.kind is ReadyKind.PORT:
        return listens(child.popen.pid, int(ready.target))
    if ready.kind is ReadyKind.HTTP:
        return _answers_ok(ready.target)
    if ready.kind is ReadyKind.FILE:
        return Path(ready.target).exists()
    with log_path(directory, child.spec.name).open("rb") as file:
        file.seek(child.log_start_bytes)
        return ready.target.encode() in file.read(LOG_PROBE_BYTES_MAX)


def _answers_ok(url: str) -> bool:
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=PROBE_TIMEOUT_S)
    try:
        connection.request("GET", parts.path or "/")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _tail(path: Path, *, bytes_max: int = 2_000) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - bytes_max))
            return file.read().decode("utf-8", "replace").strip() or "(nothing)"
    except OSError:
        return "(nothing)"


def run_supervisor(*, topology_path: Path, lock_descriptor: int) -> None:
    """This process becomes a supervisor: detached from its caller, until asked to go down or told so by SIGTERM."""
    if os.fork() > 0:
        os._exit(0)  # the caller waits for this one only
    topology = msgspec.json.decode(topology_path.read_bytes(), type=Topology)
    os.set_inheritable(lock_descriptor, False)
    keeper = Keeper(topology, lock=Lock(lock_descriptor), embedded=False)
    signal.signal(signal.SIGTERM, lambda *_: keeper.stop())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keeper.run()


if __name__ == "__main__":
    run_supervisor(topology_path=Path(sys.argv[1]), lock_descriptor=int(sys.argv[2]))
