"""In and out of bytes: what is recorded for ever, and everything that must be refused with a stable word."""

import json
from pathlib import Path
from random import Random

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_client.protocol.envelope import Signer
from edge_client.protocol.messages import (
    EDGE_FRAME_BYTES_MAX,
    EDGE_FRAME_VERSION,
    REGION_FRAME_BYTES_MAX,
    ClockRequest,
    EdgeReport,
    Event,
    MessageError,
    SnapshotChunk,
    decode_edge,
    decode_region,
    decode_snapshot,
    encode_edge,
    encode_region,
    encode_snapshot,
)
from edge_client.protocol.position import Position
from edge_client.protocol.subjects import Subjects
from tests.unit.protocol.wire_messages import EDGE_MESSAGES, NONCE, REGION_MESSAGES, SNAPSHOT

SIGNER = Signer(Ed25519PrivateKey.from_private_bytes(bytes(32)))
VERIFIER = SIGNER.verifier()
WIRE_V1 = {
    name: bytes.fromhex(text) for name, text in json.loads(Path(__file__).with_name("wire_v1.json").read_text()).items()
}
HEADER_BYTES = 73
HUGE = b"\xff\xff\xff\xff"


def _edge(payload: bytes) -> bytes:
    return bytes((EDGE_FRAME_VERSION,)) + payload


def _with_field(payload: bytes, name: str, value: bytes) -> bytes:
    """The map of up to 14 fields `payload` with one more, whose encoded value is `value`."""
    assert 0x80 <= payload[0] < 0x8F
    return bytes((payload[0] + 1,)) + payload[1:] + msgspec.msgpack.encode(name) + value


def _region_refusal(payload: bytes) -> str:
    return _refusal(decode_region, SIGNER.sign(payload), verifier=VERIFIER)


def _refusal(decode, *args, **kwargs) -> str:
    with pytest.raises(MessageError) as caught:
        decode(*args, **kwargs)
    assert str(caught.value).startswith(f"message refused: {caught.value.reason}")
    assert len(str(caught.value)) < 300
    return caught.value.reason


# ---- the bytes of version 1


def test_every_type_is_recorded():
    assert set(WIRE_V1) == {*REGION_MESSAGES, *EDGE_MESSAGES, "snapshot"}


@pytest.mark.parametrize("name", REGION_MESSAGES)
def test_what_the_region_says_is_these_bytes(name):
    frame = encode_region(REGION_MESSAGES[name], signer=SIGNER)

    assert WIRE_V1[name] == frame[HEADER_BYTES:]
    assert REGION_MESSAGES[name] == decode_region(frame, verifier=VERIFIER)
    assert REGION_MESSAGES[name] == decode_region(SIGNER.sign(WIRE_V1[name]), verifier=VERIFIER)


@pytest.mark.parametrize("name", EDGE_MESSAGES)
def test_what_edges_say_is_these_bytes(name):
    assert WIRE_V1[name] == encode_edge(EDGE_MESSAGES[name])
    assert EDGE_MESSAGES[name] == decode_edge(WIRE_V1[name])


def test_a_snapshot_is_these_bytes():
    assert WIRE_V1["snapshot"] == encode_snapshot(SNAPSHOT)
    assert decode_snapshot(WIRE_V1["snapshot"]) == SNAPSHOT


def test_what_was_recorded_before_versions_were_signed_is_understood():
    text = Path(__file__).with_name("wire_before_signatures.json").read_text()
    before = {name: bytes.fromhex(payload) for name, payload in json.loads(text).items()}

    event = decode_region(SIGNER.sign(before["event"]), verifier=VERIFIER)
    snapshot, report = decode_snapshot(before["snapshot"]), decode_edge(before["edge_report"])

    assert isinstance(event, Event) and isinstance(report, EdgeReport)
    assert event.publishers_revoked == snapshot.publishers_revoked == ()
    assert "" == event.trace
    assert {""} == {view.pending.trace for view in (*event.models, *snapshot.models) if view.pending}
    assert [v.signatures for view in (*event.models, *snapshot.models) for v in view.versions.values()] == [(), ()]
    assert report.models[0].untrusted == "" and report.models[0].model == "digits"


def test_positions_and_ids_are_read_from_the_message():
    event = REGION_MESSAGES["event"]

    assert event.position == SNAPSHOT.position == Position(2, 42)
    assert str(event.position) == "e2 r42"
    assert event.message_id == "2-42"
    assert REGION_MESSAGES["beacon"].position == Position(1_700_000_000, 42)


# ---- newer sides


@pytest.mark.parametrize("value", [b"\xc0", b"\x93\x01\x02\x03", b"\x81\xa1a\xc4\x01\x00", b"\xc7\x01\x05\x00"])
def test_fields_of_a_newer_side_are_ignored(value):
    beacon, request = WIRE_V1["beacon"], WIRE_V1["clock_request"][1:]

    assert REGION_MESSAGES["beacon"] == decode_region(
        SIGNER.sign(_with_field(beacon, "later", value)), verifier=VERIFIER
    )
    assert EDGE_MESSAGES["clock_request"] == decode_edge(_edge(_with_field(request, "later", value)))


