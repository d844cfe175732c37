"""Tells the application that another version is served. What a listener raises stays here, counted."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from edge_client.core.reading import Change
from edge_client.errors import ConfigError

if TYPE_CHECKING:
    from edge_client.runtime.ports import Clock
    from edge_client.runtime.signals import Signal
    from edge_client.runtime.state import EdgeState

_log = logging.getLogger(__name__)
LISTENERS_MAX: Final = 1_000

Listener = Callable[[Change], object]


class Listeners:
    """Calls listeners on the event loop, one change after the other, in the order in which they happened."""

    def __init__(self, *, state: EdgeState, clock: Clock, wake: Signal) -> None:
        self._state = state
        self._clock = clock
        self._wake = wake
        self._listeners: dict[int, tuple[str, Listener]] = {}
        self._next_id = 0
        self.counters: Counter[str] = Counter()

    def add(self, model: str, listener: Listener) -> Callable[[], None]:
        """Call `listener` for each change of `model` from now on, until the returned function is called."""
        if len(self._listeners) >= LISTENERS_MAX:
            raise ConfigError(f"at most {LISTENERS_MAX} listeners can listen; unsubscribe those that need not")
        own_id, self._next_id = self._next_id, self._next_id + 1
        self._listeners[own_id] = (model, listener)

        def unsubscribe() -> None:
            self._listeners.pop(own_id, None)

        return unsubscribe

    async def run(self) -> None:
        """Tell until cancelled."""
        while True:
            await self._wake.wait(clock=self._clock, deadline_ns=None)
            self._tell_all()

    def _tell_all(self) -> None:
        """A function of its own: `run` lives on, and a change it still named would pin its model."""
        for change in self._state.changes():
            self.tell(change)

    def tell(self, change: Change) -> None:
        """Call every listener of the model once; none can stop the others."""
        _log.info("served model=%s version=%s generation=%d", change.model, change.current, change.reading.generation)
        for model, listener in tuple(self._listeners.values()):
            if model == change.model:
                try:
                    listener(change)
                except Exception:
                    self.counters["listeners_failed"] += 1
                    _log.exception("listener_failed model=%s", model)
