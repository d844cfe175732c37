"""The judges of the nemesis, judged: each kind of lie is found, and no honest history is taken for one."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from ops.bench.raft_history import Operation, fault_of_register, faults_of_list


def op(action: Any, begun: float, ended: float = math.inf, value: Any = None, **more: Any) -> Operation:
    status = more.pop("status", "unknown" if ended == math.inf else "ok")
    return Operation(client=0, action=action, key="k", value=value, begun=begun, ended=ended, status=status, **more)


def append(begun: float, ended: float, value: int, *, number: int) -> Operation:
    return op("append", begun, ended, value, found=number)


HONEST_LIST = [
    append(0, 1, 10, number=1),
    append(2, 5, 11, number=2),
    append(3, 6, 12, number=3),
    op("append", 4, value=13),
    op("read", 7, 8, found=[10, 11, 12]),
    op("read", 7.5, 9, found=[10, 11, 12, 13]),
    op("append", 7, 8, 14, status="failed"),
    op("append", 8, value=15),
]


def test_an_honest_list_passes():
    assert [] == faults_of_list(HONEST_LIST, final=[10, 11, 12, 13])


@pytest.mark.parametrize(
    ("final", "lie"),
    [
        ([10, 12, 13], "11 was acknowledged and is lost"),
        ([10, 11, 12, 13, 13], "13 is there 2 times"),
        ([10, 11, 12, 13, 99], "99 comes from nowhere"),
        ([10, 11, 12, 13, 14], "14 was refused and is there"),
        ([10, 12, 11, 13], "11 was acknowledged as number 2 and is number 3"),
        ([10, 11, 12, 15, 13], "a read saw what never was"),
    ],
)
def test_a_lie_in_the_list_is_found(final, lie):
    assert any(fault.startswith(lie) for fault in faults_of_list(HONEST_LIST, final=final))


@pytest.mark.parametrize(
    ("operations", "final"),
    [
        ([append(0, 1, 1, number=2), append(2, 3, 2, number=1)], [2, 1]),  # in the wrong order
        ([append(0, 1, 1, number=1), op("read", 2, 3, found=[])], [1]),  # stale
        ([append(2, 3, 1, number=1), op("read", 0, 1, found=[1])], [1]),  # from the future
        ([op("append", 0, value=1), op("read", 1, 2, found=[1]), op("read", 3, 4, found=[])], [1]),  # backwards
    ],
)
def test_time_running_backwards_is_found_in_a_list(operations, final):
    faults = faults_of_list(operations, final=final)

    assert 1 == len(faults)
    assert "stands before it" in faults[0]


def test_reads_of_the_same_length_have_no_order():
    assert [] == faults_of_list([op("read", 5, 6, found=[]), op("read", 0, 1, found=[])], final=[])


@pytest.mark.parametrize(
    "operations",
    [
        [op("put", 0, 1, 1), op("read", 2, 3, found=1)],
        [op("put", 0, 5, 1), op("read", 1, 2, found=None), op("read", 3, 4, found=1)],
        [op("put", 0, value=1), op("read", 8, 9, found=None), op("read", 10, 11, found=1)],  # done late
        [op("put", 0, 1, 1), op("cas", 2, 3, 2, expected=1, found=1), op("read", 4, 5, found=2)],
        [op("put", 0, 1, 1), op("cas", 2, 3, 2, expected=7, found=1), op("read", 4, 5, found=1)],
        [op("put", 0, 9, 1), op("put", 0, 9, 2), op("read", 1, 2, found=2), op("read", 3, 4, found=1)],
        [op("put", 0, 1, 1), op("put", 2, 3, 2, status="failed"), op("read", 4, 5, found=1)],
        # Two unanswered steps in a row, of which only the second was ever seen.
        [
            op("put", 0, 1, 1),
            op("cas", 2, value=2, expected=1),
            op("cas", 3, value=3, expected=2),
            op("read", 4, 5, found=3),
        ],
    ],
)
def test_an_honest_register_passes(operations):
    assert fault_of_register(operations) is None


@pytest.mark.parametrize(
    "operations",
    [
        [op("put", 0, 1, 1), op("read", 2, 3, found=None)],  # stale or lost
        [op("read", 0, 1, found=5)],  # from nowhere
        [op("put", 0, 1, 1), op("put", 2, 3, 2), op("read", 4, 5, found=1)],
        [op("put", 0, 9, 1), op("read", 1, 2, found=1), op("read", 3, 4, found=None)],  # backwards
        [op("put", 0, 1, 1), op("cas", 2, 3, 2, expected=1, found=1), op("cas", 4, 5, 3, expected=1, found=1)],
        [op("put", 0, 1, 1), op("put", 2, 3, 2, status="failed"), op("read", 4, 5, found=2)],
        [op("read", 0, 1, found=1), op("put", 2, value=1)],  # from the future
        [op("put", 0, value=1), op("put", 1, 2, 2), op("read", 3, 4, found=1), op("read", 5, 6, found=2)],
    ],
)
def test_a_lie_about_a_register_is_found(operations):
    assert "no order explains" in (fault_of_register(operations) or "")


@pytest.mark.parametrize("seed", range(40))
def test_registers_that_really_ran_pass_and_with_one_answer_changed_do_not(seed):
    """Operations that take effect at one instant between question and answer, in a random run."""
    rng = random.Random(seed)
    operations, held, now = [], None, 0.0
    for number in range(1, 60):
        now += rng.random()
        begun, ended = now - rng.random() * 3, now + rng.random() * 3
        drawn = rng.random()
        if drawn < 0.4:
            operations.append(op("read", begun, ended, found=held))
        elif drawn < 0.7:
            unknown = rng.random() < 0.2
            operations.append(op("put", begun, math.inf if unknown else ended, number))
            held = number
        else:
            expected = held if rng.random() < 0.6 else -1
            operations.append(op("cas", begun, ended, number, expected=expected, found=held))
            held = number if expected == held else held

    assert fault_of_register(operations) is None

    liar = rng.choice([each for each in operations if each.action == "read"])
    liar.found = 1_000
    assert fault_of_register(operations) is not None
