"""Digests: the identity of an artifact, parsed without mercy."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_client.errors import ProtocolError
from edge_client.protocol.digest import Digest, Hasher, InvalidDigestError

EMPTY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_of_nothing_is_the_well_known_one() -> None:
    assert str(Digest.of(b"")) == EMPTY
    assert str(Hasher().digest()) == EMPTY


@given(pieces=st.lists(st.binary(max_size=300), max_size=8))
def test_how_the_bytes_were_cut_does_not_matter(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    hasher = Hasher()
    for piece in pieces:
        hasher.update(memoryview(piece))

    assert hasher.digest() == Digest.of(whole) == Digest(hashlib.sha256(whole).hexdigest())
    assert hasher.size_bytes == len(whole)


@given(content=st.binary())
def test_what_it_spells_it_parses(content: bytes) -> None:
    assert Digest.parse(str(Digest.of(content))) == Digest.of(content)


@pytest.mark.parametrize(
    "text",
    [
        *["", "sha256:", EMPTY[:-1], EMPTY + "0", EMPTY.upper(), EMPTY + "\n", " " + EMPTY, EMPTY[7:]],
        *["md5:" + EMPTY[7:], "sha256:" + "g" * 64, "sha256:" + "٣" * 64, "sha256:../" + "a" * 61, "x" * 10_000],
    ],
)
def test_any_other_spelling_is_refused(text: str) -> None:
    with pytest.raises(InvalidDigestError) as caught:
        Digest.parse(text)

    assert {ValueError, ProtocolError} <= set(type(caught.value).__mro__)
    assert len(str(caught.value)) < 300


def test_a_digest_cannot_be_made_of_anything_else() -> None:
    with pytest.raises(InvalidDigestError):
        Digest("../../etc/passwd")
