"""Who vouches for a version: signatures that count for it alone, and every way in which they do not."""

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_client.protocol.models import Version
from edge_client.protocol.signatures import (
    FAULTS,
    KEYS_MAX,
    SIGNATURE_CHARS_MAX,
    Publishers,
    parse_signature,
    publisher_line,
    sign_version,
    statement,
)

ALICE, BOB = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (7, 8))
ALICE_ID, BOB_ID = (publisher_line(key.public_key()).split()[2] for key in (ALICE, BOB))
VERSION = Version(version="2.3.0", digest="sha256:" + "0" * 64, size_bytes=1_024, metadata={"commit": "4f2a91c"})
BELIEVED = Publishers.parse(publisher_line(ALICE.public_key()))


def _signed(*keys: Ed25519PrivateKey, model: str = "ocr", version: Version = VERSION) -> Version:
    lines = tuple(sign_version(key, model=model, version=version) for key in keys)
    return msgspec.structs.replace(version, signatures=lines)


def test_what_a_believed_publisher_signed_is_vouched_for():
    assert BELIEVED.fault("ocr", _signed(ALICE)) is None


def test_the_statement_never_changes():
    expected = (
        "ccs-artifact-signature 1\n"
        "model ocr\n"
        "version 2.3.0\n"
        f"digest sha256:{'0' * 64}\n"
        "size 1024\n"
        "metadata sha256:65967df3be409169f57864a29b4225cff03b529c7cdf819f3f73c99af19f8d36\n"
    )

    assert expected == statement("ocr", VERSION).decode()


@pytest.mark.parametrize(
    "changed",
    [
        {"version": "2.3.1"},
        {"digest": "sha256:" + "1" * 64},
        {"size_bytes": 1_025},
        {"metadata": {"commit": "0000000"}},
        {"metadata": {}},
    ],
)
def test_a_signature_cannot_be_moved_to_anything_else(changed):
    assert BELIEVED.fault("ocr", msgspec.structs.replace(_signed(ALICE), **changed)) == "bad_signature"


def test_a_signature_cannot_be_moved_to_another_model():
    assert BELIEVED.fault("ocr-2", _signed(ALICE)) == "bad_signature"


def test_each_fault_has_its_word():
    limited = Publishers.parse(publisher_line(ALICE.public_key(), prefixes=("ocr-", "fraud")))
    revoking = Publishers.parse(f"{publisher_line(ALICE.public_key())}\nccs-revoked {ALICE_ID}\n")
    broken = msgspec.structs.replace(VERSION, signatures=("ed25519 nonsense",))

    found = {
        BELIEVED.fault("ocr", VERSION),
        BELIEVED.fault("ocr", _signed(BOB)),
        limited.fault("ocr", _signed(ALICE)),
        revoking.fault("ocr", _signed(ALICE)),
        BELIEVED.fault("ocr", broken),
    }

    assert found == set(FAULTS)
    assert limited.fault("ocr-latin", _signed(ALICE, model="ocr-latin")) is None
    assert BELIEVED.fault("ocr", _signed(ALICE), revoked={ALICE_ID}) == "publisher_revoked"


def test_one_good_signature_of_several_is_enough_and_the_worst_is_told_otherwise():
    both = Publishers.parse("\n".join(publisher_line(key.public_key()) for key in (ALICE, BOB)))

    assert both.fault("ocr", _signed(ALICE, BOB), revoked={ALICE_ID}) is None
    assert both.fault("ocr", _signed(ALICE, BOB), revoked={ALICE_ID, BOB_ID}) == "publisher_revoked"
    assert BELIEVED.fault("ocr", _signed(ALICE, BOB), revoked={ALICE_ID}) == "publisher_revoked"


def test_only_so_many_signatures_are_looked_at():
    first = _signed(BOB).signatures * 4

    assert BELIEVED.fault("ocr", msgspec.structs.replace(VERSION, signatures=first + _signed(ALICE).signatures))


@pytest.mark.parametrize("name", ["2.3.0\nsize 7", "2.3 .0", "", "2.3.0\x00", "zwei.drei"[:-1] + "é"])
def test_what_could_be_read_as_more_than_one_line_is_never_signed(name):
    with pytest.raises(ValueError, match="cannot be signed"):
        sign_version(ALICE, model="ocr", version=msgspec.structs.replace(VERSION, version=name))

    lines = _signed(ALICE).signatures
    assert BELIEVED.fault("ocr", msgspec.structs.replace(VERSION, version=name, signatures=lines)) == "bad_signature"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "ed25519",
        "rsa 139e3940e64b5491 " + "A" * 86 + "==",
        "ed25519 139E3940E64B5491 " + "A" * 86 + "==",
        "ed25519 139e3940e64b5491 " + "A" * 84,
        "ed25519 139e3940e64b5491 ***",
        "ed25519 139e3940e64b5491  " + "A" * 86 + "==",
        "x" * (SIGNATURE_CHARS_MAX + 1),
    ],
)
def test_what_is_no_signature_line_is_refused(line):
    with pytest.raises(ValueError, match="a signature is"):
        parse_signature(line)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "at least one"),
        ("# nobody\n\n", "at least one"),
        (f"ccs-revoked {ALICE_ID}", "at least one"),
        ("ccs-region-key ed25519 a b", "line 1"),
        (publisher_line(ALICE.public_key()).replace(ALICE_ID, BOB_ID), "does not belong"),
        (publisher_line(ALICE.public_key()) + " models=", "models="),
        (publisher_line(ALICE.public_key()) + " prefixes=a", "models="),
        (publisher_line(ALICE.public_key()) + "\nccs-revoked all", "line 2.*16 hexadecimal"),
        ("ccs-publisher-key ed25519 x ***", "line 1"),
    ],
)
def test_a_publishers_file_that_makes_no_sense_is_refused_with_its_line(text, said):
    with pytest.raises(ValueError, match=said):
        Publishers.parse(text)


def test_a_publishers_file_is_bounded():
    lines = [publisher_line(Ed25519PrivateKey.from_private_bytes(n.to_bytes(32)).public_key()) for n in range(KEYS_MAX)]

    assert len(Publishers.parse("\n".join(lines)).keys) == KEYS_MAX
    with pytest.raises(ValueError, match="more than"):
        Publishers.parse("\n".join([*lines, publisher_line(ALICE.public_key())]))


def test_any_tool_that_signs_the_statement_makes_the_same_signature():
    """Ed25519 is deterministic (RFC 8032), and nothing but the statement is signed."""
    _, signature = parse_signature(sign_version(ALICE, model="ocr", version=VERSION))

    assert ALICE.sign(statement("ocr", VERSION)) == signature
