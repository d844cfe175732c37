"""Bodies, as callers see them. What comes in is strict, so that a typing error is a refusal and not a default."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from consistency_service.api.semver import LENGTH_MAX, SEMVER
from consistency_service.core.fleet import EdgeView
from consistency_service.core.machine import METADATA_BYTES_MAX
from consistency_service.core.state import HistoryEntry, ModelState
from edge_client.protocol.models import NAME_PATTERN, Assignment, Pending, Policy
from edge_client.protocol.signatures import SIGNATURES_MAX

MS_MAX = 2**53
MEMBERS_MAX = 64
PREFETCH_MS_MAX = 600_000
VERSIONS_KEPT_MAX = 1_000

Name = Annotated[str, Field(pattern=f"^{NAME_PATTERN.pattern}$", examples=["text-detector"])]
SemanticVersion = Annotated[str, Field(pattern=SEMVER, max_length=LENGTH_MAX, examples=["2.3.0"])]
DigestText = Annotated[str, Field(pattern="^sha256:[0-9a-f]{64}$", examples=["sha256:" + "0" * 64])]
SignatureLine = Annotated[
    str,
    Field(
        pattern=r"^ed25519 [0-9a-f]{16} [A-Za-z0-9+/]{85}[AQgw]==$",
        examples=["ed25519 " + "0" * 16 + " " + "A" * 86 + "=="],
    ),
]


def few(value: Any) -> Any:
    """Refuse before each of thousands of members is looked at, and complained about, one by one."""
    if isinstance(value, dict) and len(value) > MEMBERS_MAX:
        raise ValueError(f"at most {MEMBERS_MAX} members are allowed")
    return value


class Asked(BaseModel):
    """Base of what callers send."""

    model_config = ConfigDict(extra="forbid", strict=True)
    _few_members = model_validator(mode="before")(few)


class PolicyAsked(Asked):
    """What `read()` may return, and how much of the past is kept. Absent fields keep their value or default."""

    staleness_max_ms: Annotated[int | None, Field(ge=0, le=MS_MAX)] = None
    fallback_allowed: bool = True
    versions_kept: Annotated[int, Field(ge=1, le=VERSIONS_KEPT_MAX)] = 10
    prefetch_ms: Annotated[int, Field(ge=0, le=PREFETCH_MS_MAX)] = 30_000

    def over(self, policy: Policy) -> Policy:
        """`policy`, with the fields that were given."""
        return msgspec.structs.replace(policy, **self.model_dump(exclude_unset=True))


class ModelAsked(Asked):
    name: Name
    policy: PolicyAsked = PolicyAsked()


class VersionAsked(Asked):
    version: SemanticVersion
    digest: DigestText
    metadata: Annotated[dict[str, str], BeforeValidator(few)] = {}
    signatures: Annotated[list[SignatureLine], Field(max_length=SIGNATURES_MAX)] = []
    """By publishers, each by another key; `ccs keys sign` makes one. A registered version takes further ones."""

    @field_validator("metadata")
    @classmethod
    def _small(cls, metadata: dict[str, str]) -> dict[str, str]:
        if sum(len(name.encode()) + len(value.encode()) for name, value in metadata.items()) > METADATA_BYTES_MAX:
            raise ValueError(f"metadata has at most {METADATA_BYTES_MAX} bytes")
        return metadata


class ActivationAsked(Asked):
    version: SemanticVersion
    force: bool = False
    """Do not wait for edges to be ready."""
    immediate: bool = False
    """For models that need no strength: `read()` serves it, as `bounded`, as soon as it is loaded."""


class PolicyShown(BaseModel):
    staleness_max_ms: int | None
    fallback_allowed: bool
    versions_kept: int
    prefetch_ms: int


class AssignmentShown(BaseModel):
    """Which version is for whom."""

    stable: str
    candidate: str | None
    share_bp: int
    salt: str
    cohort: dict[str, Any]


class PendingShown(BaseModel):
    """Decided, and not settled yet."""

    activation: int
    generation: int
    assignment: AssignmentShown
    lead_ms: int
    effective_at_unix_ms: int | None
    immediate: bool


class VersionShown(BaseModel):
    version: str
    digest: str
    size_bytes: int
    metadata: dict[str, str]
    signatures: list[str] = []
    registered_at_unix_ms: int
    in_use: bool


class ModelShown(BaseModel):
    name: str
    policy: PolicyShown
    generation: int
    assignment: AssignmentShown | None
    previous: AssignmentShown | None
    pending: PendingShown | None
    prefetch: AssignmentShown | None
    versions: list[VersionShown]
    """Those in use."""
    version_count: int
    created_at_unix_ms: int


class ArtifactShown(BaseModel):
    digest: str
    size_bytes: int


class ActivationShown(BaseModel):
    model: str
    version: str
    generation: int
    activation: int
    """The revision of the decision, which names it."""
    effective_at_unix_ms: int
    effective: bool
    not_ready: dict[str, str]
    """Edges that were not ready when it was decided, and why."""


class ReadinessShown(BaseModel):
    model: str
    version: str
    ready: list[str]
    waiting: list[str]
    failed: dict[str, str]
    fetched_bytes: dict[str, int]
    size_bytes: int


class ActiveShown(BaseModel):
    model: str
    generation: int
    assignment: AssignmentShown | None
    version: str | None
    """The stable version; null before the first activation."""
    consistency: str
    """How it is known: `lease`, `log` or `local`."""
    epoch: int
    revision: int


class HistoryShown(BaseModel):
    generation: int
    assignment: AssignmentShown
    version: str
    activation: int
    effective_at_unix_ms: int
    author: str
    rollout_id: str = ""
    """Of the rollout that activated it; empty: a caller did."""


class AuditShown(BaseModel):
    revision: int
    at_unix_ms: int
    author: str
    command: str
    subject: str
    code: str


class EdgeShown(BaseModel):
    """What an edge says of itself, and when it was heard."""

    edge_id: str
    life_id: str
    site: str
    labels: dict[str, str]
    live: bool
    leaving: bool
    heard_at_unix_ms: int
    heard_ms_ago: int
    epoch: int
    revision: int
    source: str
    uncertainty_ns: int | None
    models: list[dict[str, Any]]
    reads: dict[str, int]
    switches: list[dict[str, Any]]


def assignment_shown(assignment: Assignment | None) -> AssignmentShown | None:
    return None if assignment is None else AssignmentShown(**msgspec.to_builtins(assignment))


def version_shown(model: ModelState, name: str) -> VersionShown:
    version = model.versions[name]
    return VersionShown(
        **msgspec.to_builtins(version),
        registered_at_unix_ms=model.registered_at_unix_ms.get(name, 0),
        in_use=name in model.versions_in_use(),
    )


def model_shown(model: ModelState) -> ModelShown:
    return ModelShown(
        name=model.name,
        policy=PolicyShown(**msgspec.to_builtins(model.policy)),
        generation=model.generation,
        assignment=assignment_shown(model.assignment),
        previous=assignment_shown(model.previous),
        pending=None if model.pending is None else _pending_shown(model, model.pending),
        prefetch=assignment_shown(model.prefetch),
        versions=[version_shown(model, name) for name in model.versions_in_use()],
        version_count=len(model.versions),
        created_at_unix_ms=model.created_at_unix_ms,
    )


def _pending_shown(model: ModelState, pending: Pending) -> PendingShown:
    told = (entry.effective_at_unix_ms for entry in model.history if entry.activation == pending.revision)
    return PendingShown(
        activation=pending.revision,
        generation=pending.generation,
        assignment=AssignmentShown(**msgspec.to_builtins(pending.assignment)),
        lead_ms=pending.lead_ns // 1_000_000,
        effective_at_unix_ms=next(told, None),
        immediate=pending.immediate,
    )


def history_shown(entry: HistoryEntry) -> HistoryShown:
    return HistoryShown(**msgspec.to_builtins(entry), version=entry.assignment.stable)


def edge_shown(view: EdgeView, *, now_ns: int) -> EdgeShown:
    report = msgspec.to_builtins(msgspec.structs.asdict(view.report))
    return EdgeShown(
        **report | {"switches": [msgspec.to_builtins(switch) for switch in view.switches.values()]},
        live=view.live(now_ns=now_ns),
        heard_at_unix_ms=view.heard_at_unix_ms,
        heard_ms_ago=(now_ns - view.heard_at_ns) // 1_000_000,
    )
