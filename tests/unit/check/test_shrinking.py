"""What is left of a violation is one of the whole history too, holds nothing superfluous, and can be read and looked at."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from consistency_service.testbed.linearizability import Answer, Operation, Result, Violation, check, page, words
from consistency_service.testbed.linearizability.models import Register
from consistency_service.testbed.linearizability.timeline import picture
from tests.unit.check.histories import MODELS, any_history, brute_force, explained, in_time, lived, read, spoiled, write

QUIET = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


def violation_of(result: Result) -> Violation:
    assert result.violation is not None
    return result.violation


@pytest.mark.parametrize("model", MODELS, ids=lambda model: f"{model.name} {model.initial()!r}")
@QUIET
@given(data=st.data())
def test_leaving_something_out_never_makes_a_violation(model, data):
    history = data.draw(any_history(model, count_max=5))
    smaller = model.without(history, data.draw(st.integers(0, len(history) - 1)))

    assert smaller is None or brute_force(model, smaller) or not brute_force(model, history)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: f"{model.name} {model.initial()!r}")
@QUIET
@given(data=st.data())
def test_the_smallest_part_is_a_violation_with_nothing_to_spare(model, data):
    history = data.draw(any_history(model, count_max=5))
    result = check(history, model=model)
    assume(not result.ok)
    violation = violation_of(result)

    assert violation.smallest
    assert not brute_force(model, violation.operations)
    for index in range(len(violation.operations)):
        smaller = model.without(violation.operations, index)
        assert smaller is None or brute_force(model, smaller)


@given(seed=st.integers(0, 100_000))
@settings(max_examples=40, deadline=None)
def test_the_order_shown_explains_all_that_had_returned_before(seed):
    result = check(spoiled(lived(seed, count=80, clients=5, lost=0.05, values=50), seed=seed))
    assume(not result.ok)
    violation = violation_of(result)
    operations, order = violation.operations, violation.order
    blocked = operations[violation.blocked]
    assert blocked.returned is not None
    before = [operation for operation in operations if operation.returned and operation.returned < blocked.returned]

    shown = [operations[index] for index in order]

    assert all(operation in shown for operation in before)
    assert blocked not in shown
    assert in_time(shown)
    assert explained(Register(), shown)


HISTORY = [
    write("a", 0, 10, 1),
    read("b", 2, 12, 1),
    write("b", 20, 30, 2),
    write("c", 21, 22, 3),
    read("c", 40, 50, 1),
    read("a", 60, 70, 2),
    write("<d>", 25, None, 9),
]


def test_in_words():
    result = replace(check(HISTORY), elapsed_s=0.25, step_count=12)

    assert (
        "NOT linearizable: 7 operations by 4 processes, 1 without an answer; model register; 12 steps, 0.25 s\n"
        "the smallest part that no order explains: 3 operations\n"
        "   at 0   a  write 1\n"
        "   at 21  c  write 3\n"
        " ! at 40  c  read → 1\n"
        "read → 1 by c fits nowhere: with all that had returned before it in place, the state is 3; for instance after "
        "write 1, then write 3"
    ) == words(result)


def test_a_value_that_nobody_wrote_convicts_alone():
    violation = violation_of(check([*HISTORY[:4], read("c", 40, 50, 77)]))

    assert ["read → 77"] == [str(operation) for operation in violation.operations]


def test_the_only_writer_of_what_was_read_stays():
    """Without it the part would claim that nobody had written it."""
    violation = violation_of(check(HISTORY))

    assert "write 1" in [str(operation) for operation in violation.operations]


def test_what_returned_only_afterwards_is_shown_as_unanswered():
    cas = Operation(process="b", name="cas", argument=(1, 2), result=True, invoked=5, returned=100)
    violation = violation_of(check([write("a", 0, 10, 1), cas, read("c", 20, 30, 2), read("d", 40, 50, 1)]))

    assert [10, None, 30, 50] == [operation.returned for operation in violation.operations]


def test_lists_keep_only_the_elements_in_question():
    def append(invoked, element):
        return Operation(process="w", name="append", invoked=invoked, returned=invoked + 1, argument=element, key="k")

    history = [append(10 * element, element) for element in range(1, 9)]
    history.append(read("r", 100, 101, (1, 2, 3, 5, 4, 6, 7, 8), key="k"))
    violation = violation_of(check(history, model="append"))

    assert ["append 4", "append 5", "read → [5 4]"] == [str(operation) for operation in violation.operations]


def test_linearizable_and_unknown_in_words():
    fine = replace(check(HISTORY[:3]), elapsed_s=0.0, step_count=3)
    unknown = replace(check(HISTORY[:3]), answer=Answer.UNKNOWN, reason="5 s are over", undecided=("x", "y"))

    assert "linearizable: 3 operations by 2 processes; model register; 3 steps, 0.00 s" == words(fine)
    assert words(unknown).startswith("UNKNOWN about key x, key y: 5 s are over, and neither an order nor its impossib")


def test_the_picture_is_sound_and_every_bar_holds_its_text():
    violation = violation_of(check(spoiled(lived(3, count=200, clients=6, values=100, lost=0.05), seed=3)))
    drawing = ET.fromstring(picture(violation))
    space = "{http://www.w3.org/2000/svg}"
    bars = [bar.attrib for bar in drawing.findall(f".//{space}rect")]
    ends: dict[str, float] = {}

    assert len(bars) == len(violation.operations)
    assert 1 == sum(bar["class"] == "bad" for bar in bars)
    for bar, operation in zip(bars, violation.operations, strict=True):
        assert float(bar["width"]) >= 7 * len(str(operation))
        assert float(bar["x"]) >= ends.get(bar["y"], 0.0)
        ends[bar["y"]] = float(bar["x"]) + float(bar["width"])


def test_the_page_loads_nothing_and_runs_nothing():
    evil = [replace(operation, process=f"<script>{operation.process}") for operation in HISTORY]
    text = page(check(evil), title="a & b")

    assert "<script" not in text
    assert "a &amp; b" in text
    assert "prefers-color-scheme: dark" in text
    assert not any(word in text for word in ("src=", "href=", "url(http", "@import"))
