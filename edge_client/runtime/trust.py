"""Reads the files of what this edge believes again, so that keys change without a restart.

Two files: the region's keys (`trust`) and the publishers'. Files are small and read whole every two seconds, which needs
no word of how they were replaced. A file that is missing, half written or makes no sense changes nothing: what was
believed before is believed on, counted and said once. Move files into place rather than write into them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from edge_client.errors import ConfigError
from edge_client.protocol.envelope import Verifier, parse_trust
from edge_client.protocol.signature_policy import SignatureMode, SignaturePolicy
from edge_client.protocol.signatures import Publishers

if TYPE_CHECKING:
    from edge_client.config import EdgeConfig
    from edge_client.runtime.models import Models
    from edge_client.runtime.ports import Clock
    from edge_client.runtime.state import EdgeState

_log = logging.getLogger(__name__)
LOOK_NS: Final = 2_000_000_000


class Trust:
    """What this edge believes, renewed when its files change. Raises `ConfigError` for what makes no sense at the start."""

    def __init__(self, *, config: EdgeConfig, clock: Clock) -> None:
        self._clock = clock
        self._told: dict[str, str] = {}
        self.counters: Counter[str] = Counter()
        self._config = config
        self._region_text, self._publishers_text = config.trust_text(), config.publishers_text()
        try:
            self.verifier = Verifier.from_trust(self._region_text)
        except ValueError as error:
            raise ConfigError(f"trust: {error}") from error
        try:
            publishers = Publishers.parse(self._publishers_text) if config.publishers else None
        except ValueError as error:
            raise ConfigError(f"publishers: {error}") from error
        self.policy = SignaturePolicy(mode=SignatureMode(config.signatures), publishers=publishers)

    async def run(self, *, state: EdgeState, models: Models) -> None:
        """Look until cancelled, and tell them what changed; return at once where there are no files."""
        while self._config.trust_is_file or self._config.publishers_is_file:
            await self._clock.sleep_until(self._clock.now_ns() + LOOK_NS)
            if self._config.trust_is_file and await self._renewed(self._renew_region):
                state.evidence_doubted(now_ns=self._clock.now_ns())
            if self._config.publishers_is_file and await self._renewed(self._renew_publishers):
                models.publishers_changed()

    async def _renewed(self, renew: Callable[[], Awaitable[bool]]) -> bool:
        try:
            renewed = await renew()
        except (ConfigError, ValueError) as error:
            self.counters["trust_unreadable"] += 1
            if self._told.get(renew.__name__) != str(error):
                self._told[renew.__name__] = str(error)
                _log.error("trust_unreadable consequence=believed_as_before reason=%s", error)
            return False
        if renewed:
            self._told.pop(renew.__name__, None)
            self.counters["trust_renewed"] += 1
            keys = ",".join(key_id.hex() for key_id in self.verifier.keys)
            _log.warning("trust_renewed region=%s policy=%r", keys, self.policy)
        return renewed

    async def _renew_region(self) -> bool:
        text = await asyncio.to_thread(self._config.trust_text)
        if text == self._region_text:
            return False
        self.verifier.renew(parse_trust(text))
        self._region_text = text
        return True

    async def _renew_publishers(self) -> bool:
        text = await asyncio.to_thread(self._config.publishers_text)
        if text == self._publishers_text:
            return False
        self.policy.renew(Publishers.parse(text))
        self._publishers_text = text
        return True
