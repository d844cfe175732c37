"""The judge of staleness: it calls false what cannot be true, and nothing else."""

from __future__ import annotations

from random import Random

import pytest

from tests.support.feature_history import MS, Read, Write, judge


def ms(value: float) -> int:
    return int(value * MS)


WRITES = [
    Write("k", 1, ms(10), ms(12)),
    Write("k", 2, ms(20), ms(25)),
    Write("k", 3, ms(40), None),
    Write("k", 4, ms(50), ms(55), deletes=True),
    Write("k", 5, ms(70), ms(75)),
]


@pytest.mark.parametrize(
    ("order", "invoked", "returned", "bound", "false"),
    [
        (1, 25, 26, 0, False),  # the second write may have taken effect at its acknowledgement, which is this instant
        (1, 25.001, 26, 0, True),
        (1, 35, 36, 10, False),
        (1, 35.001, 36, 10, True),
        (2, 54, 56, 0, False),  # nobody knows whether the third ever took effect
        (2, 56, 57, 0, True),
        (3, 41, 42, 0, False),
        (3, 30, 39, 0, True),  # not written yet
        (3, 45, 46, 1_000, False),
        (9, 60, 61, None, True),  # never written
        (4, 60, 61, None, True),  # a deletion has no value
        (1, 90, 91, None, False),  # vouches for nothing
        (None, 5, 6, 0, False),
        (None, 12, 13, 0, False),
        (None, 12.001, 13, 0, True),
        (None, 49, 49.5, 0, True),  # after the first write, before the deletion began
        (None, 49, 50, 0, False),
        (None, 76, 77, 0, True),
        (None, 76, 77, 1, False),
    ],
)
def test_a_reading_is_false_exactly_when_no_instants_make_it_true(order, invoked, returned, bound, false):
    read = Read("k", order, ms(invoked), ms(returned), bound)

    assert false == bool(judge(WRITES, [read]))


def test_what_nobody_wrote_is_absent():
    assert [] == judge([], [Read("k", None, 0, 1, 0)])
    assert ["it was never written"] == [violation.reason for violation in judge([], [Read("k", 1, 0, 1, 0)])]


@pytest.mark.parametrize("seed", range(20))
def test_it_agrees_with_trying_all_instants(seed):
    """A slow judge: every write without a deletion takes effect at some tick of its span; is there a choice that fits?"""
    rng = Random(seed)
    ticks = range(12)
    spans = sorted((rng.choice(ticks), rng.choice(ticks)) for _ in range(3))
    spans = [(min(span), max(span)) for span in spans]
    spans.sort()
    writes = [Write("k", order + 1, ms(began), ms(ended)) for order, (began, ended) in enumerate(spans)]
    for _ in range(200):
        order, invoked, bound = rng.randrange(1, 4), rng.choice(ticks), rng.randrange(6)
        returned = rng.randrange(invoked, 13)
        read = Read("k", order, ms(invoked), ms(returned), bound)

        assert bool(judge(writes, [read])) == (not could_be_true(spans, order, invoked, returned, bound)), (spans, read)


def could_be_true(spans, order, invoked, returned, bound) -> bool:
    """Whether some instant of the claim lies where this write may be the greatest that took effect.

    Orders decide, not instants: a write of smaller order that comes later changes nothing.
    """
    began, _ = spans[order - 1]
    for claim in range(invoked - bound, returned + 1):
        if claim < began:
            continue
        if all(ended >= claim for later, (_, ended) in enumerate(spans, start=1) if later > order):
            return True
    return False
