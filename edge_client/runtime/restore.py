"""Keeps what the region said in the local tier, signed as it came, and starts from it when the region is silent.

Nothing is believed because it lay on our own disk: every frame is verified again, with the same keys, and replayed in
order. What cannot be known is how old it is; wall time gives an estimate, for people.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Final

import msgspec

from edge_client.protocol.messages import Event, MessageError, SnapshotChunk, decode_region
from edge_client.protocol.position import ORIGIN, Position
from edge_client.protocol.reader import NEVER_NS

if TYPE_CHECKING:
    from edge_client.protocol.envelope import Verifier
    from edge_client.runtime.downloads import Downloads
    from edge_client.runtime.models import Models
    from edge_client.runtime.ports import Clock
    from edge_client.runtime.signals import Pulse
    from edge_client.runtime.state import EdgeState
    from edge_client.runtime.tier import Tier

_log = logging.getLogger(__name__)
MS: Final = 1_000_000
SNAPSHOT_KEY: Final = "snapshot"
"""Under this, a slash and the id of the key that signed the first frame. After a change of keys the same position is kept once
more, signed anew; what was kept before versions did so lies under the bare name."""
HEARD_KEY: Final = "heard"
PATIENCE_NS: Final = 1_000 * MS
"""How long the region has to answer before what the local tier kept is used."""
SAVE_APART_NS: Final = 1_000 * MS
HEARD_NS: Final = 5_000 * MS
"""How often it is noted that the state is current: the grain of the age estimate, and of noticing that Redis is away."""
MEND_NS: Final = 30_000 * MS
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[int, list[bytes]])
_heard_decoder = msgspec.msgpack.Decoder(int)

Kept = tuple[list[tuple[Event | SnapshotChunk, bytes]], int]


class Restore:
    """Reads the local tier once, and writes it from then on."""

    def __init__(
        self,
        *,
        state: EdgeState,
        tier: Tier,
        downloads: Downloads,
        models: Models,
        clock: Clock,
        verifier: Verifier,
        pulse: Pulse,
    ) -> None:
        self._state = state
        self._tier = tier
        self._downloads = downloads
        self._models = models
        self._clock = clock
        self._verifier = verifier
        self._pulse = pulse
        self._looked = False
        self.counters: Counter[str] = Counter()

    async def run(self) -> None:
        """Restore if need be; then keep, until cancelled."""
        if not self._tier.present:
            return
        if not self._looked:
            await self._wait_for_region()
            self._looked = True
            if self._state.source == "none":
                await self.restore()
        saved, key, heard_at_ns, mend_at_ns = ORIGIN, "", NEVER_NS, self._clock.now_ns()
        while True:
            mending = self._clock.now_ns() >= mend_at_ns
            position, frames = self._state.evidence()
            if frames and self._state.source == "bus":
                if position > saved or mending or _key_of(frames) != key:
                    await self._save(position, frames)
                saved, key = position, _key_of(frames)
            if self._clock.now_ns() - heard_at_ns >= HEARD_NS and self._state.lease_remaining_ns() > 0:
                heard_at_ns = self._clock.now_ns()
                await self._note_heard(position)
            if mending and self._state.source == "bus":
                await self._downloads.mend_tier(needed=self._models.needed(), named=self._state.named_digests())
                mend_at_ns = self._clock.now_ns() + MEND_NS
            await self._clock.sleep_until(self._clock.now_ns() + SAVE_APART_NS)

    async def restore(self) -> None:
        """Start from the local tier, as far as it proves what it says."""
        found = [await self._kept(key) for key in (SNAPSHOT_KEY, *map(_key_named, self._verifier.keys))]
        if not any(found):
            _log.warning("nothing_to_restore")
            return
        words, kept_unix_ms = max(filter(None, found), key=_reaches)
        kept_unix_ms = max(kept_unix_ms, await self._heard_unix_ms())
        if self._state.restored(words, kept_unix_ms=kept_unix_ms, now_ns=self._clock.now_ns()):
            self.counters["restored"] += 1
            age_ms = max(0, self._clock.unix_ms() - kept_unix_ms)
            _log.warning("restored_from_local_tier position=%s age_estimate_ms=%d", self._state.position, age_ms)
            self._pulse.fire()

    async def _kept(self, key: str) -> Kept | None:
        """The words that still verify, in order, of what was kept under this name, and when that was."""
        stored = await self._tier.get(key)
        if stored is None:
            return None
        try:
            kept_unix_ms, frames = _decoder.decode(stored)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            self.counters["restores_undecodable"] += 1
            return None
        words: list[tuple[Event | SnapshotChunk, bytes]] = []
        for frame in frames:
            try:
                word = decode_region(frame, verifier=self._verifier)
            except MessageError as error:
                self.counters[f"restores_{error.reason}"] += 1
                break
            if isinstance(word, (Event, SnapshotChunk)):
                words.append((word, frame))
        return words, kept_unix_ms

    async def _wait_for_region(self) -> None:
        deadline_ns = self._clock.now_ns() + PATIENCE_NS
        while self._state.source == "none" and self._clock.now_ns() < deadline_ns:
            await self._pulse.wait(clock=self._clock, deadline_ns=deadline_ns)

    async def _save(self, position: Position, frames: tuple[bytes, ...]) -> None:
        value = _encoder.encode((self._clock.unix_ms(), frames))
        if await self._tier.set_if_newer(_key_of(frames), value=value, position=position):
            self.counters["saves"] += 1

    async def _note_heard(self, position: Position) -> None:
        """Remember by wall time that what is kept was current just now; ordered by epoch, then seconds."""
        unix_ms = self._clock.unix_ms()
        await self._tier.set_if_newer(
            HEARD_KEY, value=_encoder.encode(unix_ms), position=Position(position.epoch, unix_ms // 1_000)
        )

    async def _heard_unix_ms(self) -> int:
        stored = await self._tier.get(HEARD_KEY)
        try:
            return 0 if stored is None else _heard_decoder.decode(stored)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            self.counters["restores_undecodable"] += 1
            return 0


def _key_of(frames: tuple[bytes, ...]) -> str:
    return _key_named(frames[0][1:9])


def _key_named(key_id: bytes) -> str:
    return f"{SNAPSHOT_KEY}/{key_id.hex()}"


def _reaches(kept: Kept) -> tuple[Position, int]:
    """How far it leads, and which was kept last of two that lead as far."""
    words, kept_unix_ms = kept
    return max((Position(word.epoch, word.revision) for word, _ in words), default=ORIGIN), kept_unix_ms
