"""Lets every thread of the application say what came of its readings.

One plain lock round the tally: a stroke takes about a microsecond, so threads hardly ever meet here. It can be taken
again by the thread that holds it, because a signal handler or a finalizer may report as well. It is not the lock of
`read`, which takes none.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from edge_client.core.observed import Observed

if TYPE_CHECKING:
    from edge_client.core.reading import Reading
    from edge_client.protocol.observations import Observations


class Observing:
    """The tally of one life of one edge; every method may be called from any thread. `began` is called for a new sheet."""

    def __init__(self, *, began: Callable[[], None]) -> None:
        self._began = began
        self._lock = threading.RLock()
        self._observed = Observed()
        _live.add(self)

    def reported(
        self, reading: Reading, ok: bool | None, latency_ms: float | None, score: float | None, label: str | None
    ) -> None:
        """Counted. Raises `TypeError` for what is no truth, number or text."""
        with self._lock:
            began = self._observed.reported(reading, ok, latency_ms, score, label)
        if began:
            self._began()

    def sheets(self) -> tuple[Observations, ...]:
        """All sheets as they are now, the one begun first first."""
        with self._lock:
            return self._observed.sheets()

    def close(self) -> None:
        """What is reported from now on is counted as too late."""
        with self._lock:
            self._observed.closed()

    @property
    def counters(self) -> Counter[str]:
        with self._lock:
            return self._observed.counters.copy()

    def forked(self) -> None:
        """In a new child: the lock may be held by a thread that is not here, and these sheets are the parent's to send."""
        self._lock = threading.RLock()
        self._observed.closed()


def _forked() -> None:
    for observing in list(_live):
        observing.forked()


_live: weakref.WeakSet[Observing] = weakref.WeakSet()
os.register_at_fork(after_in_child=_forked)