def test_types_of_a_newer_side_are_refused():
    payload = msgspec.msgpack.encode({"type": "later", "epoch": 1})

    assert _region_refusal(payload) == "undecodable"
    assert _refusal(decode_edge, _edge(payload)) == "undecodable"


# ---- one thing is not another


@pytest.mark.parametrize("name", EDGE_MESSAGES)
def test_an_edge_cannot_speak_as_the_region_nor_the_region_as_an_edge(name):
    assert _refusal(decode_region, WIRE_V1[name], verifier=VERIFIER) in {"truncated", "unknown_key"}
    assert _region_refusal(WIRE_V1[name][1:]) == "undecodable"


@pytest.mark.parametrize("name", REGION_MESSAGES)
def test_a_signed_message_is_no_edge_message_and_no_snapshot(name):
    frame = encode_region(REGION_MESSAGES[name], signer=SIGNER)

    assert _refusal(decode_edge, frame) == "undecodable"
    assert _refusal(decode_edge, _edge(frame[HEADER_BYTES:])) == "undecodable"
    assert _refusal(decode_snapshot, frame[HEADER_BYTES:]) == "undecodable"


def test_a_bare_snapshot_is_no_signed_message():
    assert _region_refusal(WIRE_V1["snapshot"]) == "undecodable"


@pytest.mark.parametrize("name", REGION_MESSAGES)
def test_a_payload_under_another_type_is_refused(name):
    """Each type requires fields that no other has, so renaming the type inside is refused, not misread."""
    fields = msgspec.msgpack.decode(WIRE_V1[name])

    for other in REGION_MESSAGES.keys() - {name}:
        assert _region_refusal(msgspec.msgpack.encode(fields | {"type": other})) == "undecodable"


# ---- hostile bytes


def test_bad_frames_are_refused_with_their_reason():
    frame = encode_region(REGION_MESSAGES["beacon"], signer=SIGNER)

    assert _refusal(decode_region, b"", verifier=VERIFIER) == "truncated"
    assert _refusal(decode_region, b"\x02" + frame[1:], verifier=VERIFIER) == "unknown_version"
    assert _refusal(decode_region, frame[:-1], verifier=VERIFIER) == "bad_signature"
    assert _refusal(decode_region, frame + bytes(REGION_FRAME_BYTES_MAX), verifier=VERIFIER) == "oversized"
    assert _refusal(decode_edge, b"") == "unknown_version"
    assert _refusal(decode_edge, b"\x02" + WIRE_V1["clock_request"][1:]) == "unknown_version"
    assert _refusal(decode_edge, _edge(bytes(EDGE_FRAME_BYTES_MAX))) == "oversized"


def test_what_is_too_large_is_not_sent():
    def chunk(size: int) -> SnapshotChunk:
        return SnapshotChunk(epoch=1, nonce=NONCE, revision=1, index=0, count=1, data=bytes(size))

    overhead = len(encode_region(chunk(100_000), signer=SIGNER)) - 100_000
    largest = encode_region(chunk(REGION_FRAME_BYTES_MAX - overhead), signer=SIGNER)

    assert len(largest) == REGION_FRAME_BYTES_MAX
    assert decode_region(largest, verifier=VERIFIER).epoch == 1
    assert _refusal(encode_region, chunk(REGION_FRAME_BYTES_MAX - overhead + 1), signer=SIGNER) == "oversized"
    assert _refusal(encode_edge, ClockRequest(nonce=bytes(EDGE_FRAME_BYTES_MAX))) == "oversized"


SMALL_REPORT = msgspec.msgpack.encode(
    {"type": "edge_report", "edge_id": "e", "life_id": "l", "epoch": 1, "revision": 1}
)
SMALL_EVENT = msgspec.msgpack.encode({"type": "event", "epoch": 1, "revision": 1, "name": "x", "at_unix_ms": 1})

HOSTILE_VALUES = {
    "array of 4 billion": ("models", b"\xdd" + HUGE),
    "map of 4 billion": ("labels", b"\xdf" + HUGE),
    "string of 4 billion": ("site", b"\xdb" + HUGE),
    "unknown array of 4 billion": ("later", b"\xdd" + HUGE),
    "unknown bytes of 4 billion": ("later", b"\xc6" + HUGE),
    "unknown nesting": ("later", b"\x91" * 60_000 + b"\xc0"),
    "never used": ("site", b"\xc1"),
    "not utf-8": ("site", b"\xa2\xff\xfe"),
    "number for a string": ("site", b"\x01"),
    "bytes for a string": ("site", b"\xc4\x01a"),
    "string for a number": ("uncertainty_ns", b"\xa11"),
    "float for a number": ("uncertainty_ns", b"\xcb?\xf0\x00\x00\x00\x00\x00\x00"),
    "truth for a number": ("uncertainty_ns", b"\xc3"),
    "number for a truth": ("leaving", b"\x01"),
    "map for an array": ("models", b"\x80"),
    "null for a map": ("labels", b"\xc0"),
    "wrong element": ("models", b"\x91\x01"),
    "element without its fields": ("switches", b"\x91\x80"),
    "wrong value in a map": ("reads", b"\x81\xa1a\xa1b"),
}


