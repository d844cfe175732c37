"""Histories of three formats are read as they were meant, and what is no history is refused with the line that is wrong."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consistency_service.testbed.linearizability import MalformedHistoryError, check, read_files, read_text
from consistency_service.testbed.linearizability import reading as readers
from consistency_service.testbed.linearizability.edn import DEPTH_MAX, Map, values
from consistency_service.testbed.linearizability.operations import Operation, Symbol

LOG = """\
lein test jepsen.system.etcd-test
INFO  jepsen.os.debian - :n3 setting up debian
INFO  jepsen.util - 0\t:invoke\t:read\tnil
INFO  jepsen.util - 1\t:invoke\t:write\t3
INFO  jepsen.util - 0\t:ok\t:read\tnil
INFO  jepsen.util - 1\t:ok\t:write\t3
INFO  jepsen.util - :nemesis\t:info\t:start\tnil
INFO  jepsen.util - 2\t:invoke\t:cas\t[3 4]
INFO  jepsen.util - 0\t:invoke\t:cas\t[9 1]
INFO  jepsen.util - 0\t:fail\t:cas\t[9 1]
INFO  jepsen.util - 2\t:info\t:cas\t:timed-out
INFO  jepsen.util - 0\t:invoke\t:read\tnil
INFO  jepsen.util - 0\t:fail\t:read\t:timed-out
INFO  jepsen.util - 1\t:invoke\t:cas\t[3 5]
INFO  jepsen.util - 1\t:fail\t:cas\t[3 5]\t[:not-found 100]
INFO  jepsen.util - 3\t:invoke\t:write\t8
"""

EDN = """\
; one map a line
{:type :invoke, :f :read, :value nil, :process 0, :time 10, :index 0}
#jepsen.history.Op{:type :invoke, :f :write, :value 3, :process 1, :time 11}
{:type :ok, :f :read, :value nil, :process 0, :time 12}
{:type :ok, :f :write, :value 3, :process 1, :time 13}
{:type :info, :f :start-partition, :value nil, :process :nemesis, :time 14}
{:type :invoke :f :cas :value [3 4] :process 2}
{:type :invoke :f :cas :value [9 1] :process 0}
{:type :fail :f :cas :value [9 1] :process 0}
{:type :info :f :cas :value [3 4] :process 2 :error :timeout}
{:type :invoke :f :read :process 0}
{:type :fail :f :read :process 0 :error [:timeout "slow \\" node"]}
{:type :invoke :f :cas :value [3 5] :process 1}
{:type :fail :f :cas :value [3 5] :process 1 :error :unavailable}
{:type :invoke :f :write :value 8 :process 3}
"""

MEANT = [
    ("0", "read → nil", True),
    ("1", "write 3", True),
    ("2", "cas 3→4", False),
    ("0", "cas 9→1 → no", True),
    ("3", "write 8", False),
]


def meant(operations):
    return [(operation.process, str(operation), operation.returned is not None) for operation in operations]


@pytest.mark.parametrize("text", [LOG, EDN, f"[{EDN}\n]", f"({EDN}\n)"], ids=["log", "maps", "vector", "list"])
def test_jepsen(text):
    operations = read_text(text, model="register")

    assert MEANT == meant(operations)
    assert check(operations).ok


def test_newer_log_lines():
    text = LOG.replace("INFO  jepsen.util - ", "2020-01-01 12:00:00,123{GMT}\tINFO\t[jepsen worker 3] jepsen.util: ")

    assert MEANT == meant(read_text(text, model="register"))


def test_operations_know_their_lines():
    assert [3, 4, 8, 9, 16] == [operation.line for operation in read_text(LOG, model="register")]
    assert [2, 3, 7, 8, 15] == [operation.line for operation in read_text(EDN, model="register")]


def test_independent_keys_are_pairs_or_named():
    pairs = "{:type :invoke, :f :write, :value [7 1], :process 0}\n{:type :ok, :f :write, :value [7 1], :process 0}"
    named = "{:type :invoke, :f :put, :key 7, :value 1, :process 0}\n{:type :ok, :f :put, :key 7, :value 1, :process 0}"
    both = [read_text(text, model="key-value") for text in (pairs, named)]

    assert both[0] == both[1]
    assert (7, "write 1") == (both[0][0].key, str(both[0][0]))


def test_appended_lists():
    text = """
    {:type :invoke, :f :append, :value [5 1], :process 0}{:type :ok, :f :append, :value [5 1], :process 0}
    {:type :invoke, :f :read, :value [5 nil], :process 0}{:type :ok, :f :read, :value [5 [1]], :process 0}"""

    assert check(read_text(text, model="append"), model="append").ok
    assert not check(read_text(text.replace("[1]", "[2]"), model="append"), model="append").ok


def ours(**fields):
    return json.dumps({"process": "a", "op": "read", "invoked_ns": 1, "returned_ns": 2, **fields})


def test_ours():
    lines = [
        ours(op="write", value=[1, True]),
        ours(invoked_ns=3, returned_ns=4, result=[1, True]),
        "",
        ours(process="b", op="cas", value=[[1, True], None], result=False),
        ours(process="c", op="write", value=1, returned_ns=None, outcome="unknown", extra="ignored"),
        ours(process="d", op="write", value=2, outcome="failed"),
        ours(process="d", invoked_ns=5, returned_ns=None, outcome="unknown"),
    ]

    assert [
        Operation(process="a", name="write", argument=(1, Symbol("true")), invoked=1, returned=2, line=1),
        Operation(process="a", name="read", result=(1, Symbol("true")), invoked=3, returned=4, line=2),
        Operation(
            process="b", name="cas", argument=((1, Symbol("true")), None), result=False, invoked=1, returned=2, line=4
        ),
        Operation(process="c", name="write", argument=1, invoked=1, line=5),
    ] == read_text("\n".join(lines), model="register")


def test_what_edges_record_is_judged_as_an_assignment():
    def line(**fields):
        return json.dumps({"process": "e", "op": "read", "model": "m", "outcome": "ok", **fields})

    activated = line(process="o", op="activate", invoked_ns=0, returned_ns=9, generation=1, outcome="effective")
    accepted = line(process="o", op="activate", invoked_ns=10, returned_ns=11, generation=2, outcome="accepted")
    strong = [
        line(invoked_ns=at, returned_ns=at + 1, generation=generation, guarantee="strong")
        for at, generation in ((20, 1), (30, 2), (40, 1))
    ]
    bounded = line(invoked_ns=50, returned_ns=51, generation=1, guarantee="bounded", bound_ns=99)
    fine = read_text("\n".join([activated, accepted, *strong[:2], bounded]), model="assignment")

    assert [None, 9, 21, 31] == sorted([each.returned for each in fine], key=lambda at: at or 0)
    assert check(fine, model="assignment").ok
    assert not check(read_text("\n".join([activated, accepted, *strong]), model="assignment"), model="assignment").ok
    with pytest.raises(MalformedHistoryError, match="line 2: e stopped recording"):
        read_text(f'{activated}\n{{"op": "limit", "process": "e"}}', model="assignment")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no operations in it"),
        ("hello\nworld", "no operations in it"),
        (LOG.replace("0\t:ok\t:read\tnil", "0\t:invoke\t:read\tnil"), "line 5: process 0 was still busy .* on line 3"),
        (LOG.replace("0\t:ok\t:read\tnil", "7\t:ok\t:read\tnil"), "line 5: process 7 answers, but was not asked"),
        (LOG.replace("0\t:ok\t:read\tnil", "0\t:ok\t:write\t1"), "line 5: process 0 answers write, but was asked"),
        (LOG.replace("[9 1]", "[9 1"), r"line 9: \[ is never closed"),
        ("{:type :invoke", "line 1: { is never closed"),
        ("{:type :invoke}\n]", "line 1: an event needs"),
        ("{:type :invoke :f :read :process 0}\n]", r"line 2: \] closes nothing"),
        ("{:type :maybe :f :read :process 0}", "line 1: no :type :maybe"),
        ("{:type}", "line 1: a map with a key without a value"),
        ("[1 2]", "made of maps"),
        ('[\n"abc', "line 2: not EDN from"),
        ("[" * 50, f"nested deeper than {DEPTH_MAX}"),
        ("{:process " + "1" * 99 + "}", "more than 40 digits"),
        ("{:type :invoke :f :txn :process 0 :value [[:r 1 nil]]}", "line 1: transactions"),
        ('{"process": "a"}', "line 1: .*`op`"),
        (ours() + "\n{", "line 2: "),
        (ours(returned_ns=None), "line 1: outcome ok needs returned_ns"),
        (ours(returned_ns=0), "line 1: returned before it was invoked"),
        (ours(op="cas", value=[1, 2]), "line 1: a cas that returned needs a result"),
        (ours() + "\n" + ours(), "line 2: a did two things at once"),
        (ours(value="x" * (1 << 20)), "line 1: longer than"),
    ],
)
def test_what_is_no_history_is_refused(text, complaint):
    with pytest.raises(MalformedHistoryError, match=complaint):
        read_text(text, model="register")


def test_files_are_limited_and_named(tmp_path, monkeypatch):
    first, second = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    first.write_text(ours())
    second.write_text(ours(process="b"))

    assert 2 == len(read_files([first, second], model="register"))
    second.write_text(EDN)
    with pytest.raises(MalformedHistoryError, match=r"2\.jsonl: only histories in lines of JSON"):
        read_files([first, second], model="register")
    with pytest.raises(MalformedHistoryError, match=r"cannot read .*absent"):
        read_files([tmp_path / "absent"], model="register")
    second.write_bytes(b"\xff\xfe")
    with pytest.raises(MalformedHistoryError, match="not text"):
        read_files([second], model="register")
    monkeypatch.setattr(readers, "FILE_BYTES_MAX", 10)
    with pytest.raises(MalformedHistoryError, match="more than 0 MiB"):
        read_files([first], model="register")


def test_edn_values():
    text = '{:a 1, "b" [nil true -2.5e1 9N #{x} (:k/w)] #_ignored :c #inst "2020"} ; end'

    assert [
        Map(
            (
                (Symbol(":a"), 1),
                ("b", (None, Symbol("true"), -25.0, 9, frozenset({Symbol("x")}), (Symbol(":k/w"),))),
                (Symbol(":c"), "2020"),
            )
        )
    ] == list(values(text))


@given(st.text(alphabet='{}[]()#_:;"\\ nil1.-,x\n', max_size=60) | st.text(max_size=40))
def test_any_text_is_read_or_refused(text):
    for model in ("register", "append", "assignment"):
        try:
            check(read_text(text, model=model), model=model)
        except MalformedHistoryError:
            continue
