"""Testbeds by directory: bring one up, look at it, hurt it, take it down.

Plain functions that return values and print nothing; the command line, the demo and the tests all stand on them. Who
actually keeps the processes is in `keeper`: in a supervisor process of its own after `up`, in a thread of the calling
program inside `with Testbed(config)`.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from consistency_service.testbed.bootstrap import launch, prepare
from consistency_service.testbed.errors import TestbedError
from consistency_service.testbed.keeper import Keeper, request
from consistency_service.testbed.processes import (
    Condition,
    condition_of,
    require_linux,
    send_signal,
    sweep,
    wait_condition,
)
from consistency_service.testbed.state import (
    Lock,
    Phase,
    State,
    log_path,
    read_state,
    remove_state,
)
from consistency_service.testbed.topology import Plan, TestbedConfig

START_TRIES: Final = 5
SIGNAL_TIMEOUT_MS: Final = 5_000
DOWN_TIMEOUT_MS: Final = 30_000
LOG_CHUNK_BYTES: Final = 1_000_000
_POLL_S: Final = 0.05
_STOPPED: Final = frozenset({Condition.STOPPED})

Progress = Callable[[str], None]


def up(config: TestbedConfig, *, progress: Progress, plan: Plan | None = None) -> State:
    """Everything runs and is ready, kept by a process of its own; `progress` heard a line for each that became so.

    Raises `TestbedError` if a testbed runs there already, or if this one cannot start (a `ConfigError` if the
    region's key file is open to others); then nothing is left running.
    """
    lock = _take_lock(config.directory)
    try:
        _recover(config.directory)
    except BaseException:
        lock.release()
        raise
    for tries_left in reversed(range(START_TRIES)):
        launch(prepare(config, lock, plan=plan), lock=lock)
        try:
            return _wait_up(config, progress=progress)
        except _CollisionError as error:
            if tries_left == 0:
                raise
            progress(f"{error}; trying other ports")
            lock = _take_lock(config.directory)
        except BaseException:
            down(config.directory)
            raise
    raise AssertionError("the last try returns or raises")


def status(directory: Path) -> State:
    """Every process as it is now. Raises `TestbedError` if there is no testbed in `directory`."""
    return read_state(Path(directory).absolute())


def kill(directory: Path, name: str) -> State:
    """The process is dead (SIGKILL), and stays so until `restart`. Raises `TestbedError` if it was not running."""
    return _signal(directory, name, signal.SIGKILL, _STOPPED)


def pause(directory: Path, name: str) -> State:
    """The process stands still (SIGSTOP) until `resume`. Raises `TestbedError` if it was not running."""
    return _signal(directory, name, signal.SIGSTOP, frozenset({Condition.PAUSED, Condition.STOPPED}))


def resume(directory: Path, name: str) -> State:
    """The process goes on (SIGCONT). Raises `TestbedError` if it was not running."""
    return _signal(directory, name, signal.SIGCONT, frozenset({Condition.ALIVE, Condition.STOPPED}))


def restart(directory: Path, name: str, *, timeout_ms: int = 30_000, wait_ready: bool = True) -> State:
    """A process that had ended runs again, from the same plan, and is ready unless `wait_ready` is False.

    Raises `TestbedError` if it still runs, ends again, or is not ready within `timeout_ms`.
    """
    directory = Path(directory).absolute()
    read_state(directory).process(name)
    request(directory, {"do": "restart", "name": name})
    deadline_ns = time.monotonic_ns() + timeout_ms * 1_000_000
    while True:
        state = read_state(directory)
        process = state.process(name)
        if process.ready or not wait_ready:
            return state
        if process.condition is Condition.STOPPED:
            raise TestbedError(f"{name} ended again before it was ready; see {log_path(directory, name)}")
        if time.monotonic_ns() > deadline_ns:
            raise TestbedError(f"{name} runs, but was not ready within {timeout_ms} ms")
        time.sleep(_POLL_S)


def down(directory: Path) -> None:
    """Nothing of the testbed runs any more, whatever became of its supervisor; data and logs stay.

    Raises `TestbedError` if there is no testbed, or if it lives in a program that does not let go of it.
    """
    directory = Path(directory).absolute()
    state = read_state(directory)
    let_go = not state.supervised or _go_down(directory)
    state = read_state(directory)
    if not let_go and state.embedded:
        raise TestbedError(f"process {state.supervisor.pid} holds this testbed and does not let go; end it")
    if not let_go:
        send_signal(state.supervisor, signal.SIGKILL)
    if not state.embedded:
        wait_condition(state.supervisor, _STOPPED, timeout_ms=SIGNAL_TIMEOUT_MS)
    lock = _take_lock(directory)
    try:
        _recover(directory)
    finally:
        lock.release()


def logs(directory: Path, name: str, *, follow: bool = False, lines: int = 50) -> Iterator[str]:
    """The last `lines` lines of a process's log, or of `supervisor`'s; with `follow` also what comes, until all is down.

    Raises `TestbedError` at once if there is no such process.
    """
    directory = Path(directory).absolute()
    if name != "supervisor":
        read_state(directory).process(name)
    return _log_lines(directory, name, follow=follow, lines=lines)


class Testbed:
    """A region inside this program, for tests, demo and bench: up when the block is entered, down when it is left.

    It goes with the program, even if that is killed. Other processes may watch and hurt it through the functions above.
    """

    __test__ = False  # not a test, in spite of its name

    def __init__(
        self, config: TestbedConfig, *, plan: Plan | None = None, progress: Progress = lambda _line: None
    ) -> None:
        self.directory = config.directory
        self._config = config
        self._plan = plan
        self._progress = progress
        self._thread: threading.Thread | None = None
        self._keeper: Keeper | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> State:
        """As `up`, in this program."""
        lock = _take_lock(self.directory)
        try:
            _recover(self.directory)
        except BaseException:
            lock.release()
            raise
        for tries_left in reversed(range(START_TRIES)):
            topology = prepare(self._config, lock, plan=self._plan)
            self._keeper = Keeper(topology, lock=lock, embedded=True)
            self._thread = threading.Thread(target=self._keeper.run, name="testbed-keeper", daemon=True)
            self._thread.start()
            try:
                return _wait_up(self._config, progress=self._progress)
            except _CollisionError as error:
                self._thread.join()
                if tries_left == 0:
                    raise
                self._progress(f"{error}; trying other ports")
                lock = _take_lock(self.directory)
            except BaseException:
                self.stop()
                raise
        raise AssertionError("the last try returns or raises")

    def stop(self) -> None:
        """As `down`; does nothing if it was not started or is down already."""
        if self._keeper is not None and self._thread is not None:
            self._keeper.stop()
            self._thread.join()
            remove_state(self.directory)
        self._keeper = self._thread = None

    @property
    def state(self) -> State:
        return status(self.directory)

    def kill(self, name: str) -> State:
        return kill(self.directory, name)

    def pause(self, name: str) -> State:
        return pause(self.directory, name)

    def resume(self, name: str) -> State:
        return resume(self.directory, name)

    def restart(self, name: str, *, wait_ready: bool = True) -> State:
        return restart(self.directory, name, wait_ready=wait_ready)


class _CollisionError(TestbedError):
    """A port was grabbed by somebody between being found free and being used."""


def _take_lock(directory: Path) -> Lock:
    require_linux()
    lock = Lock.take(directory)
    if lock is None:
        raise TestbedError(f"a testbed is running already in {directory}; stop it with: ccs testbed down")
    return lock


def _recover(directory: Path) -> None:
    """Whatever a killed supervisor left behind is gone. Call with the lock held."""
    try:
        state = read_state(directory)
    except TestbedError:
        if (directory / "state.json").exists():
            raise
    else:
        for process in state.processes:
            if process.identity is not None:
                send_signal(process.identity, signal.SIGKILL)
                wait_condition(process.identity, _STOPPED, timeout_ms=SIGNAL_TIMEOUT_MS)
    sweep(directory)
    remove_state(directory)


def _wait_up(config: TestbedConfig, *, progress: Progress) -> State:
    """Return when everything is ready. Raises `TestbedError` when it failed; then the keeper has taken all down."""
    said: set[str] = set()
    while True:
        state = read_state(config.directory)
        for process in state.processes:
            if process.ready and process.name not in said:
                said.add(process.name)
                progress(f"{process.name} is ready" + (f" at {process.url}" if process.url else ""))
        if state.phase is Phase.READY:
            return state
        if not state.supervised:
            state = read_state(config.directory)  # what it wrote last
            kind = _CollisionError if state.port_collision else TestbedError
            log = log_path(config.directory, "supervisor")
            raise kind(state.failure or f"the testbed's supervisor ended before all was ready; see {log}")
        time.sleep(_POLL_S)


def _go_down(directory: Path) -> bool:
    """True once the keeper took everything down; False if it stands still or needs too long."""
    deadline_ns = time.monotonic_ns() + DOWN_TIMEOUT_MS * 1_000_000
    while Lock.is_held(directory):
        stuck = condition_of(read_state(directory).supervisor) is not Condition.ALIVE
        if stuck or time.monotonic_ns() >= deadline_ns:
            return not Lock.is_held(directory)
        with contextlib.suppress(TestbedError):  # it may not listen yet, or not any more
            request(directory, {"do": "down"}, timeout_ms=1_000)
        time.sleep(_POLL_S)
    return True


def _signal(directory: Path, name: str, number: signal.Signals, wanted: frozenset[Condition]) -> State:
    directory = Path(directory).absolute()
    process = read_state(directory).process(name)
    if process.identity is None or not send_signal(process.identity, number):
        raise TestbedError(f"{name} is not running; start it again with: ccs testbed restart {name}")
    if not wait_condition(process.identity, wanted, timeout_ms=SIGNAL_TIMEOUT_MS):
        raise TestbedError(f"{name} did not react to {number.name}")
    deadline_ns = time.monotonic_ns() + SIGNAL_TIMEOUT_MS * 1_000_000
    while True:  # until the keeper wrote down how it ended
        state = read_state(directory)
        process = state.process(name)
        noticed = process.condition is not Condition.STOPPED or process.exit_code is not None
        if noticed or not state.supervised or time.monotonic_ns() >= deadline_ns:
            return state
        time.sleep(_POLL_S)


def _log_lines(directory: Path, name: str, *, follow: bool, lines: int) -> Iterator[str]:
    path = log_path(directory, name)
    position = 0
    if path.exists():
        with path.open("rb") as file:
            yield from (line.decode("utf-8", "replace").rstrip("\n") for line in deque(file, maxlen=max(0, lines)))
            position = file.tell()
    while follow:
        running = Lock.is_held(directory)
        if path.exists():
            position = position if path.stat().st_size >= position else 0  # it was emptied
            with path.open("rb") as file:
                file.seek(position)
                chunk = file.read(LOG_CHUNK_BYTES)
            whole = chunk[: chunk.rfind(b"\n") + 1] if running and len(chunk) < LOG_CHUNK_BYTES else chunk
            position += len(whole)
            yield from whole.decode("utf-8", "replace").splitlines()
            running = running or len(chunk) == LOG_CHUNK_BYTES
        if not running:
            return
        time.sleep(0.2)
