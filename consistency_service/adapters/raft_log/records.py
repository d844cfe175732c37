"""The journal as bytes: what a record looks like, and how a torn end is told from damage.

A power cut may leave any mixture of what was being written: the last record torn, or the first of a batch missing and
its last one whole, because a disk takes pages in any order. Damage looks the same. So each record says how far the file
was already durable when it was written: its *ground*. A bad place that no later whole record claims as its ground was
never acknowledged, and is cut off with everything after it. A bad place on which somebody stands was durable once: the
disk lies, and nothing after it can be believed.

The price is honest: damage within the very last batch looks like a torn end. Its entries are on other disks, or were
never acknowledged.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

MAGIC: Final = b"CCSLOG\x00\x02"
MARK: Final = b"\xc5REC"
HEAD: Final = struct.Struct(">4sII")
"""Mark, length and checksum of what follows."""

PLACE: Final = struct.Struct(">QQQ")
"""Index, term, ground."""

RECORD_BYTES_MAX: Final = 16 << 20
PIECE_BYTES: Final = 1 << 16
"""Of a file at a time, and a record more, so that a thread which writes it gives way to others in between."""

Entry = tuple[bytes, int, int]
"""`(command, index, term)`, in the library's order."""


class DamageError(ValueError):
    """What was durable cannot be read at `offset`."""

    def __init__(self, reason: str, *, offset: int) -> None:
        super().__init__(f"offset {offset}: {reason}")
        self.offset = offset


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    entries: list[Entry]
    offsets: list[int]
    """Where each begins."""
    end: int
    """Where the next would begin; everything from here on is a torn end."""


def size_bytes(entry: Entry) -> int:
    return HEAD.size + PLACE.size + len(entry[0])


def encode(entry: Entry, *, ground: int) -> bytes:
    command, index, term = entry
    body = PLACE.pack(index, term, ground) + command
    return HEAD.pack(MARK, len(body), zlib.crc32(body)) + body


def file_pieces(entries: list[Entry]) -> Iterator[bytes]:
    """A whole journal, to be made durable before anybody sees it: each record stands on the one before."""
    piece, offset = bytearray(MAGIC), 0
    for entry in entries:
        piece += encode(entry, ground=offset + len(piece))
        if len(piece) >= PIECE_BYTES:
            yield bytes(piece)
            offset += len(piece)
            piece.clear()
    yield bytes(piece)


def decode_file(data: bytes) -> Contents:
    """What a journal holds, without its torn end. Raises `DamageError`."""
    if data[: len(MAGIC)] != MAGIC:
        raise DamageError("not a journal of this release", offset=0)
    entries: list[Entry] = []
    offsets: list[int] = []
    offset = len(MAGIC)
    while (found := _decode(data, offset=offset)) is not None:
        entry, _, end = found
        if entries and (entry[1] != entries[-1][1] + 1 or entry[2] < entries[-1][2]):
            last = entries[-1]
            raise DamageError(f"index {entry[1]} term {entry[2]} after {last[1]} term {last[2]}", offset=offset)
        entries.append(entry)
        offsets.append(offset)
        offset = end
    if offset < len(data):
        _refuse_damage(data, offset=offset)
    return Contents(entries=entries, offsets=offsets, end=offset)


def _refuse_damage(data: bytes, *, offset: int) -> None:
    place = data.find(MARK, offset + 1)
    while place >= 0:
        found = _decode(data, offset=place)
        if found is not None and offset < found[1] <= place:
            raise DamageError(f"damaged, with the record at {place} written after it was durable", offset=offset)
        place = data.find(MARK, place + 1)


def _decode(data: bytes, *, offset: int) -> tuple[Entry, int, int] | None:
    """Entry, ground and end of the whole record that begins here."""
    if offset + HEAD.size > len(data):
        return None
    mark, length, crc = HEAD.unpack_from(data, offset)
    start, end = offset + HEAD.size, offset + HEAD.size + length
    if mark != MARK or not PLACE.size <= length <= RECORD_BYTES_MAX or end > len(data):
        return None
    body = data[start:end]
    if zlib.crc32(body) != crc:
        return None
    index, term, ground = PLACE.unpack_from(body)
    return (body[PLACE.size :], index, term), ground, end
