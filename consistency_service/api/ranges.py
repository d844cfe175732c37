"""Which bytes of an artifact does a `Range` header ask for? (RFC 9110, section 14)

One range is honoured. Several, or what is not understood, may be ignored by the standard, and are: the answer is then
the whole. Only a well-formed range that lies outside is an error.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from consistency_service.api.problems import ProblemError

_SINGLE: Final = re.compile(r"bytes=\s*([0-9]{0,19})-([0-9]{0,19})\s*", re.ASCII | re.IGNORECASE)


class Span(NamedTuple):
    """`length` bytes from `offset` on."""

    offset: int
    length: int

    def content_range(self, *, size_bytes: int) -> str:
        return f"bytes {self.offset}-{self.offset + self.length - 1}/{size_bytes}"


def span_of(header: str | None, *, size_bytes: int) -> Span | None:
    """The bytes asked for; None: all of them. Raises `ProblemError` (416) when there are no such bytes."""
    match = _SINGLE.fullmatch(header) if header else None
    if match is None or match.group(0).strip().endswith("=-"):
        return None
    first, last = match.groups()
    if first and last and int(last) < int(first):
        return None
    if first:
        offset, end = int(first), min(size_bytes, int(last) + 1) if last else size_bytes
    else:
        offset, end = max(0, size_bytes - int(last)), size_bytes
    if offset >= end:
        raise ProblemError(
            "range_not_satisfiable", size_bytes=size_bytes, headers={"Content-Range": f"bytes */{size_bytes}"}
        )
    return Span(offset, end - offset)
