"""Histories that others labelled, with another checker: Porcupine's test data, of which two files may be kept here.

The rest is judged if `CCS_PORCUPINE_DATA` names the directory `test_data` of a copy of Porcupine; see tests/data/porcupine.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from consistency_service.testbed.linearizability import Answer, KeyValue, check, read_files

KEPT = Path(__file__).resolve().parents[2] / "data" / "porcupine"
DATA = os.environ.get("CCS_PORCUPINE_DATA")

LINEARIZABLE = {2, 5, 7, 18, 25, 31, 38, 45, 48, 49, 51, 53, 56, 67, 75, 76, 80, 87, 92, 98, 100, 101, 102}
"""Of the 103 logs of Jepsen's tests of etcd, according to `porcupine_test.go`. The cluster of number 95 did not start."""

elsewhere = pytest.mark.skipif(DATA is None, reason="CCS_PORCUPINE_DATA names no copy of Porcupine's test data")


def label(answer: bool) -> Answer:
    return Answer.LINEARIZABLE if answer else Answer.NOT_LINEARIZABLE


def judged(path: Path) -> Answer:
    return check(read_files([path], model="key-value"), model=KeyValue("")).answer


@pytest.mark.parametrize("name", ["c01-ok", "c01-bad"])
def test_the_kept_ones(name):
    assert label(name.endswith("ok")) is judged(KEPT / "kv" / f"{name}.txt")


@elsewhere
@pytest.mark.parametrize("name", ["c01-ok", "c01-bad", "c10-ok", "c10-bad", "c50-ok", "c50-bad"])
def test_key_value_stores(name):
    assert label(name.endswith("ok")) is judged(Path(DATA or "") / "kv" / f"{name}.txt")


@elsewhere
def test_jepsen_on_etcd():
    logs = [Path(DATA or "") / "jepsen" / f"etcd_{number:03d}.log" for number in range(103) if number != 95]
    results = {path.name: check(read_files([path], model="register")) for path in logs}

    assert {f"etcd_{number:03d}.log" for number in LINEARIZABLE} == {name for name, each in results.items() if each.ok}
    assert [] == [name for name, result in results.items() if result.answer is Answer.UNKNOWN]
    assert all(result.violation.smallest for result in results.values() if result.violation is not None)
