"""Where in the region's history are we, and what must we fetch to go on?

Picture a reader of a serial novel: instalments are read strictly in order; one that comes too early waits on the desk;
when one is missing for too long, the whole book so far is ordered from any shop that has it. The book of another
edition (a greater epoch) replaces everything. This module knows the story (the models' views, the feature classes) and
keeps the signed pages it came from, so that they can be put into the local tier and verified again in another life. It
knows neither leases nor what is served (protocol, section 7).
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from edge_client.core.assembler import CHUNKS_MAX, Assembled, Assembler
from edge_client.protocol.feature_classes import CLASSES_MAX, FeatureClass
from edge_client.protocol.messages import Event, Snapshot, SnapshotChunk, SnapshotRefused
from edge_client.protocol.models import ModelView, Terms
from edge_client.protocol.position import ORIGIN, Position
from edge_client.protocol.signatures import REVOKED_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from random import Random

MS: Final = 1_000_000
LAG_NS: Final = 250 * MS
"""How long a beacon may name a revision that we lack before we stop waiting for its event."""
BACKOFF_NS_MIN: Final = 200 * MS
BACKOFF_NS_MAX: Final = 5_000 * MS
ANSWER_NS: Final = 2_000 * MS
"""How long a request waits for the next piece; counted from the last one, so that a slow link gets there."""
EARLY_EVENTS_MAX: Final = 256
MODELS_MAX: Final = 10_000
EVIDENCE_EVENTS: Final = 256
"""Events kept beside the snapshot they follow; beyond, a fresh snapshot is fetched to replace both."""
EVIDENCE_EVENTS_MAX: Final = 1_024
COMPACTION_SPREAD_NS: Final = 10_000 * MS


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchSnapshot:
    """Ask any node for a snapshot at or after `at_least`; answers echo the nonce."""

    at_least: Position
    nonce: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochBegan:
    """A greater epoch than before is followed now, from `position`, under its terms. Everything else was dropped."""

    position: Position
    terms: Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """Everything up to `position` is applied; these models' views changed."""

    position: Position
    changed: tuple[str, ...]


Effect = FetchSnapshot | EpochBegan | Applied


@dataclass(slots=True)
class _Request:
    nonce: bytes
    assembler: Assembler
    deadline_ns: int


