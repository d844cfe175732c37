"""Is this disk fit for a leader?

Picture a stopwatch on every sync. One slow one is weather; nothing but slow ones for a while is a disk that holds up the
cluster. A sync that has not come back yet counts for as long as it takes. And one number more: the usual time of a sync
decides whether the event loop can wait for it, or a thread should.
"""

from __future__ import annotations

from typing import Final

USUAL_SHARE: Final = 0.1
"""Weight of the newest sync in the usual time."""


class DiskHealth:
    """Instants and durations in nanoseconds of one clock."""

    def __init__(self, *, slow_sync_ns: int, slow_for_ns: int, inline_ns_max: int) -> None:
        self._slow_sync_ns = slow_sync_ns
        self._slow_for_ns = slow_for_ns
        self._inline_ns_max = inline_ns_max
        self._usual_ns = 0.0
        self._started_at_ns: int | None = None
        self._slow_since_ns: int | None = None
        self._slow_through_ns = 0
        self.slow_sync_count = 0

    @property
    def usual_ns(self) -> int:
        return int(self._usual_ns)

    @property
    def inline(self) -> bool:
        """Syncs are so short that a thread would cost more than it spares."""
        return self._usual_ns < self._inline_ns_max

    def sync_started(self, *, now_ns: int) -> None:
        self._started_at_ns = now_ns

    def sync_ended(self, *, now_ns: int) -> None:
        if self._started_at_ns is None:
            return
        taken_ns = now_ns - self._started_at_ns
        self._usual_ns += (taken_ns - self._usual_ns) * USUAL_SHARE
        self._judge(now_ns=now_ns)
        if taken_ns < self._slow_sync_ns:
            self._slow_since_ns = None
        else:
            self.slow_sync_count += 1
        self._started_at_ns = None

    def slow(self, *, now_ns: int) -> bool:
        """No sync was fast for a while."""
        self._judge(now_ns=now_ns)
        since = self._slow_since_ns
        return since is not None and self._slow_through_ns - since >= self._slow_for_ns

    def _judge(self, *, now_ns: int) -> None:
        """A sync that takes long has been slow since it began."""
        started = self._started_at_ns
        if started is not None and now_ns - started >= self._slow_sync_ns:
            self._slow_since_ns = started if self._slow_since_ns is None else self._slow_since_ns
            self._slow_through_ns = now_ns
