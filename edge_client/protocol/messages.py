"""What the two sides say to each other: types, sizes, and the only way in and out of bytes.

Payloads are msgpack maps with a `type`; unknown fields are ignored, so that a newer side may say more. What the region
says travels in a signed envelope; what edges say carries one version byte. Anything else raises `MessageError` with a
stable `reason`, which is what counters are named after.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from edge_client.protocol.envelope import EnvelopeError, Signer, Verifier
from edge_client.protocol.feature_classes import FeatureClass
from edge_client.protocol.models import ModelView, Terms
from edge_client.protocol.observations import Observations
from edge_client.protocol.position import Position

REGION_FRAME_BYTES_MAX = 512 * 1024
EDGE_FRAME_BYTES_MAX = 64 * 1024
SNAPSHOT_CHUNK_BYTES = 256 * 1024
EDGE_FRAME_VERSION = 1


class MessageError(ValueError):
    """Bytes from outside that are not an acceptable message. `reason` is a stable word for counters."""

    def __init__(self, reason: str, *, detail: str = "") -> None:
        super().__init__(f"message refused: {reason}" + (f" ({detail})" if detail else ""))
        self.reason = reason


class RegionMessage(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Base of what the region says; the epoch is inside the signature."""

    epoch: int


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a fast-barrier offer (section 6)."""

    revision: int
    go: bool


class Beacon(RegionMessage, frozen=True, kw_only=True, tag="beacon"):
    """A read lease for everyone who has applied `revision`, counted from `t0_ns` of `clock_id` (section 4)."""

    revision: int
    clock_id: str
    assumption: int
    assumed_at_ns: int
    t0_ns: int
    verdicts: tuple[Verdict, ...] = ()

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.revision)


class ClockReply(RegionMessage, frozen=True, kw_only=True, tag="clock"):
    """What one node's clock read between our request and this reply; also where that node is to be found."""

    clock_id: str
    nonce: bytes
    stamped_at_ns: int
    node_id: str
    url: str


class Event(RegionMessage, frozen=True, kw_only=True, tag="event"):
    """One applied command that changed what readers may see (section 7)."""

    revision: int
    name: str
    """What happened, past tense: `ActivationScheduled`, `VersionRegistered` and the like."""
    at_unix_ms: int
    author: str = ""
    detail: dict[str, Any] = {}
    models: tuple[ModelView, ...] = ()
    """The complete new view of every model it changed."""
    removed: tuple[str, ...] = ()
    feature_classes: tuple[FeatureClass, ...] = ()
    """Every feature class that it changed, whole."""
    feature_classes_removed: tuple[str, ...] = ()
    publishers_revoked: tuple[str, ...] = ()
    """Ids of keys whose versions are not to be loaded any more. Added later, as `Snapshot.publishers_revoked`."""
    trace: str = ""
    """The traceparent of what decided it; empty where nobody traces. Added later."""

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.revision)

    @property
    def message_id(self) -> str:
        """What the bus deduplicates by."""
        return f"{self.epoch}-{self.revision}"


class Snapshot(RegionMessage, frozen=True, kw_only=True, tag="snapshot"):
    """All that readers need, at one revision."""

    revision: int
    region: str
    terms: Terms
    models: tuple[ModelView, ...]
    feature_classes: tuple[FeatureClass, ...] = ()
    publishers_revoked: tuple[str, ...] = ()
    """Every one there is."""

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.revision)


class SnapshotChunk(RegionMessage, frozen=True, kw_only=True, tag="snapshot_chunk"):
    """One of `count` pieces of an encoded `Snapshot`, for the request that carried `nonce`."""

    nonce: bytes
    revision: int
    index: int
    count: int
    data: bytes


class SnapshotRefused(RegionMessage, frozen=True, kw_only=True, tag="snapshot_refused"):
    """This node cannot give a snapshot at or after the revision asked for; ask another."""

    nonce: bytes
    revision: int
    reason: str


class ReportReply(RegionMessage, frozen=True, kw_only=True, omit_defaults=True, tag="report_reply"):
    """The authority has heard this life of this edge; `accepted` is False when another life holds the id."""

    edge_id: str
    life_id: str
    accepted: bool
    reason: str = ""
    own_subject: bool = False
    """Whether nodes hear each edge's own subject of reports. Added later: nodes that say nothing of it hear `report` alone."""


