"""Everything that is kept comes back as it was; whatever else is read is found damaged, and nothing worse."""

from contextlib import suppress
from zlib import crc32

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edge_client.errors import FeatureCorruptError, FeatureValueError
from edge_client.protocol.feature_classes import FeatureCodec
from edge_client.protocol.feature_codec import (
    decode_block,
    decode_entry,
    decode_value,
    encode_block,
    encode_entry,
    encode_value,
    find_in_block,
)
from edge_client.protocol.features import Entry

LOSSLESS = [FeatureCodec.PLAIN, FeatureCodec.LZ4, FeatureCodec.SHUFFLE]
INTEGERS = st.integers(-(2**63), 2**64 - 1)
NUMBERS = st.integers(0, 2**64 - 1) | st.integers(0, 300)
SCALARS = st.none() | st.booleans() | INTEGERS | st.floats(allow_nan=False) | st.text() | st.binary(max_size=3_000)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text() | INTEGERS, inner, max_size=6),
    max_leaves=20,
)
DTYPES = (
    arrays.boolean_dtypes()
    | arrays.integer_dtypes(endianness="?")
    | arrays.unsigned_integer_dtypes(endianness="?")
    | arrays.floating_dtypes(endianness="?", sizes=(16, 32, 64))
    | arrays.complex_number_dtypes(endianness="?", sizes=(64, 128))
    | arrays.byte_string_dtypes(min_len=1)
    | arrays.unicode_string_dtypes(min_len=1)
    | arrays.datetime64_dtypes(endianness="?")
    | arrays.timedelta64_dtypes(endianness="?")
)
ARRAYS = arrays.arrays(DTYPES, arrays.array_shapes(min_dims=0, min_side=0, max_side=8))
FLOATS = arrays.arrays(
    arrays.floating_dtypes(endianness="?", sizes=(16, 32, 64)), arrays.array_shapes(min_dims=0, min_side=0, max_side=20)
)
ENCODED = st.builds(lambda value: encode_value(value, codec=FeatureCodec.LZ4), VALUES)
ENTRIES = st.builds(Entry, st.none() | ENCODED, NUMBERS, NUMBERS, st.integers(0, 2**62))
BLOCKS = st.dictionaries(st.text(), ENTRIES, min_size=1, max_size=20)


@settings(derandomize=True, deadline=None)
@given(value=VALUES, codec=st.sampled_from(FeatureCodec))
def test_values_come_back_with_their_types(value, codec):
    data = encode_value(value, codec=codec)

    assert repr(value) == repr(decode_value(data))


@settings(derandomize=True, deadline=None, max_examples=200)
@given(array=ARRAYS, codec=st.sampled_from(LOSSLESS))
def test_arrays_come_back_octet_by_octet(array, codec):
    alone = decode_value(encode_value(array, codec=codec))
    [inside] = decode_value(encode_value({"camera": [array]}, codec=codec))["camera"]

    for back in (alone, inside):
        assert (array.dtype, array.shape, array.tobytes()) == (back.dtype, back.shape, back.tobytes())
        assert back.flags.writeable
        assert back.flags.aligned


@settings(derandomize=True, deadline=None)
@given(scalar=ARRAYS.filter(lambda array: array.size > 0).map(lambda array: array.ravel()[0]))
def test_scalars_of_numpy_come_back_as_such(scalar):
    back = decode_value(encode_value([scalar], codec=FeatureCodec.INT8))[0]

    assert type(scalar) is type(back)
    assert scalar.dtype == back.dtype
    assert scalar.tobytes() == back.tobytes()


@settings(derandomize=True, deadline=None, max_examples=200)
@given(array=FLOATS)
def test_half_precision_errs_as_little_as_it_says(array):
    back = decode_value(encode_value(array, codec=FeatureCodec.FLOAT16))

    assert (array.dtype, array.shape) == (back.dtype, back.shape)
    if np.isfinite(array).all():
        exact, inexact = array.astype(np.float64), back.astype(np.float64)
        assert (abs(exact - inexact) <= np.maximum(abs(exact) * 2.0**-11, 2.0**-25)).all()
    else:
        assert array.tobytes() == back.tobytes()


@settings(derandomize=True, deadline=None, max_examples=200)
@given(array=FLOATS)
def test_octets_with_a_scale_err_as_little_as_they_say(array):
    back = decode_value(encode_value(array, codec=FeatureCodec.INT8))

    assert (array.dtype, array.shape) == (back.dtype, back.shape)
    if np.isfinite(array).all():
        exact, inexact = (a.astype(np.longdouble) for a in (array, back))
        with np.errstate(over="ignore"):
            rounding = np.spacing(abs(back)).astype(np.longdouble) / 2
        largest = abs(exact).max(initial=0)
        assert (abs(exact - inexact) <= largest * (1 / np.longdouble(254) + np.longdouble(2) ** -50) + rounding).all()
    else:
        assert array.tobytes() == back.tobytes()


