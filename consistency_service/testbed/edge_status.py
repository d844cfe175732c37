"""What an edge of the testbed says of itself every fifth of a second, in a file that is always whole.

One side writes it (`edge`), the other reads it (demo, benchmarks, tests, people); both by these types.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

STATUS_BYTES_MAX: Final = 4_000_000


class VersionTally(msgspec.Struct, kw_only=True):
    """How one version did on the held-out images, taken in order, from the first again after the last."""

    classified: int = 0
    correct: int = 0

    @property
    def accuracy(self) -> float | None:
        return self.correct / self.classified if self.classified else None


class SwitchSeen(msgspec.Struct, frozen=True, kw_only=True):
    """How this edge came to serve a generation."""

    generation: int
    activation: int
    """The activation's revision."""
    late_ns: int
    """The computed switch instant minus the activation's, by the middle of the bounds on that clock."""
    uncertainty_ns: int
    at_local_ns: int | None
    """When the first reading of the generation had returned here (`CLOCK_BOOTTIME`); None if none has."""


class Session(msgspec.Struct, kw_only=True):
    """One model at one edge."""

    edge_id: str
    model: str
    version: str | None = None
    generation: int | None = None
    guarantee: str | None = None
    staleness_bound_ms: int | None = None
    reads: dict[str, int] = {}
    """Readings by guarantee."""
    versions: dict[str, VersionTally] = {}
    switches: list[SwitchSeen] = []
    reads_per_second: float = 0.0
    failed_reads: int = 0
    """Reads that raised after the first that did not."""
    last_error: str | None = None
    """What the last failed read said; before the first success, why the model is waited for."""
    wrong_reads: int = 0
    """Readings whose value was not the version they named."""
    last_wrong: str | None = None
    bare_read_ns_p50: float | None = None
    """What a `read()` costs, measured now and then over a burst that is counted nowhere else."""
    lease_remaining_ms: int = 0
    uncertainty_ns: int | None = None

    @property
    def read_count(self) -> int:
        return sum(self.reads.values())

    @property
    def not_strong_count(self) -> int:
        return self.read_count - self.reads.get("strong", 0)


class EdgeStatus(Session, kw_only=True):
    """A whole process: its first session's fields, and every session, the first among them."""

    pid: int
    at_ns: int
    """When this was written (`CLOCK_BOOTTIME`)."""
    sessions: list[Session] = []


def write_status(path: Path, status: EdgeStatus) -> None:
    """The file holds this status, whole."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_bytes(msgspec.json.encode(status) + b"\n")
    temporary.replace(path)


def status_of(pid: int, at_ns: int, sessions: list[Session]) -> EdgeStatus:
    """The status of a process that has these sessions, at least one."""
    return EdgeStatus(pid=pid, at_ns=at_ns, sessions=sessions, **msgspec.structs.asdict(sessions[0]))


def read_status(path: Path) -> EdgeStatus | None:
    """What the edge said last; None if it has not said anything that makes sense."""
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(STATUS_BYTES_MAX), type=EdgeStatus)
    except (OSError, msgspec.MsgspecError):
        return None
