"""Who a process is, what it listens on, and how it dies with us.

A number is not an identity: the kernel gives the id of a dead process to the next one. So a process is remembered as
`Identity` (id and start time, within one boot), every signal goes through a descriptor that is checked against it, and a
stranger is never signalled. Linux only: it leans on `/proc`, pidfds and the parent-death signal.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Self

from consistency_service.testbed.errors import TestbedError

_PR_SET_PDEATHSIG: Final = 1
_PORT_MIN: Final = 15_000
_PORT_TRIES_MAX: Final = 2_000
_LISTEN_STATE: Final = "0A"
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_POLL_S: Final = 0.01
MARK: Final = "CCS_TESTBED_DIRECTORY"
SWEEPS_MAX: Final = 5


class Condition(StrEnum):
    """What a process is doing right now."""

    WAITING = "waiting"
    """Not started yet."""
    ALIVE = "alive"
    PAUSED = "paused"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One life of one process: its id, and when it started in clock ticks since `boot_id` began."""

    pid: int
    started_ticks: int
    boot_id: str

    @classmethod
    def of(cls, pid: int) -> Self:
        """The identity of whoever has this id now. Raises `TestbedError` if nobody has."""
        stat = _stat(pid)
        if stat is None:
            raise TestbedError(f"process {pid} ended before it could be looked at")
        return cls(pid=pid, started_ticks=stat[1], boot_id=_boot_id())


def condition_of(identity: Identity) -> Condition:
    """Alive, paused or stopped; a process that ended but was not collected yet is stopped."""
    stat = _stat(identity.pid)
    if stat is None or stat[1] != identity.started_ticks or _boot_id() != identity.boot_id:
        return Condition.STOPPED
    if stat[0] in "ZX":
        return Condition.STOPPED
    return Condition.PAUSED if stat[0] in "Tt" else Condition.ALIVE


def send_signal(identity: Identity, number: signal.Signals) -> bool:
    """True if exactly this process got the signal; False if it is gone, whoever has its id now."""
    try:
        descriptor = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return False
    try:
        # The descriptor holds on to one process; if that is ours now, it is ours when the signal arrives.
        if condition_of(identity) is Condition.STOPPED:
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def wait_condition(identity: Identity, wanted: frozenset[Condition], *, timeout_ms: int) -> bool:
    """True once the process is in one of the wanted conditions; False if that took longer than `timeout_ms`."""
    deadline_ns = time.monotonic_ns() + timeout_ms * 1_000_000
    while condition_of(identity) not in wanted:
        if time.monotonic_ns() >= deadline_ns:
            return False
        time.sleep(_POLL_S)
    return True


def spawn(
    argv: tuple[str, ...], *, env: Mapping[str, str], cwd: str, log: Path, directory: Path
) -> subprocess.Popen[bytes]:
    """A child in a session of its own that appends to `log` and is killed when *the calling thread* ends, however that
    ends. Call it from a thread that outlives the child. Its environment, and so that of its children, is marked with
    the testbed's `directory`: see `sweep`. Raises `TestbedError` if it cannot be started.
    """
    parent = os.getpid()

    def die_with_parent() -> None:
        if _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0 or os.getppid() != parent:
            os._exit(127)

    try:
        with log.open("ab") as output:
            return subprocess.Popen(
                argv,
                env={**os.environ, **env, MARK: str(directory)},
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - takes no lock and imports nothing
            )
    except (OSError, subprocess.SubprocessError) as error:
        raise TestbedError(f"cannot start {argv[0]}: {error}") from error


def sweep(directory: Path) -> None:
    """No process marked with this testbed's directory runs: grandchildren included, which no state file knows.

    Raises `TestbedError` if one does not die.
    """
    for _ in range(SWEEPS_MAX):
        marked = [
            identity for identity in map(_identity_of, _all_pids()) if identity and _is_marked(identity, directory)
        ]
        if not marked:
            return
        for identity in marked:
            send_signal(identity, signal.SIGKILL)
        for identity in marked:
            wait_condition(identity, frozenset({Condition.STOPPED}), timeout_ms=1_000)
    raise TestbedError(f"some process of the testbed in {directory} does not die; look for {MARK} in its environment")


def require_linux() -> None:
    """Raises `TestbedError` where the kernel lacks what this module leans on."""
    if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
        raise TestbedError("the testbed needs Linux 5.4 or newer (process descriptors, parent-death signal)")


def listens(pid: int, port: int) -> bool:
    """True if this very process has a listening TCP socket (IPv4) on `port`; a stranger's does not count."""
    inodes: set[str] = set()
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        words = line.split()
        if words[3] == _LISTEN_STATE and int(words[1].rpartition(":")[2], 16) == port:
            inodes.add(f"socket:[{words[9]}]")
    if not inodes:
        return False
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            return any(_link(entry.path) in inodes for entry in entries)
    except OSError:
        return False


def port_is_free(port: int) -> bool:
    """True if a server could listen on this loopback port right now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@contextlib.contextmanager
def free_ports(chooser: random.Random | None = None) -> Iterator[Iterator[int]]:
    """An endless supply of different free loopback ports, held until the block ends and free for their users after it.

    They lie below the kernel's range for outgoing connections, so that nobody is given the port of a killed process by
    chance before it is restarted. Raises `TestbedError` if none can be found.
    """
    chooser = chooser or random.Random()
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    with contextlib.ExitStack() as held:

        def supply() -> Iterator[int]:
            for _ in range(_PORT_TRIES_MAX):
                holder = socket.socket()
                try:
                    holder.bind(("127.0.0.1", chooser.randrange(_PORT_MIN, low) if low > _PORT_MIN + 1_000 else 0))
                except OSError:
                    holder.close()
                    continue
                yield int(held.enter_context(holder).getsockname()[1])
            raise TestbedError("no free ports left on 127.0.0.1; stop some servers and try again")

        yield supply()


def _stat(pid: int) -> tuple[str, int] | None:
    """State letter and start time of a process; None if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    words = text.rpartition(")")[2].split()  # the name before it may hold anything, brackets included
    return words[0], int(words[19])


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - names, not paths


def _identity_of(pid: int) -> Identity | None:
    stat = _stat(pid)
    return None if stat is None or stat[0] in "ZX" else Identity(pid=pid, started_ticks=stat[1], boot_id=_boot_id())


def _is_marked(identity: Identity, directory: Path) -> bool:
    try:
        entries = Path(f"/proc/{identity.pid}/environ").read_bytes().split(b"\0")
    except OSError:  # gone, or another user's
        return False
    return f"{MARK}={directory}".encode() in entries


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""
