"""The one place where the edge's cores meet: every step on them is taken here, under one lock.

Picture a desk with one chair. The event loop sits down for each message and each deadline; an application's thread sits
down when its `read` found the present strong reading run out. Whoever sits brings the time along, takes one synchronous
step, puts fresh readings into the models' windows and gets up; nobody waits for anything while sitting. What is to be
done outside (requests to send, listeners to tell) goes into a bounded tray that the loop empties.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from edge_client.core.follower import Applied, EpochBegan, FetchSnapshot, Follower
from edge_client.core.follower import Effect as FollowerEffect
from edge_client.core.reading import Change, Loaded, Observe, Reading
from edge_client.core.served import Served, Target
from edge_client.core.status import ModelStatus
from edge_client.errors import ClosedError, ConfigError
from edge_client.protocol.feature_classes import FeatureClass
from edge_client.protocol.messages import Beacon, ClockReply, Event, SnapshotChunk, SnapshotRefused, Switch
from edge_client.protocol.models import NAME_PATTERN, Terms
from edge_client.protocol.position import ORIGIN, Position
from edge_client.protocol.reader import Effect as ReaderEffect
from edge_client.protocol.reader import Reader, Resync, SendClockRequest
from edge_client.runtime.node_urls import NodeUrls
from edge_client.runtime.window import ModelWindow, Outlook, Window

if TYPE_CHECKING:
    from random import Random

    from edge_client.config import EdgeConfig
    from edge_client.runtime.ports import Clock

MODELS_MAX: Final = 1_000
TRAY_MAX: Final = 1_024
CHANGES_MAX: Final = 1_024

Outgoing = SendClockRequest | FetchSnapshot
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wakes:
    """Whom to tell that there is something to do; callable from any thread, and while the lock is held."""

    send: Callable[[], None]
    targets: Callable[[], None]
    changes: Callable[[], None]


class EdgeState:
    """Reader, follower and the served models of one edge. Every method may be called from any thread."""

    def __init__(
        self, *, config: EdgeConfig, clock: Clock, rng: Random, wakes: Wakes, observe: Observe | None = None
    ) -> None:
        self._config = config
        self._clock = clock
        self._wakes = wakes
        self._lock = threading.Lock()
        self._reader = Reader(terms=Terms(), rng=rng)
        self._follower = Follower(region=config.region, rng=rng, keeps_evidence=config.local is not None)
        self._outlook = Outlook(reader=self._reader, follower=self._follower, unix_ms=clock.unix_ms, observe=observe)
        self._windows: dict[str, ModelWindow] = {}
        self._urls = NodeUrls()
        self._tray: deque[Outgoing] = deque()
        self._changes: deque[Change] = deque()
        self._closed = False
        self._revoked = self._follower.revoked
        self._counters: Counter[str] = Counter()
        self._reads: Counter[str] = Counter()
        self._reads_told: Counter[str] = Counter()

    # ---- steps

    def started(self, *, now_ns: int) -> None:
        """Ask for a first snapshot."""
        with self._lock:
            self._carry(self._follower.started(now_ns=now_ns), now_ns=now_ns)

    def beacon_received(self, beacon: Beacon, *, now_ns: int) -> None:
        with self._lock:
            self._outlook.heard(beacon.position, now_ns=now_ns)
            self._carry(self._reader.beacon_received(beacon, now_ns=now_ns), now_ns=now_ns)
            self._carry(self._follower.beacon_seen(beacon.position, now_ns=now_ns), now_ns=now_ns)
            self._show_all(now_ns=now_ns)

    def event_received(self, event: Event, *, frame: bytes, now_ns: int) -> None:
        with self._lock:
            self._carry(self._follower.event_received(event, frame=frame, now_ns=now_ns), now_ns=now_ns)
            self._show_all(now_ns=now_ns)

    def clock_reply_received(self, reply: ClockReply, *, now_ns: int) -> None:
        with self._lock:
            is_new = self._urls.heard(reply.url)
            if is_new is None:
                self._counters["node_urls_refused"] += 1
            elif is_new:
                self._wakes.targets()
            self._carry(self._reader.clock_reply_received(reply, now_ns=now_ns), now_ns=now_ns)
            self._show_all(now_ns=now_ns)

    def snapshot_answered(self, answer: SnapshotChunk | SnapshotRefused, *, frame: bytes, now_ns: int) -> None:
        with self._lock:
            if isinstance(answer, SnapshotChunk):
                effects = self._follower.snapshot_chunk_received(answer, frame=frame, now_ns=now_ns)
            else:
                effects = self._follower.snapshot_refused(answer, now_ns=now_ns)
            self._carry(effects, now_ns=now_ns)
            self._show_all(now_ns=now_ns)

    def restored(
        self, words: Sequence[tuple[Event | SnapshotChunk, bytes]], *, kept_unix_ms: int | None, now_ns: int
    ) -> bool:
        """Start from what the local tier kept. False when it tells nothing, or the region was faster."""
        with self._lock:
            self._carry(self._follower.restore(words, now_ns=now_ns), now_ns=now_ns)
            self._outlook.kept_unix_ms = kept_unix_ms
            self._show_all(now_ns=now_ns)
            return self._follower.restored

    def clock_judged(self, *, trusted: bool, now_ns: int) -> None:
        """Our own clock keeps its rate, or not: without it nothing may be called strong."""
        with self._lock:
            if trusted:
                self._carry(self._reader.own_clock_trusted(now_ns=now_ns), now_ns=now_ns)
            else:
                self._reader.own_clock_distrusted(now_ns=now_ns)
            self._show_all(now_ns=now_ns)

    def evidence_doubted(self, *, now_ns: int) -> None:
        """Other keys of the region are believed than before: what is kept is to verify by them."""
        with self._lock:
            self._carry(self._follower.evidence_doubted(now_ns=now_ns), now_ns=now_ns)
            self._wakes.send()

    def tick(self, *, now_ns: int) -> None:
        """Whatever is due."""
        with self._lock:
            self._carry(self._reader.tick(now_ns=now_ns), now_ns=now_ns)
            self._carry(self._follower.tick(now_ns=now_ns), now_ns=now_ns)
            self._show_all(now_ns=now_ns)

    def next_deadline_ns(self) -> int | None:
        """When `tick` next has something to do."""
        with self._lock:
            now_ns = self._clock.now_ns()
            due = [self._reader.next_deadline_ns(), self._follower.next_deadline_ns()]
            due.extend(window.served.changes_at_ns(self._reader, now_ns=now_ns) for window in self._windows.values())
            return min((instant_ns for instant_ns in due if instant_ns is not None), default=None)

    def outgoing(self) -> tuple[Outgoing, ...]:
        """What is to be sent, and is forgotten here."""
        with self._lock:
            out = tuple(self._tray)
            self._tray.clear()
            return out

    def changes(self) -> tuple[Change, ...]:
        """What listeners are to be told, and is forgotten here."""
        with self._lock:
            out = tuple(self._changes)
            self._changes.clear()
            return out

    # ---- models

    def register(self, model: str, *, show: Callable[[Window], None]) -> None:
        """Begin to serve `model`. Raises `ConfigError` when the name is taken here, or is none."""
        if not NAME_PATTERN.fullmatch(model):
            raise ConfigError(f"model must be a lower-case name of 1 to 128 of a-z 0-9 . _ -, not {model!r}")
        with self._lock:
            self._check_open()
            if model in self._windows:
                raise ConfigError(f"{model!r} is registered already; keep the model that was returned first")
            if len(self._windows) >= MODELS_MAX:
                raise ConfigError(f"at most {MODELS_MAX} models can be registered")
            served = Served(
                model=model,
                edge_id=self._config.edge_id,
                site=self._config.site,
                labels=self._config.labels,
                counts_suspension=self._clock.counts_suspension,
            )
            now_ns = self._clock.now_ns()
            window = self._windows[model] = ModelWindow(served=served, show=show, tell=self._tell, now_ns=now_ns)
            if self._follower.position != ORIGIN:
                self._apply_view(model, now_ns=now_ns)
            window.refresh(self._outlook, now_ns=now_ns)

    def loaded(self, model: str, loaded: Loaded) -> None:
        """A version is ready to be served."""
        with self._lock:
            if not self._closed:
                now_ns = self._clock.now_ns()
                self._windows[model].served.loaded(loaded, now_ns=now_ns)
                self._windows[model].refresh(self._outlook, now_ns=now_ns)

    def let_go(self, model: str, digest: str) -> None:
        """A version is needed no more."""
        with self._lock:
            if not self._closed:
                now_ns = self._clock.now_ns()
                self._windows[model].served.let_go(digest, now_ns=now_ns)
                self._windows[model].refresh(self._outlook, now_ns=now_ns)

    def close(self) -> None:
        """Let go of everything; every read raises `ClosedError` from now on."""
        with self._lock:
            self._closed = True
            for window in self._windows.values():
                window.empty(now_ns=self._clock.now_ns())
            self._changes.clear()

    # ---- reads

    def read_slowly(self, model: str) -> Reading:
        """What `read` answers when the strong reading in the window has run out; see there for the errors."""
        with self._lock:
            self._check_open()
            reading = self._windows[model].read(self._outlook, now_ns=self._clock.now_ns())
            self._reads[reading.guarantee.value] += 1
            return reading

    def read_strong_nowait(self, model: str) -> Reading | None:
        """A strong reading, or None when there is none just now. Raises what waiting cannot cure."""
        with self._lock:
            self._check_open()
            return self._windows[model].read_strong(self._outlook, now_ns=self._clock.now_ns())

    # ---- answers

    @property
    def source(self) -> str:
        """Where the news comes from: `bus`, `local`, or `none` yet."""
        if self._follower.position == ORIGIN:
            return "none"
        return "local" if self._follower.restored else "bus"

    @property
    def position(self) -> Position:
        return self._follower.position

    @property
    def feature_classes(self) -> Mapping[str, FeatureClass]:
        """The feature classes of the region by name; the same mapping until one changes, and never changed itself."""
        return self._follower.feature_classes

    @property
    def revoked(self) -> frozenset[str]:
        """Ids of publishers' keys that the region revoked; the same set until there is one more."""
        return self._follower.revoked

    def served_digests(self) -> dict[str, str]:
        """Model to what was served of it last, where there was anything."""
        with self._lock:
            served = {model: window.served.served_digest for model, window in self._windows.items()}
        return {model: digest for model, digest in served.items() if digest is not None}

    @property
    def unsupported(self) -> bool:
        return self._follower.unsupported

    @property
    def trusted(self) -> bool:
        """Whether our own clock keeps its rate, and counts suspension."""
        return self._reader.trusted and self._clock.counts_suspension

    @property
    def rho_ppm(self) -> int:
        return self._reader.terms.rho_ppm

    def lease_remaining_ns(self) -> int:
        """How long the lease lasts from now on; 0 without one."""
        with self._lock:
            return max(0, self._reader.lease_until_ns - self._clock.now_ns())

    def uncertainty_ns(self) -> int | None:
        """The width of the best known service clock."""
        with self._lock:
            return self._reader.uncertainty_ns(now_ns=self._clock.now_ns())

    def urls(self) -> tuple[str, ...]:
        """Where service nodes are to be found, heard of last first."""
        with self._lock:
            return self._urls.newest_first()

    def evidence(self) -> tuple[Position, tuple[bytes, ...]]:
        """The position, and the signed frames that prove what stands there."""
        with self._lock:
            return self._follower.position, self._follower.evidence()

    def targets(self) -> dict[str, tuple[Target, ...]]:
        """What each registered model needs here."""
        with self._lock:
            return {model: window.served.targets() for model, window in self._windows.items()}

    def named_digests(self) -> frozenset[str]:
        """Every digest that the region's views name, whether its model is registered here or not."""
        with self._lock:
            views = tuple(self._follower.models.values())
        return frozenset(version.digest for view in views for version in view.versions.values())

    def switches(self) -> tuple[Switch, ...]:
        """The switches of all models that were recorded lately."""
        with self._lock:
            return tuple(switch for window in self._windows.values() for switch in window.served.switches)

    def counters(self) -> Counter[str]:
        """Everything that was counted on the desk, in all cores."""
        with self._lock:
            total = self._counters + self._reader.counters + self._follower.counters
            for window in self._windows.values():
                total += window.served.counters
            return total

    def take_reads(self) -> dict[str, int]:
        """Readings by guarantee since this was asked last. Strong ones of the hot path are not among them."""
        with self._lock:
            grown, self._reads_told = self._reads - self._reads_told, self._reads.copy()
            return dict(grown)

    def looked_at(self, look: Callable[[Outlook, Mapping[str, ModelWindow], Mapping[str, int], int], T]) -> T:
        """What `look` makes of the desk, the readings by guarantee, and the present instant; it changes nothing."""
        with self._lock:
            return look(self._outlook, self._windows, self._reads, self._clock.now_ns())

    def statuses(self) -> tuple[ModelStatus, ...]:
        """How each model stands; what was fetched and what failed is for `models` to add."""
        with self._lock:
            now_ns = self._clock.now_ns()
            return tuple(window.status(self._outlook, now_ns=now_ns) for window in self._windows.values())

    def check_invariants(self) -> None:
        with self._lock:
            self._reader.check_invariants()
            self._follower.check_invariants()
            for window in self._windows.values():
                window.served.check_invariants()
            assert self._reader.position == self._follower.position
            assert len(self._tray) <= TRAY_MAX
            assert len(self._changes) <= CHANGES_MAX
            self._urls.check_invariants()

    # ---- helpers; all are called with the lock held

    def _carry(self, effects: Sequence[ReaderEffect | FollowerEffect], *, now_ns: int) -> None:
        """Pass on what one core decided to the others, and put into the tray what goes outside."""
        for effect in effects:
            match effect:
                case SendClockRequest() | FetchSnapshot():
                    self._tray.append(effect)
                    if len(self._tray) > TRAY_MAX:
                        self._tray.popleft()
                        self._counters["requests_dropped"] += 1
                    self._wakes.send()
                case EpochBegan():
                    self._carry(
                        self._reader.epoch_began(effect.position, terms=effect.terms, now_ns=now_ns), now_ns=now_ns
                    )
                    for model in self._windows:
                        self._apply_view(model, now_ns=now_ns)
                case Applied():
                    self._reader.applied(effect.position, now_ns=now_ns)
                    if self._follower.revoked is not self._revoked:
                        self._revoked = self._follower.revoked
                        self._wakes.targets()
                    for model in effect.changed:
                        if model in self._windows:
                            self._counters["views_changed"] += 1
                            self._apply_view(model, now_ns=now_ns)
                case Resync():
                    self._carry(self._follower.greater_epoch_heard(effect.at_least, now_ns=now_ns), now_ns=now_ns)

    def _apply_view(self, model: str, *, now_ns: int) -> None:
        view = self._follower.models.get(model)
        self._windows[model].served.view_applied(view, position=self._follower.position, now_ns=now_ns)
        if view is not None and view.pending is not None:
            self._carry(self._reader.pending_known(view.pending, now_ns=now_ns), now_ns=now_ns)
        self._wakes.targets()

    def _show_all(self, *, now_ns: int) -> None:
        if not self._closed:
            for window in self._windows.values():
                window.refresh(self._outlook, now_ns=now_ns)

    def _tell(self, change: Change) -> None:
        self._changes.append(change)
        if len(self._changes) > CHANGES_MAX:
            self._changes.popleft()
            self._counters["changes_untold"] += 1
        self._wakes.changes()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the client was closed; connect anew")
