"""An edge in the world: the desk where the real cores meet (`EdgeState`), and around it only messengers.

Readings are taken as an application takes them, from the window or the slow way. Beside them, and independently, the
reader's standing is accounted for at every instant.
"""

from __future__ import annotations

from functools import partial
from random import Random
from typing import TYPE_CHECKING

from edge_client.config import EdgeConfig
from edge_client.core.follower import FetchSnapshot
from edge_client.core.reading import Guarantee, Loaded, Reading, Reason
from edge_client.core.served import Served
from edge_client.errors import EdgeError
from edge_client.protocol.messages import Beacon, ClockReply, Event, SnapshotChunk, SnapshotRefused
from edge_client.protocol.models import Pending
from edge_client.protocol.position import ORIGIN
from edge_client.protocol.reader import SendClockRequest
from edge_client.runtime.state import EdgeState, Wakes
from edge_client.runtime.window import SHUT, Window
from tests.simulation.clock import MS, S, SimClock
from tests.simulation.judge import Era
from tests.simulation.process import Account, Process

if TYPE_CHECKING:
    from tests.simulation.world import World

TICK_NS = 500 * MS
SITES = ("north", "south")
PATIENCE_NS = 1 * S
KEEP_APART_NS = 1 * S
COPIES_MAX = 6


class LocalClock:
    """The port: shows what the step was given."""

    counts_suspension = True

    def __init__(self, process: Process) -> None:
        self._process = process

    def now_ns(self) -> int:
        return self._process.local_ns

    def monotonic_ns(self) -> int:
        return self._process.local_ns

    def raw_ns(self) -> int:
        return self._process.local_ns

    def unix_ms(self) -> int:
        return self._process.world.now_ns // MS

    async def sleep_until(self, deadline_ns: int) -> None:
        raise AssertionError("the world keeps the time")


def _nothing() -> None:
    return


