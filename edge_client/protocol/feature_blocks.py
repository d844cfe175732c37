"""Many writes as one string: what one flush has for one shard.

Picture a table written by columns, not by rows: all keys, all lengths, all stamps, all values. A column is written by one call,
equal numbers are written once (as the writer is, and how long an entry lives), and LZ4 finds more alike in what stands
together. Numbers that differ are eight octets each, sorted by significance, so that upper octets, which hardly differ,
are one run. To find a key, the columns are cut at its place; the values of the others are never looked at.

A block is `version and form | crc32 | columns` or `version and form | LZ4 frame of the columns`, the frame with the size of its
content, which is checked against the bound before anything is allocated, and a checksum.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate, pairwise, repeat
from typing import Annotated, Final
from zlib import crc32

import lz4.frame
import msgspec

from edge_client.errors import FeatureCorruptError, FeatureValueError
from edge_client.protocol.feature_classes import FeatureCodec
from edge_client.protocol.features import Entry
from edge_client.protocol.stamps import COUNTER_BITS, stamp_unix_ms

BLOCK_BYTES_MAX: Final = 16 << 20
"""Of the columns, uncompressed: at most the bytes of all values and keys, 64 an entry, and 64 more."""
BLOCK_ENTRIES_MAX: Final = 1 << 16

_COLUMNS: Final = b"\x12"
_COLUMNS_LZ4: Final = b"\x13"
_HEAD_BYTES: Final = 1 + 4
_SEARCHES_MAX: Final = 4

Column = int | bytes
"""One number for all, or eight octets for each, least significant first: all first octets, then all second ones."""


class _Columns(msgspec.Struct, array_like=True, frozen=True, gc=False):
    keys: Annotated[list[str], msgspec.Meta(min_length=1, max_length=BLOCK_ENTRIES_MAX)]
    lengths: Column
    """Of the values; 0: a tombstone."""
    stamps: Column
    writers: Column
    lifetimes: Column
    """From the wall time in the stamp to the expiry, signed."""
    values: memoryview


def encode_block(entries: Mapping[str, Entry], *, codec: FeatureCodec) -> bytes:
    """All entries as one string. Raises `FeatureValueError` for more than the bounds, and what no tier holds."""
    if not 0 < len(entries) <= BLOCK_ENTRIES_MAX:
        raise FeatureValueError(f"a block of {len(entries)} entries; it holds 1 to {BLOCK_ENTRIES_MAX}")
    values, stamps, writers, ends = zip(*entries.values(), strict=True)
    if min(ends) < 0:
        raise FeatureValueError("no expiry lies before 1970; 0 is none")
    present = values if all(values) else _without_tombstones(values)
    try:
        columns = _encode(
            (
                list(entries),
                _column(list(map(len, present))),
                _column(stamps),
                _column(writers),
                _column([end - (stamp >> COUNTER_BITS) for end, stamp in zip(ends, stamps, strict=True)], kind="q"),
                b"".join(present),
            )
        )
    except (ValueError, TypeError, OverflowError, struct.error) as error:
        raise FeatureValueError(f"entries cannot be kept: {error}") from error
    if len(columns) > BLOCK_BYTES_MAX:
        raise FeatureValueError(f"a block of {len(columns)} bytes; it holds {BLOCK_BYTES_MAX}")
    if codec is not FeatureCodec.PLAIN:
        frame: bytes = lz4.frame.compress(columns, content_checksum=True)
        if len(frame) < len(columns):
            return _COLUMNS_LZ4 + frame
    return _COLUMNS + crc32(columns).to_bytes(4, "big") + columns


def find_in_block(payload: bytes, keys: Collection[str]) -> dict[str, Entry]:
    """The entries of those keys that are in the block; the others are not decoded. Raises `FeatureCorruptError`."""
    columns = _columns_of(payload)
    places = _places(columns.keys, keys)
    return {key: _entry(columns, place) for key, place in places.items()}


def decode_block(payload: bytes) -> dict[str, Entry]:
    """All entries of a block, in the order in which they were given. Raises `FeatureCorruptError`."""
    columns = _columns_of(payload)
    count = len(columns.keys)
    ends = list(accumulate(_numbers(columns.lengths, count=count), initial=0))
    if ends[-1] != len(columns.values):
        raise FeatureCorruptError("a block's values are not as long as it says")
    values = [bytes(columns.values[start:end]) or None for start, end in pairwise(ends)]
    stamps = _numbers(columns.stamps, count=count)
    lifetimes = _numbers(columns.lifetimes, count=count, kind="q")
    expiries = [stamp_unix_ms(stamp) + lifetime for stamp, lifetime in zip(stamps, lifetimes, strict=True)]
    writers = _numbers(columns.writers, count=count)
    if min(*stamps, *writers, *expiries, *ends) < 0:
        raise FeatureCorruptError("a block's numbers make no sense")
    rows = map(Entry, values, stamps, writers, expiries)
    entries = dict(zip(columns.keys, rows, strict=True))
    if len(entries) != count:
        raise FeatureCorruptError("a key is twice in a block")
    return entries


def _places(held: list[str], keys: Collection[str]) -> dict[str, int]:
    """Where those of `keys` stand that are held. Few are searched for; for many a table is made first."""
    if len(keys) > _SEARCHES_MAX:
        table = dict(zip(held, range(len(held)), strict=True))
        return {key: table[key] for key in keys if key in table}
    return {key: held.index(key) for key in keys if key in held}


def _entry(columns: _Columns, place: int) -> Entry:
    count = len(columns.keys)
    start = _sum_before(columns.lengths, place, count=count)
    end = start + _number(columns.lengths, place, count=count)
    if not 0 <= start <= end <= len(columns.values):
        raise FeatureCorruptError("a block's values are not as long as it says")
    stamp = _number(columns.stamps, place, count=count)
    expires_at_unix_ms = stamp_unix_ms(stamp) + _number(columns.lifetimes, place, count=count, signed=True)
    writer = _number(columns.writers, place, count=count)
    if min(stamp, writer, expires_at_unix_ms) < 0:
        raise FeatureCorruptError("a block's numbers make no sense")
    return Entry(bytes(columns.values[start:end]) or None, stamp, writer, expires_at_unix_ms)


def _without_tombstones(values: Sequence[bytes | None]) -> list[bytes]:
    if b"" in values:
        raise FeatureValueError("no encoded value is empty; None is a tombstone")
    return [value or b"" for value in values]


def _columns_of(payload: bytes) -> _Columns:
    """The columns of a block, whose sizes fit each other."""
    form = payload[:1]
    try:
        if form == _COLUMNS:
            data = payload[_HEAD_BYTES:]
            if crc32(data).to_bytes(4, "big") != payload[1:_HEAD_BYTES]:
                raise FeatureCorruptError("a block's checksum is wrong")
        elif form == _COLUMNS_LZ4:
            data = _inflated(payload[1:])
        else:
            raise FeatureCorruptError(f"no block of a known version begins with {form.hex() or 'nothing'}")
        columns = _decode(data)
    except (ValueError, RuntimeError, TypeError, OverflowError) as error:
        raise FeatureCorruptError(f"a block is damaged: {error}") from error
    count = len(columns.keys)
    for column in (columns.lengths, columns.stamps, columns.writers, columns.lifetimes):
        if isinstance(column, bytes) and len(column) != 8 * count:
            raise FeatureCorruptError("a block's columns are of different lengths")
    return columns


def _inflated(frame: bytes) -> bytes:
    """The content of one whole LZ4 frame that says how large it is, and is that large."""
    size = lz4.frame.get_frame_info(frame)["content_size"]
    if not 0 < size <= BLOCK_BYTES_MAX:
        raise FeatureCorruptError(f"a block declares {size} bytes; it holds 1 to {BLOCK_BYTES_MAX}")
    context = lz4.frame.create_decompression_context()
    content, read, ended = lz4.frame.decompress_chunk(context, frame, max_length=size)
    if not ended or read != len(frame) or len(content) != size:
        raise FeatureCorruptError("a block's frame is cut, or goes on after its end")
    return content  # type: ignore[no-any-return]


def _column(numbers: Sequence[int], *, kind: str = "Q") -> Column:
    first = numbers[0]
    if numbers.count(first) == len(numbers) and (first >= 0 or kind == "q"):
        return first
    octets = struct.pack(f"<{len(numbers)}{kind}", *numbers)
    return b"".join([octets[place::8] for place in range(8)])


def _numbers(column: Column, *, count: int, kind: str = "Q") -> Sequence[int]:
    if isinstance(column, int):
        return list(repeat(column, count))
    octets = bytearray(8 * count)
    for place in range(8):
        octets[place::8] = column[place * count : (place + 1) * count]
    return struct.unpack(f"<{count}{kind}", octets)


def _number(column: Column, place: int, *, count: int, signed: bool = False) -> int:
    return column if isinstance(column, int) else int.from_bytes(column[place::count], "little", signed=signed)


def _sum_before(column: Column, place: int, *, count: int) -> int:
    """Of the numbers before one. Sums of octets take no Python object each; the upper ones are mostly zero throughout."""
    if isinstance(column, int):
        return column * place
    planes = (column[octet * count : octet * count + place].strip(b"\0") for octet in range(8))
    return sum(sum(plane) << (8 * octet) for octet, plane in enumerate(planes) if plane)


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Columns).decode
