"""What a reader must know of a model to serve it: values, equal on both sides.

A `ModelView` is complete: an event or a snapshot that carries one needs nothing else to be understood, so events may be
lost and a later one still tells the whole truth (protocol, sections 7 and 9).
"""

from __future__ import annotations

import re

import msgspec

from edge_client.protocol.bucketing import SHARE_BP_MAX, CohortSelector, bucket_of
from edge_client.protocol.drift import Drift

NAME_PATTERN = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,126}[a-z0-9])?")
"""Names of models, edges and sites: lower case, 1 to 128 characters."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What `read()` may return for a model, and how much of its past is kept."""

    staleness_max_ms: int | None = None
    """A `bounded` reading whose bound exceeds this raises instead. None: any bound, also an unknown one."""

    fallback_allowed: bool = True
    """Whether the version before may be served when the right one is not usable."""

    versions_kept: int = 10
    """How many versions garbage collection leaves, newest first, beside those in use."""

    prefetch_ms: int = 30_000
    """How long an activation waits for edges to become ready before it goes on without them."""


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """An immutable version: a semantic version that names bytes."""

    version: str
    digest: str
    size_bytes: int
    metadata: dict[str, str] = {}
    signatures: tuple[str, ...] = ()
    """By publishers, one line each, as in `signatures`. Added later: absent in what was said before."""


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """Which version is for whom: one value under one generation (protocol, section 9)."""

    stable: str
    candidate: str | None = None
    share_bp: int = 0
    salt: str = ""
    cohort: CohortSelector = CohortSelector()

    def __post_init__(self) -> None:
        if not 0 <= self.share_bp <= SHARE_BP_MAX:
            raise ValueError(f"share_bp must lie in 0..{SHARE_BP_MAX}, not {self.share_bp}")

    def version_for(self, *, edge_id: str, site: str, labels: dict[str, str]) -> str:
        """The version that this edge serves. Raising `share_bp` only ever adds edges to the candidate."""
        if self.candidate is None or not self.cohort.matches(site=site, labels=labels):
            return self.stable
        return self.candidate if bucket_of(edge_id, salt=self.salt) < self.share_bp else self.stable

    def versions(self) -> tuple[str, ...]:
        """Every version it names, stable first."""
        return (self.stable,) if self.candidate is None else (self.stable, self.candidate)


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    """An activation that was decided and is not settled: who will serve what from which instant of whose clock."""

    revision: int
    """The revision at which the activation applied: its name in settlements and verdicts."""

    generation: int
    assignment: Assignment
    effective_at_ns: int
    lead_ns: int
    clock_id: str
    assumption: int
    immediate: bool = False
    early_at_ns: int | None = None
    trace: str = ""
    """The traceparent of what decided it, for whoever tells of the switch; it decides nothing. Added later."""


class ModelView(msgspec.Struct, frozen=True, kw_only=True):
    """All that a reader needs of one model."""

    name: str
    policy: Policy
    generation: int
    """0: no version was ever activated."""
    assignment: Assignment | None
    versions: dict[str, Version]
    """Those that the assignment, the pending one, the one before and the prefetch name."""
    previous: Assignment | None = None
    """What a rollback would lead to. In a rollout that is not the stage before, but what was active when it started."""
    pending: Pending | None = None
    prefetch: Assignment | None = None
    """What may be activated next; edges get ready for it."""
    created: int = 0
    """The revision at which it was created: a model that was deleted and created anew is another, and counts from 0."""
    previous_generation: int = 0
    """Under which generation `previous` was active; 0: the one before the present."""


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """Fixed for an epoch, chosen at bootstrap (protocol, section 1)."""

    lease_ms: int = 2_000
    margin_ms: int = 6
    rho_ppm: int = 500
    fast_barrier: bool = False

    def __post_init__(self) -> None:
        if self.lease_ms < 1 or self.margin_ms < 1:
            raise ValueError("lease_ms and margin_ms must be at least 1")
        Drift(self.rho_ppm)  # refuses what is no drift
        least = self.lease_ms * 2 * self.rho_ppm / (1_000_000 - self.rho_ppm)
        if self.margin_ms < least:
            raise ValueError(f"margin_ms must be at least lease_ms * (kappa - 1) = {least:.3f}")

    @property
    def lease_ns(self) -> int:
        return self.lease_ms * 1_000_000

    @property
    def margin_ns(self) -> int:
        return self.margin_ms * 1_000_000
