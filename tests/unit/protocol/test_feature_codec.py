"""Feature encodings: what stands on the wire for ever, what is refused, and that nothing large is made of little."""

import subprocess
import sys
import tracemalloc
from zlib import crc32

import lz4.block
import lz4.frame
import msgspec
import numpy as np
import pytest

from edge_client.errors import FeatureCorruptError, FeatureValueError
from edge_client.protocol.feature_classes import FeatureCodec
from edge_client.protocol.feature_codec import (
    BLOCK_BYTES_MAX,
    BLOCK_ENTRIES_MAX,
    VALUE_LZ4_BYTES_MIN,
    decode_block,
    decode_entry,
    decode_value,
    encode_block,
    encode_entry,
    encode_value,
    find_in_block,
)
from edge_client.protocol.features import VALUE_BYTES_MAX, Entry

PLAIN, LZ4 = FeatureCodec.PLAIN, FeatureCodec.LZ4
NOW_MS = 1_795_000_000_000
ARRAY = np.array([[1.0, -2.0], [0.5, 3.0]], "<f4")
ENTRY = Entry(encode_value(7, codec=PLAIN), NOW_MS << 20, 0xFEED, NOW_MS + 30_000)
TOMBSTONE = Entry(None, (NOW_MS << 20) + 1, 0xFEED, NOW_MS + 30_000)
BLOCK = {f"track:a:{number}": ENTRY._replace(stamp=ENTRY.stamp + (number << 20)) for number in range(8)}


@pytest.mark.parametrize(
    ("value", "codec", "recorded"),
    [
        (None, PLAIN, "10c0"),
        (-1, PLAIN, "10ff"),
        (2**64 - 1, PLAIN, "10cfffffffffffffffff"),
        (0.5, PLAIN, "10cb3fe0000000000000"),
        ("é", LZ4, "10a2c3a9"),
        (b"\0\xff", LZ4, "10c40200ff"),
        ({"n": [True, None]}, LZ4, "1081a16e92c3c0"),
        (b"a" * 2_000, LZ4, "11d30700004fc507d0610100ffffffffffffffbe506161616161"),
        (ARRAY, PLAIN, "10c71e4e0e000202000000020000003c66340000803f000000c00000003f00004040"),
        (ARRAY, FeatureCodec.SHUFFLE, "10c71e4e0e010202000000020000003c66340000000000000000800000403fc03f40"),
        (ARRAY, FeatureCodec.FLOAT16, "10c7164e0e020202000000020000003c6634003c00c000380042"),
        (ARRAY, FeatureCodec.INT8, "10c71a4e0e030202000000020000003c66340c0683c16030983f2aab157f"),
        (np.uint8(5), LZ4, "10c7076e0600007c753105"),
    ],
)
def test_values_look_as_they_always_did(value, codec, recorded):
    """What LZ4 makes may differ between its versions, so that is read alone."""
    if not recorded.startswith("11"):
        assert recorded == encode_value(value, codec=codec).hex()
    assert encode_value(value, codec=codec) == encode_value(decode_value(bytes.fromhex(recorded)), codec=codec)


def test_entries_look_as_they_always_did():
    recorded = "1485ecc07d1a1ee565e0000000000000000000feed000001a1ee56d3301007"

    assert recorded == encode_entry(ENTRY).hex()
    assert ENTRY == decode_entry(bytes.fromhex(recorded))


@pytest.mark.parametrize(
    ("codec", "recorded"),
    [
        (
            PLAIN,
            (
                "12e83469669698a9747261636b3a613a30a9747261636b3a613a31a9747261636b3a613a32a9747261636b3a613a33a974726163"
                "6b3a613a34a9747261636b3a613a35a9747261636b3a613a36a9747261636b3a613a3702c4400000000000000000000000000000"
                "00000010203040506070e0e0e0e0e0e0e0e06565656565656565e5e5e5e5e5e5e5e51e1e1e1e1e1e1e1e1a1a1a1a1a1a1a1acdfe"
                "edc440302f2e2d2c2b2a297575757575757575000000000000000000000000000000000000000000000000000000000000000000"
                "000000000000000000000000000000c41010071007100710071007100710071007"
            ),
        ),
        (
            LZ4,
            (
                "1304224d186c40ec00000000000000bd6f000000c59698a9747261636b3a613a300a0015310a0015320a0015330a0015340a0015"
                "350a0015360a005c3702c4400001008310203040506070e001001365010013e50100131e0100131a0100e3cdfeedc440302f2e2d"
                "2c2b2a297501000c54000f02000d45c410100702005007100710070000000059db9f36"
            ),
        ),
    ],
)
def test_blocks_look_as_they_always_did(codec, recorded):
    """What LZ4 makes may differ between its versions, so that is read alone."""
    assert BLOCK == decode_block(bytes.fromhex(recorded))
    if codec is PLAIN:
        assert recorded == encode_block(BLOCK, codec=codec).hex()


