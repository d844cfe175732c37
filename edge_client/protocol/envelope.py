"""Who said this? Everything the region says is signed; whoever reads it holds the public key and drops the rest.

A signed frame is `version | key id (8) | signature (64) | payload`. The signature (Ed25519, RFC 8032) covers a domain
string, version, key id and payload; the payload names its own type and epoch, so that a frame cannot be replayed as
another kind or in another epoch. Replays within an epoch are harmless by design: everything counts from the instants
inside. Keys change without a pause: several are trusted for a while, and each frame names the one that signed it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

FRAME_VERSION = 1
_DOMAIN = b"ccs-region-frame\x00"
_KEY_ID_BYTES = 8
_SIGNATURE_BYTES = 64
_HEADER_BYTES = 1 + _KEY_ID_BYTES + _SIGNATURE_BYTES
_TRUST_PREFIX = "ccs-region-key ed25519"


class EnvelopeError(ValueError):
    """The frame is not one that a trusted key signed. `reason` is a stable word for counters."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"frame refused: {reason}")
        self.reason = reason


class Signer:
    """Signs as the region. Holds the private key; `repr` shows only the key id. Thread-safe."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self.renew(key)

    def renew(self, key: Ed25519PrivateKey) -> None:
        """From the next frame on, sign with this key."""
        self._signing = (key_id_of(key.public_key()), key)

    def become(self, other: Signer) -> None:
        """From the next frame on, sign with the other's key."""
        self._signing = other._signing  # of our own kind

    @property
    def key_id(self) -> bytes:
        """Of the key that signs now."""
        return self._signing[0]

    @property
    def public_key(self) -> Ed25519PublicKey:
        """By which what is signed now verifies."""
        return self._signing[1].public_key()

    def sign(self, payload: bytes) -> bytes:
        """The signed frame that carries `payload`."""
        key_id, key = self._signing
        head = bytes((FRAME_VERSION,)) + key_id
        return head + key.sign(_DOMAIN + head + payload) + payload

    def verifier(self) -> Verifier:
        """A verifier that trusts the key of now alone."""
        return Verifier({self.key_id: self.public_key})

    def __repr__(self) -> str:
        return f"<Signer {self.key_id.hex()}>"


class Verifier:
    """Accepts frames signed by any of the trusted keys. Thread-safe."""

    def __init__(self, keys: Mapping[bytes, Ed25519PublicKey]) -> None:
        self.renew(keys)

    def renew(self, keys: Mapping[bytes, Ed25519PublicKey]) -> None:
        """From the next frame on, these are trusted and no others. Raises `ValueError`, and keeps the old ones, for none."""
        if not keys:
            raise ValueError("a verifier needs at least one public key")
        self._keys = dict(keys)

    @property
    def keys(self) -> Mapping[bytes, Ed25519PublicKey]:
        """By key id; another mapping after every renewal."""
        return self._keys

    @classmethod
    def from_trust(cls, text: str) -> Verifier:
        """Read a trust file, as `parse_trust` does. Raises `ValueError` for one that names no key, too."""
        return cls(parse_trust(text))

    def open(self, frame: bytes, *, bytes_max: int) -> bytes:
        """The payload of a frame that verifies. Raises `EnvelopeError`."""
        if len(frame) > bytes_max:
            raise EnvelopeError("oversized")
        if len(frame) < _HEADER_BYTES:
            raise EnvelopeError("truncated")
        if frame[0] != FRAME_VERSION:
            raise EnvelopeError("unknown_version")
        head, payload = frame[: 1 + _KEY_ID_BYTES], frame[_HEADER_BYTES:]
        key = self._keys.get(head[1:])
        if key is None:
            raise EnvelopeError("unknown_key")
        try:
            key.verify(frame[1 + _KEY_ID_BYTES : _HEADER_BYTES], _DOMAIN + head + payload)
        except InvalidSignature:
            raise EnvelopeError("bad_signature") from None
        return payload


def key_id_of(key: Ed25519PublicKey) -> bytes:
    """The first 8 bytes of SHA-256 over the raw public key."""
    return hashlib.sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).digest()[:_KEY_ID_BYTES]


def key_words(key: Ed25519PublicKey) -> str:
    """How every line names a public key: `KEY_ID BASE64`."""
    raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return f"{key_id_of(key).hex()} {base64.b64encode(raw).decode()}"


def parse_key_words(key_id: str, encoded: str) -> Ed25519PublicKey:
    """The key of `key_words`. Raises `ValueError`, which `binascii.Error` is too, unless both words belong together."""
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(encoded, validate=True))
    if key_id_of(key).hex() != key_id:
        raise ValueError("the key id does not belong to the key")
    return key


def trust_line(key: Ed25519PublicKey) -> str:
    """The line of a trust file that names this key."""
    return f"{_TRUST_PREFIX} {key_words(key)}"


def parse_trust(text: str) -> dict[bytes, Ed25519PublicKey]:
    """The keys of a trust file by id: one `ccs-region-key ed25519 KEY_ID BASE64` a line. Raises `ValueError` with the line."""
    keys: dict[bytes, Ed25519PublicKey] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.startswith("#"):
            key = parse_trust_line(line, number=number)
            keys[key_id_of(key)] = key
    return keys


def parse_trust_line(line: str, *, number: int = 1) -> Ed25519PublicKey:
    """The public key of one trust line. Raises `ValueError` that names the line."""
    words = line.split()
    try:
        if len(words) != 4 or " ".join(words[:2]) != _TRUST_PREFIX:
            raise ValueError("expected 'ccs-region-key ed25519 KEY_ID BASE64'")
        return parse_key_words(words[2], words[3])
    except (ValueError, binascii.Error) as error:
        raise ValueError(f"line {number} of the trust file: {error}") from None
