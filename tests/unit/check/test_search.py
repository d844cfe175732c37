"""The judge of single objects agrees with the definition, on small histories of every kind, and is fast on large ones."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consistency_service.testbed.linearizability import (
    Answer,
    Append,
    Assignment,
    KeyValue,
    MalformedHistoryError,
    Operation,
    check,
)
from consistency_service.testbed.linearizability import search as searching
from consistency_service.testbed.linearizability.models import Register
from consistency_service.testbed.linearizability.search import Search
from tests.unit.check.histories import MODELS, any_history, brute_force, lived, read, spoiled, write

QUIET = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def names(model):
    return f"{model.name}{'' if model.initial() is None else f' from {model.initial()!r}'}"


@pytest.mark.parametrize("model", MODELS, ids=names)
@QUIET
@given(data=st.data())
def test_the_search_and_the_definition_agree(model, data):
    history = data.draw(any_history(model))

    assert brute_force(model, history) is Search(model, history).run(1_000_000)


@QUIET
@given(data=st.data())
def test_they_agree_about_seven_operations_of_a_register_three_of_them_lost(data):
    history = data.draw(any_history(Register(0), count_max=7, lost_max=3))

    assert brute_force(Register(0), history) is Search(Register(0), history).run(1_000_000)


@pytest.mark.parametrize("lost", [0.0, 0.1])
@given(seed=st.integers(0, 1_000_000))
@settings(max_examples=60, deadline=None)
def test_what_a_true_register_did_is_accepted(lost, seed):
    assert check(lived(seed, count=60, clients=5, lost=lost)).ok


@given(seed=st.integers(0, 1_000_000), data=st.data())
@settings(max_examples=100, deadline=None)
def test_one_changed_answer_is_judged_as_the_definition_has_it(seed, data):
    history = lived(seed, count=7, clients=3, values=2, lost=0.1)
    reads = [index for index, operation in enumerate(history) if operation.name == "read"]
    if reads:
        index = data.draw(st.sampled_from(reads))
        operation = history[index]
        history[index] = read(operation.process, operation.invoked, operation.returned, data.draw(st.integers(0, 2)))
    history.sort(key=lambda operation: operation.invoked)
    if history:
        assert brute_force(Register(), tuple(history)) is check(history).ok


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("lost", [0.0, 0.02])
@pytest.mark.timeout(300)
def test_a_thousand_operations_of_ten_clients_are_decided(seed, lost):
    """Measured on an idle machine: 0.2 s at worst if they are linearizable, a few seconds if not, with the smallest part."""
    history = lived(seed, count=1_000, clients=10, values=1_000, lost=lost)
    fine, bad = check(history), check(spoiled(history, seed=seed), shrink_s=120)

    assert (Answer.LINEARIZABLE, Answer.NOT_LINEARIZABLE) == (fine.answer, bad.answer)
    assert bad.violation is not None
    assert bad.violation.smallest
    assert len(bad.violation.operations) <= 4


def test_ten_thousand_operations_need_no_recursion():
    assert check(lived(1, count=10_000, clients=5)).ok


def test_a_lost_write_may_show_late_or_never():
    lost = write("a", 0, None, 7)

    assert check([lost, read("b", 10, 11, None), read("b", 20, 21, 7)]).ok
    assert check([lost, read("b", 10, 11, None)]).ok
    assert not check([lost, read("b", 10, 11, 7), read("b", 20, 21, None)]).ok
    assert not check([read("b", 10, 11, 7), write("a", 12, None, 7)]).ok


def test_which_of_the_lost_took_effect_is_tried_either_way():
    """Both give the first 1, but only the write can give the second: spending it first is a dead end, and no proof."""
    lost_write = write("a", 0, None, 1)
    lost_cas = Operation(process="b", name="cas", argument=(0, 1), invoked=1)
    seen = [read("c", 10, 11, 1), write("c", 20, 21, 2), read("c", 30, 31, 1)]

    assert check([lost_write, lost_cas, *seen], model=Register(0)).ok
    assert not check([lost_write, *seen], model=Register(0)).ok
    assert not check([lost_cas, *seen], model=Register(0)).ok


def test_the_way_that_spent_a_lost_write_does_not_stand_for_the_way_that_saved_it():
    """The first order tried needs the lost write for the cas, and then has none for the last read."""
    cas = Operation(process="c", name="cas", argument=(1, 2), result=True, invoked=2, returned=10)
    together = [write("a", 0, 10, 1), write("b", 1, 10, 5), cas, write("d", 3, None, 1)]
    after = [read("e", 12, 13, 2), write("e", 20, 21, 3), read("e", 30, 31, 1)]

    assert check([*together, *after]).ok
    assert not check([*together[:3], *after]).ok


def test_the_same_instant_counts_as_concurrent():
    assert check([write("a", 0, 10, 1), read("b", 10, 10, None)]).ok
    assert not check([write("a", 0, 10, 1), read("b", 11, 11, None)]).ok


def test_a_cas_that_says_no_has_seen_another_value():
    def cas(result):
        return Operation(process="b", name="cas", argument=(1, 2), result=result, invoked=10, returned=11)

    assert check([write("a", 0, 1, 1), cas(result=True), read("a", 20, 21, 2)]).ok
    assert not check([write("a", 0, 1, 1), cas(result=False)]).ok
    assert not check([write("a", 0, 1, 3), cas(result=True)]).ok


def test_keys_are_judged_apart():
    model = KeyValue()
    fine = [write("a", 0, 1, 1, key="x"), read("b", 2, 3, None, key="y")]

    assert (True, 2) == ((result := check(fine, model=model)).ok, result.key_count)
    result = check([*fine, read("b", 4, 5, None, key="x")], model="key-value")
    assert result.violation is not None
    assert "x" == result.violation.key


def test_lists_grow_in_one_order():
    def append(process, invoked, returned, element):
        return Operation(process=process, name="append", invoked=invoked, returned=returned, argument=element, key="k")

    both = [append("a", 0, 10, 1), append("b", 0, 10, 2)]

    assert check([*both, read("c", 11, 12, (2, 1), key="k")], model=Append()).ok
    assert not check([*both, read("c", 11, 12, (2, 1), key="k"), read("d", 11, 12, (1, 2), key="k")], model=Append()).ok
    assert not check([*both, read("c", 11, 12, (2,), key="k")], model=Append()).ok


def test_generations_change_at_one_instant_for_everybody():
    def activate(invoked, returned, generation):
        return Operation(
            process="operator", name="activate", invoked=invoked, returned=returned, argument=generation, key="m"
        )

    first = activate(0, 1, 1)
    seen = [read("a", 110, 111, 2, key="m"), read("b", 112, 113, 1, key="m")]

    assert check([first, activate(100, 200, 2), seen[0]], model=Assignment()).ok
    assert not check([first, activate(100, 200, 2), *seen], model=Assignment()).ok
    assert check(
        [first, activate(100, None, None), seen[0], read("b", 300, 301, 3, key="m")][:3], model=Assignment()
    ).ok
    assert not check(
        [first, activate(100, None, None), *seen[:1], read("b", 300, 301, 3, key="m")], model="assignment"
    ).ok


def test_when_time_is_over_the_answer_is_unknown():
    history = [write(str(process), 0, 1_000, process) for process in range(14)] + [read("r", 2_000, 2_001, 99)]
    ticking = iter(range(1_000_000))
    result = check(history, budget_s=5, now_s=lambda: float(next(ticking)))

    assert Answer.UNKNOWN is result.answer
    assert "5 s are over" == result.reason
    assert result.violation is None


def test_when_memory_is_full_the_answer_is_unknown(monkeypatch):
    monkeypatch.setattr(searching, "CONFIGURATIONS_MAX", 100)
    history = [write(str(process), 0, 1_000, process) for process in range(14)] + [read("r", 2_000, 2_001, 99)]

    assert Answer.UNKNOWN is check(history).answer


def test_a_key_that_takes_too_long_hides_no_violation_of_another():
    hard = [write(str(process), 0, 1_000, process, key="hard") for process in range(14)]
    ticking = iter(range(1_000_000))
    bad = [write("a", 0, 1, 1, key="z"), read("b", 2, 3, 2, key="z")]
    history = [*hard, read("r", 2_000, 2_001, 99, key="hard"), *bad]

    assert (
        Answer.NOT_LINEARIZABLE
        is check(history, model="key-value", budget_s=9, now_s=lambda: next(ticking) / 1.0).answer
    )


@pytest.mark.parametrize(
    ("model", "operation", "text"),
    [
        ("register", Operation(process="a", name="append", invoked=0, line=4), "line 4: the register model knows read"),
        ("register", write("a", 0, 1, 1, key="x"), "try --model key-value"),
        ("key-value", write("a", 0, 1, 1), "names no key"),
        ("register", Operation(process="a", name="cas", argument=3, invoked=0), r"a cas needs \[expected new\]"),
        ("key-value", Operation(process="a", name="append", argument=3, key="k", invoked=0), "appends strings"),
        ("append", read("a", 0, 1, 3, key="k"), "a list was to be read"),
        ("queue", write("a", 0, 1, 1), "no model queue"),
    ],
)
def test_what_a_model_cannot_judge_is_refused(model, operation, text):
    with pytest.raises(MalformedHistoryError, match=text):
        check([operation], model=model)


def test_no_history_is_no_proof():
    with pytest.raises(MalformedHistoryError):
        check([])
