"""What will be done to a region, and when: a value drawn from a seed, before anything is started.

Picture the programme of a stunt show. Storms, in which faults of the chosen kinds begin at random and overlap, alternate
with calms, in which everything is whole again; the last thing is a storm, after which the region must find together. No two faults of the programme hold the same
thing at once, but for one: `leader` is whoever leads when the moment comes, which only the nemesis can know.

Every fault lies within the assumptions of the protocol, so nothing that is promised may break. `Break` is the exception,
and exists to show that the judge can say no.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from consistency_service.testbed.errors import TestbedError

LEADER: Final = "leader"
BUS: Final = "nats"
TIER: Final = "redis-edge"

Pair = tuple[str, str]
Range = tuple[int, int]


class FaultKind(StrEnum):
    """What can be switched on by `--faults`."""

    KILL = "kill"
    PAUSE = "pause"
    PARTITION = "partition"
    BUS = "bus"
    DISK = "disk"
    CLOCK = "clock"
    REDIS = "redis"


class Action(StrEnum):
    """What is done."""

    KILL = "kill"
    """SIGKILL, and started again at the end."""
    PAUSE = "pause"
    """SIGSTOP, and SIGCONT at the end."""
    CUT = "cut"
    """Connections of the pairs stall; at the end they are reset, and what was under way is lost."""
    HOLD = "hold"
    """Connections of the pairs stall; at the end what was under way arrives, late."""
    SLOW = "slow"
    """Everything between the pairs takes `amount` ms longer."""
    WIPE = "wipe"
    """SIGKILL to the bus, and started again at the end without anything that it had stored."""
    FILL = "fill"
    """No byte is left on a node's disk, or on the artifact store's."""
    RATE = "rate"
    """A process's clock runs `amount` ppm too fast from now on."""
    SUSPEND = "suspend"
    """A process stands still, and its clocks say afterwards that the machine was suspended."""
    FLUSH = "flush"
    """The local tier forgets everything."""
    FULL = "full"
    """The local tier takes nothing more."""
    BREAK_CLOCK = "break-clock"
    """An edge without a bus whose clock runs at half its rate: beyond what the protocol assumes."""


class Break(StrEnum):
    """Ways to leave the protocol's assumptions on purpose."""

    CLOCK_RATE = "clock-rate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is done, from `begin_ms` to `end_ms` after the start; `pairs` are (from, to), one way each."""

    number: int
    kind: FaultKind
    action: Action
    target: str
    begin_ms: int
    end_ms: int
    pairs: tuple[Pair, ...] = ()
    amount: int = 0
    words: str = ""

    def __str__(self) -> str:
        return f"{self.words or f'{self.action} {self.target}'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StartClock:
    """How a process's clock is from its birth on: ahead by so much, and so much too fast."""

    offset_ns: int = 0
    rate_ppm: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The whole programme; equal arguments give an equal one."""

    seed: int
    duration_ms: int
    faults: tuple[Fault, ...]
    clocks: dict[str, StartClock]
    storms: tuple[Range, ...]


def parse_kinds(text: str) -> frozenset[FaultKind]:
    """The kinds of a list such as `kill,bus`. Raises `TestbedError` that names what is none."""
    try:
        kinds = frozenset(FaultKind(word.strip()) for word in text.split(",") if word.strip())
    except ValueError as error:
        raise TestbedError(f"{error}; there are {', '.join(FaultKind)}") from None
    if not kinds:
        raise TestbedError(f"name at least one kind of fault: {', '.join(FaultKind)}")
    return kinds


def parse_break(text: str | None) -> Break | None:
    """The assumption to be left. Raises `TestbedError` that names those there are."""
    try:
        return None if text is None else Break(text)
    except ValueError:
        raise TestbedError(f"--break takes {' or '.join(Break)}, not {text!r}") from None