class Follower:
    """The position, the models' views at it, and at most one outstanding request for a snapshot."""

    def __init__(self, *, region: str, rng: Random, keeps_evidence: bool = True) -> None:
        self._region = region
        self._rng = rng
        self._keeps_evidence = keeps_evidence
        self.position: Position = ORIGIN
        self.terms: Terms | None = None
        self.models: dict[str, ModelView] = {}
        self.feature_classes: Mapping[str, FeatureClass] = {}
        """By name; another mapping after every change, so that whoever reads one needs no lock."""
        self.revoked: frozenset[str] = frozenset()
        """Ids of publishers' keys that the region ever revoked, as far as we heard; another set after every change. It only
        grows, over epochs too: a region restored from a backup must not make anybody trusted again."""
        self.counters: Counter[str] = Counter()
        self.restored = False
        """True while all we know is what the local tier remembered."""
        self.unsupported = False
        """True when the region's terms demand the fast barrier, which this client does not know."""
        self._foreign_epoch: int | None = None
        self._early: dict[Position, tuple[Event, bytes]] = {}
        self._wanted: Position | None = None
        self._lag: tuple[Position, int] | None = None
        self._request: _Request | None = None
        self._ask_at_ns: int | None = None
        self._attempt_count = 0
        self._doubted = False
        self._snapshot_frames: tuple[bytes, ...] = ()
        self._event_frames: deque[tuple[Position, bytes]] = deque()

    # ---- inputs

    def started(self, *, now_ns: int) -> tuple[Effect, ...]:
        """Ask for a first snapshot, whatever it is."""
        return self._want(ORIGIN, now_ns=now_ns)

    def event_received(self, event: Event, *, frame: bytes, now_ns: int) -> tuple[Effect, ...]:
        """Take a verified event: applied if it is the next, kept if it is early, dropped if it is known."""
        if event.position <= self.position:
            self.counters["events_repeated"] += 1
            return ()
        if event.epoch < (self._foreign_epoch or 0):
            self.counters["events_of_old_epoch"] += 1
            return ()
        self._early[event.position] = (event, frame)
        if len(self._early) > EARLY_EVENTS_MAX:
            del self._early[min(self._early)]
            self.counters["early_events_dropped"] += 1
        effects = self._drain()
        if event.position <= self.position:
            return (*effects, *self._settle_wants(now_ns=now_ns))
        if event.epoch > self.position.epoch:
            self._foreign_epoch = max(event.epoch, self._foreign_epoch or 0)
        else:
            self.counters["event_gaps"] += 1
        return (*effects, *self._want(Position(event.epoch, max(0, event.revision - 1)), now_ns=now_ns))

    def beacon_seen(self, position: Position, *, now_ns: int) -> tuple[Effect, ...]:
        """A verified beacon named this position. If its event does not come within 250 ms, a snapshot is fetched."""
        if position.epoch > self.position.epoch:
            return self.greater_epoch_heard(position, now_ns=now_ns)
        if position.epoch == self.position.epoch:
            self.restored = self.restored and position > self.position
            if position > self.position and self._lag is None:
                self._lag = (position, now_ns)
        return self.tick(now_ns=now_ns)

    def greater_epoch_heard(self, at_least: Position, *, now_ns: int) -> tuple[Effect, ...]:
        """The region's history is another one now: nothing we know is current any more; fetch a snapshot."""
        if at_least.epoch <= self.position.epoch:
            return ()
        self._foreign_epoch = max(at_least.epoch, self._foreign_epoch or 0)
        return self._want(at_least, now_ns=now_ns)

    def snapshot_chunk_received(self, chunk: SnapshotChunk, *, frame: bytes, now_ns: int) -> tuple[Effect, ...]:
        """Take a verified piece of the snapshot asked for; others are counted and dropped."""
        if self._request is None or chunk.nonce != self._request.nonce:
            self.counters["snapshot_chunks_unasked"] += 1
            return ()
        self._request.deadline_ns = now_ns + ANSWER_NS
        assembled = self._request.assembler.add(chunk, frame=frame)
        if assembled is None:
            return ()
        self._request = None
        effects = self._install(assembled)
        return (*effects, *self._settle_wants(now_ns=now_ns))

    def snapshot_refused(self, refused: SnapshotRefused, *, now_ns: int) -> tuple[Effect, ...]:
        """That node cannot; ask again soon, and most likely another will answer."""
        if self._request is None or refused.nonce != self._request.nonce:
            self.counters["snapshot_refusals_unasked"] += 1
            return ()
        self.counters["snapshots_refused"] += 1
        self._request = None
        self._ask_again(now_ns=now_ns)
        return self.tick(now_ns=now_ns)

    def restore(self, words: Sequence[tuple[Event | SnapshotChunk, bytes]], *, now_ns: int) -> tuple[Effect, ...]:
        """Replay what the local tier kept, each verified again, unless the region has spoken already."""
        if self.position != ORIGIN:
            return ()
        assembler = Assembler(counters=self.counters)
        effects: tuple[Effect, ...] = ()
        for word, frame in words:
            if isinstance(word, SnapshotChunk):
                assembled = assembler.add(word, frame=frame)
                effects += self._install(assembled) if assembled else ()
            elif word.position == Position(self.position.epoch, self.position.revision + 1):
                self._early[word.position] = (word, frame)  # Beside those that came from the region meanwhile.
                effects += self._drain()
        self.restored = self.position != ORIGIN
        return (*effects, *self._want(self.position, now_ns=now_ns)) if self.restored else ()

    def evidence_doubted(self, *, now_ns: int) -> tuple[Effect, ...]:
        """Other keys of the region are believed than before: a snapshot signed now is to replace what was kept."""
        self._doubted = self._keeps_evidence and self.position != ORIGIN
        return self._settle_wants(now_ns=now_ns) if self._doubted else ()

    def tick(self, *, now_ns: int) -> tuple[Effect, ...]:
        """Whatever is due: a lag that lasted too long, a request nobody answered, the next attempt."""
        if self._lag is not None and now_ns - self._lag[1] >= LAG_NS:
            position, self._lag = self._lag[0], None
            self.counters["lags"] += 1
            return self._want(position, now_ns=now_ns)
        if self._request is not None and now_ns >= self._request.deadline_ns:
            self.counters["snapshot_requests_unanswered"] += 1
            self._request = None
            self._ask_again(now_ns=now_ns)
        if self._request is None and self._ask_at_ns is not None and now_ns >= self._ask_at_ns:
            return (self._ask(now_ns=now_ns),)
        return ()

    def next_deadline_ns(self) -> int | None:
        """When `tick` next has something to do."""
        due = [] if self._lag is None else [self._lag[1] + LAG_NS]
        if self._request is not None:
            due.append(self._request.deadline_ns)
        elif self._ask_at_ns is not None:
            due.append(self._ask_at_ns)
        return min(due, default=None)

    # ---- answers

    @property
    def epoch_current(self) -> bool:
        """False from when a greater epoch is heard of until it is followed."""
        return self._foreign_epoch is None

    def evidence(self) -> tuple[bytes, ...]:
        """The signed frames from which this state follows, in order; empty when too many were needed."""
        if not self._snapshot_frames:
            return ()
        return (*self._snapshot_frames, *(frame for _, frame in self._event_frames))

    def check_invariants(self) -> None:
        assert not self._early or min(self._early) > self.position
        assert len(self._early) <= EARLY_EVENTS_MAX
        assert len(self.models) <= MODELS_MAX
        assert len(self.feature_classes) <= CLASSES_MAX
        assert len(self.revoked) <= REVOKED_MAX
        assert len(self._snapshot_frames) <= CHUNKS_MAX
        assert len(self._event_frames) <= EVIDENCE_EVENTS_MAX
        assert self._foreign_epoch is None or self._foreign_epoch > self.position.epoch
        assert self._wanted is None or self._request is not None or self._ask_at_ns is not None
        assert self._lag is None or self._lag[0] > self.position
        if self._request is not None:
            self._request.assembler.check_invariants()

    def __repr__(self) -> str:
        wants = f" wants={self._wanted}" if self._wanted is not None else ""
        asked = " asked" if self._request is not None else ""
        flags = (" restored" if self.restored else "") + ("" if self.epoch_current else " foreign-epoch")
        return f"<Follower {self.position} models={len(self.models)} early={len(self._early)}{wants}{asked}{flags}>"

    # ---- helpers

    def _drain(self) -> tuple[Effect, ...]:
        effects: list[Effect] = []
        while (after := Position(self.position.epoch, self.position.revision + 1)) in self._early:
            event, frame = self._early.pop(after)
            effects.append(self._apply(event, frame=frame))
            self.restored = False
        return tuple(effects)

    def _apply(self, event: Event, *, frame: bytes) -> Applied:
        self.position = event.position
        for view in event.models:
            if view.name in self.models or len(self.models) < MODELS_MAX:
                self.models[view.name] = view
            else:
                self.counters["models_beyond_capacity"] += 1
        for name in event.removed:
            self.models.pop(name, None)
        if event.feature_classes or event.feature_classes_removed:
            removed = event.feature_classes_removed
            kept = (known for known in self.feature_classes.values() if known.name not in removed)
            self._take_classes((*kept, *event.feature_classes))
        self._revoke(event.publishers_revoked)
        if self._keeps_evidence:
            self._event_frames.append((self.position, frame))
            if len(self._event_frames) > EVIDENCE_EVENTS_MAX:
                self.counters["evidence_dropped"] += 1
                self._snapshot_frames = ()
                self._event_frames.popleft()
        return Applied(position=self.position, changed=(*(view.name for view in event.models), *event.removed))

    def _install(self, assembled: Assembled) -> tuple[Effect, ...]:
        snapshot = assembled.snapshot
        if not self._acceptable(snapshot):
            return ()
        if snapshot.position <= self.position:
            self._keep(assembled)
            return ()
        effects: list[Effect] = []
        if snapshot.epoch > self.position.epoch:
            self.terms = snapshot.terms
            effects.append(EpochBegan(position=snapshot.position, terms=snapshot.terms))
        elif snapshot.terms != self.terms:
            self.counters["terms_changed_within_epoch"] += 1
        before, self.models = self.models, {view.name: view for view in snapshot.models[:MODELS_MAX]}
        self.counters["models_beyond_capacity"] += len(snapshot.models) - len(self.models)
        self._take_classes(snapshot.feature_classes)
        self._revoke(snapshot.publishers_revoked)
        self.position = snapshot.position
        self.restored = False
        if self._foreign_epoch is not None and self._foreign_epoch <= snapshot.epoch:
            self._foreign_epoch = None
        self._early = {position: early for position, early in self._early.items() if position > self.position}
        self._keep(assembled)
        names = dict.fromkeys((*before, *self.models))
        changed = tuple(name for name in names if before.get(name) != self.models.get(name))
        effects.append(Applied(position=self.position, changed=changed))
        effects.extend(self._drain())
        return tuple(effects)

    def _take_classes(self, classes: Iterable[FeatureClass]) -> None:
        """These and no others; of two of one name the later one holds."""
        found = {feature_class.name: feature_class for feature_class in classes}
        self.feature_classes = dict(islice(found.items(), CLASSES_MAX))
        self.counters["feature_classes_beyond_capacity"] += len(found) - len(self.feature_classes)

    def _revoke(self, key_ids: tuple[str, ...]) -> None:
        """Add these; beyond what a region can have revoked, forget what came before them."""
        if not self.revoked.issuperset(key_ids):
            every = self.revoked.union(key_ids)
            if len(every) > REVOKED_MAX:
                self.counters["revocations_beyond_capacity"] += 1
                every = frozenset(key_ids[:REVOKED_MAX])
            self.revoked = every

    def _acceptable(self, snapshot: Snapshot) -> bool:
        if snapshot.region != self._region:
            self.counters["snapshots_of_another_region"] += 1
            return False
        if snapshot.epoch < self.position.epoch:
            self.counters["snapshots_of_old_epoch"] += 1
            return False
        self.unsupported = snapshot.terms.fast_barrier
        if self.unsupported:
            self.counters["regions_unsupported"] += 1
        return not self.unsupported

    def _keep(self, assembled: Assembled) -> None:
        """Let the snapshot replace the evidence before it, if the events kept continue it without a gap."""
        if not self._keeps_evidence:
            return
        position = assembled.snapshot.position
        while self._event_frames and self._event_frames[0][0] <= position:
            self._event_frames.popleft()
        if position.revision + len(self._event_frames) == self.position.revision:
            self._snapshot_frames = assembled.frames
            self._doubted = False
        else:
            self.counters["snapshots_older"] += 1

    def _want(self, at_least: Position, *, now_ns: int) -> tuple[Effect, ...]:
        self._wanted = at_least if self._wanted is None else max(at_least, self._wanted)
        if self._request is None and self._ask_at_ns is None:
            return (self._ask(now_ns=now_ns),)
        return self.tick(now_ns=now_ns)

    def _settle_wants(self, *, now_ns: int) -> tuple[Effect, ...]:
        """After the position grew: forget what was reached, and see to the rest."""
        if self._lag is not None and self._lag[0] <= self.position:
            self._lag = None
        reached = self.position != ORIGIN and (self._wanted is None or self._wanted <= self.position)
        if reached and not self._evidence_is_long():
            self._wanted = None
            self._ask_at_ns = None
            self._request = None
            self._attempt_count = 0
        elif self._request is None and self._ask_at_ns is None:
            if reached:  # Every edge sees the same event that is one too many: spread what they ask.
                self._wanted = self.position
                self._ask_at_ns = now_ns + int(self._rng.random() * COMPACTION_SPREAD_NS)
            else:
                self._ask_again(now_ns=now_ns)
        return self.tick(now_ns=now_ns)

    def _evidence_is_long(self) -> bool:
        many = len(self._event_frames) > EVIDENCE_EVENTS
        return self._keeps_evidence and (many or not self._snapshot_frames or self._doubted)

    def _ask_again(self, *, now_ns: int) -> None:
        backoff_ns = min(BACKOFF_NS_MAX, BACKOFF_NS_MIN << min(self._attempt_count, 10))
        self._attempt_count += 1
        self._ask_at_ns = now_ns + int(backoff_ns * (0.75 + 0.5 * self._rng.random()))

    def _ask(self, *, now_ns: int) -> FetchSnapshot:
        assert self._wanted is not None
        self._ask_at_ns = None
        nonce = self._rng.randbytes(16)
        self._request = _Request(nonce, Assembler(counters=self.counters), now_ns + ANSWER_NS)
        self.counters["snapshot_requests"] += 1
        return FetchSnapshot(at_least=self._wanted, nonce=nonce)