@pytest.mark.parametrize("name, value", HOSTILE_VALUES.values(), ids=HOSTILE_VALUES.keys())
def test_hostile_values_from_edges_are_refused(name, value):
    assert isinstance(decode_edge(_edge(SMALL_REPORT)), EdgeReport)
    assert _refusal(decode_edge, _edge(_with_field(SMALL_REPORT, name, value))) == "undecodable"


HOSTILE_DETAILS = {
    "nesting": b"\x81\xa1a" + b"\x91" * 100_000 + b"\xc0",
    "unhashable key": b"\x81\xa1a\x81\x80\xc0",
    "array of 4 billion": b"\x81\xa1a\xdd" + HUGE,
    "impossible timestamp": b"\x81\xa1a\xd7\xff" + b"\xff" * 8,
}


@pytest.mark.parametrize("value", HOSTILE_DETAILS.values(), ids=HOSTILE_DETAILS.keys())
def test_hostile_details_under_a_good_signature_are_refused(value):
    assert isinstance(decode_region(SIGNER.sign(SMALL_EVENT), verifier=VERIFIER), Event)
    assert _region_refusal(_with_field(SMALL_EVENT, "detail", value)) == "undecodable"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc0",
        b"\x80",
        b"\x90",
        b"\x81\x01\x02",
        b"\x81\x80\xc0",
        msgspec.msgpack.encode({"type": 1}),
        msgspec.msgpack.encode({"type": b"clock_request", "nonce": b""}),
        msgspec.msgpack.encode({"nonce": b""}),
        msgspec.msgpack.encode({"type": "clock_request"}),
        WIRE_V1["clock_request"][1:] + b"\x00",
    ],
    ids=repr,
)
def test_payloads_that_are_no_message_are_refused(payload):
    assert _refusal(decode_edge, _edge(payload)) == "undecodable"
    assert _region_refusal(payload) == "undecodable"


@pytest.mark.parametrize(
    "terms",
    [
        {"lease_ms": 0},
        {"margin_ms": 1},
        {"rho_ppm": -1},
        {"rho_ppm": 1_000_000, "margin_ms": 10_000},
        {"rho_ppm": 2_000_000},
    ],
    ids=repr,
)
def test_a_snapshot_with_impossible_terms_is_refused(terms):
    fields = msgspec.msgpack.decode(WIRE_V1["snapshot"]) | {"terms": terms}

    assert _refusal(decode_snapshot, msgspec.msgpack.encode(fields)) == "undecodable"


@pytest.mark.parametrize("name", WIRE_V1)
def test_damaged_bytes_never_do_worse_than_a_refusal(name):
    """Truncations at every length, then random damage; whatever still decodes is a message of some type."""
    rng, wire = Random(f"damage {name}"), WIRE_V1[name]
    is_edge, reasons = name in EDGE_MESSAGES, set[str]()

    def decode(payload: bytes) -> None:
        try:
            if is_edge:
                decode_edge(payload)
            elif name == "snapshot":
                decode_snapshot(payload)
            else:
                decode_region(SIGNER.sign(payload), verifier=VERIFIER)
        except MessageError as error:
            reasons.add(error.reason)

    for length in range(len(wire)):
        decode(wire[:length])
    for _ in range(500):
        damaged = bytearray(wire)
        for _ in range(rng.choice((1, 1, 3, 10))):
            damaged[rng.randrange(len(damaged))] = rng.choice((rng.randrange(256), 0xDD, 0xDF, 0xC1, 0xFF))
        decode(bytes(damaged))
    assert reasons == ({"undecodable", "unknown_version"} if is_edge else {"undecodable"})


# ---- subjects


def test_subjects_of_a_region():
    subjects = Subjects("eu-west")

    assert [
        subjects.beacon,
        subjects.event,
        subjects.stream,
        subjects.clock,
        subjects.clock_of("c1"),
        subjects.snapshot,
        subjects.report,
    ] == [
        "ccs.eu-west.beacon",
        "ccs.eu-west.event",
        "CCS_eu-west_EVENTS",
        "ccs.eu-west.clock",
        "ccs.eu-west.clock.c1",
        "ccs.eu-west.snapshot",
        "ccs.eu-west.report",
    ]


@pytest.mark.parametrize("region", ["", "eu.west", "eu west", "EU", "x" * 65, "*", ">"])
def test_a_region_is_one_token_of_a_subject(region: str):
    with pytest.raises(ValueError, match="a region is named"):
        Subjects(region)
