"""Each check of chaos passes on a world in order, and fails on one that is not."""

import dataclasses
from typing import Any

import msgspec
import pytest

from consistency_service.testbed import history
from consistency_service.testbed.chaos.ledger import (
    AuditLine,
    Books,
    BooksDraft,
    FinalModel,
    HistoryLine,
    Request,
    Told,
)
from consistency_service.testbed.chaos.verdict import Facts, Watched, judge, went_back

READ = history.Operation(
    process="e", op="read", invoked_ns=1, returned_ns=2, model="m", generation=1, guarantee="strong"
)
MADE = history.Operation(process="c", op="activate", returned_ns=1, model="m", generation=1, outcome="effective")


def request(name, command, told=Told.DONE, *, model="m", **more):
    return Request(name=name, command=command, model=model, told=told, invoked_ns=0, returned_ns=1, **more)


REQUESTS = (
    request("c#1", "CreateModel", versions_kept=5),
    request("c#2", "RegisterVersion", version="1.0.0", digest="d1"),
    request("c#3", "ActivateGeneration", version="1.0.0", generation=1, activation=12),
    request("c#4", "ChangePolicy", Told.UNKNOWN, versions_kept=6),
    request("c#5", "ActivateGeneration", Told.REFUSED, version="1.0.0"),
    request("c#6", "CreateModel", model="gone", versions_kept=1),
    request("c#7", "DeleteModel", model="gone"),
)
AUDIT = tuple(
    AuditLine(revision=10 + place, author=line.name, command=line.command, subject=line.model, code="ok")
    for place, line in enumerate(REQUESTS)
    if line.told is not Told.REFUSED
)
MODEL = FinalModel(
    name="m",
    generation=1,
    versions_kept=6,
    versions={"1.0.0": "d1"},
    history=[HistoryLine(generation=1, version="1.0.0", activation=12, author="c#3")],
)


def facts(**changes):
    values: dict[str, Any] = {
        "requests": list(REQUESTS),
        "books": Books(audit=list(AUDIT), models={"m": MODEL}),
        "history": history.check([MADE, READ]),
        "watched": Watched(looks=1, lives=1),
        "converged_ms": 10,
        "converge_ms_max": 30_000,
    }
    return Facts(**(values | changes))


def broken(**changes):
    return [check.name for check in judge(facts(**changes)) if not check.ok]


def books(*, audit=AUDIT, model=MODEL, rewritten=(), **more):
    models = {} if model is None else {"m": msgspec.structs.replace(model, **more)}
    return Books(audit=list(audit), models=models, rewritten=list(rewritten))


def test_a_world_in_order():
    assert [] == broken()


def test_a_strong_read_that_went_back():
    back = history.Operation(
        process="e", op="read", invoked_ns=5, returned_ns=6, model="m", generation=0, guarantee="strong"
    )
    assert ["reads"] == broken(history=history.check([MADE, READ, back]))
    assert ["reads"] == broken(history=dataclasses.replace(history.check([MADE, READ]), incomplete=("e",)))
    assert ["reads"] == broken(history=None)


@pytest.mark.parametrize(
    "audit",
    [
        AUDIT[1:],  # an acknowledged command is missing
        (*AUDIT, AuditLine(revision=30, author="c#2", command="RegisterVersion", subject="m", code="ok")),  # done twice
        (
            *AUDIT,
            AuditLine(revision=30, author="c#4", command="ChangePolicy", subject="m", code="ok"),
        ),  # unknown, twice
        (*AUDIT, AuditLine(revision=30, author="c#5", command="ActivateGeneration", subject="m", code="ok")),  # refused
        (
            *AUDIT,
            AuditLine(revision=30, author="c#9", command="DeleteModel", subject="m", code="ok"),
        ),  # never asked for
    ],
)
def test_commands_that_are_missing_or_done_too_often(audit):
    assert ["commands"] == broken(books=books(audit=audit))


def test_books_that_changed():
    assert ["commands"] == broken(books=books(rewritten=["x"]))
    assert ["commands", "state", "history"] == broken(books=None)


