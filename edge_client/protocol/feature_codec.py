"""How a feature's value becomes bytes and comes back: msgpack, arrays inside it, LZ4 where it pays.

Every encoding begins with one octet, the version in its upper half and the form in its lower. A value carries no
checksum, because it never travels or rests alone: `encode_entry` (one write, for tiers of one string a key) and
`feature_blocks` (many writes of one flush) do. What is declared is believed only within bounds, so that nothing allocates
more than `VALUE_BYTES_MAX` of bytes, or `BLOCK_BYTES_MAX` in a block, before it is found out. The objects made from
msgpack may weigh some sixty times its bytes at worst, as an empty list does.

Kept with their types: None, booleans, integers of 64 bits, floats, text, bytes, lists, dicts, NumPy arrays and scalars, these
also inside lists and dicts. A tuple comes back as a list. Other types are refused, except that msgspec knows some more
*inside* a list or dict and writes them as what msgpack has: a set as a list, an enum as its value, a UUID or decimal as text.

The lossy codecs touch floating arrays alone, wherever they stand: `FLOAT16` errs by at most 2**-11 of each number
(2**-25 absolute below 2**-14), `INT8` by at most 1/254 of the array's largest magnitude and the rounding of its own type.
An array that this cannot be promised for (infinities, NaN, beyond the range) is kept exactly.
"""

from __future__ import annotations

import struct
from functools import partial
from typing import Any, Final, NoReturn
from zlib import crc32

import lz4.block
import msgspec

from edge_client.errors import FeatureCorruptError, FeatureValueError
from edge_client.protocol.feature_arrays import array_bytes, array_of, is_array
from edge_client.protocol.feature_blocks import (
    BLOCK_BYTES_MAX,
    BLOCK_ENTRIES_MAX,
    decode_block,
    encode_block,
    find_in_block,
)
from edge_client.protocol.feature_classes import FeatureCodec
from edge_client.protocol.features import VALUE_BYTES_MAX, Entry

__all__ = [
    "BLOCK_BYTES_MAX",
    "BLOCK_ENTRIES_MAX",
    "VALUE_LZ4_BYTES_MIN",
    "decode_block",
    "decode_entry",
    "decode_value",
    "encode_block",
    "encode_entry",
    "encode_value",
    "find_in_block",
]

VALUE_LZ4_BYTES_MIN: Final = 1_024
"""From this size on a value is compressed by itself; below, that takes as long as msgpack and saves some hundred octets."""

_VALUE: Final = 0x10
_VALUE_LZ4: Final = 0x11
_ENTRY: Final = 0x14
_VALUE_HEAD: Final = bytes((_VALUE,))
_VALUE_LZ4_HEAD: Final = bytes((_VALUE_LZ4,))
_ENTRY_HEAD: Final = struct.Struct(">BI")
_ENTRY_BODY: Final = struct.Struct(">QQQ")
_ENTRY_BYTES: Final = _ENTRY_HEAD.size + _ENTRY_BODY.size

_ARRAY_CODE: Final = 78
_SCALAR_CODE: Final = 110
_KEPT: Final = frozenset({bytes, str, int, float, bool, type(None), list, dict, tuple})
_PLAIN: Final = FeatureCodec.PLAIN


def encode_value(value: Any, *, codec: FeatureCodec) -> bytes:
    """The value as bytes, at most `VALUE_BYTES_MAX` of them. Raises `FeatureValueError` for what cannot be kept."""
    if type(value) not in _KEPT and not is_array(value):
        raise FeatureValueError(f"values of {type(value).__name__} are not kept; see `feature_codec` for what is")
    try:
        data = _VALUE_HEAD + _ENCODE[codec](value)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise FeatureValueError(f"a value cannot be kept: {error}") from error
    return data if len(data) < VALUE_LZ4_BYTES_MIN else _large(data, codec=codec)


def decode_value(data: bytes) -> Any:
    """The value that `encode_value` was given. Raises `FeatureCorruptError` for anything else."""
    form = data[:1]
    try:
        if form == _VALUE_HEAD:
            return _decode(data[1:])
        if form == _VALUE_LZ4_HEAD and int.from_bytes(data[1:5], "little") <= VALUE_BYTES_MAX:
            return _decode(lz4.block.decompress(data[1:]))
    except FeatureCorruptError:
        raise
    except Exception as error:
        raise FeatureCorruptError(f"a value is damaged: {error}") from error
    raise FeatureCorruptError(f"no value of a known version begins with {form.hex() or 'nothing'}, or it is too large")


def encode_entry(entry: Entry) -> bytes:
    """One write as one string, with a checksum. Raises `FeatureValueError` for numbers beyond 64 bits.

    The order is big-endian at octets 5 to 20, counted from 0, so that a script may compare the orders of two strings.
    """
    value, stamp, writer, expires_at_unix_ms = entry
    if value == b"":
        raise FeatureValueError("no encoded value is empty; None is a tombstone")
    try:
        body = _ENTRY_BODY.pack(stamp, writer, expires_at_unix_ms) + (value or b"")
    except struct.error as error:
        raise FeatureValueError(f"an entry's numbers do not fit 64 bits: {error}") from None
    return _ENTRY_HEAD.pack(_ENTRY, crc32(body)) + body


def decode_entry(data: bytes) -> Entry:
    """The entry that `encode_entry` was given. Raises `FeatureCorruptError` for anything else."""
    if not _ENTRY_BYTES <= len(data) <= _ENTRY_BYTES + VALUE_BYTES_MAX or data[0] != _ENTRY:
        raise FeatureCorruptError("no entry of a known version")
    body = data[_ENTRY_HEAD.size :]
    if crc32(body).to_bytes(4, "big") != data[1 : _ENTRY_HEAD.size]:
        raise FeatureCorruptError("an entry's checksum is wrong")
    stamp, writer, expires_at_unix_ms = _ENTRY_BODY.unpack_from(body)
    return Entry(body[_ENTRY_BODY.size :] or None, stamp, writer, expires_at_unix_ms)


def _large(data: bytes, *, codec: FeatureCodec) -> bytes:
    if len(data) > VALUE_BYTES_MAX:
        raise FeatureValueError(f"a value of {len(data)} bytes; {VALUE_BYTES_MAX} may be kept, models are artifacts")
    if codec is _PLAIN:
        return data
    small = _VALUE_LZ4_HEAD + lz4.block.compress(memoryview(data)[1:])
    return small if len(small) < len(data) - len(data) // 16 else data


def _extended(value: Any, *, codec: FeatureCodec) -> msgspec.msgpack.Ext:
    if not is_array(value):
        raise FeatureValueError(f"values of {type(value).__name__} are not kept; see `feature_codec` for what is")
    code = _ARRAY_CODE if type(value).__name__ == "ndarray" else _SCALAR_CODE
    return msgspec.msgpack.Ext(code, array_bytes(value, codec))


def _extension(code: int, body: memoryview) -> Any:
    if code == _ARRAY_CODE:
        return array_of(body)
    if code == _SCALAR_CODE:
        array = array_of(body)
        return array[()] if array.shape == () else _refuse_scalar()
    return msgspec.msgpack.Ext(code, bytes(body))


def _refuse_scalar() -> NoReturn:
    raise FeatureCorruptError("a scalar has dimensions")


_ENCODE: Final = {
    codec: msgspec.msgpack.Encoder(enc_hook=partial(_extended, codec=codec)).encode for codec in FeatureCodec
}
_decode: Final = msgspec.msgpack.Decoder(ext_hook=_extension).decode
