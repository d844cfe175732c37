"""Writes features: bulk ones into the queue, critical ones through to the store, the local tier and memory, in that order.

Values are encoded first of all, so that what the application does with an object afterwards does not reach what was
accepted. Nothing is kept of a critical write before the store has it; if nobody knows whether it has, all own copies of
the key go, and the next reader asks the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from edge_client.core.freshness import ClassPolicy
from edge_client.errors import ClosedError, FeatureValueError
from edge_client.protocol.feature_classes import FeatureCodec
from edge_client.protocol.features import KEY_BYTES_MAX, Entry, key_hash
from edge_client.protocol.stamps import COUNTER_BITS

if TYPE_CHECKING:
    from edge_client.runtime.feature_copies import FeatureCopies
    from edge_client.runtime.feature_fetch import FeatureFetch
    from edge_client.runtime.feature_ports import FeatureStore
    from edge_client.runtime.feature_writer import FeatureWriter
    from edge_client.runtime.ports import Clock
    from edge_client.runtime.signals import Signal

Encode = Callable[..., bytes]
KEY_CHARS_EASY: Final = KEY_BYTES_MAX // 4
"""So many characters fit whatever they are."""
Row = tuple[bytes | None, int, int, int]
"""An `Entry` as a plain tuple."""
Written = tuple[str, ClassPolicy, Entry]


class Sorted:
    """What is to be written of many things put at once: by bulk class, encoded, and one by one what is critical."""

    __slots__ = ("bulk", "critical")

    def __init__(self) -> None:
        self.bulk: dict[ClassPolicy, dict[str, bytes]] = {}
        self.critical: list[Written] = []


class FeatureWriting:
    """`row`, `queue`, `sort` and `queue_many` are for any thread, the rest for the event loop."""

    def __init__(
        self,
        *,
        copies: FeatureCopies,
        fetch: FeatureFetch,
        store: FeatureStore,
        writer: FeatureWriter,
        writer_id: int,
        encode: Encode,
        clock: Clock,
        wake: Signal,
        used: Callable[[], object],
    ) -> None:
        self.writer = writer
        self._copies = copies
        self._policy_of = copies.policy_of
        self._put = writer.put
        self._lock, self._stamps, self._unix_ms = copies.lock, copies.stamps, clock.unix_ms
        self._fills, self._peek = copies.fills, copies.peek
        self._fetch = fetch
        self._store = store
        self._writer_id = writer_id
        self._encode = encode
        self._clock = clock
        self._wake = wake
        self._used: Callable[[], object] | None = used
        self._closed = False

    def close(self) -> None:
        """Every write raises `ClosedError` from now on."""
        self._closed = True
        self._used = self.first_used

    def first_used(self) -> None:
        """Whoever waits for the first use of features is told, once. Raises `ClosedError`."""
        if self._closed:
            raise ClosedError("the client was closed; connect anew")
        used, self._used = self._used, None
        if used is not None:
            used()

    def policy_of(self, key: str) -> ClassPolicy:
        """What holds of a key. Raises `ClosedError`, and `FeatureValueError` for what is no key."""
        if self._used is not None:
            self.first_used()
        if type(key) is not str or not 0 < len(key) <= KEY_CHARS_EASY or not key.isascii():
            check_key(key)
        return self._policy_of(key)

    # ---- bulk

    def row(self, key: str, value: Any, expire_ms: int | None) -> tuple[ClassPolicy, Row]:
        """One write of now, as the plain tuple of an `Entry`. Raises `FeatureValueError`."""
        copies = self._copies
        try:  # as `policy_of`, without the calls
            policy = copies.policies.get(key.partition(":")[0]) or copies.default
        except (AttributeError, TypeError):
            policy = self.policy_of(key)
        if self._used is not None or not 0 < len(key) <= KEY_CHARS_EASY or not key.isascii():
            policy = self.policy_of(key)
        data = self._encode(value, codec=policy.codec)
        if expire_ms is not None or policy.expire_ms is None:
            stamp, expires_at_unix_ms = self._copies.stamped(policy, expire_ms)
            return policy, (data, stamp, self._writer_id, expires_at_unix_ms)
        # As `stamped`, without the call, and without the lock more often than once in a millisecond.
        unix_ms = self._unix_ms()
        stamp = self._stamps.draw()
        if stamp < unix_ms << COUNTER_BITS:
            with self._lock:
                stamp = self._stamps.stamp(unix_ms=unix_ms)
        return policy, (data, stamp, self._writer_id, unix_ms + policy.expire_ms)

    def tombstone(self, key: str) -> tuple[ClassPolicy, Row]:
        """The deletion of a key now."""
        policy = self.policy_of(key)
        stamp, expires_at_unix_ms = self._copies.stamped(policy, None)
        return policy, (None, stamp, self._writer_id, expires_at_unix_ms)

    def queue(self, policy: ClassPolicy, key: str, row: Row) -> bool:
        """Queue one bulk write; False: wait for room, and come again. Raises `FeatureQueueFullError`."""
        if not self._put(policy.feature_class, key, row):
            return False
        if self._fills or self._peek(key) is not None:  # as `outdates`, without the call
            self._copies.forget(key)
        return True

    def sort(self, items: Mapping[str, Any] | Iterable[tuple[str, Any]], expire_ms: int | None) -> Sorted:
        """Encoded, by class; of two values of one key the later. Raises `FeatureValueError`, and then nothing is written."""
        pairs = items.items() if isinstance(items, Mapping) else items
        out, encode = Sorted(), self._encode
        last: str | None = None
        policy: ClassPolicy | None = None
        codec = FeatureCodec.PLAIN
        values: dict[str, bytes] = {}
        for key, value in pairs:
            check_key(key)
            head = key.partition(":")[0]
            if head != last or policy is None:
                last, policy = head, self.policy_of(key)
                codec = policy.codec
                values = {} if policy.is_critical else out.bulk.setdefault(policy, {})
            data = encode(value, codec=codec)
            if policy.is_critical:
                out.critical.append((key, policy, self._copies.entry(data, policy=policy, expire_ms=expire_ms)))
            else:
                values[key] = data
        return out

    def queue_many(self, policy: ClassPolicy, values: Mapping[str, bytes], expire_ms: int | None) -> dict[str, bytes]:
        """Queue bulk writes of one class under one stamp; what there was no room for is returned: come again with it."""
        stamp, expires_at_unix_ms = self._copies.stamped(policy, expire_ms)
        taken = self.writer.put_many(
            policy.feature_class,
            values,
            stamp=stamp,
            writer=self._writer_id,
            expires_at_unix_ms=expires_at_unix_ms,
        )
        self._copies.outdate_many(values)
        return {} if taken == len(values) else dict(list(values.items())[taken:])

    # ---- critical

    async def write_through(self, items: Sequence[Written]) -> tuple[str, ...]:
        """The store has every one of these, or a newer write; the keys of the latter are returned.

        Raises `FeatureStoreError`: then nobody knows which of them it has.
        """
        if not items:
            return ()
        copies, fetch = self._copies, self._fetch
        pairs = [(key, entry) for key, _, entry in items]
        known_at_ns = self._clock.now_ns()
        try:
            stored = await fetch.asked(lambda: self._store.put_many(pairs))
        except BaseException:
            # Who was cancelled does not know it either.
            for key, _ in pairs:
                fetch.written(key)
                copies.forget(key)
            fetch.drop_soon([(key, entry.stamp) for key, entry in pairs])
            raise
        kept: list[tuple[str, Entry, int]] = []
        refused: list[str] = []
        for (key, policy, entry), holds in zip(items, stored, strict=True):
            fetch.written(key)
            copies.void(key)
            if not holds:
                copies.forget(key)
                refused.append(key)
                continue
            kept.append((key, entry, known_at_ns))
            copy = copies.copy_of(key, policy, entry, known_at_ns=known_at_ns)
            if copy is not None:
                copies.fill(copy, token=None)
        await fetch.hold(kept)
        announced = [(key_hash(key), entry.stamp) for key, policy, entry in items if policy.is_announced]
        if announced:
            copies.announce(announced)
            self._wake.set()
        return tuple(refused)


def check_key(key: object) -> None:
    """Raises `FeatureValueError` for what is no key: 1 to 512 bytes of text."""
    if not isinstance(key, str) or not key:
        raise FeatureValueError(f"a key is text of 1 to {KEY_BYTES_MAX} bytes, not {key!r}")
    if len(key) > KEY_CHARS_EASY or not key.isascii():
        try:
            size_bytes = len(key.encode())
        except UnicodeEncodeError as error:
            raise FeatureValueError(f"a key must be encodable as UTF-8: {error}") from None
        if size_bytes > KEY_BYTES_MAX:
            raise FeatureValueError(f"a key is at most {KEY_BYTES_MAX} bytes long, not {size_bytes}: {key[:40]!r}…")
