"""Carries the programme out, and writes down what was really done.

Picture a stage hand with a cue sheet: each fault has a cue to begin and one to end. What cannot be done when its cue
comes (the process is down already, nobody leads) is skipped, and the sheet says so. `heal` undoes whatever still holds.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import redis

from consistency_service.testbed import supervisor
from consistency_service.testbed.chaos.disks import Disks
from consistency_service.testbed.chaos.layout import clock_path
from consistency_service.testbed.chaos.plan import LEADER, TIER, Action, Fault, Schedule
from consistency_service.testbed.chaos.proxy import Weather, tell
from consistency_service.testbed.edge_session import boottime_ns
from consistency_service.testbed.errors import TestbedError
from consistency_service.testbed.processes import Condition
from consistency_service.testbed.topology import REDIS_MEMORY_MAX

RESTART_TRIES: Final = 5
POLL_S: Final = 0.05
GUARD_S: Final = 1.0
"""How often it is looked for processes that ended by themselves."""


@dataclass(slots=True, kw_only=True)
class Deed:
    """A fault, and what came of it; `skipped` says why it was not done."""

    fault: Fault
    target: str
    begun_ns: int
    ended_ns: int | None = None
    skipped: str | None = None


@dataclass(slots=True)
class _Clock:
    """A process's clock faults, as its control file has them."""

    offset_ns: int = 0
    rate_ppm: int = 0
    jump_ns: int = 0


