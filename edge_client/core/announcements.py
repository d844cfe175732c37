"""Who else has to know that a feature was written, and what do we make of what others say?

Picture a notice board at which everybody pins slips: "whoever has a copy of this older than that may throw it away". Slips
are gathered for some milliseconds, one a key, so that a burst becomes one message. Readers note each slip at once, so that
nothing older comes in any more, but throw copies away at a moment of their own, so that not everybody asks the store at
the same instant. A false slip costs a needless fetch and nothing else: what was known to be current after a slip was read
stays, whatever its stamp. This module knows neither keys nor copies, only hashes, stamps and instants.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeVar

from edge_client.protocol.messages import FeatureChanges

if TYPE_CHECKING:
    from random import Random

    from edge_client.protocol.stamps import HybridClock

MS: Final = 1_000_000
GATHER_NS: Final = 10 * MS
"""How long slips are gathered, and as long again at random."""
SPREAD_NS: Final = 20 * MS
"""Within which time a reader throws away what a message names."""
PENDING_MAX: Final = 65_536
FRAME_CHANGES_MAX: Final = 2_500
"""Changes in one message: 19 bytes each, so that it fits into the frame of an edge with room to spare."""
FRAME_PATTERNS_MAX: Final = 16
PATTERN_CHARS_MAX: Final = 256
REMEMBERED_MAX: Final = 65_536
PATTERNS_MAX: Final = 64
PATTERNS_PER_S_MAX: Final = 16
"""How many patterns of others are heeded in a second, since each has us look at every copy."""
DROPS_MAX: Final = 256
_U64: Final = 1 << 64
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """Throw away copies that are older than what others wrote."""

    changes: tuple[tuple[int, int], ...]
    """`key_hash` and stamp."""
    patterns: tuple[tuple[str, int], ...]
    heard_at_ns: int


class Announcements:
    """Both sides of the board, for one life of one edge. Not thread-safe."""

    def __init__(self, *, writer: int, stamps: HybridClock, rng: Random, remembered_max: int = REMEMBERED_MAX) -> None:
        self._writer = writer
        self._stamps = stamps
        self._rng = rng
        self._remembered_max = remembered_max
        self._changes: dict[int, int] = {}
        self._patterns: dict[str, int] = {}
        self._send_at_ns: int | None = None
        self._heard: dict[int, tuple[int, int]] = {}
        self._heard_at_ns = 0
        self._heard_patterns: deque[tuple[str, int, int]] = deque()
        self._pattern_at_ns: deque[int] = deque(maxlen=PATTERNS_PER_S_MAX)
        self._drops: deque[tuple[int, Drop]] = deque()
        self.counters: Counter[str] = Counter()

    # ---- what we say

    def wrote(self, key_hash: int, stamp: int, *, now_ns: int) -> None:
        """The store has a write of ours; others hear of it within some milliseconds."""
        if key_hash in self._changes:
            self.counters["announcements_merged"] += 1
            stamp = max(stamp, self._changes[key_hash])
        elif len(self._changes) >= PENDING_MAX:
            self.counters["announcements_dropped"] += 1
            return
        self._changes[key_hash] = stamp
        self._gather(now_ns=now_ns)

    def invalidated(self, pattern: str, stamp: int, *, now_ns: int) -> None:
        """Copies of keys that match are out of date here from now on, and everywhere within some milliseconds."""
        self._note_pattern(pattern, stamp, now_ns=now_ns)
        if len(self._patterns) >= PATTERNS_MAX and pattern not in self._patterns:
            self.counters["announcements_dropped"] += 1
            return
        self._patterns[pattern] = stamp
        self._gather(now_ns=now_ns)

    def due(self, *, now_ns: int | None) -> tuple[FeatureChanges, ...]:
        """What is to be said now, and is forgotten here; None: everything, due or not."""
        if self._send_at_ns is None or (now_ns is not None and now_ns < self._send_at_ns):
            return ()
        changes, patterns = tuple(self._changes.items()), tuple(self._patterns.items())
        self._changes, self._patterns, self._send_at_ns = {}, {}, None
        return tuple(
            FeatureChanges(writer=self._writer, changes=some) for some in _pieces(changes, size_max=FRAME_CHANGES_MAX)
        ) + tuple(
            FeatureChanges(writer=self._writer, patterns=some)
            for some in _pieces(patterns, size_max=FRAME_PATTERNS_MAX)
        )

    # ---- what others say

    def heard(self, message: FeatureChanges, *, unix_ms: int, now_ns: int) -> None:
        """Take what another edge said, as far as it makes sense; copies go when `drops` says so."""
        if message.writer == self._writer:
            return
        if len(message.changes) > FRAME_CHANGES_MAX or len(message.patterns) > FRAME_PATTERNS_MAX:
            self.counters["announcements_oversized"] += 1
            return
        changes = tuple(
            (key_hash, stamp)
            for key_hash, stamp in message.changes
            if 0 <= key_hash < _U64 and self._is_acceptable(stamp, unix_ms=unix_ms)
        )
        patterns = tuple(
            (pattern, stamp)
            for pattern, stamp in message.patterns
            if is_pattern(pattern)
            and self._is_acceptable(stamp, unix_ms=unix_ms)
            and self._may_take_pattern(now_ns=now_ns)
        )
        taken = len(changes) + len(patterns)
        self.counters["announcements_heard"] += taken
        self.counters["announcements_refused"] += len(message.changes) + len(message.patterns) - taken
        if changes:
            self._heard_at_ns = max(self._heard_at_ns, now_ns)
        for key_hash, stamp in changes:
            held = self._heard.pop(key_hash, None)
            self._heard[key_hash] = (stamp if held is None else max(stamp, held[0]), now_ns)
            if len(self._heard) > self._remembered_max:
                del self._heard[next(iter(self._heard))]
                self.counters["announcements_forgotten"] += 1
        for pattern, stamp in patterns:
            self._note_pattern(pattern, stamp, now_ns=now_ns)
        if taken:
            due_ns = now_ns + int(self._rng.random() * SPREAD_NS)
            due_ns = max(due_ns, self._drops[-1][0]) if self._drops else due_ns
            self._drops.append((due_ns, Drop(changes=changes, patterns=patterns, heard_at_ns=now_ns)))

    def drops(self, *, now_ns: int) -> tuple[Drop, ...]:
        """What is to be thrown away now; where too much waits, the oldest at once."""
        out = []
        while self._drops and (self._drops[0][0] <= now_ns or len(self._drops) > DROPS_MAX):
            out.append(self._drops.popleft()[1])
        return tuple(out)

    def has_heard_after(self, known_at_ns: int) -> bool:
        """Whether anything was heard after that instant: if not, nothing known then is out of date."""
        return known_at_ns < self._heard_at_ns

    def is_out_of_date(self, key: str, *, key_hash: int | None, stamp: int, known_at_ns: int) -> bool:
        """Whether we heard of something newer after this was known to be current.

        `stamp` is -1 for the knowledge that there is nothing, `key_hash` None where nobody announces the class.
        """
        if key_hash is not None:
            newer_stamp, heard_at_ns = self._heard.get(key_hash, (-1, 0))
            if stamp < newer_stamp and known_at_ns < heard_at_ns:
                return True
        if not self._heard_patterns or known_at_ns >= self._heard_patterns[-1][2]:
            return False
        return any(
            stamp < newer_stamp and known_at_ns < heard_at_ns and matches(key, pattern=pattern)
            for pattern, newer_stamp, heard_at_ns in self._heard_patterns
        )

    def next_deadline_ns(self) -> int | None:
        """When `due` or `drops` next has something."""
        drop_at_ns = self._drops[0][0] if self._drops else None
        return min((at_ns for at_ns in (self._send_at_ns, drop_at_ns) if at_ns is not None), default=None)

    def check_invariants(self) -> None:
        assert len(self._changes) <= PENDING_MAX and len(self._patterns) <= PATTERNS_MAX
        assert len(self._heard) <= self._remembered_max and len(self._heard_patterns) <= PATTERNS_MAX
        assert (self._send_at_ns is None) == (not self._changes and not self._patterns)
        assert [due_ns for due_ns, _ in self._drops] == sorted(due_ns for due_ns, _ in self._drops)

    def __repr__(self) -> str:
        return f"<Announcements pending={len(self._changes)} remembered={len(self._heard)} drops={len(self._drops)}>"

    # ---- helpers

    def _gather(self, *, now_ns: int) -> None:
        if self._send_at_ns is None:
            self._send_at_ns = now_ns + GATHER_NS + int(self._rng.random() * GATHER_NS)

    def _is_acceptable(self, stamp: int, *, unix_ms: int) -> bool:
        return stamp >= 0 and self._stamps.saw(stamp, unix_ms=unix_ms)

    def _may_take_pattern(self, *, now_ns: int) -> bool:
        if len(self._pattern_at_ns) >= PATTERNS_PER_S_MAX and now_ns - self._pattern_at_ns[0] < 1_000 * MS:
            return False
        self._pattern_at_ns.append(now_ns)
        return True

    def _note_pattern(self, pattern: str, stamp: int, *, now_ns: int) -> None:
        self._heard_at_ns = max(self._heard_at_ns, now_ns)
        self._heard_patterns.append((pattern, stamp, now_ns))
        if len(self._heard_patterns) > PATTERNS_MAX:
            self._heard_patterns.popleft()
            self.counters["patterns_forgotten"] += 1


def is_pattern(pattern: str) -> bool:
    """Whether this can be asked for: 1 to 256 characters."""
    return 1 <= len(pattern) <= PATTERN_CHARS_MAX


def matches(key: str, *, pattern: str) -> bool:
    """Whether the whole key fits: `*` is anything, also nothing; `?` one character; everything else itself."""
    return _compiled(pattern).match(key) is not None


@lru_cache(maxsize=PATTERNS_MAX)
def _compiled(pattern: str) -> re.Pattern[str]:
    """Each piece between two stars is taken where it first occurs, and never again elsewhere: no pattern takes long."""
    first, *rest = ["".join("." if char == "?" else re.escape(char) for char in piece) for piece in pattern.split("*")]
    if not rest:
        return re.compile(f"{first}\\Z", re.DOTALL)
    middle = "".join(f"(?>.*?{piece})" for piece in rest[:-1] if piece)
    return re.compile(f"{first}{middle}.*{rest[-1]}\\Z", re.DOTALL)


def _pieces(items: tuple[_T, ...], *, size_max: int) -> tuple[tuple[_T, ...], ...]:
    return tuple(items[start : start + size_max] for start in range(0, len(items), size_max))
