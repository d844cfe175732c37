"""Somebody on the bus who reads everything, may say anything, and holds no key of the region.

Picture a clerk at the post office with scissors and glue: frames are copied, altered, signed with another key, put into
other envelopes, broken by a bit, and sent again long after. What honest processes say travels as values here, for speed;
the clerk's frames are real bytes, and the product's own `decode_region` stands between them and each reader.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_client.protocol.envelope import Signer
from edge_client.protocol.messages import (
    Beacon,
    ClockReply,
    Event,
    MessageError,
    SnapshotChunk,
    decode_region,
    encode_region,
)
from edge_client.protocol.models import Assignment
from tests.simulation.clock import MS, on_grain

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World

REGION: Final = Signer(Ed25519PrivateKey.from_private_bytes(b"r" * 32))
STRANGER: Final = Signer(Ed25519PrivateKey.from_private_bytes(b"s" * 32))
HEAD_BYTES: Final = 73
"""Version, key id and signature; the payload follows."""
FRAMES_KEPT: Final = 30
CHANCE: Final = 0.03


class Forger:
    """Copies, alters and repeats. Its chances are its own, so that it changes no run in which it does not act."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = Random(f"forger {world.knobs.seed}")
        self._verifier = REGION.verifier()
        self._kept: dict[str, deque[bytes]] = defaultdict(lambda: deque(maxlen=FRAMES_KEPT))

    def sees(self, target: Process, act: Callable[..., None], args: tuple[Any, ...]) -> None:
        """Something is on its way to `target`."""
        if self._rng.random() >= CHANCE or not isinstance(args[0], (Beacon, ClockReply, Event, SnapshotChunk)):
            return
        kept = self._kept[act.__name__]
        genuine = encode_region(args[0], signer=REGION)
        kept.append(genuine)
        chance = self._rng.random()
        if chance < 0.3:
            frame = self._rng.choice(kept)
        elif chance < 0.5:
            frame = self._broken(genuine)
        else:
            frame = self._altered(args[0], genuine)
        limit_ns = self._rng.choice((1, 2 * self._world.knobs.lease_ms * MS))
        delay_ns = on_grain(1 + self._rng.randrange(limit_ns))
        self._world.at(self._world.now_ns + delay_ns, self._arrive, target, act, frame)

    def _broken(self, frame: bytes) -> bytes:
        at = self._rng.randrange(len(frame))
        return frame[:at] + bytes((frame[at] ^ 1 << self._rng.randrange(8),)) + frame[at + 1 :]

    def _altered(self, message: Any, genuine: bytes) -> bytes:
        """What the region never said, under a stranger's signature, under the region's key id, or under a true signature
        of something else."""
        forged = encode_region(self._lie(message), signer=STRANGER)
        kind = self._rng.randrange(3)
        if kind == 0:
            return forged
        if kind == 1:
            return genuine[:9] + forged[9:]
        return genuine[:HEAD_BYTES] + forged[HEAD_BYTES:]

    def _lie(self, message: Any) -> Any:
        rng, replace = self._rng, msgspec.structs.replace
        match message:
            case Beacon():
                t0_ns = self._world.clocks[message.clock_id].read(self._world.now_ns)
                return replace(message, t0_ns=t0_ns, revision=max(1, message.revision - rng.randrange(3)))
            case ClockReply():
                return replace(message, stamped_at_ns=message.stamped_at_ns - rng.randrange(3_000 * MS))
            case Event(models=()):
                return replace(message, removed=self._world.models[:1])
            case Event():
                assignment = Assignment(stable=rng.choice(sorted(message.models[0].versions) or ["1.0.0"]))
                view = replace(message.models[0], assignment=assignment, generation=message.models[0].generation + 1)
                return replace(message, models=(view, *message.models[1:]))
        return replace(message, revision=message.revision + 1)

    def _arrive(self, target: Process, act: Callable[..., None], frame: bytes) -> None:
        if target.name in self._world.bus.cannot_hear:
            return
        seen = self._world.judge.seen
        try:
            message = decode_region(frame, verifier=self._verifier)
        except MessageError as error:
            seen[f"forged_{error.reason}"] += 1
            return
        seen["frames_replayed"] += 1
        target.run(None, act, message)
