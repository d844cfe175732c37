"""Every edge and model it follows, as a table: filtered, sorted, a hundred lines at a time.

Made by a thread, from reports that nobody changes: with ten thousand edges it is the only page whose making takes long.
What edges say of themselves is not to be trusted; it is shortened here, and escaped by the template.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from consistency_service.api.dashboard.fleet import GUARANTEES, guarantee_of
from consistency_service.api.dashboard.pager import Pager, cut
from consistency_service.api.dashboard.words import clip
from consistency_service.core.fleet import EdgeView
from edge_client.protocol.messages import ServedModel
from edge_client.protocol.position import Position

EDGES_ON_PAGE: Final = 100
LABELS_SHOWN: Final = 8
MS: Final = 1_000_000
UNBOUNDED: Final = 2**62


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the visitor wants to see. Empty: everything."""

    edge: str = ""
    model: str = ""
    version: str = ""
    guarantee: str = ""
    site: str = ""
    label: str = ""
    """`name` or `name=value`."""
    state: str = ""
    """`live` or `silent`."""
    sort: str = "edge"
    """One of `SORTS`; with `-` before it, descending."""

    def params(self) -> dict[str, str]:
        """As a query, defaults left out."""
        named = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in named.items() if value and (name, value) != ("sort", "edge")}


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeRow:
    edge_id: str
    live: bool
    site: str
    labels: tuple[tuple[str, str], ...]
    labels_hidden: int
    model: str
    version: str
    generation: int
    guarantee: str
    staleness_bound_ms: int | None
    ready: int
    failed: tuple[str, ...]
    """Why some version is not ready, one sentence each."""
    position: str
    behind: int
    """Revisions behind this node."""
    source: str
    heard_ms_ago: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One sortable heading: where its link leads, and how the table is sorted now."""

    name: str
    label: str
    query: str
    order: str
    """`ascending`, `descending` or `none`, as `aria-sort` wants it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgesPage:
    rows: tuple[EdgeRow, ...]
    pager: Pager
    asked: Asked
    columns: tuple[Column, ...]
    guarantees: tuple[str, ...]
    edge_count: int
    live_count: int


Line = tuple[EdgeView, ServedModel | None]

SORTS: Final[dict[str, tuple[str, Callable[[Line], Any]]]] = {
    "edge": ("Edge", lambda line: line[0].report.edge_id),
    "model": ("Model", lambda line: line[1].model if line[1] else ""),
    "version": ("Version", lambda line: line[1].version or "" if line[1] else ""),
    "guarantee": ("Guarantee", lambda line: guarantee_of(line[1].guarantee) if line[1] else ""),
    "staleness": ("Staleness", lambda line: _staleness(line[1])),
    "position": ("Position", lambda line: (line[0].report.epoch, line[0].report.revision)),
    "site": ("Site", lambda line: line[0].report.site),
    "heard": ("Heard", lambda line: -line[0].heard_at_ns),
}


def _staleness(served: ServedModel | None) -> int:
    return UNBOUNDED if served is None or served.staleness_bound_ms is None else served.staleness_bound_ms


def edges_page_of(
    views: tuple[EdgeView, ...], *, asked: Asked, page: int, position: Position, now_ns: int
) -> EdgesPage:
    """The page that was asked for."""
    lines: list[Line] = [
        (view, served)
        for view in views
        if _edge_wanted(view, asked, now_ns=now_ns)
        for served in (view.report.models or (None,))
        if _served_wanted(served, asked)
    ]
    name = asked.sort.removeprefix("-")
    name = name if name in SORTS else "edge"
    lines.sort(key=SORTS[name][1], reverse=asked.sort.startswith("-"))
    shown, pager = cut(lines, page=page, size=EDGES_ON_PAGE, params=asked.params())
    return EdgesPage(
        rows=tuple(_row(line, position=position, now_ns=now_ns) for line in shown),
        pager=pager,
        asked=asked,
        columns=tuple(_column(asked, column, label) for column, (label, _) in SORTS.items()),
        guarantees=GUARANTEES,
        edge_count=len(views),
        live_count=sum(view.live(now_ns=now_ns) for view in views),
    )


def _edge_wanted(view: EdgeView, asked: Asked, *, now_ns: int) -> bool:
    report = view.report
    label, equals, value = asked.label.partition("=")
    return (
        (not asked.edge or asked.edge.lower() in report.edge_id)
        and (not asked.site or asked.site == clip(report.site))
        and (not asked.state or (asked.state == "live") == view.live(now_ns=now_ns))
        and (not label or (label in report.labels and (not equals or report.labels[label] == value)))
    )


def _served_wanted(served: ServedModel | None, asked: Asked) -> bool:
    if not (asked.model or asked.version or asked.guarantee):
        return True
    return (
        served is not None
        and (not asked.model or served.model == asked.model)
        and (not asked.version or served.version == asked.version)
        and (not asked.guarantee or guarantee_of(served.guarantee) == asked.guarantee)
    )


def _row(line: Line, *, position: Position, now_ns: int) -> EdgeRow:
    view, served = line
    report = view.report
    here = report.epoch == position.epoch
    return EdgeRow(
        edge_id=report.edge_id,
        live=view.live(now_ns=now_ns),
        site=clip(report.site, 40),
        labels=tuple((clip(k, 24), clip(v, 24)) for k, v in sorted(report.labels.items())[:LABELS_SHOWN]),
        labels_hidden=max(0, len(report.labels) - LABELS_SHOWN),
        model=clip(served.model) if served else "",
        version=clip(served.version or "", 40) if served else "",
        generation=served.generation if served else 0,
        guarantee=guarantee_of(served.guarantee) if served else "",
        staleness_bound_ms=served.staleness_bound_ms if served else None,
        ready=len(served.ready) if served else 0,
        failed=_trouble(served) if served else (),
        position=f"e{report.epoch} r{report.revision}",
        behind=max(0, position.revision - report.revision) if here else 0,
        source=clip(report.source, 12),
        heard_ms_ago=(now_ns - view.heard_at_ns) // MS,
    )


def _column(asked: Asked, name: str, label: str) -> Column:
    order = {name: "ascending", f"-{name}": "descending"}.get(asked.sort, "none")
    query = urlencode(asked.params() | {"sort": f"-{name}" if order == "ascending" else name})
    return Column(name=name, label=label, query=query, order=order)


def _trouble(served: ServedModel) -> tuple[str, ...]:
    """Why it serves what it would not load anew, and why other versions are not ready."""
    failed = tuple(clip(why, 160) for why in list(served.failed.values())[:3])
    return (
        (f"served on, but not trusted any more: {clip(served.untrusted, 40)}", *failed) if served.untrusted else failed
    )