class EdgeMessage(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Base of what edges say: bounded by size and rate, never trusted."""


class ClockRequest(EdgeMessage, frozen=True, kw_only=True, tag="clock_request"):
    nonce: bytes


class SnapshotRequest(EdgeMessage, frozen=True, kw_only=True, tag="snapshot_request"):
    """Asks for a snapshot at or after `(epoch_min, revision_min)`."""

    nonce: bytes
    epoch_min: int
    revision_min: int


class ServedModel(msgspec.Struct, frozen=True, kw_only=True):
    """What an edge serves of one model, and what it has ready."""

    model: str
    version: str | None
    generation: int
    guarantee: str
    staleness_bound_ms: int | None
    ready: tuple[str, ...] = ()
    """Digests that are verified, loaded and warm."""
    failed: dict[str, str] = {}
    """Digest to one sentence: why it is not ready."""
    fetched_bytes: dict[str, int] = {}
    """Digest to bytes downloaded so far, while a download runs."""
    untrusted: str = ""
    """Why what is served would not be loaded anew, a word of `signatures.FAULTS`; empty: it would. Added later."""


class Switch(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """When this edge began to serve a generation, as its computed instant."""

    model: str
    generation: int
    activation: int
    """The activation's revision."""
    clock_id: str
    late_ns: int
    """The edge's computed switch instant minus the activation's, by the middle of its bounds on that clock."""
    uncertainty_ns: int
    at_ns: int = 0
    """The computed instant on the edge's own clock; comparable between edges of one machine only."""


class FeatureObservations(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one life of one edge saw of one feature class; it only grows."""

    class_name: str
    judged_count: int = 0
    """Readings of which the application said whether they were right."""
    failed_count: int = 0
    fetched_count: int = 0
    """Fetches that replaced a copy held until then."""
    drift_sum: float = 0.0
    """How far those copies were off, each from 0, the same, to 1, another value altogether."""


class FeatureChanges(EdgeMessage, frozen=True, kw_only=True, omit_defaults=True, tag="feature_changes"):
    """Other edges may let go of older copies. Nothing but a needless fetch can come of a false one."""

    writer: int
    changes: tuple[tuple[int, int], ...] = ()
    """`key_hash` and stamp of each write."""
    patterns: tuple[tuple[str, int], ...] = ()
    """Glob patterns of keys, and the stamp before which copies are out of date."""


class EdgeReport(EdgeMessage, frozen=True, kw_only=True, omit_defaults=True, tag="edge_report"):
    """What one life of one edge is and serves."""

    edge_id: str
    life_id: str
    site: str = ""
    labels: dict[str, str] = {}
    epoch: int
    revision: int
    source: str = "bus"
    models: tuple[ServedModel, ...] = ()
    switches: tuple[Switch, ...] = ()
    reads: dict[str, int] = {}
    """Counts of readings by guarantee since the last report."""
    uncertainty_ns: int | None = None
    leaving: bool = False
    observations: tuple[Observations, ...] = ()
    """What came of readings, as sums over this life; those that did not grow lately may be left out."""
    features: tuple[FeatureObservations, ...] = ()


_RegionUnion = Beacon | ClockReply | Event | SnapshotChunk | SnapshotRefused | ReportReply
_EdgeUnion = ClockRequest | SnapshotRequest | EdgeReport | FeatureChanges

_T = TypeVar("_T")
_encoder = msgspec.msgpack.Encoder()
_region_decoder: msgspec.msgpack.Decoder[_RegionUnion] = msgspec.msgpack.Decoder(_RegionUnion)
_edge_decoder: msgspec.msgpack.Decoder[_EdgeUnion] = msgspec.msgpack.Decoder(_EdgeUnion)
_snapshot_decoder = msgspec.msgpack.Decoder(Snapshot)


def encode_region(message: _RegionUnion, *, signer: Signer) -> bytes:
    """The signed frame of a region message. Raises `MessageError("oversized")` beyond 512 KiB."""
    frame = signer.sign(_encoder.encode(message))
    if len(frame) > REGION_FRAME_BYTES_MAX:
        raise MessageError("oversized", detail=f"{len(frame)} bytes")
    return frame


def decode_region(frame: bytes, *, verifier: Verifier) -> _RegionUnion:
    """The message of a frame that a trusted key signed. Raises `MessageError`."""
    try:
        payload = verifier.open(frame, bytes_max=REGION_FRAME_BYTES_MAX)
    except EnvelopeError as error:
        raise MessageError(error.reason) from None
    return _decode(_region_decoder, payload)


def encode_edge(message: _EdgeUnion) -> bytes:
    """The frame of an edge message. Raises `MessageError("oversized")` beyond 64 KiB."""
    frame = bytes((EDGE_FRAME_VERSION,)) + _encoder.encode(message)
    if len(frame) > EDGE_FRAME_BYTES_MAX:
        raise MessageError("oversized", detail=f"{len(frame)} bytes")
    return frame


def decode_edge(frame: bytes) -> _EdgeUnion:
    """The message of an edge's frame; nothing in it is to be trusted. Raises `MessageError`."""
    if len(frame) > EDGE_FRAME_BYTES_MAX:
        raise MessageError("oversized")
    if not frame or frame[0] != EDGE_FRAME_VERSION:
        raise MessageError("unknown_version")
    return _decode(_edge_decoder, frame[1:])


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """The bytes that are cut into `SnapshotChunk`s, each of which is signed."""
    return _encoder.encode(snapshot)


def decode_snapshot(payload: bytes) -> Snapshot:
    """The snapshot put together from signed chunks. Raises `MessageError`."""
    return _decode(_snapshot_decoder, payload)


def _decode(decoder: msgspec.msgpack.Decoder[_T], payload: bytes) -> _T:
    try:
        return decoder.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MessageError("undecodable", detail=str(error)[:200]) from None
