"""An event loop in which time passes only when nothing else is left to do, and on which whole processes live and die.

Picture one conductor for many orchestras. Every callback belongs to the process in whose context it was made (`PROCESS`
is inherited by tasks, timers and callbacks); the conductor plays one callback after the other, and when none is left he
turns the clock to the next timer. A process that is paused keeps its callbacks for later, in order; one that is dead
plays none of them any more. Nobody is asked: no `finally` runs, as when a machine loses power. Work for threads is done
on the loop after some virtual time; real threads, sockets and signals are refused loudly.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from asyncio import TimerHandle
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from random import Random
from typing import Any

from tests.simulation.clock import SimClock, on_grain
from tests.support.forgetful_disk import PowerCut

START_NS = 1_000_000_000
STEPS_AT_ONE_INSTANT_MAX = 200_000


class NoTimePassesError(Exception):
    """Callbacks made callbacks for ever, or nothing is left that could happen."""


class Process:
    """One life of one process: its callbacks, its clock, and whether it runs."""

    def __init__(self, name: str, *, loop: VirtualLoop, clock: SimClock) -> None:
        self.name = name
        self.loop = loop
        self.clock = clock
        self.alive = True
        self.paused_until_ns = 0
        self.spent_ns = 0
        """What the present callback has waited for a disk; nothing else of the process runs meanwhile."""
        self.parked: list[asyncio.Handle] = []
        self.after_step: Callable[[], None] | None = None
        self.context = Context()
        self.context.run(PROCESS.set, self)

    @property
    def paused(self) -> bool:
        return self.paused_until_ns > self.loop.now_ns

    def local_ns(self) -> int:
        """What its clock shows."""
        return self.clock.read(self.loop.now_ns + self.spent_ns)

    def spawn(self, coroutine: Coroutine[Any, Any, Any], *, name: str = "") -> asyncio.Task[Any]:
        return self.loop.create_task(coroutine, name=name or self.name, context=self.context.copy())

    def pause(self, for_ns: int) -> None:
        """Nothing of it runs for so long, whatever comes in."""
        until_ns = on_grain(self.loop.now_ns + for_ns)
        if until_ns > self.paused_until_ns:
            self.paused_until_ns = until_ns
            self.loop.at_ns(until_ns, self._resume)

    def _resume(self) -> None:
        if not self.paused and self.alive:
            parked, self.parked = self.parked, []
            self.loop._ready.extendleft(reversed(parked))

    def die(self) -> None:
        """At this very place: what it was about to do never happens."""
        if self.alive:
            self.alive = False
            self.loop.bury(self.parked)
            self.parked = []


PROCESS: ContextVar[Process] = ContextVar("PROCESS")


class VirtualLoop(asyncio.BaseEventLoop):
    """Deterministic: equal seeds play equal callbacks in equal order at equal instants."""

    _ready: deque[asyncio.Handle]

    def __init__(self, *, rng: Random) -> None:
        super().__init__()
        self.now_ns = START_NS
        self.current: Process | None = None
        self.step_count = 0
        self.digest = 0
        self.thread_ns: Callable[[], int] = lambda: rng.randrange(20_000, 3_000_000)
        """How long work for a thread takes."""
        self.failed: Callable[[str], None] = lambda _: None
        """Told of what nobody caught."""
        self._timers: list[tuple[int, int, TimerHandle]] = []
        self._timer_count = 0
        self._graveyard: list[set[asyncio.Task[Any]] | list[asyncio.Handle] | asyncio.Handle] = []
        self._instant_step = 0
        self.set_exception_handler(self._uncaught)

    @property
    def unix_ms(self) -> int:
        """Wall time, the same everywhere."""
        return 1_700_000_000_000 + self.now_ns // 1_000_000

    # What the event loop protocol asks.

    def time(self) -> float:
        return self.now_ns / 1e9

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> TimerHandle:
        return self.at_ns(math.ceil(when * 1e9 - 0.01), callback, *args, context=context)

    def at_ns(
        self, when_ns: int, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> TimerHandle:
        """As `call_at`, in nanoseconds of real time."""
        when_ns = max(self.now_ns, on_grain(when_ns))
        timer = TimerHandle(when_ns / 1e9, callback, args, self, context)
        self._timer_count += 1
        heapq.heappush(self._timers, (when_ns, self._timer_count, timer))
        return timer

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Done on the loop, some virtual time later."""
        future = self.create_future()

        def work() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(func(*args))
            except Exception as error:
                future.set_exception(error)

        self.at_ns(self.now_ns + self.thread_ns(), work)
        return future

    def _run_once(self) -> None:
        ready, timers = self._ready, self._timers
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
        if not ready:
            if not timers:
                raise NoTimePassesError("nothing is left that could happen")
            self.now_ns, self._instant_step = timers[0][0], self.step_count
        while timers and timers[0][0] <= self.now_ns:
            ready.append(heapq.heappop(timers)[2])
        for _ in range(len(ready)):
            if not ready:
                break
            self._play(ready.popleft())
        if self.step_count - self._instant_step > STEPS_AT_ONE_INSTANT_MAX:
            raise NoTimePassesError(f"{STEPS_AT_ONE_INSTANT_MAX} callbacks at one instant")

    def _play(self, handle: asyncio.Handle) -> None:
        if handle._cancelled:
            return
        process = handle._context.get(PROCESS)  # type: ignore[attr-defined]
        if process is None:
            handle._run()
            return
        if not process.alive:
            self._graveyard.append(handle)
            return
        if process.paused_until_ns > self.now_ns:
            process.parked.append(handle)
            return
        self.current = process
        self.step_count += 1
        self.digest = hash((self.digest, self.now_ns, process.name))
        handle._run()
        self.current = None
        if process.spent_ns:
            spent_ns, process.spent_ns = process.spent_ns, 0
            process.pause(spent_ns)
        if process.after_step is not None and process.alive:
            process.after_step()

    def bury(self, parked: list[asyncio.Handle]) -> None:
        """Whatever waits now, and what came too late for the dead, is kept until the end, so that no death runs a `finally`,
        and no task that had ended protests that nobody asks how."""
        self._graveyard += [asyncio.all_tasks(self), parked]

    def _uncaught(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        orphan = error is None and self._graveyard  # made by a callback in the middle of which its process died
        if not isinstance(error, PowerCut) and not orphan:
            who = self.current.name if self.current is not None else "the simulator"
            self.failed(f"{who}: {context.get('message')}: {error!r}")

    # What no simulated process may have.

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("a simulated process asked the operating system for something")

    create_connection = create_datagram_endpoint = create_server = subprocess_exec = subprocess_shell = _refuse
    add_reader = add_writer = add_signal_handler = getaddrinfo = sock_connect = _refuse  # type: ignore[assignment]


class PortClock:
    """The `Clock` port of both sides, over the clock of one process."""

    counts_suspension = True

    def __init__(self, process: Process) -> None:
        self._process = process

    def now_ns(self) -> int:
        return self._process.local_ns()

    def monotonic_ns(self) -> int:
        return self._process.local_ns()

    def raw_ns(self) -> int:
        return self._process.local_ns()

    def unix_ms(self) -> int:
        return self._process.loop.unix_ms

    async def sleep_until(self, deadline_ns: int) -> None:
        process = self._process
        if deadline_ns > process.local_ns():
            woken = process.loop.create_future()
            timer = process.loop.at_ns(process.clock.reached_ns(deadline_ns), _wake, woken)
            try:
                await woken
            finally:
                timer.cancel()


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
