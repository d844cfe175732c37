"""May this version come in here, as far as its publisher is concerned? The same question at an edge and at a node.

Picture a doorman with a list. `off`: everybody comes in. `check`: who shows a pass must show a good one. `require`: nobody
comes in without one. The doorman stands at the door only: whoever is inside when the list gets shorter is reported and
stays, because throwing out what a fleet serves is a decision of the region, made for all edges at one instant
(decision 0013). What counts as a good pass is the business of `signatures`.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from edge_client.protocol.models import Version
    from edge_client.protocol.signatures import Publishers

KNOWN_MAX: Final = 4_096


class SignatureMode(StrEnum):
    """What is asked of a version before an edge loads it, or a node registers it."""

    OFF = "off"
    CHECK = "check"
    REQUIRE = "require"


class SignaturePolicy:
    """Judges versions by the publishers of now. Remembers what it found, since verifying costs a tenth of a millisecond."""

    def __init__(self, *, mode: SignatureMode, publishers: Publishers | None) -> None:
        assert mode is SignatureMode.OFF or publishers is not None
        self.mode = mode
        self._publishers = publishers
        self._known: dict[tuple[str, str], tuple[Version, Collection[str], str | None]] = {}

    def renew(self, publishers: Publishers) -> None:
        """From now on these are believed."""
        self._publishers = publishers
        self._known.clear()

    def fault(self, model: str, version: Version, *, revoked: Collection[str]) -> str | None:
        """None if it may be loaded, else a word of `signatures.FAULTS`; `revoked` is what the region told."""
        if self.mode is SignatureMode.OFF or self._publishers is None:
            return None
        if self.mode is SignatureMode.CHECK and not version.signatures:
            return None
        known = self._known.get((model, version.version))
        if known is not None and known[0] == version and known[1] is revoked:
            return known[2]
        word = self._publishers.fault(model, version, revoked=revoked)
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        self._known[model, version.version] = (version, revoked, word)
        return word

    def __repr__(self) -> str:
        return f"<SignaturePolicy {self.mode} {self._publishers!r}>"
