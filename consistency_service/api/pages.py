"""Lists in pages: bounded, and a cursor that stays right while the list changes.

A cursor is the key of the last item given, not a count of items: what is added or deleted between two pages neither
repeats nor hides another item. To callers it is opaque text.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Final, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel

from consistency_service.api.problems import ProblemError

LIMIT_MAX: Final = 1_000
CURSOR_LENGTH_MAX: Final = 1_024

T = TypeVar("T")
Key = tuple[str | int, ...]

Limit = Annotated[int, Query(ge=1, le=LIMIT_MAX, description="How many items at most.")]
Cursor = Annotated[
    str | None,
    Query(max_length=CURSOR_LENGTH_MAX, description="`next_cursor` of the page before; none: from the start."),
]


class Page(BaseModel, Generic[T]):
    """A piece of a list. `next_cursor` is null at its end."""

    items: list[T]
    next_cursor: str | None = None


def page_of(
    items: Iterable[T], *, key: Callable[[T], Key], limit: int, cursor: str | None, newest_first: bool = False
) -> tuple[list[T], str | None]:
    """The next `limit` items in the order of `key`, and the cursor behind them. Raises `ProblemError` for a bad cursor."""
    ordered = sorted(items, key=key, reverse=newest_first)
    if cursor is not None:
        last = decode_cursor(cursor)
        try:
            ordered = [item for item in ordered if (key(item) < last if newest_first else key(item) > last)]
        except TypeError:
            raise ProblemError("invalid", field="cursor") from None
    page = ordered[:limit]
    return page, encode_cursor(key(page[-1])) if len(ordered) > limit else None


def encode_cursor(key: Key) -> str:
    return base64.urlsafe_b64encode(json.dumps(list(key)).encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> Key:
    """The key in a cursor of ours. Raises `ProblemError` for anything else."""
    try:
        key: Any = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        raise ProblemError("invalid", field="cursor") from None
    if not isinstance(key, list) or not key or not all(isinstance(part, str | int) for part in key):
        raise ProblemError("invalid", field="cursor")
    return tuple(key)
