"""Features for applications without an event loop: `edge.features` of the blocking client.

Memory and the queue of bulk writes are looked at in the caller's own thread, and so is the box's Redis, over a connection of
its own; a hop to the client's thread is made for the regional store alone. After a fork the child begins anew, as the
client does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from edge_client.core.feature_reading import FeatureReading, OnStale
from edge_client.errors import ClosedError, LocalTierError
from edge_client.protocol.features import Entry
from edge_client.runtime.feature_writing import Row, check_key

if TYPE_CHECKING:
    from edge_client.client import AsyncEdgeClient
    from edge_client.core.freshness import ClassPolicy
    from edge_client.runtime.feature_ports import Held
    from edge_client.runtime.features import AsyncFeatures
    from edge_client.runtime.loop_thread import LoopThread

T = TypeVar("T")


class Features:
    """What `EdgeClient.features` is. Every method may be called from any thread, and after a fork."""

    __slots__ = ("_behind", "_glance", "_here", "_life", "_queue", "_row")

    def __init__(self, here: Callable[[], LoopThread[AsyncEdgeClient]]) -> None:
        self._here = here
        self._life: LoopThread[AsyncEdgeClient] | None = None
        self._behind: AsyncFeatures | None = None
        self._glance: Callable[[str, int | None, Any], FeatureReading | None] = self._begin
        self._row: Callable[[str, Any, int | None], tuple[ClassPolicy, Row]] = self._begin_row
        self._queue: Callable[[ClassPolicy, str, Row], bool]

    # ---- reading

    def get(
        self, key: str, *, staleness_max_ms: int | None = None, on_stale: OnStale = "fetch", default: Any = None
    ) -> FeatureReading:
        """A reading of `key`: fresh from memory in a microsecond, or from the first tier that has it young enough.

        `staleness_max_ms`: how old it may be; by default the window of a critical class, and until expiry for a bulk one.
        What is older is fetched again (`on_stale="fetch"`), raises `TooStaleError` at once (`"raise"`), or is served and
        says so (`"serve"`). Where there is no such feature the reading is not `found`, and its value is `default`.
        Raises `TooStaleError` when nothing young enough is to be had, `FeatureValueError` for what is no key, and
        `ClosedError`.
        """
        reading = self._glance(key, staleness_max_ms, default)
        if reading is not None:
            return reading
        check_key(key)
        behind = self._there()
        behind.writing.first_used()
        found = behind.shelf.begin(key, staleness_max_ms=staleness_max_ms, on_stale=on_stale, default=default)
        if isinstance(found, FeatureReading):
            return found
        tier = behind.blocking_tier
        if tier is not None and behind.local_guard.allows():
            token = behind.copies.take_token(key)
            held = _locally(behind, lambda: tier.get(key), otherwise=None, settle=[(key, token)])
            reading = behind.walk.from_local(found, held, token=token)
            if reading is not None:
                return reading
        return self._wait(behind.walk.from_store([found]))[key]

    def get_many(
        self,
        keys: Iterable[str],
        *,
        staleness_max_ms: int | None = None,
        on_stale: OnStale = "fetch",
        default: Any = None,
    ) -> dict[str, FeatureReading]:
        """As `get`, for many: each tier is asked once. Raises if one of them would."""
        behind = self._there()
        behind.writing.first_used()
        readings, lookups = behind.walk.at_hand(
            keys, staleness_max_ms=staleness_max_ms, on_stale=on_stale, default=default
        )
        tier = behind.blocking_tier
        if lookups and tier is not None and behind.local_guard.allows():
            wanted = [lookup.key for lookup in lookups]
            tokens = [behind.copies.take_token(key) for key in wanted]
            nothing: list[Held | None] = [None] * len(wanted)
            settle = list(zip(wanted, tokens, strict=True))
            held = _locally(behind, lambda: tier.get_many(wanted), otherwise=nothing, settle=settle)
            found, lookups = behind.walk.from_local_many(lookups, held, tokens=tokens)
            readings |= found
        return readings | self._wait(behind.walk.from_store(lookups)) if lookups else readings

    # ---- writing

    def put(self, key: str, value: Any, *, expire_ms: int | None = None) -> bool:
        """Write one feature; values are bytes, text, numbers, NumPy arrays, or anything msgpack holds.

        Critical: True when the store has it, False when a newer write was there. Raises `FeatureStoreError`, and then
        nobody knows whether it has. Bulk: True when it is queued; waits for room only where the class says so.
        `expire_ms` is at most the class's. Raises `FeatureValueError`, `FeatureQueueFullError` where the class says so,
        and `ClosedError`.
        """
        policy, row = self._row(key, value, expire_ms)
        if not policy.is_critical and self._queue(policy, key, row):
            return True
        return self._written(key, policy, row)

    def put_many(
        self, items: Mapping[str, Any] | Iterable[tuple[str, Any]], *, expire_ms: int | None = None
    ) -> tuple[str, ...]:
        """As `put`, for many; returns the keys of which a newer write was there."""
        behind = self._there()
        sorted_items = behind.writing.sort(items, expire_ms)
        for policy, values in sorted_items.bulk.items():
            rest: Mapping[str, bytes] = values
            while rest := behind.writing.queue_many(policy, rest, expire_ms):
                _wait_for_room(behind)
        if not sorted_items.critical:
            return ()
        return self._wait(behind.writing.write_through(sorted_items.critical))

    def delete(self, key: str) -> bool:
        """As `put`, of a tombstone: whoever reads it later finds nothing, until it is put again."""
        behind = self._there()
        policy, row = behind.writing.tombstone(key)
        return self._written(key, policy, row)

    def invalidate(self, pattern: str) -> None:
        """Copies of keys that match are fetched anew before they are served again: here now, at other edges in milliseconds.

        `*` stands for anything, `?` for one character. Nothing is deleted. Raises `FeatureValueError`, `ClosedError`.
        """
        self._there().invalidate(pattern)

    def flush(self, *, timeout_ms: int | None = None) -> bool:
        """True when everything queued before has left the queue: is stored, or was given up and counted."""
        return self._wait(self._there().flush(timeout_ms=timeout_ms))

    # ---- what came of it

    def report(self, reading: FeatureReading | str, *, ok: bool) -> None:
        """Whether a reading was right, by the reading or the name of its class: the region sets staleness windows by it."""
        self._there().report(reading, ok=ok)

    def admits(self) -> bool:
        """Whether to lean on features now: False while too many reads miss or are too old; then a few, to see, are admitted."""
        return self._there().admits()

    # ---- for the client alone

    def forked(self) -> tuple[object, ...]:
        """Serve nothing of the parent's; what was the parent's is returned, to be kept from the garbage collector."""
        inherited = (self._life, self._behind)
        self._life = self._behind = None
        self._glance, self._row = self._begin, self._begin_row
        return inherited

    def closed(self) -> None:
        """Everything raises `ClosedError` from now on."""
        self._behind = None
        self._here = _raise_closed
        self._glance, self._row = self._begin, self._begin_row

    def _begin(self, key: str, staleness_max_ms: int | None, default: Any) -> FeatureReading | None:
        """The first glance in this process."""
        self._there()
        return self._glance(key, staleness_max_ms, default)

    def _begin_row(self, key: str, value: Any, expire_ms: int | None) -> tuple[ClassPolicy, Row]:
        """The first write in this process."""
        self._there()
        return self._row(key, value, expire_ms)

    def _there(self) -> AsyncFeatures:
        """The features of this process's client. Raises `ClosedError`, and `ConfigError` where there are none."""
        behind = self._behind
        if behind is None:
            life = self._here()
            behind = life.client.features
            self._life, self._behind, self._glance = life, behind, behind.shelf.glance
            self._row, self._queue = behind.writing.row, behind.writing.queue
        return behind

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        life = self._life
        if life is None:
            coroutine.close()
            raise ClosedError("the client was closed meanwhile; connect anew")
        return life.wait(coroutine)

    def _written(self, key: str, policy: ClassPolicy, row: Row) -> bool:
        behind = self._there()
        if policy.is_critical:
            return not self._wait(behind.writing.write_through([(key, policy, Entry(*row))]))
        while not behind.writing.queue(policy, key, row):
            _wait_for_room(behind)
        return True

    def __repr__(self) -> str:
        return f"<Features over {self._behind!r}>"


def _locally(behind: AsyncFeatures, ask: Callable[[], T], *, otherwise: T, settle: list[tuple[str, int]]) -> T:
    """The local tier's answer, in this thread."""
    guard = behind.local_guard
    try:
        answer = ask()
    except LocalTierError:
        behind.copies.count("local_failures")
        guard.came(bad=1)
        return otherwise
    except BaseException:
        guard.gave_up()
        for key, token in settle:
            behind.copies.drop_token(key, token)
        raise
    guard.answered()
    return answer


def _wait_for_room(behind: AsyncFeatures) -> None:
    try:
        here = asyncio.get_running_loop()
    except RuntimeError:
        here = None
    if here is behind.loop:
        raise RuntimeError("a listener or an async loader waits for the very thread that runs it; use another thread")
    behind.writing.writer.wait_for_room_in_thread()


def _raise_closed() -> NoReturn:
    raise ClosedError("the client was closed; connect anew")
