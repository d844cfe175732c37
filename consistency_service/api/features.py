"""Feature classes: what is promised about features by the prefix of their keys, and how they do."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, Field

from consistency_service.api.access import needs
from consistency_service.api.depends import AskedDep, NodeDep, StateDep
from consistency_service.api.pages import Cursor, Limit, Page, page_of
from consistency_service.api.problems import ProblemError, documented
from consistency_service.api.schemas import Asked
from consistency_service.core.access import Models, Role
from consistency_service.core.commands import RemoveFeatureClass, SetFeatureClass
from consistency_service.core.feature_rates import SPAN_MS
from consistency_service.core.feature_windows import error_rate
from consistency_service.core.state import FeatureClassState, State
from consistency_service.runtime.node import Node
from edge_client.protocol.feature_classes import (
    BULK_DEFAULT,
    MS_MAX,
    SHARDS_MAX,
    FeatureClass,
    FeatureCodec,
    FeatureKind,
    WhenFull,
)
from edge_client.protocol.models import NAME_PATTERN

UNCERTAIN: Final = ("invalid", "request_id_reused", "no_leader", "unknown_outcome")
ClassName = Annotated[
    str, Path(pattern=f"^{NAME_PATTERN.pattern}$", description="What stands before the first colon of its keys.")
]
Ms = Annotated[int, Field(ge=1, le=MS_MAX)]
router = APIRouter(prefix="/v1/features/classes", tags=["features"])


class FeatureClassAsked(Asked):
    """What is promised. Absent fields keep their value, or are the default where there is no such class yet."""

    kind: Annotated[FeatureKind, Field(strict=False)] = FeatureKind.BULK
    window_base_ms: Ms = BULK_DEFAULT.window_base_ms
    """The staleness window while nothing is wrong; what holds now is the region's own, from floor to base."""
    window_floor_ms: Ms = BULK_DEFAULT.window_floor_ms
    expire_ms: Annotated[Ms | None, Field(description="null: never, for critical classes alone.")] = 30_000
    codec: Annotated[FeatureCodec, Field(strict=False)] = BULK_DEFAULT.codec
    flush_ms: Annotated[int, Field(ge=10, le=600_000)] = BULK_DEFAULT.flush_ms
    shards: Annotated[int, Field(ge=1, le=SHARDS_MAX)] = BULK_DEFAULT.shards
    spool: bool = False
    when_full: Annotated[WhenFull, Field(strict=False)] = BULK_DEFAULT.when_full
    announced: Annotated[bool | None, Field(description="null: critical classes are, others not.")] = None

    def over(self, name: str, known: FeatureClass | None) -> FeatureClass:
        """The class that is asked for, without a window. Raises `ProblemError` for one that makes no sense."""
        base = {} if known is None else msgspec.structs.asdict(known)
        given = {field: getattr(self, field) for field in self.model_fields_set}
        try:
            return FeatureClass(**base | given | {"name": name, "window_ms": None})
        except ValueError as error:
            raise ProblemError("invalid", field="feature class", detail=str(error)) from None


class FeatureObservedShown(BaseModel):
    """What edges told the node that answers, of the last `span_ms`."""

    span_ms: int
    edge_count: int
    judged_count: int
    failed_count: int
    fetched_count: int
    failed_share: float | None
    drift: float | None
    """How far copies were off that were replaced, on average: 0 the same, 1 another value altogether."""
    error_rate: float | None
    """What the window goes by; null: too few readings."""


class FeatureClassShown(BaseModel):
    name: str
    kind: str
    window_ms: int
    """The staleness window that holds now."""
    window_base_ms: int
    window_floor_ms: int
    expire_ms: int | None
    codec: str
    flush_ms: int
    shards: int
    spool: bool
    when_full: str
    announced: bool
    revision: int
    """At which it was set last; 0: `default`, which nobody has set."""
    author: str
    set_at_unix_ms: int
    window_reason: str
    """Why the region moved the window last."""
    window_at_unix_ms: int | None
    observed: FeatureObservedShown


@router.get("", responses=documented("invalid", "not_strong", "no_leader"))
@needs(Role.VIEWER)
async def list_classes(
    node: NodeDep, state: StateDep, limit: Limit = 100, cursor: Cursor = None
) -> Page[FeatureClassShown]:
    """Every class by name, `default` among them, and how each did lately as far as this node heard."""
    page, next_cursor = page_of(
        classes_of(state), key=lambda known: (known.feature_class.name,), limit=limit, cursor=cursor
    )
    edges = node.fleet.view.features.edge_counts(now_ns=node.clock.now_ns())
    return Page(items=[class_shown(node, known, edges=edges) for known in page], next_cursor=next_cursor)