@pytest.mark.parametrize(
    "more",
    [
        {"versions": {}},  # an acknowledged version is missing
        {"versions": {"1.0.0": "other"}},
        {"versions": {"1.0.0": "d1", "9.0.0": "d1"}},  # nobody registered it
        {"versions_kept": 7},  # nobody asked for it
    ],
)
def test_models_that_are_not_as_told(more):
    assert ["state"] == broken(books=books(**more))


def test_models_that_should_not_be_there_or_should():
    gone = msgspec.structs.replace(MODEL, name="gone", generation=0, history=[], versions={}, versions_kept=1)
    assert ["state"] == broken(books=Books(audit=list(AUDIT), models={"m": MODEL, "gone": gone}))
    stranger = msgspec.structs.replace(gone, name="stranger")
    assert ["state"] == broken(books=Books(audit=list(AUDIT), models={"m": MODEL, "stranger": stranger}))
    assert ["state", "history"] == broken(books=books(model=None))


def test_an_unknown_policy_may_come_late_and_a_done_one_may_not_go():
    later = (*REQUESTS, request("c#8", "ChangePolicy", versions_kept=8))
    audit = (*AUDIT, AuditLine(revision=40, author="c#8", command="ChangePolicy", subject="m", code="ok"))

    assert [] == broken(requests=list(later), books=books(audit=audit, versions_kept=8))
    assert [] == broken(requests=list(later), books=books(audit=audit, versions_kept=6))
    assert ["state"] == broken(requests=list(later), books=books(audit=audit, versions_kept=5))


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [HistoryLine(generation=1, version="1.0.0", activation=99, author="c#3")],
        [HistoryLine(generation=1, version="2.0.0", activation=12, author="c#3")],
        [HistoryLine(generation=1, version="1.0.0", activation=12, author="somebody")],
        [*MODEL.history, HistoryLine(generation=2, version="1.0.0", activation=13, author="c#3")],
        [*MODEL.history, HistoryLine(generation=2, version="1.0.0", activation=13, author="c#5")],
        [*MODEL.history, HistoryLine(generation=3, version="1.0.0", activation=13, author="c#3")],
    ],
)
def test_histories_that_are_not_as_told(lines):
    assert ["history"] == broken(books=books(history=lines))


@pytest.mark.parametrize(
    "changes, name",
    [
        ({"watched": Watched(regressions=["back"])}, "positions"),
        ({"went_back": ["back"]}, "positions"),
        ({"watched": Watched(wrong_reads=["wrong"])}, "values"),
        ({"converged_ms": None, "not_converged": "edge-1 is behind"}, "convergence"),
        ({"unexpected": ["node-1 ended"]}, "survival"),
        ({"trouble": ["a line is torn"]}, "evidence"),
    ],
)
def test_everything_else_that_can_be_wrong(changes, name):
    assert [name] == broken(**changes)


def test_a_draft_notices_what_vanishes_and_what_changes():
    def line(revision, author="c#1", command="CreateModel", code="ok"):
        return {"revision": revision, "author": author, "command": command, "subject": "m", "code": code}

    draft = BooksDraft()
    draft.audit_seen([line(1), line(2, "c#2"), line(3, "c#3"), line(3, "c#4", code="unchanged")])
    draft.audit_seen([line(2, "c#2"), line(4, "c#5"), line(4, "c#6", "RequestPrefetch")], whole=True)
    draft.history_seen("m", [{"generation": 1, "version": "1.0.0", "activation": 1, "author": "c#1"}])
    draft.history_seen("m", [{"generation": 1, "version": "2.0.0", "activation": 1, "author": "c#1"}])
    made = draft.close([], {})

    assert [1, 2, 3, 4] == [entry.revision for entry in made.audit]
    assert 2 == len(made.rewritten) and "c#3" in made.rewritten[0] and "2.0.0" in made.rewritten[1]


def test_what_an_edge_serves_does_not_go_back_while_it_lives():
    def read(at_ns, generation, process="e"):
        return history.Operation(
            process=process, op="read", invoked_ns=at_ns, returned_ns=at_ns, model="m", generation=generation
        )

    reads = [read(1, 1), read(2, 2), read(3, 2, "f"), read(4, None), read(5, 1), read(6, 1)]

    assert 1 == len(went_back(reads, ends={}))
    assert 1 == len(went_back(reads, ends={"f": [3], "e": [1, 7]}))
    assert [] == went_back(reads, ends={"e": [3]})
