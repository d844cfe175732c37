"""Who did what when, and what came of it: events and refused requests in one list, and what was live at an instant.

An accepted command and its event are one thing under one revision; the event says more, so it is shown, and the audit adds
what was refused, and what is older than the events that are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from consistency_service.api.dashboard.model import HistoryRow, at_of
from consistency_service.api.dashboard.pager import Pager, cut
from consistency_service.api.dashboard.words import clip, duration, unix_ms_of
from consistency_service.core.state import AuditEntry, State
from edge_client.protocol.messages import Event

ITEMS_ON_PAGE: Final = 100
MODELS_SHOWN: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the visitor wants to see. Empty: everything."""

    model: str = ""
    author: str = ""
    kind: str = ""
    refused: bool = False
    """Only what was refused."""
    at: str = ""

    def params(self) -> dict[str, str]:
        return {
            "model": self.model,
            "author": self.author,
            "kind": self.kind,
            "refused": "1" if self.refused else "",
            "at": self.at,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One line of the timeline."""

    revision: int
    at_unix_ms: int
    author: str
    kind: str
    models: tuple[str, ...]
    says: str
    refusal: str
    """The code, of something that was refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveThen:
    model: str
    row: HistoryRow | None
    forgotten: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelinePage:
    items: tuple[Item, ...]
    pager: Pager
    asked: Asked
    kinds: tuple[str, ...]
    at_unix_ms: int | None
    live_then: tuple[LiveThen, ...]
    models_hidden: int


def timeline_page_of(state: State, items: Sequence[Item], *, asked: Asked, page: int) -> TimelinePage:
    """The page that was asked for, of `items_of`."""
    kinds = tuple(sorted({item.kind for item in items}))
    wanted = [item for item in items if _wanted(item, asked)]
    shown, pager = cut(wanted, page=page, size=ITEMS_ON_PAGE, params=asked.params())
    at_unix_ms = unix_ms_of(asked.at) if asked.at else None
    names = sorted(state.models) if not asked.model else [n for n in (asked.model,) if n in state.models]
    then = []
    for name in names[:MODELS_SHOWN] if at_unix_ms is not None else ():
        found = at_of(state.models[name], asked.at)
        then.append(LiveThen(model=name, row=found.row, forgotten=found.forgotten))
    return TimelinePage(
        items=tuple(shown),
        pager=pager,
        asked=asked,
        kinds=kinds,
        at_unix_ms=at_unix_ms,
        live_then=tuple(then),
        models_hidden=max(0, len(names) - MODELS_SHOWN) if then else 0,
    )


def items_of(audit: tuple[AuditEntry, ...], events: tuple[Event, ...]) -> list[Item]:
    """Everything that happened, newest first."""
    told = {event.revision for event in events}
    items = [_of_event(event) for event in events]
    items += [_of_audit(e) for e in audit if e.code != "ok" or e.revision not in told]
    items.reverse()  # so that of several things at one revision the later one comes first
    items.sort(key=lambda item: item.revision, reverse=True)
    return items


def _wanted(item: Item, asked: Asked) -> bool:
    return (
        (not asked.model or asked.model in item.models)
        and (not asked.author or asked.author.lower() in item.author.lower())
        and (not asked.kind or asked.kind == item.kind)
        and (not asked.refused or bool(item.refusal))
    )


def _of_event(event: Event) -> Item:
    detail = event.detail
    named = [view.name for view in event.models] or list(event.removed)
    if not named:
        listed = detail.get("models")
        named = [str(detail["model"])] if "model" in detail else list(listed) if isinstance(listed, list | dict) else []
    return Item(
        revision=event.revision,
        at_unix_ms=event.at_unix_ms,
        author=event.author,
        kind=event.name,
        models=tuple(clip(name) for name in named),
        says=_says(event, detail),
        refusal="",
    )


def _says(event: Event, detail: dict[str, Any]) -> str:
    """The event's own numbers as a sentence; nothing where its name says it all."""
    match event.name:
        case "ActivationScheduled":
            pendings = [view.pending for view in event.models if view.pending is not None]
            what = ", ".join(f"generation {p.generation}: {_versions(p.assignment.versions())}" for p in pendings)
            lead = f", live {duration(pendings[0].lead_ns / 1e6)} later" if pendings else ""
            return what + lead
        case "ActivationSettled":
            live = [view for view in event.models if view.assignment is not None]
            return ", ".join(
                f"generation {v.generation}: {_versions(v.assignment.versions())}" for v in live if v.assignment
            )
        case "PrefetchRequested":
            return ", ".join(_versions(v.prefetch.versions()) for v in event.models if v.prefetch) or "nothing any more"
    shown = {key: value for key, value in detail.items() if key not in {"model", "models"} and value not in ("", None)}
    return clip(", ".join(f"{key.replace('_', ' ')} {clip(value, 60)}" for key, value in shown.items()), 240)


def _versions(versions: tuple[str, ...]) -> str:
    return " + ".join(clip(version, 32) for version in versions)


def _of_audit(entry: AuditEntry) -> Item:
    return Item(
        revision=entry.revision,
        at_unix_ms=entry.at_unix_ms,
        author=entry.author,
        kind=clip(entry.command),
        models=tuple(clip(name) for name in entry.subject.split(",") if name),
        says="",
        refusal="" if entry.code == "ok" else clip(entry.code),
    )
