"""What callers asked for and what they were told: the books that the region's own books must agree with.

Every request has a name that nobody else uses. It is the idempotency key, and it is the author, so that the audit and
the history of a model show which request took effect, and how often.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Final

import msgspec

PREFETCH: Final = "RequestPrefetch"
"""A hint that goes before an activation, under its author; asked for again, it changes nothing."""


class Told(StrEnum):
    """What a caller knows in the end."""

    DONE = "done"
    """It was acknowledged: it must be there, once."""
    REFUSED = "refused"
    """It was refused, or the region said that nothing was done: it must not be there."""
    UNKNOWN = "unknown"
    """Nobody said: it may be there, but not twice."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the ledger."""

    name: str
    command: str
    """As the audit names it: `CreateModel`, `ActivateGeneration`…"""
    model: str
    told: Told
    invoked_ns: int
    returned_ns: int
    version: str | None = None
    digest: str | None = None
    generation: int | None = None
    activation: int | None = None
    versions_kept: int | None = None
    status: int | None = None
    attempts: int = 1


class AuditLine(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the region's audit."""

    revision: int
    author: str
    command: str
    subject: str
    code: str


class HistoryLine(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a model's history."""

    generation: int
    version: str
    activation: int
    author: str


class FinalModel(msgspec.Struct, frozen=True, kw_only=True):
    """How one model stands in the end."""

    name: str
    generation: int
    versions_kept: int
    versions: dict[str, str]
    """Version to digest."""
    history: list[HistoryLine]


class Books(msgspec.Struct, frozen=True, kw_only=True):
    """What the region says in the end, and what it said in between of what it does not keep for ever."""

    audit: list[AuditLine]
    models: dict[str, FinalModel]
    rewritten: list[str] = []
    """Entries that said something else at an earlier look."""


class BooksDraft:
    """Gathers the books by looking now and then."""

    def __init__(self) -> None:
        self._audit: dict[tuple[int, str, str], AuditLine] = {}
        self._history: dict[tuple[str, int], HistoryLine] = {}
        self._rewritten: list[str] = []

    def audit_seen(self, lines: Iterable[Mapping[str, Any]], *, whole: bool = False) -> None:
        """Commands that took effect; `whole` says that these are all that the region keeps."""
        seen: dict[tuple[int, str, str], AuditLine] = {}
        for line in lines:
            entry = msgspec.convert(line, type=AuditLine)
            if entry.code == "ok" and entry.command != PREFETCH:
                seen[entry.revision, entry.author, entry.command] = entry
        if whole and seen:
            lost = [entry for key, entry in self._audit.items() if key[0] > min(seen)[0] and key not in seen]
            self._rewritten.extend(f"{entry} has vanished from the audit" for entry in lost)
        self._audit |= seen

    def history_seen(self, model: str, lines: Iterable[Mapping[str, Any]]) -> None:
        for line in lines:
            entry = msgspec.convert(line, type=HistoryLine)
            self._keep(self._history, (model, entry.generation), entry)

    def newest_revision(self) -> int:
        """The last revision that the audit is known to."""
        return max((revision for revision, _, _ in self._audit), default=0)

    def newest_generation(self, model: str) -> int:
        return max((generation for name, generation in self._history if name == model), default=0)

    def close(self, models: Iterable[Mapping[str, Any]], versions: Mapping[str, Mapping[str, str]]) -> Books:
        """The books, with every model as it is in the end."""
        histories: dict[str, list[HistoryLine]] = {}
        for (name, _), line in sorted(self._history.items()):
            histories.setdefault(name, []).append(line)
        final = {
            str(model["name"]): FinalModel(
                name=str(model["name"]),
                generation=int(model["generation"]),
                versions_kept=int(model["policy"]["versions_kept"]),
                versions=dict(versions.get(str(model["name"]), {})),
                history=histories.get(str(model["name"]), []),
            )
            for model in models
        }
        audit = [line for _, line in sorted(self._audit.items())]
        return Books(audit=audit, models=final, rewritten=list(self._rewritten))

    def _keep(self, kept: dict[Any, Any], key: Any, entry: Any) -> None:
        before = kept.setdefault(key, entry)
        if before != entry:
            self._rewritten.append(f"{before} became {entry}")