@settings(derandomize=True, deadline=None)
@given(entry=ENTRIES)
def test_entries_come_back(entry):
    assert entry == decode_entry(encode_entry(entry))


@settings(derandomize=True, deadline=None)
@given(first=ENTRIES, second=ENTRIES)
def test_orders_compare_as_octets(first, second):
    one, two = encode_entry(first)[5:21], encode_entry(second)[5:21]

    assert (first.order < second.order) == (one < two)


@settings(derandomize=True, deadline=None)
@given(entries=BLOCKS, codec=st.sampled_from(FeatureCodec), data=st.data())
def test_blocks_come_back_whole_and_in_parts(entries, codec, data):
    payload = encode_block(entries, codec=codec)
    keys = data.draw(st.lists(st.sampled_from(list(entries)) | st.text(), max_size=8))

    assert list(entries.items()) == list(decode_block(payload).items())
    assert {key: entries[key] for key in keys if key in entries} == find_in_block(payload, keys)


def damaged(draw, data):
    """A prefix, an octet changed, some put in or taken out, something after the end."""
    place, length = draw(st.integers(0, len(data) - 1)), draw(st.integers(0, 8))
    other = draw(st.binary(max_size=8))
    return draw(
        st.sampled_from(
            [
                data[:place],
                data[:place] + bytes((data[place] ^ draw(st.integers(1, 255)),)) + data[place + 1 :],
                data[:place] + other + data[place + length :],
                data + other,
            ]
        )
    )


KEPT = (type(None), bool, int, float, str, bytes, list, dict, np.ndarray, np.generic)


@settings(derandomize=True, deadline=None, max_examples=400)
@given(value=VALUES | ARRAYS | st.lists(ARRAYS, max_size=3), codec=st.sampled_from(FeatureCodec), data=st.data())
@pytest.mark.filterwarnings("error")
def test_a_damaged_value_is_refused_or_is_a_value(value, codec, data):
    try:
        back = decode_value(damaged(data.draw, encode_value(value, codec=codec)))
    except FeatureCorruptError:
        return
    again = encode_value(back, codec=FeatureCodec.PLAIN) if isinstance(back, KEPT) else b""
    repr(back)
    assert again or type(back).__name__ in {"Ext", "datetime"}


@settings(derandomize=True, deadline=None, max_examples=200)
@given(entry=ENTRIES, data=st.data())
def test_a_damaged_entry_is_refused(entry, data):
    encoded = encode_entry(entry)
    hurt = damaged(data.draw, encoded)
    if hurt != encoded:
        with pytest.raises(FeatureCorruptError):
            decode_entry(hurt)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(entries=BLOCKS, codec=st.sampled_from([FeatureCodec.PLAIN, FeatureCodec.LZ4]), data=st.data())
def test_a_damaged_block_is_refused_or_is_the_same(entries, codec, data):
    """A flag of the frame that nobody reads may change and leave what it holds; what it holds has a checksum."""
    payload = encode_block(entries, codec=codec)
    hurt = damaged(data.draw, payload)
    for read in (decode_block, lambda block: find_in_block(block, list(entries))):
        with suppress(FeatureCorruptError):
            assert entries == read(hurt)


COLUMN = (
    st.integers(-(2**63), 2**64 - 1)
    | st.integers(0, 3)
    | st.binary(max_size=16)
    | st.sampled_from([bytes(8), bytes(16)])
)


@settings(derandomize=True, deadline=None, max_examples=400)
@given(
    keys=st.lists(st.sampled_from("abc"), max_size=3),
    columns=st.tuples(COLUMN, COLUMN, COLUMN, COLUMN),
    values=st.binary(max_size=6),
)
def test_columns_that_lie_under_a_right_checksum_are_refused(keys, columns, values):
    data = msgspec.msgpack.encode((keys, *columns, values))
    payload = b"\x12" + crc32(data).to_bytes(4, "big") + data
    for read in (decode_block, lambda block: find_in_block(block, ["a"]), lambda block: find_in_block(block, "abcdef")):
        with suppress(FeatureCorruptError):
            for entry in read(payload).values():
                assert entry.value is None or entry.value in values
                assert min(entry.stamp, entry.writer, entry.expires_at_unix_ms) >= 0


@settings(derandomize=True, deadline=None, max_examples=200)
@given(data=st.binary(max_size=200), head=st.sampled_from([b"", b"\x10", b"\x11", b"\x12", b"\x13", b"\x14"]))
def test_noise_is_refused_or_is_a_value(data, head):
    for read in (decode_value, decode_entry, decode_block, lambda block: find_in_block(block, ["a"])):
        with suppress(FeatureCorruptError):
            read(head + data)


@settings(derandomize=True, deadline=None)
@given(
    value=st.sets(st.integers())
    | st.complex_numbers()
    | st.integers(min_value=2**64)
    | st.integers(max_value=-(2**63) - 1)
)
def test_what_is_not_kept_is_refused_when_it_is_written(value):
    with pytest.raises(FeatureValueError):
        encode_value(value, codec=FeatureCodec.LZ4)
