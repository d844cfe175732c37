"""Long lists in pages that can be linked to: `?page=3`, with the filters that led there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlencode

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pager:
    """Where in a list a page is; `before` and `after` are queries of its neighbours, empty where there is none."""

    first: int
    last: int
    total: int
    before: str
    after: str


def cut(items: Sequence[T], *, page: int, size: int, params: Mapping[str, str]) -> tuple[Sequence[T], Pager]:
    """The items of a page, counted from 1; beyond the end it is the last one."""
    pages = max(1, -(-len(items) // size))
    page = min(max(page, 1), pages)
    start = (page - 1) * size
    shown = items[start : start + size]
    given = {name: value for name, value in params.items() if value}
    return shown, Pager(
        first=start + 1 if shown else 0,
        last=start + len(shown),
        total=len(items),
        before=urlencode(given | {"page": page - 1}) if page > 1 else "",
        after=urlencode(given | {"page": page + 1}) if page < pages else "",
    )
