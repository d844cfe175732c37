"""What is known of a testbed, in one small file that survives whoever wrote it.

The keeper replaces `state.json` whole whenever something changed. Readers add what only the kernel knows: whether each
process is alive right now, and whether the keeper still holds the testbed's lock.
"""

from __future__ import annotations

import fcntl
import os
import time
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from consistency_service.testbed.errors import TestbedError
from consistency_service.testbed.processes import Condition, Identity, condition_of

STATE_BYTES_MAX: Final = 4_000_000
TAKE_TRIES: Final = 10


class Phase(StrEnum):
    """How far a testbed has come."""

    STARTING = "starting"
    READY = "ready"
    """Every process was ready once. Later deaths do not change this: they show at the process."""
    FAILED = "failed"
    """It could not start; `State.failure` says why, and everything was taken down again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessState:
    """One process of the plan. `exit_code` is of its last life, negative for a signal, None if unknown or still alive."""

    name: str
    condition: Condition = Condition.WAITING
    ready: bool = False
    identity: Identity | None = None
    exit_code: int | None = None
    start_count: int = 0
    ports: tuple[int, ...] = ()
    url: str | None = None

    @property
    def pid(self) -> int | None:
        """The id of its present or last life; None before the first."""
        return self.identity.pid if self.identity else None


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A testbed as last seen. `supervised` is False when nobody keeps it any more; `embedded`, when it lives inside
    another program (a test, the demo) rather than under a supervisor of its own.
    """

    directory: str
    phase: Phase
    supervisor: Identity
    embedded: bool
    processes: tuple[ProcessState, ...]
    failure: str | None = None
    port_collision: bool = False
    supervised: bool = True

    def process(self, name: str) -> ProcessState:
        """The process of this name. Raises `TestbedError` if the testbed has none."""
        for process in self.processes:
            if process.name == name:
                return process
        known = ", ".join(process.name for process in self.processes)
        raise TestbedError(f"this testbed has no process {name!r}; it has {known}")

    def urls(self, prefix: str) -> tuple[str, ...]:
        """The addresses of all processes whose names begin with `prefix`, such as `node-`, `nats` or `redis-edge`."""
        return tuple(process.url for process in self.processes if process.name.startswith(prefix) and process.url)

    def as_json(self) -> bytes:
        """For `--json` and for the state file."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2)


def write_state(state: State) -> None:
    """The state file holds exactly this state, or on a crash the one before."""
    path = _state_path(Path(state.directory))
    temporary = path.with_name("state.json.new")
    temporary.write_bytes(state.as_json())
    temporary.replace(path)


def read_state(directory: Path) -> State:
    """The state file with every condition as it is now. Raises `TestbedError` if there is no testbed."""
    path = _state_path(directory)
    try:
        with path.open("rb") as file:
            state = msgspec.json.decode(file.read(STATE_BYTES_MAX), type=State)
    except FileNotFoundError as error:
        raise TestbedError(f"there is no testbed in {directory}; start one with: ccs testbed up") from error
    except (OSError, msgspec.MsgspecError) as error:
        raise TestbedError(f"cannot read {path}: {error}; if nothing runs there, delete it") from error
    return replace(
        state,
        supervised=Lock.is_held(directory),
        processes=tuple(
            replace(process, condition=condition_of(process.identity)) if process.identity else process
            for process in state.processes
        ),
    )


def remove_state(directory: Path) -> None:
    """There is no testbed in `directory` any more, as far as files can say."""
    _state_path(directory).unlink(missing_ok=True)


def log_path(directory: Path, name: str) -> Path:
    """Where the log of a process is kept; the one before it has `.1` appended."""
    return directory / "logs" / f"{name}.log"


class Lock:
    """Held by whoever keeps the testbed of a directory. The kernel lets go of it when the holder dies."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def take(cls, directory: Path) -> Lock | None:
        """The lock, or None if somebody has it. Makes the directory, closed to other users."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        for _ in range(TAKE_TRIES):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.02)  # it may only be somebody looking
            else:
                return cls(descriptor)
        os.close(descriptor)
        return None

    @staticmethod
    def is_held(directory: Path) -> bool:
        """True if somebody keeps this testbed. A shared look, so that two who look do not see each other."""
        try:
            descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def release(self) -> None:
        """Somebody else may take it. Only once: the descriptor is closed."""
        os.close(self.descriptor)


def _state_path(directory: Path) -> Path:
    return directory / "state.json"
