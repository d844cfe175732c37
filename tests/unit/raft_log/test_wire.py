"""Only what is on the list gets through, whole or in pieces; everything else is one kind of error."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consistency_service.adapters.raft_log import frames, wire

MESSAGES: list[wire.Peer] = [
    wire.Ping(),
    wire.VoteRequest(term=1, last_index=2, last_term=1, trial=True, handed_over=False, stamp=9),
    wire.Vote(term=3, granted=True, trial=False, stamp=9),
    wire.Append(term=3, stamp=8, commit_index=1, previous_index=4, previous_term=2, entries=[wire.Entry(b"x", 5, 3)]),
    wire.Acknowledgement(term=3, stamp=8, accepted=True, next_index=6, counts=True),
    wire.SnapshotPart(term=3, stamp=8, number=0, data=b"part", last=False),
    wire.SnapshotPartTaken(term=3, stamp=8, number=0, counts=True),
    wire.Heartbeat(term=3, stamp=8),
    wire.HandOver(term=3),
    wire.ReadIndexRequest(number=1, afresh=True),
    wire.Dismissal(),
    wire.ReadIndexAnswer(number=1, confirmed=True, index=7, term=3),
]


def split(data: bytes, *, size: int) -> list[bytes]:
    splitter = wire.FrameSplitter(bytes_max=1_000)
    found = []
    for start in range(0, len(data), size):
        splitter.feed(data[start : start + size])
        while (frame := splitter.next_frame()) is not None:
            found.append(frame)
    return found


@pytest.mark.parametrize("size", [1, 3, 1_000])
def test_messages_survive_any_cutting_of_the_stream(size):
    stream = b"".join(wire.encode(message) for message in MESSAGES)

    assert MESSAGES == [wire.decode_peer(frame) for frame in split(stream, size=size)]


def test_a_frame_too_long_is_refused_by_its_length_alone():
    splitter = wire.FrameSplitter(bytes_max=10)
    splitter.feed((11).to_bytes(4, "big"))

    with pytest.raises(wire.WireError, match="11 bytes exceeds 10"):
        splitter.next_frame()


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_wire_error(body):
    for decode in (wire.decode_peer, wire.decode_hello):
        try:
            decode(body)
        except wire.WireError:
            continue


@given(st.recursive(st.none() | st.integers(-(2**63), 2**64 - 1) | st.binary() | st.text(), st.lists, max_leaves=9))
def test_any_plain_value_is_a_message_or_a_wire_error(value):
    try:
        wire.decode_peer(msgspec.msgpack.encode(value))
    except wire.WireError:
        return


@pytest.mark.parametrize(
    "fields",
    [
        [9, -1, 0],
        [9, 1 << 63, 0],
        [9, 1],
        [9, 1, 0, 0],
        [9, True, 0],
        [9, 1.0, 0],
        [99, 1, 0],
        [1, 1, "ccs", "n1", "n2"],
        ["apply_command", b""],
        {"type": "apply_command", "command": b""},
    ],
)
def test_other_types_ranges_and_lengths_are_refused(fields):
    with pytest.raises(wire.WireError):
        wire.decode_peer(msgspec.msgpack.encode(fields))


@pytest.mark.parametrize(
    "entries",
    [
        [(b"x", 6, 3)],
        [(b"x", 5, 1)],
        [(b"x", 5, 4)],
        [(b"", 5, 3)],
        [(b"x", 5, 3), (b"x", 7, 3)],
        [(b"x", 5, 3), (b"x", 6, 2)],
    ],
)
def test_entries_with_a_gap_a_falling_or_future_term_or_nothing_in_them_are_refused(entries):
    message = wire.Append(
        term=3,
        stamp=1,
        commit_index=1,
        previous_index=4,
        previous_term=2,
        entries=[wire.Entry(*entry) for entry in entries],
    )
    with pytest.raises(wire.WireError, match="cannot follow"):
        wire.decode_peer(wire.encode(message)[4:])


def test_a_frame_in_the_log_comes_back_as_it_was():
    frame = frames.Frame(kind=frames.KIND_COMMAND, life=2**64 - 1, number=7, payload=b"\x01")

    assert frame == frames.decode(frames.encode(frame))
    assert frames.decode(frames.NO_OP) is None


@pytest.mark.parametrize(
    "entry", [b"", b"\x00", b"\x01\x01", b"\xc5\x02" + bytes(17), b"\xc5\x01\x03" + bytes(16), b"\x00" * 30]
)
def test_an_entry_of_another_release_is_refused(entry):
    with pytest.raises(ValueError, match="log entry"):
        frames.decode(entry)
