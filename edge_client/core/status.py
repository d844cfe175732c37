"""What an edge says about itself: values, for people, metrics and tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edge_client.protocol.messages import Switch
from edge_client.protocol.position import Position


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus:
    """How one model stands at this edge."""

    name: str
    version: str | None = None
    """What `read` would serve now; None when it would raise."""
    generation: int = 0
    guarantee: str | None = None
    staleness_bound_ms: int | None = None
    error: str | None = None
    """Why `read` would raise, in one sentence."""
    ready: tuple[str, ...] = ()
    """Digests that are verified, loaded and warm."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Digest to one sentence: why it is not ready."""
    fetched_bytes: Mapping[str, int] = field(default_factory=dict)
    """Digest to bytes so far, while a download runs."""
    untrusted: str = ""
    """Why the version served would not be loaded anew, a word of `protocol.signatures.FAULTS`; empty: it would."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturesStatus:
    """How features stand at this edge."""

    memory_count: int
    memory_bytes: int
    queue_count: int
    """Bulk entries that are not in the store yet."""
    queue_bytes: int
    """What they take in memory, with those that are stored and still readable here."""
    queue_oldest_ms: int
    hit_count: int
    """Readings for which this machine had what was asked."""
    miss_count: int
    stale_count: int
    """Readings that were too old: served as such, or refused."""
    store: str
    """The breaker before the feature store: `closed` (all is well), `open`, `half_open`."""
    local_tier: str
    """The breaker before the local tier, or `none`."""
    admission: str
    """What `features.admits` goes by."""
    queue: Mapping[str, int] = field(default_factory=dict)
    """What became of every bulk write: `flushed`, `coalesced`, `dropped`, `retried` and more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientStatus:
    """How the edge stands with the region."""

    edge_id: str
    connected: bool
    """Whether the bus is connected; says nothing about anybody talking on it."""
    bus_fault: str = ""
    """Why it is not: `refused: …` by servers that know us not or no longer, `credentials: …` where our own files are at fault,
    or `away: …`. Tried again whichever it is."""
    position: Position
    lease_remaining_ms: int
    """How long strong readings could go on if nothing more were heard; 0 without a lease."""
    source: str
    """Where the news comes from: `bus`, `local` after a start from the local tier alone, or `none` yet."""
    local_tier: str
    """`none`, `ok` or `failing`."""
    refused: bool
    """Another living process holds the edge id; what we report does not count."""
    unsupported: bool
    """The region demands a rule that this client does not know."""
    clock_trusted: bool
    uncertainty_ns: int | None
    """The width of the best known service clock."""
    models: tuple[ModelStatus, ...]
    counters: Mapping[str, int]
    switches: tuple[Switch, ...] = ()
    """When this edge began to serve its latest generations, by the region's clock."""
    features: FeaturesStatus | None = None
    """None where there is neither a feature store nor a local tier."""