class Nemesis:
    """One programme in one testbed. One thread."""

    def __init__(
        self,
        schedule: Schedule,
        *,
        directory: Path,
        disks: Disks,
        leader: Callable[[], str | None],
        say: Callable[[str], None],
    ) -> None:
        self.deeds: list[Deed] = []
        self.unexpected: list[str] = []
        """Processes that ended without being killed, and are running again."""
        self.ends: dict[str, list[int]] = {}
        """When each process was found to have ended, or was killed."""
        self._schedule = schedule
        self._directory = directory
        self._disks = disks
        self._leader = leader
        self._say = say
        self._proxy_port = supervisor.status(directory).process("network").ports[0]
        self._held: dict[str, Deed] = {}
        """Processes that are down or stand still because of a deed."""
        self._weather: dict[int, Fault] = {}
        self._full: set[str] = set()
        self._excused: set[str] = set()
        """Processes that may end, or have not started: because of a full disk, or because we could not start them."""
        self._clocks = {name: _Clock(start.offset_ns, start.rate_ppm) for name, start in schedule.clocks.items()}
        self._store = redis.Redis.from_url(
            supervisor.status(directory).urls(TIER)[0], socket_timeout=5, socket_connect_timeout=2
        )
        self._guarded_s = 0.0

    def perform(self, *, until_ms: int, started_s: float, interrupted: Callable[[], bool]) -> None:
        """Every fault that begins before `until_ms` was done and undone, or skipped."""
        cues = sorted(
            [(fault.begin_ms, 0, fault) for fault in self._schedule.faults]
            + [(fault.end_ms, 1, fault) for fault in self._schedule.faults],
            key=lambda cue: (cue[0], cue[1], cue[2].number),
        )
        running: dict[int, Deed] = {}
        for at_ms, ends, fault in cues:
            self._wait(started_s + at_ms / 1_000, interrupted=interrupted)
            if interrupted():
                return
            if ends:
                self._end(running.pop(fault.number))
            else:
                running[fault.number] = self._begin(fault)
        self._wait(started_s + until_ms / 1_000, interrupted=interrupted)

    def heal(self) -> None:
        """Nothing of what was done still holds: the network is whole, everybody runs. Clocks keep their rates."""
        for deed in self.deeds:
            if deed.ended_ns is None and deed.skipped is None:
                self._end(deed)
        self._guard()

    def close(self) -> None:
        self._store.close()

    # ---- cues

    def _begin(self, fault: Fault) -> Deed:
        deed = Deed(fault=fault, target=fault.target, begun_ns=boottime_ns())
        self.deeds.append(deed)
        try:
            if fault.target == LEADER:
                deed.target = self._leader() or ""
            deed.skipped = self._obstacle(deed) or self._do(deed)
        except (TestbedError, OSError, redis.RedisError) as error:
            deed.skipped = f"it could not be done: {error}"
        named = f" ({deed.target})" if fault.target == LEADER and deed.target else ""
        self._say(f"{fault}{named}" + (f": skipped, {deed.skipped}" if deed.skipped else ""))
        return deed

    def _obstacle(self, deed: Deed) -> str | None:
        """Why it cannot be done just now."""
        if not deed.target:
            return "nobody leads"
        if deed.fault.action is Action.FILL:
            return None if deed.target in self._disks else "there is no small disk"
        if deed.fault.action in (Action.KILL, Action.WIPE, Action.PAUSE, Action.SUSPEND):
            if deed.target in self._held:
                return f"{deed.target} is down or stands still already"
            if self._condition(deed.target) is not Condition.ALIVE:
                return f"{deed.target} does not run"
        if deed.fault.action in (Action.FLUSH, Action.FULL) and TIER in self._held:
            return "the local tier is down"
        return None

    def _do(self, deed: Deed) -> str | None:
        fault, target = deed.fault, deed.target
        match fault.action:
            case Action.KILL | Action.WIPE:
                self._held[target] = deed
                supervisor.kill(self._directory, target)
                self.ends.setdefault(target, []).append(boottime_ns())
                if fault.action is Action.WIPE:
                    shutil.rmtree(self._directory / "nats", ignore_errors=True)
            case Action.PAUSE | Action.SUSPEND:
                self._held[target] = deed
                supervisor.pause(self._directory, target)
            case Action.CUT | Action.HOLD | Action.SLOW:
                self._weather[fault.number] = fault
                self._set_weather()
            case Action.BREAK_CLOCK:
                self._set_clock(target, rate_ppm=fault.amount)
                self._weather[fault.number] = fault
                self._set_weather()
            case Action.FILL:
                self._full.add(target)
                self._disks.fill(target)
            case Action.RATE:
                self._set_clock(target, rate_ppm=fault.amount)
            case Action.FLUSH:
                self._store.flushall()
            case Action.FULL:
                self._store.config_set("maxmemory-policy", "noeviction")
                self._store.config_set("maxmemory", "1mb")
        return None

    def _end(self, deed: Deed) -> None:
        if deed.ended_ns is not None or deed.skipped is not None:
            return
        fault, target = deed.fault, deed.target
        try:
            match fault.action:
                case Action.KILL | Action.WIPE:
                    self._start(target)
                case Action.PAUSE:
                    self._held.pop(target, None)
                    supervisor.resume(self._directory, target)
                case Action.SUSPEND:
                    self._wake(deed)
                case Action.CUT | Action.HOLD | Action.SLOW | Action.BREAK_CLOCK:
                    if fault.action is Action.BREAK_CLOCK:
                        self._set_clock(target, rate_ppm=0)
                    self._weather.pop(fault.number, None)
                    self._set_weather(reset=fault if fault.action is Action.CUT else None)
                case Action.FILL:
                    self._disks.free(target)
                    self._full.discard(target)
                case Action.FULL:
                    self._store.config_set("maxmemory", REDIS_MEMORY_MAX)
                    self._store.config_set("maxmemory-policy", "allkeys-lru")
                case Action.RATE | Action.FLUSH:
                    pass
        except TestbedError as error:
            self._say(f"end of {fault}: {error}")  # it is tried again, as for anybody who does not run
            self._held.pop(target, None)
            self._excused.add(target)
        except (OSError, redis.RedisError) as error:
            self._say(f"end of {fault}: {error}")  # the local tier may have been killed; it starts as configured
        deed.ended_ns = boottime_ns()

    # ---- hands

    def _start(self, name: str) -> None:
        """It runs again. Raises `TestbedError` if it cannot be started."""
        for tries_left in reversed(range(RESTART_TRIES)):
            try:
                supervisor.restart(self._directory, name, wait_ready=False)
                break
            except TestbedError:
                if tries_left == 0:
                    raise
                time.sleep(0.2)
        self._held.pop(name, None)
        if name in self._full:
            self._excused.add(name)
        else:
            self._excused.discard(name)

    def _wake(self, deed: Deed) -> None:
        """It goes on, and by its clocks the machine was suspended: `now` went on, the other two stood still."""
        clock = self._clocks.setdefault(deed.target, _Clock())
        slept_ns = boottime_ns() - deed.begun_ns
        clock.jump_ns += slept_ns
        clock.offset_ns -= slept_ns
        self._write_clock(deed.target, clock)
        self._held.pop(deed.target, None)
        supervisor.resume(self._directory, deed.target)

    def _set_clock(self, name: str, *, rate_ppm: int) -> None:
        clock = self._clocks.setdefault(name, _Clock())
        clock.rate_ppm = rate_ppm
        self._write_clock(name, clock)

    def _write_clock(self, name: str, clock: _Clock) -> None:
        path = clock_path(self._directory, name)
        temporary = path.with_suffix(".new")
        values = {"offset_ns": clock.offset_ns, "rate_ppm": clock.rate_ppm, "jump_ns": clock.jump_ns}
        temporary.write_text(json.dumps(values), encoding="ascii")
        temporary.replace(path)

    def _set_weather(self, *, reset: Fault | None = None) -> None:
        blocked = {pair for fault in self._weather.values() if fault.action is not Action.SLOW for pair in fault.pairs}
        delays: dict[tuple[str, str], int] = {}
        for fault in self._weather.values():
            if fault.action is Action.SLOW:
                delays |= {pair: max(fault.amount, delays.get(pair, 0)) for pair in fault.pairs}
        weather = Weather(
            blocked=sorted(blocked),
            delayed=[(a, b, delay_ms) for (a, b), delay_ms in sorted(delays.items())],
            reset=[] if reset is None else list(reset.pairs),
        )
        tell(self._proxy_port, weather)

    def _condition(self, name: str) -> Condition:
        return supervisor.status(self._directory).process(name).condition

    def _wait(self, until_s: float, *, interrupted: Callable[[], bool]) -> None:
        while (left_s := until_s - time.monotonic()) > 0 and not interrupted():
            if time.monotonic() - self._guarded_s >= GUARD_S:
                self._guard()
            time.sleep(min(POLL_S, left_s))

    def _guard(self) -> None:
        """Whoever ended by itself runs again. Only a node that was started on a full disk may end."""
        self._guarded_s = time.monotonic()
        for process in supervisor.status(self._directory).processes:
            name = process.name
            if process.condition is not Condition.STOPPED or name in self._held:
                continue
            excused = name in self._excused
            if excused and name in self._full:
                continue  # it starts again when there is room
            if not excused:
                words = _last_words(self._directory, name)
                self.unexpected.append(f"{name} ended by itself (exit code {process.exit_code}): {words}")
            self.ends.setdefault(name, []).append(boottime_ns())
            self._say(f"{name} had ended by itself; it is started again")
            try:
                self._start(name)
            except TestbedError as error:
                self._say(f"{name}: {error}")


def _last_words(directory: Path, name: str) -> str:
    try:
        return " / ".join(supervisor.logs(directory, name, lines=3))[-400:]
    except TestbedError:
        return "(no log)"
