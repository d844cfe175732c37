"""What a read returns: the value, and what it is worth.

A reading is a receipt. It never changes, it can be handed to another thread, and while anybody holds it the model it
names stays usable, whatever is swapped meanwhile: it refers to the `Loaded` model, and that is all the pinning there
is. When the client has let go of a version and the last reading of it is gone, `Loaded` dies and its finalizer unloads.

A strong reading is made once per state and shared by every read until the state changes; the others are made for one
read, since their bound belongs to one instant.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NoReturn

from edge_client.protocol.models import Version
from edge_client.protocol.position import Position

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


class Guarantee(StrEnum):
    """What a reading is worth (protocol, section 8)."""

    STRONG = "strong"
    """Linearizable: this generation was the active one at some instant during the call."""
    BOUNDED = "bounded"
    """Was the active one no longer than the staleness bound ago, where a bound is known."""
    FALLBACK = "fallback"
    """The last verified version, because the one that should be served is not usable here."""


class Reason(StrEnum):
    """Why this answer."""

    MEMORY = "MEMORY"
    """The region said so in this life."""
    LOCAL = "LOCAL"
    """The local tier remembered what the region had said; it has not confirmed it since."""


class Loaded:
    """One usable model: what the loader made of one verified artifact. Lives while anybody refers to it."""

    __slots__ = ("__weakref__", "value", "version")

    def __init__(self, value: Any, *, version: Version, unload: Callable[[Any], object] | None = None) -> None:
        self.value = value
        self.version = version
        if unload is not None:
            # At the end of the interpreter nothing is unloaded: half of what `unload` needs may be gone.
            weakref.finalize(self, unload, value).atexit = False

    def __repr__(self) -> str:
        return f"<Loaded {self.version.version} {self.version.digest[:14]}>"


class Reading:
    """Immutable. `with model.read() as m:` gives the reading itself; its model is pinned while it is referred to."""

    __slots__ = (
        "__weakref__",
        "_loaded",
        "_observe",
        "age_estimate_ms",
        "generation",
        "guarantee",
        "model",
        "position",
        "reason",
        "staleness_bound_ms",
        "value",
        "version",
    )

    model: str
    value: Any
    """What the loader returned."""
    version: str
    """The semantic version of the artifact behind `value`."""
    generation: int
    guarantee: Guarantee
    staleness_bound_ms: int | None
    """0 when strong; otherwise the most that has passed since this was the active generation. None: no bound is known."""
    age_estimate_ms: int | None
    """After a start from the local tier alone, by wall time, for people; it bounds nothing."""
    position: Position
    """The place in the region's history from which this was read."""
    reason: Reason
    _observe: Observe | None

    def __enter__(self) -> Self:
        return self

    if TYPE_CHECKING:

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
        ) -> None: ...
    else:
        # In C this costs half of what it does in Python. An empty format string takes any arguments and returns what is
        # false, so exceptions pass. (The same for `__enter__`, by a weak reference to itself, would not keep a reading
        # alive that nobody else holds: `with` drops its own reference before it calls.)
        __exit__ = "".format

    def __init__(
        self,
        loaded: Loaded,
        *,
        model: str,
        generation: int,
        guarantee: Guarantee,
        staleness_bound_ms: int | None,
        position: Position,
        reason: Reason = Reason.MEMORY,
        age_estimate_ms: int | None = None,
        observe: Observe | None = None,
    ) -> None:
        put = object.__setattr__
        put(self, "_loaded", loaded)
        put(self, "value", loaded.value)
        put(self, "version", loaded.version.version)
        put(self, "model", model)
        put(self, "generation", generation)
        put(self, "guarantee", guarantee)
        put(self, "staleness_bound_ms", staleness_bound_ms)
        put(self, "position", position)
        put(self, "reason", reason)
        put(self, "age_estimate_ms", age_estimate_ms)
        put(self, "_observe", observe)

    def report(
        self,
        ok: bool | None = None,
        latency_ms: float | None = None,
        score: float | None = None,
        label: str | None = None,
    ) -> None:
        """What came of this reading is counted under its version and generation, and told to the region within seconds.

        `ok`: whether it was right, where that is known. `latency_ms`: how long the work took. `score`: any number whose mean
        should not drop, such as a confidence. `label`: what was predicted. Call it once a piece of work, from any thread.
        Values that make no sense (not finite, a negative latency, the 65th label) are counted as such and otherwise
        dropped; after the client was closed everything is. Raises `TypeError` for what is no truth, number or text.
        """
        if self._observe is not None:
            self._observe(self, ok, latency_ms, score, label)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a reading never changes; {name!r} cannot be set")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a reading never changes; {name!r} cannot be deleted")

    def __repr__(self) -> str:
        bound = "?" if self.staleness_bound_ms is None else f"{self.staleness_bound_ms}ms"
        age = "" if self.age_estimate_ms is None else f" age~{self.age_estimate_ms}ms"
        return (
            f"<Reading {self.model} {self.version} g{self.generation} {self.guarantee} bound={bound}{age}"
            f" {self.position} {self.reason}>"
        )


Observe = Callable[[Reading, bool | None, float | None, float | None, str | None], object]
"""Takes what an application reports of a reading: `ok`, `latency_ms`, `score`, `label`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a change listener is told: this edge serves another version of a model, or the same under another generation."""

    model: str
    previous: str | None
    """The version served before; None at first."""
    current: str
    reading: Reading


MS_NS: Final = 1_000_000


def bound_ms(bound_ns: int | None) -> int | None:
    """A bound in whole milliseconds, rounded up, so that it never says less than is true."""
    return None if bound_ns is None else -(-bound_ns // MS_NS)
