"""The judge of histories: every kind of violation is seen, nothing else is, and runs tell as much as every read."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consistency_service.testbed.history import HistoryError, Kind, Operation, check, main, parse, read_files
from consistency_service.testbed.recorder import Recorder, line_of
from edge_client.protocol.bucketing import CohortSelector, bucket_of
from edge_client.protocol.models import Assignment

MS = 1_000_000


def read(process, at, generation, *, guarantee="strong", bound_ms=0, version=None, took=1):
    return Operation(
        process=process,
        op="read",
        invoked_ns=at * MS,
        returned_ns=(at + took) * MS,
        model="m",
        generation=generation,
        guarantee=guarantee,
        version=version or f"{generation}.0.0",
        bound_ns=None if bound_ms is None else bound_ms * MS,
    )


def activation(at, generation, *, returned=None, outcome="effective", version=None):
    return Operation(
        process="operator",
        op="activate",
        invoked_ns=at * MS,
        returned_ns=(returned or at + 1) * MS,
        model="m",
        generation=generation,
        version=version or (f"{generation}.0.0" if generation else None),
        outcome=outcome,
    )


FIRST, SECOND = activation(0, 1), activation(100, 2, returned=200)


def kinds(*operations):
    return list(check(operations).violation_count)


def test_a_swap_in_which_everybody_changes_while_the_caller_waits_is_as_promised():
    verdict = check([FIRST, SECOND, read("a", 50, 1), read("a", 150, 2), read("b", 149, 1, took=2), read("b", 201, 2)])

    assert verdict.ok
    assert (3, 4, 2, {"strong": 4}) == (
        verdict.process_count,
        verdict.read_count,
        verdict.activation_count,
        verdict.reads_by_guarantee,
    )
    assert verdict.words().startswith("linearizable: 4 reads (4 strong; 0 failed) by 3 processes, 2 activations")


def test_a_strong_read_after_a_newer_one_returned_elsewhere_is_an_inversion():
    assert [Kind.STRONG_INVERSION] == kinds(FIRST, SECOND, read("a", 150, 2), read("b", 152, 1))
    assert [] == kinds(FIRST, SECOND, read("a", 150, 2), read("b", 151, 1))  # invoked as the other returned: concurrent


def test_a_strong_read_after_the_caller_was_told_must_see_it():
    assert [Kind.COMPLETION_NOT_SEEN] == kinds(FIRST, SECOND, read("a", 201, 1))
    assert [] == kinds(FIRST, SECOND, read("a", 200, 1))
    assert [] == kinds(FIRST, activation(100, 2, returned=200, outcome="accepted"), read("a", 250, 1))


def test_with_a_candidate_each_edge_must_read_what_the_assignment_has_for_it():
    """Of the edges at the site, `a` falls into the share under this salt and `b` does not."""
    assignment = Assignment(
        stable="1.0.0", candidate="2.0.0", share_bp=5_000, salt="s", cohort=CohortSelector(sites=("north",))
    )
    trial = msgspec.structs.replace(activation(100, 2), version=None, assignment=assignment, outcome="accepted")
    assert [True, False] == [bucket_of(edge, salt="s") < 5_000 for edge in "ab"]

    def reads(process, version, **more):
        return kinds(FIRST, trial, msgspec.structs.replace(read(process, 150, 2, version=version), **more))

    assert [] == reads("a", "2.0.0", site="north")
    assert [Kind.VERSION_WRONG] == reads("a", "1.0.0", site="north")
    assert [] == reads("b", "1.0.0", site="north")
    assert [Kind.VERSION_WRONG] == reads("b", "2.0.0", site="north")
    assert [] == reads("a", "1.0.0", site="south")
    assert [Kind.VERSION_WRONG] == reads("a", "2.0.0", site="south")

    other = msgspec.structs.replace(assignment, share_bp=6_000)
    assert [] == reads("caller", "1.0.0", assignment=assignment)
    assert [Kind.VERSION_WRONG] == reads("caller", "1.0.0", assignment=other)
    assert [Kind.VERSION_WRONG] == kinds(FIRST, msgspec.structs.replace(read("caller", 50, 1), assignment=other))


@pytest.mark.parametrize("guarantee", ["bounded", "fallback"])
def test_a_stated_bound_holds_against_callers_told_and_against_strong_reads(guarantee):
    def stale(at, bound_ms):
        return read("a", at, 1, guarantee=guarantee, bound_ms=bound_ms)

    assert [Kind.BOUND_EXCEEDED] == kinds(FIRST, SECOND, stale(300, 99))
    assert [] == kinds(FIRST, SECOND, stale(300, 100))
    assert [Kind.BOUND_EXCEEDED] == kinds(FIRST, SECOND, read("b", 150, 2), stale(300, 148))
    assert [] == kinds(FIRST, SECOND, read("b", 150, 2), stale(300, 149))
    assert [] == kinds(FIRST, SECOND, stale(900, None))  # it promised nothing


def test_a_generation_that_nobody_activated_is_noticed():
    assert [Kind.GENERATION_UNKNOWN] == kinds(FIRST, read("a", 50, 7))
    assert [Kind.GENERATION_UNKNOWN] == kinds(FIRST, activation(10, 2, outcome="refused"), read("a", 50, 2))


def test_an_activation_of_unknown_outcome_excuses_one_generation_and_only_from_then_on():
    unknown = activation(100, None, outcome="unknown")

    assert [] == kinds(FIRST, unknown, read("a", 150, 2), read("a", 160, 2))
    assert [Kind.GENERATION_UNKNOWN] == kinds(FIRST, unknown, read("a", 150, 2), read("a", 160, 3))
    assert [Kind.GENERATION_UNKNOWN] == kinds(FIRST, unknown, read("a", 50, 2))


def test_nobody_reads_what_was_not_asked_for_yet():
    assert [Kind.READ_BEFORE_ACTIVATION] == kinds(FIRST, SECOND, read("a", 50, 2))
    assert [] == kinds(FIRST, SECOND, read("a", 99, 2))  # it returned at the instant of the question


def test_a_generation_is_one_version():
    assert [Kind.VERSION_WRONG] == kinds(FIRST, read("a", 50, 1, version="9.9.9"))


def test_models_are_judged_apart():
    other = msgspec.structs.replace(SECOND, model="other", process="other operator")

    assert [] == kinds(FIRST, other, read("a", 300, 1))


def test_a_history_that_was_cut_short_proves_nothing():
    verdict = check([FIRST, read("a", 50, 1), Operation(process="a", op="limit")])

    assert not verdict.ok
    assert "incomplete: a stopped recording" in verdict.words()


def test_a_process_that_does_two_things_at_once_is_refused():
    with pytest.raises(HistoryError, match="two things at once"):
        check([FIRST, read("a", 50, 1, took=5), read("a", 52, 1)])


@pytest.mark.parametrize(
    "change",
    [
        {"op": "write"},
        {"returned_ns": 1},
        {"generation": None},
        {"guarantee": None},
        {"guarantee": "eventual"},
        {"outcome": "effective"},
        {"bound_ns": -1},
        {"reads": 0},
        {"process": "x" * 5_000},
    ],
)
def test_lines_that_make_no_sense_are_refused_with_their_number(change):
    line = json.dumps(msgspec.to_builtins(read("a", 50, 1)) | change).encode()

    with pytest.raises(HistoryError, match="h, line 2"):
        list(parse([line_of(FIRST), line], origin="h"))


def test_the_command_answers_in_words_and_by_its_exit_code(tmp_path, capsys):
    good, bad, nonsense = (tmp_path / name for name in ("good", "bad", "nonsense"))
    good.write_bytes(line_of(FIRST) + line_of(SECOND) + line_of(read("a", 201, 2)))
    bad.write_bytes(line_of(read("b", 300, 1)))
    nonsense.write_bytes(b"nonsense\n")

    assert 0 == main([str(good)])
    assert "linearizable" in capsys.readouterr().out
    assert 1 == main([str(good), str(bad)])
    assert "completion_not_seen: 1" in capsys.readouterr().out
    assert 1 == main(["--json", str(good), str(bad)])
    assert {"strong_inversion": 1, "completion_not_seen": 1} == json.loads(capsys.readouterr().out)["violation_count"]
    assert 2 == main([str(nonsense)])
    assert 2 == main([str(tmp_path / "missing")])
    assert 2 == main([])


# ---- what is left out of a history does not change the verdict


def recorded(reads):
    """What recorders, one for each process, write of these reads; flushed at random places by a read of None."""
    lines: list[bytes] = []
    recorders: dict[str, Recorder] = {}
    for operation in reads:
        recorder = recorders.setdefault(
            operation.process, Recorder(process=operation.process, model="m", write=lines.append)
        )
        recorder.read(
            invoked_ns=operation.invoked_ns,
            returned_ns=operation.returned_ns,
            generation=operation.generation,
            guarantee=operation.guarantee,
            version=operation.version,
            bound_ns=operation.bound_ns,
        )
    for recorder in recorders.values():
        recorder.flush()
    return list(parse(lines, origin="recorded"))


@st.composite
def histories(draw):
    """Small clocks and few generations, so that violations of every kind are common and many are marginal."""
    reads = []
    for process in ("a", "b", "c"):
        now = draw(st.integers(0, 3))
        for _ in range(draw(st.integers(0, 12))):
            took, pause = draw(st.integers(0, 2)), draw(st.integers(0, 2))
            guarantee = draw(st.sampled_from(["strong", "strong", "bounded"]))
            bound_ms = 0 if guarantee == "strong" else draw(st.sampled_from([None, 0, 1, 4]))
            generation = draw(st.sampled_from([1, 1, 2, 2, 3]))
            version = f"{generation}.0.{draw(st.sampled_from([0] * 9 + [1]))}"
            reads.append(
                read(process, now, generation, guarantee=guarantee, bound_ms=bound_ms, version=version, took=took)
            )
            now += took + pause
    activations = [activation(0, 1)]
    if draw(st.booleans()):
        at = draw(st.integers(1, 20))
        activations.append(activation(at, 2, outcome=draw(st.sampled_from(["effective", "accepted"]))))
        if draw(st.booleans()):
            activations.append(activation(at + 5, None, outcome="unknown"))
    return activations, reads


@pytest.mark.timeout(300)
@settings(max_examples=200, deadline=None)
@given(histories())
def test_runs_are_judged_as_every_single_read_would_be(history):
    activations, reads = history
    whole, part = check(activations + reads), check(activations + recorded(reads))

    assert set(whole.violation_count) == set(part.violation_count)
    assert whole.read_count == part.read_count
    assert whole.reads_by_guarantee == part.reads_by_guarantee


@settings(max_examples=300, deadline=None)
@given(histories())
def test_the_judge_agrees_with_one_who_compares_every_pair(history):
    activations, reads = history
    pairs = [
        (r, p) for r in reads for p in reads if p.strong and p.generation > r.generation and r.bound_ns is not None
    ]
    pairs += [
        (r, p)
        for r in reads
        for p in activations
        if p.outcome == "effective" and p.generation > r.generation and r.bound_ns is not None
    ]
    stale = {(r.strong, p.op) for r, p in pairs if p.returned_ns < r.invoked_ns - (0 if r.strong else r.bound_ns)}
    expected = {
        Kind.BOUND_EXCEEDED if not strong else Kind.STRONG_INVERSION if op == "read" else Kind.COMPLETION_NOT_SEEN
        for strong, op in stale
    }
    found = set(check(activations + reads).violation_count)

    assert expected == found & {Kind.BOUND_EXCEEDED, Kind.STRONG_INVERSION, Kind.COMPLETION_NOT_SEEN}


def test_a_long_run_is_three_lines_at_most_and_stands_for_all_its_reads():
    found = recorded([read("a", 10 * i, 1, guarantee="bounded", bound_ms=b) for i, b in enumerate([5, 9, 1, 90, 99])])

    assert [(0, 1), (20 * MS, 1), (40 * MS, 3)] == [(line.invoked_ns, line.reads) for line in found]


def test_failed_reads_are_recorded_and_counted():
    lines: list[bytes] = []
    recorder = Recorder(process="a", model="m", write=lines.append)
    for at in (1, 2, 3):
        recorder.read(invoked_ns=at, returned_ns=at, generation=None, guarantee=None, version=None, bound_ns=None)
    recorder.flush()

    assert 3 == check(parse(lines, origin="h")).failed_read_count


def test_a_recorder_that_is_full_says_so(tmp_path):
    lines: list[bytes] = []
    recorder = Recorder(process="a", model="m", write=lines.append, lines_max=2)
    for at in range(9):
        recorder.read(invoked_ns=at, returned_ns=at, generation=at, guarantee="strong", version=None, bound_ns=0)
    recorder.flush()
    path = tmp_path / "history"
    path.write_bytes(b"".join(lines))

    assert 3 == len(lines)
    assert ("a",) == check(read_files([path])).incomplete
