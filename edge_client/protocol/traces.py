"""Which trace something belongs to: W3C trace context, read strictly and written in one way.

A `traceparent` is 55 characters that strangers choose; what is not exactly that is no trace. It names things for people and
decides nothing (https://www.w3.org/TR/trace-context/, version 00; of later versions the part that 00 knows is taken).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

HEADER: Final = "traceparent"
"""Of HTTP requests, and of events on the bus."""
TRACEPARENT_CHARS: Final = 55
TRACEPARENT_CHARS_MAX: Final = 256
"""Of versions to come; the rest of one is not looked at."""
SAMPLED: Final = 1
_PATTERN: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class TraceParent:
    """A span that something else is part of."""

    trace_id: str
    """32 digits, hexadecimal."""
    span_id: str
    """16 digits, hexadecimal."""
    flags: int = SAMPLED

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"


def parse_traceparent(text: str) -> TraceParent | None:
    """The span that this names; None for whatever is not exactly a traceparent."""
    if not TRACEPARENT_CHARS <= len(text) <= TRACEPARENT_CHARS_MAX:
        return None
    match = _PATTERN.fullmatch(text)
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more is not None) or not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return TraceParent(trace_id, span_id, int(flags, 16) & SAMPLED)


def same_trace(one: str, other: str) -> bool:
    """Whether both are traceparents of one trace."""
    ours, theirs = parse_traceparent(one), parse_traceparent(other)
    return ours is not None and theirs is not None and ours.trace_id == theirs.trace_id
