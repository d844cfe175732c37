"""The copies of features that this process holds, and what makes them go: for any thread, without I/O.

A copy comes in with a token taken before its tier was asked, so that nothing fills memory with the past. It goes when it
is replaced, written here, written elsewhere (as far as we hear of it), evicted, expired, or when its class changes.

Memory is asked before the queue of our own bulk writes, because most reads end there. So a write removes the copy that it
outdates after it was queued, and a copy is taken away again if a write was queued while it was put there: whichever of
the two comes second sees the other.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol
from weakref import WeakValueDictionary

from edge_client.core.announcements import Announcements, Drop, matches
from edge_client.core.feature_observed import FeatureObserved
from edge_client.core.freshness import UNKNOWN_NS, ClassPolicy, Copy, FillTokens
from edge_client.errors import FeatureCorruptError, FeatureValueError
from edge_client.protocol.feature_classes import BULK_DEFAULT, DEFAULT_CLASS, MS_MAX, FeatureClass
from edge_client.protocol.features import Entry, key_hash
from edge_client.protocol.stamps import HybridClock

if TYPE_CHECKING:
    from random import Random

    from edge_client.protocol.messages import FeatureChanges
    from edge_client.runtime.feature_ports import Held
    from edge_client.runtime.ports import Clock

_SHARED: Final = frozenset({bytes, str, int, float, bool, complex, type(None)})
"""Types of which all readers may have the same object."""


SWEEP_COUNT: Final = 512
"""How many copies one look for expired ones takes in."""


class _Look:
    """Stands in a copy for a value that is not shared: it is absent, or each reader gets one of its own."""


LOOK: Final = _Look()


class Cache(Protocol):
    """Key to copy, bounded by bytes. `get` and `peek` need no lock; everything else is called with one held."""

    def get(self, key: str) -> Copy | None: ...

    def peek(self, key: str) -> Copy | None: ...

    def put(self, key: str, item: Copy, *, size_bytes: int) -> object: ...

    def pop(self, key: str) -> Copy | None: ...

    def pop_where(self, predicate: Callable[[Any, Copy], bool]) -> int: ...

    def sweep(self, predicate: Callable[[Any, Copy], bool], *, count_max: int) -> int: ...

    def __len__(self) -> int: ...


class FeatureCopies:
    """Memory, classes, fill tokens and what was heard, of one life of one edge."""

    def __init__(
        self,
        *,
        classes: Callable[[], Mapping[str, FeatureClass]],
        cache: Cache,
        decode: Callable[[bytes], Any],
        announcements: Announcements,
        stamps: HybridClock,
        writer: int,
        clock: Clock,
        rng: Random,
    ) -> None:
        self.lock = threading.RLock()
        self.announcements = announcements
        """Guarded by `lock`."""
        self.observed = FeatureObserved()
        self.counters: Counter[str] = Counter()
        self.get = cache.get
        self.find: Callable[[FeatureClass, str], Entry | None] = _nothing
        """Our own bulk writes that are queued or kept; set once, by whoever has the queue."""
        self.decode = decode
        self._classes = classes
        self._seen: Mapping[str, FeatureClass] | None = None
        self.policies: dict[str, ClassPolicy] = {}
        self.default = ClassPolicy(BULK_DEFAULT)
        self._cache = cache
        self.stamps = stamps
        self._writer = writer
        self._clock = clock
        self._unix_ms = clock.unix_ms
        self._rng = rng
        self._tokens = FillTokens()
        self.fills, self.peek = self._tokens.live, cache.peek
        self._closed = False
        self._hashed: WeakValueDictionary[int, Copy] = WeakValueDictionary()
        """Copies of announced classes by the hash of their key; whatever memory lets go of is gone from here too."""
        self.take_classes()

    # ---- classes

    def policy_of(self, key: str) -> ClassPolicy:
        """What holds of a key."""
        return self.policies.get(key.partition(":")[0]) or self.default

    def is_announced(self, class_name: str) -> bool:
        policy = self.policies.get(class_name)
        return policy is not None and policy.is_announced

    def take_classes(self) -> None:
        """What the region says of feature classes holds; copies of keys that have another class or kind now are gone."""
        classes = self._classes()
        if classes is self._seen:
            return
        with self.lock:
            before, policies = self.policies, dict[str, ClassPolicy]()
            for name, feature_class in {DEFAULT_CLASS: BULK_DEFAULT, **classes}.items():
                policy = before.get(name)
                if policy is None or policy.feature_class.kind is not feature_class.kind:
                    policy = ClassPolicy(feature_class)
                policy.changed(feature_class)
                policies[name] = policy
            self._seen, self.policies, self.default = classes, policies, policies[DEFAULT_CLASS]
            if before != policies:  # not by a window alone
                self._cache.pop_where(lambda key, copy: copy.policy is not self.policy_of(key))

    # ---- making copies

    def copy_of(self, key: str, policy: ClassPolicy, entry: Entry | None, *, known_at_ns: int | None) -> Copy | None:
        """What an answer is worth; None where it is damaged or has expired.

        `known_at_ns` is from before the tier was asked.
        """
        unix_ms = self._clock.unix_ms()
        value: Any = LOOK
        if entry is not None:
            if entry.expired(unix_ms=unix_ms):
                return None
            if entry.value is not None:
                try:
                    value = self.decode(entry.value)
                except FeatureCorruptError:
                    self.count("corrupt")
                    return None
        shared = type(value) in _SHARED or _is_shut(value)
        copy = Copy(
            key,
            entry,
            value if shared else LOOK,
            policy=policy,
            known_at_ns=known_at_ns,
            spread=self._rng.random(),
            unix_ms=unix_ms,
            now_ns=self._clock.now_ns(),
        )
        if shared:
            copy.data = None
        return copy

    def copy_of_held(self, key: str, policy: ClassPolicy, held: Held | None) -> Copy | None:
        """What the local tier's answer is worth; None where it is of no use."""
        if held is None:
            return None
        copy = self.copy_of(key, policy, held.entry, known_at_ns=held.known_at_ns)
        if copy is None or not self.announcements.has_heard_after(copy.known_at_ns) or not self._is_out_of_date(copy):
            return copy
        self.count("local_out_of_date")
        return None

    def copy_of_queued(self, key: str, policy: ClassPolicy) -> Copy | None:
        """Our own bulk write of this key, as long as it is queued or kept."""
        if policy.is_critical or (entry := self.find(policy.feature_class, key)) is None:
            return None
        copy = self.copy_of(key, policy, entry, known_at_ns=self._clock.now_ns())
        if copy is not None:
            copy.known_at_ns = copy.aged_from_ns  # as a write: what others wrote since is not known
        return copy

    def value_of(self, copy: Copy) -> Any:
        """What a reader is handed; None where there is nothing."""
        if copy.value is not LOOK:
            return copy.value
        return None if copy.data is None else self.decode(copy.data)

    # ---- filling

    def take_token(self, key: str) -> int:
        """Before a tier is asked: a token with which the answer may be kept."""
        with self.lock:
            return self._tokens.take(key)

    def drop_token(self, key: str, token: int) -> None:
        """The fill came to nothing."""
        with self.lock:
            self._tokens.settle(key, token)

    def fill(self, copy: Copy, *, token: int | None, from_store: bool = False) -> bool:
        """Keep a copy in memory; False where something newer is known, or its token is void. None: it needs no token."""
        key = copy.key
        hashed = key_hash(key) if copy.policy.is_announced else None
        with self.lock:
            valid = token is None or self._tokens.settle(key, token)
            if self._closed or not valid or copy.known_at_ns == UNKNOWN_NS:
                self.counters["fills_refused"] += 1
                return False
            if self.announcements.has_heard_after(copy.known_at_ns) and self._is_out_of_date(copy, hashed=hashed):
                self.counters["fills_refused"] += 1
                return False
            held = self._cache.peek(key)
            if held is not None and not held.expired(now_ns=self._clock.now_ns()):
                if not copy.supersedes(held, from_store=from_store):
                    return False
                if from_store:
                    self.observed.fetched(copy.policy.name, before=self.value_of(held), after=self.value_of(copy))
            self._cache.put(key, copy, size_bytes=copy.size_bytes)
            if hashed is not None:
                self._hashed[hashed] = copy
            if not copy.policy.is_critical:
                queued = self.find(copy.policy.feature_class, key)
                if queued is not None and queued.order > copy.order:
                    self._cache.pop(key)
            self.stamps.saw(copy.order[0], unix_ms=self._clock.unix_ms())
        return True

    # ---- writing

    def entry(self, value: bytes | None, *, policy: ClassPolicy, expire_ms: int | None) -> Entry:
        """A write of now, with the class's expiry unless the caller asks for an earlier one. Raises `FeatureValueError`."""
        stamp, expires_at_unix_ms = self.stamped(policy, expire_ms)
        return Entry(value, stamp, self._writer, expires_at_unix_ms)

    def stamped(self, policy: ClassPolicy, expire_ms: int | None) -> tuple[int, int]:
        """The stamp and the end of a write of now."""
        life_ms = policy.expire_ms
        if expire_ms is not None:
            if not 1 <= expire_ms <= (life_ms or MS_MAX):
                raise FeatureValueError(
                    f"expire_ms must lie in 1..{life_ms or MS_MAX} for class {policy.name!r}, not {expire_ms}"
                )
            life_ms = expire_ms
        unix_ms = self._unix_ms()
        with self.lock:
            stamp = self.stamps.stamp(unix_ms=unix_ms)
        return stamp, (0 if life_ms is None else unix_ms + life_ms)

    # ---- letting go

    def forget(self, key: str) -> None:
        """Memory has no copy of `key`, and fills under way bring none back."""
        with self.lock:
            self._tokens.void(key)
            self._cache.pop(key)

    def outdates(self, key: str) -> bool:
        """Whether a bulk write of ours, which is queued now, must be followed by `forget`."""
        return bool(self.fills) or self.peek(key) is not None

    def announce(self, changes: Iterable[tuple[int, int]]) -> None:
        """The store has these writes of ours, each as the hash of its key and its stamp."""
        with self.lock:
            now_ns = self._clock.now_ns()
            for hashed, stamp in changes:
                self.announcements.wrote(hashed, stamp, now_ns=now_ns)

    def announced(self, *, at_once: bool) -> tuple[FeatureChanges, ...]:
        """What is to be said now."""
        with self.lock:
            return self.announcements.due(now_ns=None if at_once else self._clock.now_ns())

    def next_deadline_ns(self) -> int | None:
        """When `announced` or `let_go` next has something to do."""
        with self.lock:
            return self.announcements.next_deadline_ns()

    def void(self, key: str) -> None:
        """Fills of `key` under way bring nothing."""
        with self.lock:
            self._tokens.void(key)

    def outdate_many(self, keys: Iterable[str]) -> None:
        """Bulk writes of ours are queued: memory has no older copies."""
        if self.fills or len(self._cache):
            for key in keys:
                if self.outdates(key):
                    self.forget(key)

    def heard(self, message: FeatureChanges) -> None:
        """Another edge said what it wrote; copies go when `let_go` is called."""
        with self.lock:
            self.announcements.heard(message, unix_ms=self._clock.unix_ms(), now_ns=self._clock.now_ns())

    def let_go(self) -> None:
        """Throw away what is due, of that which others said."""
        with self.lock:
            for drop in self.announcements.drops(now_ns=self._clock.now_ns()):
                for hashed, stamp in drop.changes:
                    copy = self._hashed.get(hashed)
                    if copy is not None and copy.order[0] < stamp and copy.known_at_ns < drop.heard_at_ns:
                        self._cache.pop(copy.key)
                        self.counters["invalidated"] += 1
                if drop.patterns:
                    self._drop_matching(drop)

    def invalidate(self, pattern: str) -> int:
        """Copies that match are out of date, here at once and elsewhere soon. Returns the stamp that says so."""
        with self.lock:
            now_ns = self._clock.now_ns()
            stamp = self.stamps.stamp(unix_ms=self._clock.unix_ms())
            self.announcements.invalidated(pattern, stamp, now_ns=now_ns)
            self._drop_matching(Drop(changes=(), patterns=((pattern, stamp),), heard_at_ns=now_ns))
        return stamp

    def sweep(self) -> None:
        """Let go of some of what has expired and nobody reads; call after call comes round to all."""
        with self.lock:
            now_ns = self._clock.now_ns()
            self.counters["expired"] += self._cache.sweep(
                lambda _key, copy: copy.expired(now_ns=now_ns), count_max=SWEEP_COUNT
            )

    def close(self) -> None:
        """No copy is left, and none comes in."""
        with self.lock:
            self._closed = True
            self._cache.pop_where(lambda _key, _copy: True)

    # ---- helpers

    def count(self, name: str) -> None:
        with self.lock:
            self.counters[name] += 1

    def check_invariants(self) -> None:
        with self.lock:
            self._tokens.check_invariants()
            self.announcements.check_invariants()
            self.observed.check_invariants()

    def _is_out_of_date(self, copy: Copy, *, hashed: int | None = None) -> bool:
        if hashed is None and copy.policy.is_announced:
            hashed = key_hash(copy.key)
        with self.lock:
            return self.announcements.is_out_of_date(
                copy.key, key_hash=hashed, stamp=copy.order[0], known_at_ns=copy.known_at_ns
            )

    def _drop_matching(self, drop: Drop) -> None:
        def matches_any(key: str) -> bool:
            return any(matches(key, pattern=pattern) for pattern, _ in drop.patterns)

        def is_old(key: str, copy: Copy) -> bool:
            return copy.known_at_ns < drop.heard_at_ns and any(
                copy.order[0] < stamp and matches(key, pattern=pattern) for pattern, stamp in drop.patterns
            )

        self._tokens.void_matching(matches_any)
        self.counters["invalidated"] += self._cache.pop_where(is_old)


def _is_shut(value: Any) -> bool:
    """Whether this is an array, which from now on nobody writes into."""
    shut = getattr(value, "setflags", None)
    if shut is None:
        return False
    shut(write=False)
    return True


def _nothing(_: FeatureClass, __: str) -> None:
    return None
