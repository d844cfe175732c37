"""The replicated state: what a region has decided, as values, and its snapshot bytes.

Nothing here decides; `machine` does. Collections are bounded there; what overflows is counted here, so that every node
counts the same (protocol, section 7).
"""

from __future__ import annotations

import msgspec

from consistency_service.core.outcomes import Outcome
from consistency_service.core.rollout import Freeze, Origin, Rollout
from consistency_service.core.webhooks import Webhook
from edge_client.protocol.feature_classes import FeatureClass
from edge_client.protocol.messages import Event, Snapshot
from edge_client.protocol.models import Assignment, ModelView, Pending, Policy, Terms, Version
from edge_client.protocol.position import Position

STATE_VERSION = 1


class Authority(msgspec.Struct, frozen=True, kw_only=True):
    """Whose clock-dependent commands the log accepts."""

    clock_id: str
    assumption: int
    node_id: str


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One generation of a model, for people: what, since when, by whom."""

    generation: int
    assignment: Assignment
    activation: int
    effective_at_unix_ms: int
    author: str
    rollout_id: str = ""
    """Of the rollout that activated it; `""`: a caller did."""


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One command that somebody asked for, and what came of it."""

    revision: int
    at_unix_ms: int
    author: str
    command: str
    subject: str
    code: str


class ModelState(msgspec.Struct, kw_only=True):
    """One model. Mutable, and touched by `machine` only."""

    name: str
    policy: Policy
    created_at_unix_ms: int
    created: int = 0
    """The revision at which it was created."""
    generation: int = 0
    assignment: Assignment | None = None
    previous: Assignment | None = None
    previous_generation: int = 0
    pending: Pending | None = None
    prefetch: Assignment | None = None
    origin: Origin | None = None
    """How it came by its assignment."""
    pending_origin: Origin | None = None
    versions: dict[str, Version] = {}
    registered_at_unix_ms: dict[str, int] = {}
    history: list[HistoryEntry] = []

    def decided(self) -> tuple[Assignment, Origin] | None:
        """What is assigned once everything decided is settled, and how it comes by it; None: nothing ever was."""
        assignment, origin = self.assignment, self.origin
        if self.pending is not None:
            assignment, origin = self.pending.assignment, self.pending_origin
        return None if assignment is None else (assignment, origin or self._unrecorded())

    def _unrecorded(self) -> Origin:
        return Origin(previous=self.previous, previous_generation=self.previous_generation)

    def versions_in_use(self) -> tuple[str, ...]:
        """Every version that some assignment names, without repeats, in a fixed order."""
        named = (
            self.assignment,
            self.pending and self.pending.assignment,
            self.previous,
            self.prefetch,
            self.pending_origin and self.pending_origin.previous,
        )
        return tuple(dict.fromkeys(v for assignment in named if assignment for v in assignment.versions()))

    def view(self) -> ModelView:
        """What readers need of it."""
        return ModelView(
            name=self.name,
            policy=self.policy,
            generation=self.generation,
            assignment=self.assignment,
            versions={v: self.versions[v] for v in self.versions_in_use()},
            previous=self.previous,
            pending=self.pending,
            prefetch=self.prefetch,
            created=self.created,
            previous_generation=self.previous_generation,
        )


class FeatureClassState(msgspec.Struct, kw_only=True):
    """One feature class. Mutable, and touched by `machine` only."""

    feature_class: FeatureClass
    """Its `window_ms` is None while the window is the base."""
    revision: int = 0
    """At which a person set it last; what the region does to its window does not count."""
    author: str = ""
    set_at_unix_ms: int = 0
    window_reason: str = ""
    """Why the region moved the window last; empty: it never did."""
    window_at_unix_ms: int = 0


class RevokedPublisher(msgspec.Struct, frozen=True, kw_only=True):
    """A publisher's key that nothing is to be loaded by any more."""

    key_id: str
    author: str
    reason: str
    revoked_at_unix_ms: int


class RequestResult(msgspec.Struct, frozen=True, kw_only=True):
    fingerprint: str
    outcome: Outcome


class State(msgspec.Struct, kw_only=True):
    """Everything that is replicated."""

    version: int = STATE_VERSION
    region: str = ""
    epoch: int = 0
    revision: int = 0
    terms: Terms = Terms()
    authority: Authority | None = None
    last_number: int = 0
    models: dict[str, ModelState] = {}
    outbox: list[Event] = []
    published_through: int = 0
    audit: list[AuditEntry] = []
    requests: dict[str, RequestResult] = {}
    counters: dict[str, int] = {}
    rollouts: dict[str, Rollout] = {}
    """By id, oldest first."""
    freeze: Freeze | None = None
    webhooks: dict[str, Webhook] = {}
    feature_classes: dict[str, FeatureClassState] = {}
    publishers_revoked: dict[str, RevokedPublisher] = {}
    """By key id. Added later."""

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.revision)

    def pendings(self) -> dict[int, Pending]:
        """Pending activations by revision; one may span several models."""
        found: dict[int, Pending] = {}
        for model in self.models.values():
            if model.pending is not None:
                found[model.pending.revision] = model.pending
        return found

    def rollout_of(self, model: str) -> Rollout | None:
        """The running rollout that holds this model."""
        for rollout in self.rollouts.values():
            if rollout.running and any(target.model == model for target in rollout.targets):
                return rollout
        return None

    def changed_with(self, model: str) -> tuple[ModelState, ...]:
        """The models whose present assignments were made by one activation with this one's, it included: a rollback
        of one of them takes the others along.
        """
        made = self.models[model].origin
        if made is None or not made.activation:
            return (self.models[model],)
        return tuple(m for m in self.models.values() if m.origin and m.origin.activation == made.activation)

    def reader_snapshot(self) -> Snapshot:
        """What a reader needs to continue from here."""
        return Snapshot(
            epoch=self.epoch,
            revision=self.revision,
            region=self.region,
            terms=self.terms,
            models=tuple(model.view() for model in self.models.values()),
            feature_classes=tuple(known.feature_class for known in self.feature_classes.values()),
            publishers_revoked=tuple(self.publishers_revoked),
        )


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(State)
_parts = msgspec.msgpack.Decoder(dict[str, msgspec.Raw])
_NAMES = frozenset(State.__struct_fields__)
_EMPTY = frozenset(map(_encoder.encode, (None, False, 0, "", [], {})))


def encode_state(state: State) -> bytes:
    """The whole state, for the log's snapshots and for backups."""
    return _encoder.encode(state)


def decode_state(payload: bytes) -> State:
    """The state of `encode_state`'s bytes.

    Raises `ValueError`, also for a collection that a later release added and that is not empty: whoever left it out would
    hand an incomplete state on.
    """
    try:
        state = _decoder.decode(payload)
        unknown = [
            name for name, raw in _parts.decode(payload).items() if name not in _NAMES and bytes(raw) not in _EMPTY
        ]
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ValueError(f"not a state: {error}") from None
    if state.version != STATE_VERSION:
        raise ValueError(f"state version {state.version} is not {STATE_VERSION}")
    if unknown:
        raise ValueError(f"a newer release wrote it, with {', '.join(unknown)}: upgrade this node")
    return state
