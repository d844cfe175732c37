"""Who vouches for these bytes? A publisher signs a version; whoever holds the publisher's public key can tell.

The region's own signature says "this is what was decided"; a publisher's says "I made this, under this name". What is
signed is a short text (the statement) that names model, version, digest, size and metadata, behind a line that no other
protocol signs, so that a signature counts for this one version of this one model and cannot be moved to another. Being
lines of text it can be shown to people, and signed by whatever holds the key:
`openssl pkeyutl -sign -rawin -inkey publisher.key -in statement`.

A signature travels as one line, `ed25519 KEY_ID BASE64`. Keys are believed by lines too, as regions are:

    ccs-publisher-key ed25519 KEY_ID BASE64 [models=PREFIX,PREFIX]
    ccs-revoked KEY_ID

Who does not know of signatures leaves them out and is understood.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from edge_client.protocol.envelope import key_id_of, key_words, parse_key_words
from edge_client.protocol.models import Version

FORMAT: Final = 1
SIGNATURES_MAX: Final = 4
"""Of one version, each by another key."""
SIGNATURE_CHARS_MAX: Final = 128
KEYS_MAX: Final = 256
REVOKED_MAX: Final = 1_000
PUBLISHER_PREFIX: Final = "ccs-publisher-key ed25519"
REVOKED_PREFIX: Final = "ccs-revoked"
KEY_ID_PATTERN: Final = re.compile(r"[0-9a-f]{16}")

UNSIGNED: Final = "unsigned"
FAULTS: Final = {
    "unknown_publisher": "no key that is believed here signed it",
    "publisher_not_allowed": "the key that signed it may not sign this model",
    "publisher_revoked": "the key that signed it was revoked",
    "bad_signature": "its signature is not one of these bytes under this name",
    UNSIGNED: "nobody signed it",
}
"""Stable words for why a version is not vouched for, each with what it means. Of several signatures the latest word here is told."""
_SEVERITY: Final = tuple(FAULTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublisherKey:
    """A publisher that is believed, for models whose names begin with one of `prefixes`; none: for all."""

    key: Ed25519PublicKey
    prefixes: tuple[str, ...] = ()

    def may_sign(self, model: str) -> bool:
        return not self.prefixes or model.startswith(self.prefixes)


class Publishers:
    """The publishers that are believed. Immutable, and safe to share between threads."""

    def __init__(self, keys: Mapping[str, PublisherKey], *, revoked: Collection[str] = ()) -> None:
        if not keys:
            raise ValueError("publishers need at least one ccs-publisher-key line")
        self.keys = dict(keys)
        self.revoked = frozenset(revoked)

    @classmethod
    def parse(cls, text: str) -> Publishers:
        """Read a publishers file. Raises `ValueError` that names the line; a file that names no key is refused too."""
        keys: dict[str, PublisherKey] = {}
        revoked: set[str] = set()
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip() or line.startswith("#"):
                continue
            if len(keys) >= KEYS_MAX or len(revoked) >= REVOKED_MAX:
                raise ValueError(f"more than {KEYS_MAX} keys or {REVOKED_MAX} revocations")
            try:
                if line.split()[0] == REVOKED_PREFIX:
                    revoked.add(_revoked_id(line.split()))
                else:
                    key_id, publisher = _publisher(line.split())
                    keys[key_id] = publisher
            except (ValueError, binascii.Error) as error:
                raise ValueError(f"line {number} of the publishers: {error}") from None
        return cls(keys, revoked=revoked)

    def fault(self, model: str, version: Version, *, revoked: Collection[str] = ()) -> str | None:
        """None if a key that is believed signed just this; else a word of `FAULTS`. `revoked` adds to our own list."""
        if not version.signatures:
            return UNSIGNED
        faults = [self._fault_of(line, model, version, revoked=revoked) for line in version.signatures[:SIGNATURES_MAX]]
        return None if None in faults else max((f for f in faults if f), key=_SEVERITY.index)

    def _fault_of(self, line: str, model: str, version: Version, *, revoked: Collection[str]) -> str | None:
        try:
            key_id, signature = parse_signature(line)
            signed = statement(model, version)
        except ValueError:
            return "bad_signature"
        if key_id in self.revoked or key_id in revoked:
            return "publisher_revoked"
        publisher = self.keys.get(key_id)
        if publisher is None:
            return "unknown_publisher"
        try:
            publisher.key.verify(signature, signed)
        except InvalidSignature:
            return "bad_signature"
        return None if publisher.may_sign(model) else "publisher_not_allowed"

    def __repr__(self) -> str:
        return f"<Publishers {' '.join(sorted(self.keys))} revoked={len(self.revoked)}>"


def statement(model: str, version: Version) -> bytes:
    """What is signed for this version. Raises `ValueError` where a name could be read as more than one line."""
    for word in (model, version.version, version.digest):
        if not word or not word.isascii() or not word.isprintable() or " " in word:
            raise ValueError(f"{word[:100]!r} cannot be signed: names are visible ASCII without spaces")
    metadata = json.dumps(version.metadata, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
    lines = (
        f"ccs-artifact-signature {FORMAT}",
        f"model {model}",
        f"version {version.version}",
        f"digest {version.digest}",
        f"size {version.size_bytes}",
        f"metadata sha256:{hashlib.sha256(metadata).hexdigest()}",
    )
    return "".join(line + "\n" for line in lines).encode("ascii")


def sign_version(key: Ed25519PrivateKey, *, model: str, version: Version) -> str:
    """The signature line of this version by this key. Raises `ValueError` as `statement` does."""
    signature = key.sign(statement(model, version))
    return f"ed25519 {key_id_of(key.public_key()).hex()} {base64.b64encode(signature).decode()}"


def parse_signature(line: str) -> tuple[str, bytes]:
    """Key id and signature of a line. Raises `ValueError`; whether it is a signature of anything is not looked at."""
    words = line.split(" ")
    if len(line) > SIGNATURE_CHARS_MAX or len(words) != 3 or words[0] != "ed25519":
        raise ValueError("a signature is 'ed25519 KEY_ID BASE64'")
    try:
        signature = base64.b64decode(words[2], validate=True)
    except binascii.Error:
        signature = b""
    if KEY_ID_PATTERN.fullmatch(words[1]) is None or len(signature) != 64:
        raise ValueError("a signature is 'ed25519 KEY_ID BASE64'")
    return words[1], signature


def publisher_line(key: Ed25519PublicKey, *, prefixes: Collection[str] = ()) -> str:
    """The line of a publishers file that names this key, for models that begin with one of `prefixes`."""
    line = f"{PUBLISHER_PREFIX} {key_words(key)}"
    return f"{line} models={','.join(prefixes)}" if prefixes else line


def _publisher(words: list[str]) -> tuple[str, PublisherKey]:
    if len(words) not in (4, 5) or " ".join(words[:2]) != PUBLISHER_PREFIX:
        raise ValueError("expected 'ccs-publisher-key ed25519 KEY_ID BASE64 [models=PREFIX,PREFIX]'")
    key = parse_key_words(words[2], words[3])
    prefixes: tuple[str, ...] = ()
    if len(words) == 5:
        prefixes = tuple(words[4].removeprefix("models=").split(","))
        if not words[4].startswith("models=") or not all(prefixes):
            raise ValueError("expected models=PREFIX,PREFIX without spaces")
    return words[2], PublisherKey(key=key, prefixes=prefixes)


def _revoked_id(words: list[str]) -> str:
    if len(words) != 2 or KEY_ID_PATTERN.fullmatch(words[1]) is None:
        raise ValueError("expected 'ccs-revoked KEY_ID', 16 hexadecimal digits")
    return words[1]
