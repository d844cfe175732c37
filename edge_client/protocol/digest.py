"""What identifies an artifact: `sha256:` and 64 hexadecimal digits of its bytes.

Both sides compute it the same way, over the plain bytes and nothing else. A digest in any other spelling (upper case,
another algorithm, white space) is refused, so that one artifact has exactly one name.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from edge_client.errors import ProtocolError

ALGORITHM: Final = "sha256"
_DIGEST_PATTERN: Final = re.compile(r"sha256:[0-9a-f]{64}")


class InvalidDigestError(ProtocolError, ValueError):
    """The text is not a digest. `text` holds its first 100 characters."""

    def __init__(self, text: str) -> None:
        super().__init__(f"not a digest (sha256: and 64 lower-case hexadecimal digits): {text[:100]!r}")
        self.text = text[:100]


@dataclass(frozen=True, slots=True)
class Digest:
    """A well-formed digest; `str` gives its one spelling."""

    hex: str

    def __post_init__(self) -> None:
        if _DIGEST_PATTERN.fullmatch(f"{ALGORITHM}:{self.hex}") is None:
            raise InvalidDigestError(f"{ALGORITHM}:{self.hex}")

    @classmethod
    def parse(cls, text: str) -> Digest:
        """The digest that `text` spells. Raises `InvalidDigestError`, a `ValueError`."""
        if _DIGEST_PATTERN.fullmatch(text) is None:
            raise InvalidDigestError(text)
        return cls(text.removeprefix(f"{ALGORITHM}:"))

    @classmethod
    def of(cls, content: bytes) -> Digest:
        """The digest of bytes that are in memory anyway."""
        return cls(hashlib.sha256(content).hexdigest())

    def __str__(self) -> str:
        return f"{ALGORITHM}:{self.hex}"


class Hasher:
    """Computes a digest while the bytes stream past, and counts them."""

    __slots__ = ("_sha256", "size_bytes")

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self.size_bytes = 0

    def update(self, chunk: bytes | bytearray | memoryview) -> None:
        """Add the next bytes."""
        self._sha256.update(chunk)
        self.size_bytes += memoryview(chunk).nbytes

    def digest(self) -> Digest:
        """The digest of everything added so far."""
        return Digest(self._sha256.hexdigest())