def test_a_tuple_comes_back_as_a_list_and_a_timestamp_as_itself():
    assert [1, [2]] == decode_value(encode_value((1, (2,)), codec=LZ4))
    stamped = msgspec.msgpack.decode(bytes.fromhex("d6ff00000001"))
    assert [stamped] == decode_value(encode_value([stamped], codec=LZ4))
    foreign = [msgspec.msgpack.Ext(5, b"x")]
    assert foreign == decode_value(encode_value(foreign, codec=LZ4))


def test_the_order_of_an_array_in_memory_is_not_kept_but_its_numbers_are():
    turned = np.arange(600, dtype=">f8").reshape(20, 30).T
    for codec in (PLAIN, LZ4, FeatureCodec.SHUFFLE):
        back = decode_value(encode_value(turned, codec=codec))

        assert (turned == back).all()
        assert turned.dtype == back.dtype


@pytest.mark.parametrize(
    ("codec", "numbers"),
    [
        (FeatureCodec.INT8, [1e-322]),
        (FeatureCodec.INT8, [1e-310, 3e-311]),
        (FeatureCodec.INT8, [1.79e308, 1.0]),
        (FeatureCodec.INT8, [np.nan, 1.0]),
        (FeatureCodec.FLOAT16, [np.inf, 1.3]),
        (FeatureCodec.FLOAT16, [65_505.0, 1.3]),
    ],
)
def test_what_no_error_can_be_promised_for_is_kept_exactly(codec, numbers):
    array = np.array(numbers)

    assert array.tobytes() == decode_value(encode_value(array, codec=codec)).tobytes()


