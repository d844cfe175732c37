"""Who said this: frames that verify, and every way in which they do not."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_client.protocol.envelope import (
    EnvelopeError,
    Signer,
    Verifier,
    key_id_of,
    parse_trust_line,
    trust_line,
)

REGION = Signer(Ed25519PrivateKey.from_private_bytes(bytes(32)))
STRANGER = Signer(Ed25519PrivateKey.from_private_bytes(b"\x01" * 32))
BYTES_MAX = 1_000


def _refusal(frame: bytes, *, verifier: Verifier | None = None, bytes_max: int = BYTES_MAX) -> str:
    with pytest.raises(EnvelopeError) as caught:
        (verifier or REGION.verifier()).open(frame, bytes_max=bytes_max)
    assert str(caught.value) == f"frame refused: {caught.value.reason}"
    return caught.value.reason


@pytest.mark.parametrize("payload", [b"", b"x", b"\x00" * 500])
def test_what_was_signed_is_opened(payload):
    assert payload == REGION.verifier().open(REGION.sign(payload), bytes_max=BYTES_MAX)


def test_the_frame_never_changes():
    expected = (
        "01139e3940e64b5491db2e8bcc9ccd8b7d9027c184fb52a2a6d115999af5bdfb4eec8c62b060bb065f8ff938b9"
        "bfca84ed37a322d57c0b0080e4fb6be4dfdd7e87252508901b1d2c067061796c6f6164"
    )

    assert expected == REGION.sign(b"payload").hex()


def test_every_flipped_bit_is_refused():
    frame = REGION.sign(b"pay")

    for bit in range(len(frame) * 8):
        flipped = bytearray(frame)
        flipped[bit // 8] ^= 1 << bit % 8
        reason = _refusal(bytes(flipped))
        assert reason == ("unknown_version" if bit < 8 else "unknown_key" if bit < 72 else "bad_signature")


def test_every_truncation_is_refused():
    frame = REGION.sign(b"pay")

    for length in range(len(frame)):
        assert _refusal(frame[:length]) == ("truncated" if length < 73 else "bad_signature")


def test_anything_appended_is_refused():
    assert _refusal(REGION.sign(b"pay") + b"\x00") == "bad_signature"


def test_size_is_judged_before_anything_else():
    frame = REGION.sign(b"pay")

    assert REGION.verifier().open(frame, bytes_max=len(frame)) == b"pay"
    assert _refusal(frame, bytes_max=len(frame) - 1) == "oversized"


def test_a_stranger_is_refused_even_under_our_key_id():
    frame = STRANGER.sign(b"pay")

    assert _refusal(frame) == "unknown_key"
    assert _refusal(frame[:1] + REGION.key_id + frame[9:]) == "bad_signature"


def test_a_verifier_may_trust_several_keys_and_must_trust_one():
    both = Verifier.from_trust(
        f"# the region's keys\n\n{trust_line(REGION.public_key)}\n{trust_line(STRANGER.public_key)}\n"
    )

    for signer in (REGION, STRANGER):
        assert both.open(signer.sign(b"pay"), bytes_max=BYTES_MAX) == b"pay"
    with pytest.raises(ValueError, match="at least one public key"):
        Verifier.from_trust("# nobody\n")


def test_repr_shows_no_secret():
    assert repr(REGION) == f"<Signer {REGION.key_id.hex()}>"


def test_a_trust_line_names_its_key():
    key = REGION.public_key
    line = trust_line(key)

    assert line == "ccs-region-key ed25519 139e3940e64b5491 O2onvM62pC1io6jQKm8Nc2UyFXcd4kOmOsBIoYtZ2ik="
    assert key_id_of(parse_trust_line(line)) == REGION.key_id
    assert key_id_of(parse_trust_line(f"  {line}  \n")) == REGION.key_id


KEY_ID = REGION.key_id.hex()
RAW = base64.b64encode(REGION.public_key.public_bytes_raw()).decode()


@pytest.mark.parametrize(
    "line, message",
    [
        ("nonsense", "expected 'ccs-region-key"),
        (f"ccs-region-key rsa {KEY_ID} {RAW}", "expected 'ccs-region-key"),
        (f"ccs-region-key ed25519 {KEY_ID}", "expected 'ccs-region-key"),
        (f"ccs-region-key ed25519 {KEY_ID} {RAW} more", "expected 'ccs-region-key"),
        (f"ccs-region-key ed25519 {KEY_ID} !!!!", "line 3"),
        (f"ccs-region-key ed25519 {KEY_ID} {RAW[:-4]}", "line 3"),
        (f"ccs-region-key ed25519 {KEY_ID} schlüssel", "line 3"),
        (f"ccs-region-key ed25519 {KEY_ID} AAAA", "line 3"),
        (f"ccs-region-key ed25519 {STRANGER.key_id.hex()} {RAW}", "key id does not belong"),
        (f"ccs-region-key ed25519 {KEY_ID.upper()} {RAW}", "key id does not belong"),
    ],
)
def test_a_wrong_trust_line_is_refused_by_its_number(line, message):
    with pytest.raises(ValueError, match=message) as caught:
        Verifier.from_trust(f"# keys\n{trust_line(REGION.public_key)}\n{line}\n")
    assert "line 3 of the trust file" in str(caught.value)


def test_keys_change_from_one_frame_to_the_next():
    key = Ed25519PrivateKey.from_private_bytes(b"\x05" * 32)
    signer, verifier = Signer(Ed25519PrivateKey.from_private_bytes(bytes(32))), REGION.verifier()
    before = signer.sign(b"before")

    signer.renew(key)
    after = signer.sign(b"after")

    assert _refusal(after, verifier=verifier) == "unknown_key"
    verifier.renew({**verifier.keys, signer.key_id: signer.public_key})
    assert (
        verifier.open(before, bytes_max=BYTES_MAX) == b"before"
        and verifier.open(after, bytes_max=BYTES_MAX) == b"after"
    )
    verifier.renew({signer.key_id: signer.public_key})
    assert _refusal(before, verifier=verifier) == "unknown_key"
    with pytest.raises(ValueError, match="at least one"):
        verifier.renew({})
    assert verifier.open(after, bytes_max=BYTES_MAX) == b"after"
