"""Every reader of foreign bytes, on damaged ones: it takes them or refuses them, in bounded memory, and nothing else happens."""

from __future__ import annotations

import tracemalloc

import pytest

from tests.fuzz.mutation import inputs
from tests.fuzz.targets import GROWTH, GROWTH_FREE_BYTES, TARGETS, Target

COUNT = 1_500
WEIGHED_COUNT = 150


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_bytes_are_taken_or_refused(name):
    target = TARGETS[name]
    taken = 0
    for data in inputs(target.seeds, seed=len(name), count=COUNT):
        try:
            taken += target.try_one(data)
        except Exception as error:
            raise AssertionError(f"{name} raised {error!r} on {data[:2000].hex()}") from error

    assert taken, "the seeds were refused as well, so nothing behind the first check was looked at"


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_bytes_take_bounded_memory(name):
    target = TARGETS[name]
    target.try_one(target.seeds[0])
    tracemalloc.start()
    try:
        for data in inputs(target.seeds, seed=17, count=WEIGHED_COUNT):
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            target.try_one(data)
            _, peak = tracemalloc.get_traced_memory()

            assert peak - before <= GROWTH * len(target.seal(data)) + GROWTH_FREE_BYTES, data[:2000].hex()
    finally:
        tracemalloc.stop()


def test_seeds_are_taken():
    refused = {
        name: number
        for name, target in TARGETS.items()
        for number, data in enumerate(target.seeds)
        if not target.try_one(data)
    }

    assert {} == refused


def test_a_reader_that_lets_an_error_through_is_found():
    def careless(data: bytes) -> object:
        return {b"h": 1}[data[:1]]

    target = Target(read=careless, refuses=(ValueError,), seeds=(b"hello",))
    with pytest.raises(KeyError):
        any(not target.try_one(data) for data in inputs(target.seeds, seed=1, count=COUNT))
