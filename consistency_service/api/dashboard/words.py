"""Numbers, instants and names as people read them. What edges and callers wrote is shortened and made visible here.

Templates escape; what is left to do for hostile text is to keep it short, and to show what would otherwise reorder or hide
its neighbours (control and bidirectional characters).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

TEXT_MAX: Final = 80
UNIX_MS_MAX: Final = 253_402_300_799_000
AUTHORITY: Final = "the authority"
UNSEEN: Final = "\N{REPLACEMENT CHARACTER}"

_STEPS: Final = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"))


def clip(text: object, length_max: int = TEXT_MAX) -> str:
    """`text`, printable, at most so long."""
    shown = str(text)[: length_max + 1]
    visible = "".join(c if c.isprintable() else UNSEEN for c in shown)
    return visible if len(visible) <= length_max else visible[: length_max - 1] + "…"


def duration(ms: float) -> str:
    """`850 ms`, `12 s`, `5 min 30 s`, `3 h`: two units at most."""
    if ms < 1_000:
        return f"{round(ms)} ms"
    for number, (size_ms, unit) in enumerate(_STEPS):
        if ms >= size_ms:
            count, rest_ms = divmod(ms, size_ms)
            finer_ms, finer = _STEPS[min(number + 1, len(_STEPS) - 1)]
            rest = int(rest_ms // finer_ms) if finer_ms < size_ms and count < 10 else 0
            return f"{int(count)} {unit}" + (f" {rest} {finer}" if rest else "")
    return "0 ms"


def ago(unix_ms: int, *, now_unix_ms: int) -> str:
    """How long before `now_unix_ms`, or after it."""
    passed_ms = now_unix_ms - unix_ms
    if -1_000 < passed_ms < 1_000:
        return "now"
    return f"in {duration(-passed_ms)}" if passed_ms < 0 else f"{duration(passed_ms)} ago"


def stamp(unix_ms: int) -> str:
    """UTC to the second: `2026-11-20 14:00:03`."""
    return _instant(unix_ms).strftime("%Y-%m-%d %H:%M:%S")


def iso(unix_ms: int) -> str:
    """RFC 3339, UTC, with milliseconds."""
    return _instant(unix_ms).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _instant(unix_ms: int) -> datetime:
    return datetime.fromtimestamp(min(max(unix_ms, 0), UNIX_MS_MAX) / 1_000, tz=UTC)


def unix_ms_of(text: str) -> int | None:
    """The instant that a time field names; without an offset it is UTC. None if it is none."""
    try:
        instant = datetime.fromisoformat(text.strip())
        return int((instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp() * 1_000)
    except (ValueError, OverflowError):
        return None


def share(bp: int) -> str:
    """Basis points as percent: `1 %`, `0.25 %`."""
    return f"{bp / 100:g} %"


def size(count_bytes: int) -> str:
    """`10 B`, `1.4 MB`: decimal units."""
    value = float(count_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1_000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1_000
    return f"{value:,.3g} TB"


def number(count: int) -> str:
    """With thin spaces between thousands."""
    return f"{count:,}".replace(",", "\u202f")


def plural(count: int, noun: str) -> str:
    """`1 edge`, `5 edges`."""
    return f"{number(count)} {noun}" if count == 1 else f"{number(count)} {noun}s"


def by(author: str) -> str:
    """Who did it; the authority signs nothing."""
    return clip(author, 40) if author else AUTHORITY