@pytest.mark.parametrize(
    "value",
    [
        *({1}, 1j, object(), 2**64, -(2**63) - 1, "\ud800", bytearray(b"a"), {"a": 1j}, [object]),
        *(np.array([object()]), np.zeros(1, [("x", "f4")]), np.void(b"abc"), np.longdouble(1), np.zeros(2, "c32")),
        *(np.ma.array([1]), {"a": np.ma.array([1])}, np.zeros((1,) * 33), np.empty((0, 2**33)), np.zeros(131_073)),
        *(b"a" * VALUE_BYTES_MAX, ["a" * VALUE_BYTES_MAX]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_kept_is_refused_when_it_is_written(value):
    for codec in FeatureCodec:
        with pytest.raises(FeatureValueError):
            encode_value(value, codec=codec)


def test_a_value_without_end_is_refused():
    endless: list[object] = []
    endless.append(endless)

    with pytest.raises(FeatureValueError):
        encode_value(endless, codec=LZ4)


def test_the_largest_value_comes_back():
    value = bytes(range(256)) * 4_000

    for codec in (PLAIN, LZ4):
        assert value == decode_value(encode_value(value, codec=codec))


def test_a_value_is_compressed_where_that_pays_and_the_class_lets_it():
    similar, random = b"feature" * VALUE_LZ4_BYTES_MIN, np.random.default_rng(1).bytes(VALUE_LZ4_BYTES_MIN * 2)

    assert 0x11 == encode_value(similar, codec=LZ4)[0]
    assert 0x10 == encode_value(similar, codec=PLAIN)[0]
    assert 0x10 == encode_value(random, codec=LZ4)[0]
    assert 0x10 == encode_value(similar[: VALUE_LZ4_BYTES_MIN - 10], codec=LZ4)[0]


def packed(code: int, *, form: int, shape: tuple[int, ...], dtype: bytes, numbers: bytes) -> bytes:
    """A value that is an array's body, whatever it says."""
    head = bytes((form, len(shape))) + b"".join(side.to_bytes(4, "little") for side in shape) + dtype
    return b"\x10" + msgspec.msgpack.encode(msgspec.msgpack.Ext(code, bytes((len(head) + 1,)) + head + numbers))


HOSTILE = {
    "nothing": b"",
    "no msgpack": b"\x10\xc1",
    "an octet too many": b"\x10\x01\x01",
    "an unknown version": b"\x20\x01",
    "a block": encode_block(BLOCK, codec=PLAIN),
    "lz4 of 4 GiB": b"\x11\xff\xff\xff\xff" + lz4.block.compress(b"a" * 5_000)[4:],
    "lz4 of 1 GiB": b"\x11\0\0\0\x40" + lz4.block.compress(b"a" * 5_000)[4:],
    "a hundred times what it says": b"\x11" + lz4.block.compress(b"\x10" * (8 << 20)),
    "lz4 that is longer": b"\x11\x10\0\0\0" + lz4.block.compress(b"a" * 5_000)[4:],
    "lz4 that is shorter": b"\x11\xff\xff\0\0" + lz4.block.compress(b"a" * 5_000)[4:],
    "a list of four thousand million": b"\x10\xdd\xff\xff\xff\xff",
    "lists in lists, each of 65,535": b"\x10" + b"\xdc\xff\xff" * 300_000,
    "a map of four thousand million": b"\x10\xdf\xff\xff\xff\xff",
    "bytes of 4 GiB": b"\x10\xc6\xff\xff\xff\xff",
    "no text": b"\x10\xa2\xff\xff",
    "a map as a key": b"\x10\x81\x80\x01",
    "an instant that is none": b"\x10\xd7\xff" + b"\xff" * 8,
    "an array without a head": b"\x10\xd4\x4e\x00",
    "an array whose head is cut": b"\x10\xd4\x4e\x09",
    "objects": packed(78, form=0, shape=(1,), dtype=b"|O", numbers=bytes(8)),
    "records": packed(78, form=0, shape=(1,), dtype=b"f4,f4", numbers=bytes(8)),
    "a shape in the type": packed(78, form=0, shape=(1,), dtype=b"(9,9)f4", numbers=bytes(324)),
    "an unknown unit of time": packed(78, form=0, shape=(1,), dtype=b"<M8[zz]", numbers=bytes(8)),
    "an array of 2**96 numbers": packed(78, form=0, shape=(2**32 - 1,) * 3, dtype=b"<f4", numbers=b""),
    "an empty array too big for indexes": packed(78, form=0, shape=(0,) + (2**32 - 1,) * 3, dtype=b"<f4", numbers=b""),
    "an array beyond the bound, one octet each": packed(78, form=3, shape=(1 << 18,), dtype=b"<f8", numbers=bytes(8)),
    "the same with all its octets": packed(78, form=3, shape=(1 << 18,), dtype=b"<f8", numbers=bytes(8 + (1 << 18))),
    "numbers behind an empty array": packed(78, form=0, shape=(0,), dtype=b"<f4", numbers=bytes(4)),
    "more numbers than the shape": packed(78, form=0, shape=(1,), dtype=b"<f4", numbers=bytes(8)),
    "fewer numbers than the shape": packed(78, form=0, shape=(3,), dtype=b"<f4", numbers=bytes(8)),
    "33 dimensions": packed(78, form=0, shape=(1,) * 33, dtype=b"<f4", numbers=bytes(4)),
    "an unknown form": packed(78, form=4, shape=(1,), dtype=b"<f4", numbers=bytes(4)),
    "nothing, shuffled": packed(78, form=1, shape=(0,), dtype=b"<f4", numbers=b""),
    "integers of half precision": packed(78, form=2, shape=(1,), dtype=b"<i4", numbers=bytes(2)),
    "a scale that is no number": packed(78, form=3, shape=(1,), dtype=b"<f4", numbers=b"\xff" * 9),
    "a scale beyond the type": packed(
        78, form=3, shape=(1,), dtype=b"<f4", numbers=np.float64(1e300).tobytes() + b"\1"
    ),
    "text that is none": packed(78, form=0, shape=(1,), dtype=b"<U1", numbers=b"\xff" * 4),
    "a scalar with dimensions": packed(110, form=0, shape=(1,), dtype=b"<f4", numbers=bytes(4)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_value_is_refused_and_little_is_allocated(name):
    tracemalloc.start()
    try:
        with pytest.raises(FeatureCorruptError):
            decode_value(HOSTILE[name])
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 2 * VALUE_BYTES_MAX


def frame_of(content: bytes, *, declared: int | None = None, **options: object) -> bytes:
    """A block that holds any LZ4 frame; `declared` in place of its true size, under a right checksum of the head."""
    frame = bytearray(lz4.frame.compress(content, content_checksum=True, **options))
    if declared is not None:
        frame[6:14] = declared.to_bytes(8, "little")
        frame[14] = (xxh32(bytes(frame[4:14])) >> 8) & 0xFF
    return b"\x13" + bytes(frame)


def xxh32(data: bytes) -> int:
    """xxHash of less than 16 octets, with which the head of a frame is guarded (seed 0)."""
    mask = 0xFFFFFFFF

    def rotated(number: int, by: int) -> int:
        return ((number << by) | (number >> (32 - by))) & mask

    total = (374761393 + len(data)) & mask
    while len(data) >= 4:
        total = rotated((total + int.from_bytes(data[:4], "little") * 3266489917) & mask, 17) * 668265263 & mask
        data = data[4:]
    for octet in data:
        total = rotated((total + octet * 374761393) & mask, 11) * 2654435761 & mask
    total = (total ^ (total >> 15)) * 2246822519 & mask
    total = (total ^ (total >> 13)) * 3266489917 & mask
    return total ^ (total >> 16)


ZEROS = bytes(BLOCK_BYTES_MAX + 1)


@pytest.mark.parametrize(
    "payload",
    [
        frame_of(b"a" * 5_000, declared=4 << 30),
        frame_of(b"a" * 5_000, declared=BLOCK_BYTES_MAX),
        frame_of(ZEROS),
        frame_of(ZEROS, declared=100),
        frame_of(b"a" * 5_000, declared=0),
        frame_of(b"a" * 5_000, store_size=False),
        frame_of(b"a" * 5_000) + b"\0",
        frame_of(b"a" * 5_000)[:-1],
        frame_of(b"a" * 5_000) + frame_of(b"a" * 5_000)[1:],
        b"\x13" + b"\x50\x2a\x4d\x18\xff\xff\xff\xff",
        b"\x13",
        b"",
        b"\x10\xc0",
    ],
    ids=range(13),
)
def test_a_hostile_block_is_refused_and_no_more_than_the_bound_is_allocated(payload):
    for read in (decode_block, lambda block: find_in_block(block, ["a"])):
        tracemalloc.start()
        try:
            with pytest.raises(FeatureCorruptError):
                read(payload)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        assert peak_bytes < BLOCK_BYTES_MAX + 10_000_000


def test_the_forged_head_of_a_frame_is_what_lz4_would_write():
    """Otherwise the bombs above would be refused for their checksum, not for what they declare."""
    assert frame_of(b"a" * 5_000) == frame_of(b"a" * 5_000, declared=5_000)
    with pytest.raises(FeatureCorruptError, match="declares 4294967296 bytes"):
        decode_block(frame_of(b"a" * 5_000, declared=4 << 30))


def test_a_block_has_bounds_when_it_is_written():
    many = dict.fromkeys(map(str, range(BLOCK_ENTRIES_MAX + 1)), ENTRY)
    large = dict.fromkeys(map(str, range(17)), ENTRY._replace(value=bytes(VALUE_BYTES_MAX)))
    for entries in ({}, many, large, {"a": ENTRY._replace(value=b"")}, {"\ud800": ENTRY}):
        with pytest.raises(FeatureValueError):
            encode_block(entries, codec=LZ4)
    del many["0"]
    assert many == decode_block(encode_block(many, codec=LZ4))


@pytest.mark.parametrize(
    "wrong", [{"stamp": -1}, {"stamp": 1 << 64}, {"writer": -1}, {"writer": 1 << 64}, {"expires_at_unix_ms": -1}]
)
def test_numbers_that_no_reader_accepts_are_refused_when_a_block_is_written(wrong):
    for others in ({}, BLOCK):
        with pytest.raises(FeatureValueError):
            encode_block({**others, "a": ENTRY._replace(**wrong)}, codec=LZ4)


def test_an_entry_has_bounds_when_it_is_written():
    for entry in (ENTRY._replace(stamp=1 << 64), ENTRY._replace(writer=-1), ENTRY._replace(value=b"")):
        with pytest.raises(FeatureValueError):
            encode_entry(entry)
    assert TOMBSTONE == decode_entry(encode_entry(TOMBSTONE))


def test_tombstones_and_other_writers_come_back_from_a_block():
    entries = {
        **BLOCK,
        "gone": TOMBSTONE,
        "other": ENTRY._replace(writer=1),
        "ever": ENTRY._replace(expires_at_unix_ms=0),
    }
    for codec in (PLAIN, LZ4):
        payload = encode_block(entries, codec=codec)

        assert entries == decode_block(payload)
        assert {"gone": TOMBSTONE} == find_in_block(payload, ["gone", "never there"])
        assert entries == find_in_block(payload, entries)


def columns_of(*columns: object) -> bytes:
    """A block of any columns, under a right checksum."""
    data = msgspec.msgpack.encode(columns)
    return b"\x12" + crc32(data).to_bytes(4, "big") + data


def test_a_key_that_is_twice_in_a_block_is_refused():
    with pytest.raises(FeatureCorruptError, match="twice"):
        decode_block(columns_of(["a", "a"], 2, 1, 1, 1, b"\x10\x01\x10\x02"))


VALUE = b"\x10\x01"


@pytest.mark.parametrize(
    "columns",
    [
        (["a"], 3, 1, 1, 1, VALUE),
        (["a"], -2, 1, 1, 1, VALUE),
        (["a"], b"\x03" + bytes(7), 1, 1, 1, VALUE),
        (["a"], b"\xff" * 8, 1, 1, 1, VALUE),
        (["a"], 2, -1, 1, 1 << 40, VALUE),
        (["a"], 2, 1, -1, 1, VALUE),
        (["a"], 2, 1, 1, -1, VALUE),
        (["a"], 2, 1, 1, b"\xff" * 8, VALUE),
        (["a"], 2, bytes(16), 1, 1, VALUE),
        (["a"], "2", 1, 1, 1, VALUE),
        ([], 2, 1, 1, 1, VALUE),
        ([1], 2, 1, 1, 1, VALUE),
        (["a"], 2, 1, 1, 1),
        ("a", 2, 1, 1, 1, VALUE),
    ],
)
def test_columns_that_lie_are_refused_by_whoever_looks(columns):
    for read in (decode_block, lambda block: find_in_block(block, ["a"])):
        with pytest.raises(FeatureCorruptError):
            read(columns_of(*columns))


def test_finding_looks_at_no_other_value():
    """A value of another key that is no value at all does not matter."""
    entries = {"bad": ENTRY._replace(value=b"\xc1"), "good": ENTRY}

    assert {"good": ENTRY} == find_in_block(encode_block(entries, codec=LZ4), ["good"])


WITHOUT_NUMPY = """
import sys
from edge_client.errors import FeatureCorruptError
from edge_client.protocol.feature_classes import FeatureCodec
from edge_client.protocol.feature_codec import decode_value, encode_value
assert 1 == decode_value(encode_value(1, codec=FeatureCodec.INT8))
assert "numpy" not in sys.modules
sys.modules["numpy"] = None
try:
    decode_value(bytes.fromhex(sys.argv[1]))
except FeatureCorruptError as error:
    print(error)
"""


def test_the_plain_install_reads_everything_but_arrays_and_says_so():
    array = encode_value(ARRAY, codec=PLAIN).hex()
    done = subprocess.run([sys.executable, "-c", WITHOUT_NUMPY, array], capture_output=True, text=True, timeout=50)

    assert ("this value is an array, and NumPy is not installed here\n", "") == (done.stdout, done.stderr)
