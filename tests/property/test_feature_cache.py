"""Whatever is done to the memory tier's store, it holds what was put last or nothing, and never more than its bound."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge_client.core.feature_cache import FeatureCache

BYTES_MAX = 100
KEYS = st.integers(0, 40)


class CacheBesideDict(RuleBasedStateMachine):
    """The model is a dict that never forgets: whatever the store still holds must be in it."""

    def __init__(self):
        super().__init__()
        self.cache: FeatureCache[int] = FeatureCache(BYTES_MAX, overhead_bytes=1)
        self.model: dict[int, int] = {}
        self.serial = 0

    @rule(key=KEYS, size=st.one_of(st.integers(0, 12), st.integers(0, 120)))
    def put(self, key, size):
        self.serial += 1
        before = self.cache.counters
        gone = before.evicted + before.refused + before.too_large
        self.cache.put(key, self.serial, size_bytes=size)
        self.model[key] = self.serial
        if self.cache.peek(key) is None:
            after = self.cache.counters
            assert after.evicted + after.refused + after.too_large > gone

    @rule(key=KEYS, times=st.integers(1, 20))
    def get(self, key, times):
        for _ in range(times):
            assert self.cache.get(key) in {None, self.model.get(key)}

    @rule(key=KEYS)
    def pop(self, key):
        assert self.cache.pop(key) in {None, self.model.pop(key, None)}
        assert self.cache.peek(key) is None

    @rule(residue=st.integers(0, 4))
    def pop_where(self, residue):
        held = [key for key in range(41) if self.cache.peek(key) is not None]
        assert sum(key % 5 == residue for key in held) == self.cache.pop_where(lambda key, _: key % 5 == residue)
        assert [key for key in held if key % 5 != residue] == [key for key in held if self.cache.peek(key) is not None]

    @rule(count=st.integers(1, 20))
    def sweep(self, count):
        self.cache.sweep(lambda key, _: key % 7 == 0, count_max=count)

    @rule()
    def maintain(self):
        self.cache.maintain()

    @precondition(lambda self: len(self.cache) > 5)
    @rule()
    def clear(self):
        self.cache.clear()
        assert (0, 0) == (len(self.cache), self.cache.size_bytes)

    @invariant()
    def holds_no_more_than_it_may_and_nothing_else_than_was_put(self):
        self.cache.check_invariants()
        assert self.cache.size_bytes <= BYTES_MAX
        assert all(self.cache.peek(key) in {None, self.model.get(key)} for key in range(41))


CacheBesideDict.TestCase.settings = settings(
    max_examples=150, stateful_step_count=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestCacheBesideDict = CacheBesideDict.TestCase
