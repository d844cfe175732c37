"""What one model shows to its readers, and what it showed last.

The hot path looks at a `Window` value and nothing else. This module makes that value from what the core chooses, shares
one strong reading among all who read the same state, and notices when another version is served.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from edge_client.core.follower import Follower
from edge_client.core.reading import Change, Guarantee, Loaded, Observe, Reading, Reason, bound_ms
from edge_client.core.served import Choice, Served
from edge_client.core.status import ModelStatus
from edge_client.core.strong_time import StrongTime
from edge_client.errors import EdgeError, UnsupportedRegionError
from edge_client.protocol.position import ORIGIN, Position
from edge_client.protocol.reader import NEVER_NS, Reader


@dataclass(frozen=True, slots=True)
class Window:
    """A strong reading, and until when it is one. Replaced whole, never changed."""

    until_ns: int
    reading: Reading | None


SHUT: Final = Window(NEVER_NS, None)


@dataclass(slots=True)
class Outlook:
    """What every window looks out on."""

    reader: Reader
    follower: Follower
    unix_ms: Callable[[], int]
    observe: Observe | None = None
    """Takes what the application reports of readings."""
    kept_unix_ms: int | None = None
    """When what the local tier kept was last known to be current, by wall time; None if it does not say."""
    beacon_at_ns: int | None = None
    """When the last verified beacon was heard."""
    position_heard: Position = ORIGIN
    """The greatest position that one named."""

    def heard(self, position: Position, *, now_ns: int) -> None:
        """A verified beacon named this position."""
        self.beacon_at_ns, self.position_heard = now_ns, max(position, self.position_heard)


class ModelWindow:
    """One registered model. Not thread-safe: called at the desk of `state` only."""

    def __init__(
        self, *, served: Served, show: Callable[[Window], None], tell: Callable[[Change], None], now_ns: int
    ) -> None:
        self.served = served
        self.time = StrongTime(now_ns=now_ns)
        self._show = show
        self._tell = tell
        self._strong: Reading | None = None
        self._loaded: Loaded | None = None
        self._last: tuple[str, int] | None = None

    def refresh(self, outlook: Outlook, *, now_ns: int) -> None:
        """Show what may be read from now on; tell about a change even if nobody reads."""
        try:
            choice = self._choose(outlook, now_ns=now_ns)
        except EdgeError:
            self._shut(is_right=False, now_ns=now_ns)
            return
        if choice.guarantee is Guarantee.STRONG or self._last != (choice.loaded.version.version, choice.generation):
            self._put(choice, self._reading(outlook, choice), now_ns=now_ns)
        else:
            self._shut(is_right=choice.guarantee is not Guarantee.FALLBACK, now_ns=now_ns)

    def read(self, outlook: Outlook, *, now_ns: int) -> Reading:
        """What is to be served now. Raises the typed errors of `read`."""
        choice = self._choose(outlook, now_ns=now_ns)
        reading = self._reading(outlook, choice)
        self._put(choice, reading, now_ns=now_ns)
        return reading

    def read_strong(self, outlook: Outlook, *, now_ns: int) -> Reading | None:
        """A strong reading, or None when there is none now. Raises `UnsupportedRegionError`, which no waiting cures."""
        try:
            choice = self._choose(outlook, strong_only=True, now_ns=now_ns)
        except UnsupportedRegionError:
            raise
        except EdgeError:
            return None
        return self._reading(outlook, choice) if choice.guarantee is Guarantee.STRONG else None

    def empty(self, *, now_ns: int) -> None:
        """Let go of everything, for ever."""
        self.served.emptied(now_ns=now_ns)
        self._shut(is_right=False, now_ns=now_ns)

    def status(self, outlook: Outlook, *, now_ns: int) -> ModelStatus:
        """How the model stands now; what was fetched and what failed is for others to add."""
        name, ready = self.served.model, self.served.ready()
        try:
            choice = self._choose(outlook, now_ns=now_ns)
        except EdgeError as error:
            return ModelStatus(name=name, error=str(error), ready=ready)
        return ModelStatus(
            name=name,
            version=choice.loaded.version.version,
            generation=choice.generation,
            guarantee=choice.guarantee.value,
            staleness_bound_ms=bound_ms(choice.bound_ns),
            ready=ready,
        )

    def _choose(self, outlook: Outlook, *, strong_only: bool = False, now_ns: int) -> Choice:
        if outlook.follower.unsupported:
            raise UnsupportedRegionError("the region demands the fast barrier; install a newer edge client")
        return self.served.choose(
            outlook.reader, epoch_current=outlook.follower.epoch_current, strong_only=strong_only, now_ns=now_ns
        )

    def _put(self, choice: Choice, reading: Reading, *, now_ns: int) -> None:
        if choice.guarantee is Guarantee.STRONG:
            self._strong, self._loaded = reading, choice.loaded
            self.time.shown(strong_until_ns=choice.strong_until_ns, is_right=True, now_ns=now_ns)
            self._show(Window(choice.strong_until_ns, reading))
        else:
            self._shut(is_right=choice.guarantee is not Guarantee.FALLBACK, now_ns=now_ns)
        last, self._last = self._last, (reading.version, reading.generation)
        if last != self._last:
            previous = None if last is None else last[0]
            self._tell(Change(model=reading.model, previous=previous, current=reading.version, reading=reading))

    def _shut(self, *, is_right: bool, now_ns: int) -> None:
        self._strong = self._loaded = None
        self.time.shown(strong_until_ns=None, is_right=is_right, now_ns=now_ns)
        self._show(SHUT)

    def _reading(self, outlook: Outlook, choice: Choice) -> Reading:
        position = outlook.follower.position
        shared = self._strong
        if (
            choice.guarantee is Guarantee.STRONG
            and shared is not None
            and self._loaded is choice.loaded
            and (shared.generation, shared.position) == (choice.generation, position)
        ):
            return shared
        local = outlook.follower.restored and choice.bound_ns is None
        age_ms = None
        if local and outlook.kept_unix_ms is not None:
            age_ms = max(0, outlook.unix_ms() - outlook.kept_unix_ms)
        return Reading(
            choice.loaded,
            model=self.served.model,
            generation=choice.generation,
            guarantee=choice.guarantee,
            staleness_bound_ms=bound_ms(choice.bound_ns),
            position=position,
            reason=Reason.LOCAL if local else Reason.MEMORY,
            age_estimate_ms=age_ms,
            observe=outlook.observe,
        )