@router.get("/{name}", responses=documented("unknown_feature_class", "invalid", "not_strong", "no_leader"))
@needs(Role.VIEWER)
async def show_class(name: ClassName, node: NodeDep, state: StateDep, response: Response) -> FeatureClassShown:
    """One class. Its `ETag` is what `If-Match` takes."""
    return _answered(node, state, name, response=response)


@router.patch("/{name}", responses=documented("revision_mismatch", "limit_reached", *UNCERTAIN))
@needs(Role.OPERATOR, models=Models.ALL)
async def set_class(
    name: ClassName, body: FeatureClassAsked, request: Request, node: NodeDep, asked: AskedDep, response: Response
) -> FeatureClassShown:
    """Set the given fields; a class that is not there is made. The window that holds now stays, from floor to base."""
    # As with policies: the lock keeps one of two callers from undoing the other's field.
    lock: asyncio.Lock = request.app.state.policy_lock
    async with lock:
        known = node.metadata.state.feature_classes.get(name)
        await node.propose(
            SetFeatureClass(
                feature_class=body.over(name, None if known is None else known.feature_class),
                revision_expected=asked.generation_expected,
                request_id=asked.request_id,
                fingerprint=asked.fingerprint(body.model_dump(mode="json", exclude_unset=True)),
                author=asked.author,
                proposed_at_unix_ms=node.clock.unix_ms(),
            )
        )
    return _answered(node, node.metadata.state, name, response=response)


@router.delete(
    "/{name}", status_code=204, responses=documented("unknown_feature_class", "revision_mismatch", *UNCERTAIN)
)
@needs(Role.OPERATOR, models=Models.ALL)
async def remove_class(name: ClassName, node: NodeDep, asked: AskedDep) -> None:
    """Its keys belong to `default` from now on."""
    await node.propose(
        RemoveFeatureClass(
            class_name=name,
            revision_expected=asked.generation_expected,
            request_id=asked.request_id,
            fingerprint=asked.fingerprint(),
            author=asked.author,
            proposed_at_unix_ms=node.clock.unix_ms(),
        )
    )


def classes_of(state: State) -> tuple[FeatureClassState, ...]:
    """Every class, by name; `default` as it is built in where nobody has set it."""
    classes = {BULK_DEFAULT.name: FeatureClassState(feature_class=BULK_DEFAULT)} | state.feature_classes
    return tuple(classes[name] for name in sorted(classes))


def class_shown(node: Node, known: FeatureClassState, *, edges: Counter[str]) -> FeatureClassShown:
    """A class as callers see it, and how it does; `edges` says how many told of each."""
    shown = known.feature_class
    fields: dict[str, Any] = msgspec.to_builtins(msgspec.structs.asdict(shown))
    return FeatureClassShown(
        **fields | {"window_ms": shown.window_now_ms, "announced": shown.is_announced},
        revision=known.revision,
        author=known.author,
        set_at_unix_ms=known.set_at_unix_ms,
        window_reason=known.window_reason,
        window_at_unix_ms=known.window_at_unix_ms or None,
        observed=_observed(node, shown.name, edge_count=edges[shown.name]),
    )


def _observed(node: Node, name: str, *, edge_count: int) -> FeatureObservedShown:
    rate = node.fleet.view.features.rate(name, now_ns=node.clock.now_ns())
    error = error_rate(rate)
    return FeatureObservedShown(
        span_ms=SPAN_MS,
        edge_count=edge_count,
        judged_count=rate.judged_count,
        failed_count=rate.failed_count,
        fetched_count=rate.fetched_count,
        failed_share=rate.failed_count / rate.judged_count if rate.judged_count else None,
        drift=rate.drift_sum / rate.fetched_count if rate.fetched_count else None,
        error_rate=None if error is None else error.estimate,
    )


def _answered(node: Node, state: State, name: str, *, response: Response) -> FeatureClassShown:
    known = next((known for known in classes_of(state) if known.feature_class.name == name), None)
    if known is None:
        raise ProblemError("unknown_feature_class", class_name=name)
    response.headers["ETag"] = f'"{known.revision}"'
    edges = node.fleet.view.features.edge_counts(now_ns=node.clock.now_ns())
    return class_shown(node, known, edges=edges)