class SimEdge(Process):
    """One edge and its lives."""

    def __init__(self, world: World, *, name: str, clock: SimClock) -> None:
        super().__init__(world, name=name, clock=clock)
        self.config = EdgeConfig(
            servers=("nats://127.0.0.1:4222",),
            trust="#",
            edge_id=name,
            region="test",
            local="redis://127.0.0.1:6379" if "local_tier" in world.knobs.faults else None,
            site=world.rng.choice(SITES),
            labels={"gpu": world.rng.choice(("a", "b"))},
        )
        self._port = LocalClock(self)
        self.state: EdgeState
        self._keeps = "local_tier" in world.knobs.faults
        self._words: dict[bytes, Event | SnapshotChunk] = {}
        """What each frame says; frames are as good as signed, and `forger` sees to those that are not."""
        self._tier: list[tuple[int, tuple[bytes, ...]]] = []
        """The local tier, which outlives us: when each copy was kept by wall time, and its frames; the newest last."""
        self.start()

    # ---- lives

    def start(self) -> None:
        """Begin a life with empty hands."""
        self.life += 1
        self.alive = True
        self.free_at_ns = self.world.now_ns
        self.local_ns = self.clock.read(self.world.now_ns)
        self._since = (self.free_at_ns, self.local_ns)
        wakes = Wakes(send=_nothing, targets=self._targets_changed, changes=_nothing)
        self.state = EdgeState(config=self.config, clock=self._port, rng=Random(self.world.rng.random()), wakes=wakes)
        self._position = ORIGIN
        self._eras: list[tuple[Era, Pending | None, Served]] = []
        self._windows: dict[str, Window] = {}
        self._asked_for: set[tuple[str, str]] = set()
        self._targets = True
        self._tick_at_ns = 0
        self._account = Account(self)
        self._sampled = False
        """Whether a clock has answered in this life; before, nothing is strong and no bound is known."""
        self._kept_position, self._keep_at_ns = ORIGIN, 0
        for model in self.world.models:
            self._windows[model] = SHUT
            self.state.register(model, show=partial(self._windows.__setitem__, model))
        if self.world.now_ns < self.loose_until_ns:
            self.run(self.life, self.clock_distrusted)
        self.run(self.life, self._started)
        if self._tier:
            self._look_into_tier()

    def _look_into_tier(self) -> None:
        """It was lost, or the newest copy is there, or an old one; and the region has some time to answer before."""
        rng = self.world.rng
        if rng.random() < 0.2:
            self._tier.clear()
        else:
            copy = self._tier[-1] if rng.random() < 0.5 else rng.choice(self._tier)
            self.after_ns(rng.choice((1, rng.randrange(PATIENCE_NS))), self.restore, *copy)

    def crash(self) -> None:
        self.account_now()
        self.alive = False

    # ---- steps

    def _started(self, now_ns: int) -> None:
        self.state.started(now_ns=now_ns)

    def beacon_received(self, beacon: Beacon, now_ns: int) -> None:
        self.state.beacon_received(beacon, now_ns=now_ns)

    def restore(self, kept_unix_ms: int, frames: tuple[bytes, ...], now_ns: int) -> None:
        """As `Restore.restore`; some frames at the end may be past reading."""
        if self.state.source == "none":
            rng = self.world.rng
            readable = frames if rng.random() < 0.8 else frames[: rng.randrange(len(frames) + 1)]
            words = [(self._words[frame], frame) for frame in readable]
            restored = self.state.restored(words, kept_unix_ms=kept_unix_ms, now_ns=now_ns)
            self.world.judge.seen["tier_restored"] += restored

    def _frame(self, word: Event | SnapshotChunk) -> bytes:
        if not self._keeps:
            return b""
        frame = str(len(self._words)).encode()
        self._words[frame] = word
        return frame

    def _keep(self, now_ns: int) -> None:
        """As the loop of `Restore`."""
        self._keep_at_ns = now_ns + KEEP_APART_NS
        position, frames = self.state.evidence()
        if frames and self.state.source == "bus" and position != self._kept_position:
            self._kept_position = position
            self._tier.append((self._port.unix_ms(), frames))
            del self._tier[:-COPIES_MAX]

    def event_received(self, event: Event, now_ns: int) -> None:
        self.state.event_received(event, frame=self._frame(event), now_ns=now_ns)

    def clock_reply_received(self, reply: ClockReply, now_ns: int) -> None:
        self._sampled = True
        self.state.clock_reply_received(reply, now_ns=now_ns)

    def snapshot_answered(self, answer: SnapshotChunk | SnapshotRefused, now_ns: int) -> None:
        frame = self._frame(answer) if isinstance(answer, SnapshotChunk) else b""
        self.state.snapshot_answered(answer, frame=frame, now_ns=now_ns)

    def clock_distrusted(self, now_ns: int) -> None:
        self.state.clock_judged(trusted=False, now_ns=now_ns)

    def clock_broke(self, until_ns: int, rate: int, now_ns: int) -> None:
        """Our clock breaks its rate and is caught at it."""
        self.break_clock(until_ns, rate)
        self.clock_distrusted(now_ns)

    def clock_trusted_again(self, now_ns: int) -> None:
        if self.world.now_ns >= self.loose_until_ns:
            self.state.clock_judged(trusted=True, now_ns=now_ns)

    def tick(self, now_ns: int) -> None:
        self._tick_at_ns = 0
        self.state.tick(now_ns=now_ns)

    def load(self, model: str, version_key: tuple[str, str], now_ns: int) -> None:
        for target in self.state.targets()[model]:
            if target.version.digest == version_key[1]:
                self.state.loaded(model, Loaded(target.version.version, version=target.version))
                return
        self._asked_for.discard(version_key)

    def read(self, model: str, strong_only: bool, now_ns: int) -> None:
        """As an application reads: the window first."""
        window = self._windows[model]
        reading: Reading | None
        try:
            if strong_only:
                reading = self.state.read_strong_nowait(model)
            elif now_ns < window.until_ns:
                reading = window.reading
            else:
                reading = self.state.read_slowly(model)
        except EdgeError:
            self.world.judge.seen["reads_refused"] += 1
            return
        if reading is not None:
            self._check(model, reading, now_ns=now_ns)

    def after(self, now_ns: int) -> None:
        for request in self.state.outgoing():
            if isinstance(request, SendClockRequest):
                self.world.ask_clocks(self, request)
            elif isinstance(request, FetchSnapshot):
                self.world.ask_snapshot(self, request)
        if self._targets:
            self._fetch()
        if self._keeps and now_ns >= self._keep_at_ns:
            self._keep(now_ns)
        if self.state.position != self._position:
            self._moved()
        self.state.check_invariants()
        deadline_ns = self.state.next_deadline_ns()
        at_ns = now_ns + TICK_NS if deadline_ns is None else min(now_ns + TICK_NS, deadline_ns)
        at_ns = max(at_ns, now_ns + MS)
        if not self._tick_at_ns or at_ns < self._tick_at_ns:
            self._tick_at_ns = at_ns
            real_ns = max(self.clock.reached_ns(at_ns), self.free_at_ns)
            self.world.at(real_ns, self._tick_if_due, self.life, at_ns)

    def _tick_if_due(self, life: int, at_ns: int) -> None:
        if at_ns == self._tick_at_ns:
            self.run(life, self.tick)

    # ---- what is said

    def account(self, until_ns: int, until_local_ns: int) -> None:
        since = self._since
        if until_ns <= since[0]:
            return
        until = self._since = (until_ns, until_local_ns)
        state = self.state
        follower, reader = state._follower, state._reader
        may_be_strong = reader.trusted and follower.epoch_current and not follower.unsupported
        for era, pending, served in self._eras:
            self._account.tell(
                reader,
                era=era,
                pending=pending,
                crossed=pending is not None and served._crossed == pending.revision,
                may_be_strong=may_be_strong,
                since=since,
                until=until,
            )

    def is_current(self, now_ns: int) -> bool:
        """Strong at the newest revision, for every model that can be."""
        truth = self.world.truth
        if self.state.position != truth.position:
            return False
        self.local_ns = now_ns
        for model, view in truth.views[truth.position].items():
            if view.assignment is not None:
                try:
                    reading = self.state.read_strong_nowait(model)
                except EdgeError:
                    return False
                if reading is None or reading.generation != view.generation:
                    return False
        return True

    def _moved(self) -> None:
        """Positions never decrease, and what stands at a position is what history says."""
        position, follower, judge = self.state.position, self.state._follower, self.world.judge
        if position < self._position:
            judge.accuse("position", self.world.now_ns, f"{self.name} went from {self._position} to {position}")
        self._position = position
        expected = self.world.truth.views.get(position)
        if follower.models != expected:
            judge.accuse("history", self.world.now_ns, f"{self.name} at {position} believes in another history")
        truth, windows = self.world.truth, self.state._windows
        self._eras = [
            (truth.era_at(model, position, view.generation), view.pending, windows[model].served)
            for model, view in follower.models.items()
            if model in windows and model in truth.created
        ]

    def _check(self, model: str, reading: Reading, *, now_ns: int) -> None:
        world, real_ns = self.world, self.world.now_ns
        judge, truth = world.judge, world.truth
        judge.seen[f"read_{reading.guarantee}"] += 1
        era = truth.era_at(model, reading.position, reading.generation)
        strong = reading.guarantee is Guarantee.STRONG
        if strong:
            judge.strong(era, begin_ns=real_ns, end_ns=real_ns, who=f"{self.name} read")
        assignment = truth.assignments[model].get(era.key)
        bound_ms = reading.staleness_bound_ms
        bound_ns = None if bound_ms is None else bound_ms * MS
        judge.bound(era, bound_ns=bound_ns, at_ns=real_ns, who=f"{self.name} read", strong=strong)
        if reading.reason is Reason.LOCAL:
            judge.seen["read_local"] += 1
        if not self._sampled and (strong or bound_ms is not None):
            judge.accuse("unjustified", real_ns, f"{self.name} {reading!r} before any clock had answered")
        if (reading.age_estimate_ms is not None) != (reading.reason is Reason.LOCAL):
            judge.accuse("unjustified", real_ns, f"{self.name} {reading!r} is {reading.age_estimate_ms} ms old")
        if assignment is None:
            judge.accuse("cohort", real_ns, f"{self.name} {reading!r} was never decided")
            return
        own = assignment.version_for(edge_id=self.name, site=self.config.site, labels=dict(self.config.labels))
        if reading.version != own:
            judge.accuse("cohort", real_ns, f"{self.name} serves {reading!r}, but {own} is for it")

    # ---- artifacts

    def _targets_changed(self) -> None:
        self._targets = True

    def _fetch(self) -> None:
        self._targets = False
        world = self.world
        slow = "slow_load" in world.active
        for model, targets in self.state.targets().items():
            for target in targets:
                wish = (model, target.version.digest)
                if wish not in self._asked_for:
                    self._asked_for.add(wish)
                    self.after_ns(world.rng.randrange(1, 5 * S if slow else 30 * MS), self.load, model, wish)
