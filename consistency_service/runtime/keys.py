"""The keys of a node: what it signs with, whom it believes, and which publishers it lets in; renewed while it runs.

Picture changing the locks of a house with people in it: first everybody gets the new key beside the old, then the locks are
changed one by one, then the old keys are collected. `region_trust` is the list of keys that count, the same on every node
during a change; a node signs with another key only once that list names it, so that steps done in the wrong order leave
everything as it was. All files are small and read again every second; what cannot be read changes nothing and is counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection
from typing import Final, TypeVar

from consistency_service.errors import ConfigError, SignatureRefusedError
from consistency_service.runtime.ports import KeyFiles
from edge_client.protocol.envelope import Signer, parse_trust
from edge_client.protocol.models import Version
from edge_client.protocol.signature_policy import SignatureMode, SignaturePolicy
from edge_client.protocol.signatures import FAULTS, Publishers

_log = logging.getLogger(__name__)
LOOK_S: Final = 1.0
_T = TypeVar("_T")


class NodeKeys:
    """Signer, verifier and publishers of one node. Raises `ConfigError` for files that make no sense at the start."""

    def __init__(self, *, signer: Signer, files: KeyFiles | None = None, signatures: str = "off") -> None:
        self.signer = signer
        self.counters: Counter[str] = Counter()
        self._files = files
        self._told: dict[str, str] = {}
        self._trust_text = self._publishers_text = ""
        self.verifier = signer.verifier()
        publishers = None
        try:
            if files is not None and files.has_trust:
                self._take_trust(files.trust_text())
            if files is not None and files.has_publishers:
                self._publishers_text = files.publishers_text()
                publishers = Publishers.parse(self._publishers_text)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        self._policy = SignaturePolicy(mode=SignatureMode(signatures), publishers=publishers)

    async def run(self) -> None:
        """Look until cancelled; return at once where there is nothing to look at."""
        files = self._files
        if files is None or not (files.has_trust or files.has_publishers):
            return
        while True:
            await asyncio.sleep(LOOK_S)
            if files.has_trust:
                await self._look("region_trust", files.trust_text, self._renew_trust)
                await self._look("region_key", files.signer, self._renew_signer)
            if files.has_publishers:
                await self._look("publishers", files.publishers_text, self._renew_publishers)

    def require_signed(self, model: str, version: Version, *, revoked: Collection[str]) -> None:
        """The version may be registered as far as `signatures` goes. Raises `SignatureRefusedError`."""
        word = self._policy.fault(model, version, revoked=revoked)
        if word is not None:
            self.counters["registrations_refused"] += 1
            raise SignatureRefusedError(word, meaning=FAULTS[word])

    def shown(self) -> dict[str, object]:
        """Which key signs, and which are believed; plain JSON values, nothing secret."""
        return {"signing": self.signer.key_id.hex(), "trusted": sorted(key.hex() for key in self.verifier.keys)}

    # ---- helpers

    async def _look(self, name: str, read: Callable[[], _T], renew: Callable[[_T], bool]) -> None:
        try:
            renewed = renew(await asyncio.to_thread(read))
        except (ConfigError, ValueError) as error:
            self.counters[f"{name}_unusable"] += 1
            if self._told.get(name) != str(error):
                self._told[name] = str(error)
                _log.error("keys_unusable setting=%s consequence=as_before reason=%s", name, error)
            return
        self._told.pop(name, None)
        if renewed:
            self.counters[f"{name}_renewed"] += 1
            _log.warning("keys_renewed setting=%s signing=%s believed=%s", name, self.signer, self.shown()["trusted"])

    def _renew_trust(self, text: str) -> bool:
        if text == self._trust_text:
            return False
        self._take_trust(text)
        return True

    def _take_trust(self, text: str) -> None:
        keys = parse_trust(text)
        if self.signer.key_id not in keys:
            raise ValueError(
                f"region_trust does not name {self.signer.key_id.hex()}, the key that this node signs with"
            )
        self.verifier.renew(keys)
        self._trust_text = text

    def _renew_signer(self, other: Signer) -> bool:
        if other.key_id == self.signer.key_id:
            return False
        if other.key_id not in self.verifier.keys:
            raise ValueError(f"region_key is {other.key_id.hex()} now, which region_trust does not name")
        self.signer.become(other)
        return True

    def _renew_publishers(self, text: str) -> bool:
        if text == self._publishers_text:
            return False
        self._policy.renew(Publishers.parse(text))
        self._publishers_text = text
        return True
