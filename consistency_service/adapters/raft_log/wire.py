"""What nodes say to each other: a closed list of plain values, decoded strictly or not at all.

The library would unpickle whatever arrives. Here a frame is a length, checked before a byte of it is kept, and a msgpack
value that must be one of the messages below, field by field. What is not, closes the connection and is counted.
"""

from __future__ import annotations

import struct
from typing import Annotated, Final

import msgspec

PROTOCOL_VERSION: Final = 1
LENGTH: Final = struct.Struct(">I")
HELLO_BYTES_MAX: Final = 1_024
FRAME_BYTES_MAX: Final = 16 << 20

Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 62))]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class Message(msgspec.Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True):
    """Base of everything on the wire."""


class Hello(Message, frozen=True, kw_only=True, tag=1):
    """First on every connection, from both ends."""

    version: Count
    cluster_id: Annotated[str, msgspec.Meta(min_length=1, max_length=96)]
    """With the lineage of the sender's log: see `lineage`."""
    sender: Name
    target: Name


class Ping(Message, frozen=True, kw_only=True, tag=2):
    """Says nothing, so that silence means something."""


class VoteRequest(Message, frozen=True, kw_only=True, tag=3):
    """Will you vote for me in `term`? A trial only asks whether you would, and changes nothing."""

    term: Count
    last_index: Count
    last_term: Count
    trial: bool
    handed_over: bool
    """The leader itself named the sender its heir."""
    stamp: Count


class Vote(Message, frozen=True, kw_only=True, tag=4):
    """The answer: `term` is the one asked about if `granted`, otherwise the one in which the voter is."""

    term: Count
    granted: bool
    trial: bool
    stamp: Count


class Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    command: bytes
    index: Count
    term: Count


class Append(Message, frozen=True, kw_only=True, tag=5):
    """The leader's entries after `previous_index`; without entries a heartbeat."""

    term: Count
    stamp: Count
    """An instant of the leader's clock, given back by the answer."""
    commit_index: Count
    previous_index: Count
    previous_term: Count
    entries: list[Entry]


class Acknowledgement(Message, frozen=True, kw_only=True, tag=6):
    """What the sender holds durably, or where it wants the leader to go on, in the leader's `term`.

    `next_index` zero says only that the sender is alive.
    """

    term: Count
    stamp: Count
    accepted: bool
    next_index: Count
    counts: bool
    """Whether the sender is part of a majority: not while it is catching up on a lost memory."""


class SnapshotPart(Message, frozen=True, kw_only=True, tag=7):
    """A piece of the leader's snapshot; the next one follows when this one was acknowledged."""

    term: Count
    stamp: Count
    number: Count
    data: bytes
    last: bool


class SnapshotPartTaken(Message, frozen=True, kw_only=True, tag=8):
    term: Count
    stamp: Count
    number: Count
    counts: bool


class Heartbeat(Message, frozen=True, kw_only=True, tag=9):
    """The leader lives, and has nothing to append while its snapshot is on the way."""

    term: Count
    stamp: Count


class HandOver(Message, frozen=True, kw_only=True, tag=10):
    """The leader of `term` leaves, and you are its heir: stand at once."""

    term: Count


class ReadIndexRequest(Message, frozen=True, kw_only=True, tag=11):
    """Which entry must a read wait for that begins now?"""

    number: Count
    afresh: bool
    """The sender lost its memory: the entry must be one that the leader makes for this question."""


class ReadIndexAnswer(Message, frozen=True, kw_only=True, tag=12):
    """The entry, committed; or, not confirmed, that the sender does not lead."""

    number: Count
    confirmed: bool
    index: Count
    term: Count


class Dismissal(Message, frozen=True, kw_only=True, tag=13):
    """You were removed from the cluster; nobody will talk to you."""


Peer = (
    Ping
    | VoteRequest
    | Vote
    | Append
    | Acknowledgement
    | SnapshotPart
    | SnapshotPartTaken
    | Heartbeat
    | HandOver
    | ReadIndexRequest
    | ReadIndexAnswer
    | Dismissal
)

_encoder: Final = msgspec.msgpack.Encoder()
_hello_decoder: Final = msgspec.msgpack.Decoder(Hello, strict=True)
_peer_decoder: Final[msgspec.msgpack.Decoder[Peer]] = msgspec.msgpack.Decoder(Peer, strict=True)


class WireError(ValueError):
    """The other side does not speak our protocol."""


def encode(message: Message) -> bytes:
    """A whole frame. Raises `WireError` if it were longer than any receiver accepts."""
    body = _encoder.encode(message)
    if len(body) > FRAME_BYTES_MAX:
        raise WireError(f"{type(message).__name__} of {len(body)} bytes exceeds {FRAME_BYTES_MAX}")
    return LENGTH.pack(len(body)) + body


def decode_hello(body: bytes) -> Hello:
    """Raises `WireError`."""
    try:
        return _hello_decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise WireError(str(error)) from error


def decode_peer(body: bytes) -> Peer:
    """Any message but a greeting; entries follow one another without a gap. Raises `WireError`."""
    try:
        message = _peer_decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise WireError(str(error)) from error
    if isinstance(message, Append):
        index, term = message.previous_index, message.previous_term
        for entry in message.entries:
            if entry.index != index + 1 or not term <= entry.term <= message.term or not entry.command:
                raise WireError(f"entry {entry.index} of term {entry.term} cannot follow {index} of term {term}")
            index, term = entry.index, entry.term
    return message


class FrameSplitter:
    """Cuts a byte stream into frames. Holds at most one frame, of at most `bytes_max`, and what came after it."""

    def __init__(self, *, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next_frame(self) -> bytes | None:
        """The next whole frame, or None until more is fed. Raises `WireError` on a length above `bytes_max`."""
        if len(self._buffer) < LENGTH.size:
            return None
        (length,) = LENGTH.unpack_from(self._buffer)
        if length > self.bytes_max:
            raise WireError(f"frame of {length} bytes exceeds {self.bytes_max}")
        end = LENGTH.size + length
        if len(self._buffer) < end:
            return None
        frame = bytes(memoryview(self._buffer)[LENGTH.size : end])
        del self._buffer[:end]
        return frame
