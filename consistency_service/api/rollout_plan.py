"""What would a rollout do to the edges that are heard now? Counted stage by stage, without changing anything."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

import msgspec
from pydantic import BaseModel

from consistency_service.core.fleet import EdgeView
from consistency_service.core.strategy import Strategy
from edge_client.protocol.bucketing import SHARE_BP_MAX, CohortSelector, bucket_of
from edge_client.protocol.messages import ServedModel
from edge_client.protocol.models import Version

EDGES_SHOWN: Final = 20


class StagePlanShown(BaseModel):
    stage: int | None
    """Its index; null: the end, when the candidate becomes stable for everybody."""
    share_bp: int
    cohort: dict[str, Any]
    edge_count: int
    """Edges that would serve the candidate then."""
    added_count: int
    """Those of them that did not before."""
    added: list[str]
    """The first twenty."""
    download_count: int
    """Artifacts that edges would fetch to get ready for this stage."""
    download_bytes: int


class PlanShown(BaseModel):
    """As of now: edges come and go."""

    rollout_id: str
    """Create the rollout under this id, and the same edges come first."""
    as_of_unix_ms: int
    edge_count: int
    """Live edges that follow any of the models."""
    stages: list[StagePlanShown]
    download_count: int
    download_bytes: int


def known_places(views: Iterable[EdgeView], *, now_ns: int) -> tuple[Collection[str], Mapping[str, Collection[str]]]:
    """Every site, and every label with its values, of live edges."""
    sites: set[str] = set()
    labels: dict[str, set[str]] = {}
    for view in views:
        if view.live(now_ns=now_ns):
            sites.add(view.report.site)
            for name, value in view.report.labels.items():
                labels.setdefault(name, set()).add(value)
    return sites, labels


def plan_of(
    strategy: Strategy,
    *,
    rollout_id: str,
    versions: Mapping[str, Version],
    views: Iterable[EdgeView],
    now_ns: int,
    unix_ms: int,
) -> PlanShown:
    """The plan, by these edges; `versions` are the candidates by model. May run in a thread: it changes nothing."""
    stages = [(stage.share_bp, strategy.cohort_of(index)) for index, stage in enumerate(strategy.stages)]
    stages.append((SHARE_BP_MAX, CohortSelector()))
    added: list[list[str]] = [[] for _ in stages]
    downloads: list[list[int]] = [[] for _ in stages]
    for view in sorted(views, key=lambda one: one.report.edge_id):
        report = view.report
        followed = [served for served in report.models if served.model in versions]
        if not followed or not view.live(now_ns=now_ns):
            continue
        bucket = bucket_of(report.edge_id, salt=rollout_id)
        first = next(
            index
            for index, (share_bp, cohort) in enumerate(stages)
            if bucket < share_bp and cohort.matches(site=report.site, labels=report.labels)
        )
        added[first].append(report.edge_id)
        downloads[first] += [left for served in followed if (left := _left(served, versions[served.model])) is not None]
    edge_count = 0
    shown = []
    for index, (share_bp, cohort) in enumerate(stages):
        edge_count += len(added[index])
        shown.append(
            StagePlanShown(
                stage=index if index < len(strategy.stages) else None,
                share_bp=share_bp,
                cohort=msgspec.to_builtins(cohort),
                edge_count=edge_count,
                added_count=len(added[index]),
                added=added[index][:EDGES_SHOWN],
                download_count=len(downloads[index]),
                download_bytes=sum(downloads[index]),
            )
        )
    return PlanShown(
        rollout_id=rollout_id,
        as_of_unix_ms=unix_ms,
        edge_count=edge_count,
        stages=shown,
        download_count=sum(len(stage) for stage in downloads),
        download_bytes=sum(sum(stage) for stage in downloads),
    )


def _left(served: ServedModel, version: Version) -> int | None:
    """Bytes that the edge has yet to fetch; None if it has it ready."""
    if version.digest in served.ready:
        return None
    return max(0, version.size_bytes - served.fetched_bytes.get(version.digest, 0))
