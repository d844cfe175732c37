"""The registers behind the log server: what the nemesis takes for granted about the machine, so that faults are the log's."""

from __future__ import annotations

import msgspec
import pytest

from consistency_service.core.outcomes import Outcome
from consistency_service.errors import SnapshotError
from consistency_service.testbed import log_server
from consistency_service.testbed.log_server import Command, Registers


def apply(machine: Registers, action: str, key: str, value, *, session="", number=0, expected=None) -> Outcome:
    command = Command(session, number, action, key, value, expected)
    return machine.apply(index=1, command=msgspec.msgpack.encode(command))


def test_values_are_put_compared_and_appended():
    machine = Registers()

    assert 1 == apply(machine, "put", "a", 5).revision
    assert Outcome(revision=2, detail={"held": 5}) == apply(machine, "cas", "a", 6, expected=5)
    assert Outcome(code="mismatch", revision=2, detail={"held": 6}) == apply(machine, "cas", "a", 7, expected=5)
    assert [1, 2] == [apply(machine, "append", "b", item).detail["length"] for item in (10, 11)]
    assert (6, [10, 11], None) == (machine.read("a"), machine.read("b"), machine.read("c"))


def test_a_request_of_a_session_is_done_once_and_answered_again():
    machine = Registers()
    first = apply(machine, "append", "a", 1, session="s", number=4)

    assert first == apply(machine, "append", "a", 1, session="s", number=4)
    assert "superseded" == apply(machine, "append", "a", 1, session="s", number=3).code
    assert [1] == machine.read("a")
    assert 2 == apply(machine, "append", "a", 1).detail["length"]
    assert 3 == apply(machine, "append", "a", 1).detail["length"]


def test_the_longest_silent_session_gives_way(monkeypatch):
    monkeypatch.setattr(log_server, "SESSIONS_MAX", 2)
    machine = Registers()
    for session, number in (("a", 1), ("b", 1), ("a", 2), ("c", 1)):
        apply(machine, "append", "k", 1, session=session, number=number)

    assert 3 == apply(machine, "append", "k", 1, session="a", number=2).detail["length"]
    assert 5 == apply(machine, "append", "k", 1, session="b", number=1).detail["length"]


@pytest.mark.parametrize(
    "command", [b"", b"\xc1", b"\x93\x01\x02\x03", msgspec.msgpack.encode(["", 0, "dance", "k", 1])]
)
def test_nonsense_is_answered_and_changes_nothing(command):
    machine = Registers()
    before = machine.digest()

    assert "malformed" == machine.apply(index=1, command=command).code
    assert before == machine.digest()


def test_what_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(log_server, "STATE_BYTES_MAX", 150)
    machine = Registers()

    assert "ok" == apply(machine, "put", "a", bytes(100)).code
    assert "full" == apply(machine, "append", "b", bytes(100)).code
    assert "ok" == apply(machine, "put", "a", bytes(110)).code  # in place of the other
    assert "full" == apply(machine, "put", "b", bytes(100)).code


def test_a_snapshot_is_the_whole_machine(monkeypatch):
    monkeypatch.setattr(log_server, "STATE_BYTES_MAX", 150)
    machine, other = Registers(), Registers()
    apply(machine, "put", "a", bytes(50))
    apply(machine, "append", "b", 2, session="s", number=1)
    other.restore(state=machine.snapshot(), index=9)

    assert (machine.digest(), 9) == (other.digest(), other.applied_index)
    assert 1 == apply(other, "append", "b", 2, session="s", number=1).detail["length"]
    assert "full" == apply(other, "put", "c", bytes(100)).code


def test_what_is_no_snapshot_is_refused():
    with pytest.raises(SnapshotError):
        Registers().restore(state=b"\x90", index=1)
