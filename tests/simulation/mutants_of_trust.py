"""What is believed, switched to believing more: signatures, digests, clocks that break, local tiers, a dead bus.

As in `mutants`; the faults these rules stand against are drawn seldom, so they are set.
"""

# ruff: noqa: ARG005 -- what stands in for a method has its arguments

from __future__ import annotations

from typing import Any

import msgspec

from consistency_service.core import restoring
from consistency_service.core.authority import Authority
from edge_client.core import served
from edge_client.core.served import Served
from edge_client.protocol.digest import Digest
from edge_client.protocol.envelope import Verifier
from edge_client.protocol.reader import FOREVER_NS, Reader
from edge_client.runtime.state import EdgeState
from tests.simulation.artifacts import play_artifacts
from tests.simulation.clock import MS
from tests.simulation.forger import HEAD_BYTES
from tests.simulation.mutant import STRONG, Mutant, Patch
from tests.simulation.workload import Activation


def _signatures_not_verified(patch: Patch) -> None:
    patch.setattr(Verifier, "open", lambda self, frame, *, bytes_max: frame[HEAD_BYTES:])


def _digests_not_compared(patch: Patch) -> None:
    patch.setattr(Digest, "__eq__", lambda self, other: True)


def _clock_shown_while_distrusted(patch: Patch) -> None:
    patch.setattr(Authority, "clock_is_trusted", True)


def _waits_go_on(patch: Patch) -> None:
    """Being trusted again begins nothing anew."""

    def trusted(self: Authority, *, now_ns: int) -> None:
        self._clock_trusted = True

    def silent(self: Authority, *, now_ns: int) -> bool:
        return not self._machine.state.epoch or now_ns < self._silent_until_ns

    patch.setattr(Authority, "clock_trusted", trusted)
    patch.setattr(Authority, "silent", silent)


def _told_by_distrusted(patch: Patch) -> None:
    def passed(self: Activation, node, clock_id, position, outcome, now_ns: int) -> None:
        self._told(node, position, outcome, now_ns)

    patch.setattr(Activation, "_instant_passed", passed)


def _samples_outlive_distrust(patch: Patch) -> None:
    patch.setattr(Reader, "own_clock_distrusted", lambda self, *, now_ns: None)
    patch.setattr(Reader, "own_clock_trusted", lambda self, *, now_ns: ())


def _distrusted_clock_keeps_its_name(patch: Patch) -> None:
    """And the authority that it had."""
    patch.setattr(Authority, "clock_distrusted", lambda self, clock_id, *, now_ns: ())


def _lease_outlives_epoch(patch: Patch) -> None:
    unpatched = Reader.epoch_began

    def began(self: Reader, position, *, terms, now_ns: int):
        lease_ns, clocks = self._lease_until_ns, dict(self._clocks)
        effects = unpatched(self, position, terms=terms, now_ns=now_ns)
        if self._trusted:
            self._lease_until_ns = lease_ns
            self._clocks.update(clocks)
        return effects

    patch.setattr(Reader, "epoch_began", began)


def _any_epoch_counts(patch: Patch) -> None:
    """Beacons and clock replies of another epoch count as if they were of ours."""
    beacon_received, clock_reply_received = Reader.beacon_received, Reader.clock_reply_received

    def beacon(self: Reader, message, *, now_ns: int):
        return beacon_received(self, replace(message, epoch=self.position.epoch), now_ns=now_ns)

    def reply(self: Reader, message, *, now_ns: int):
        return clock_reply_received(self, replace(message, epoch=self.position.epoch), now_ns=now_ns)

    patch.setattr(Reader, "beacon_received", beacon)
    patch.setattr(Reader, "clock_reply_received", reply)


def _last_outlives_history(patch: Patch) -> None:
    """What was served last stays the fallback when the model is another, or the history is."""
    unpatched = Served.view_applied

    def applied(self: Served, view, *, position, now_ns: int) -> None:
        last = self._last
        unpatched(self, view, position=position, now_ns=now_ns)
        self._last = last

    patch.setattr(Served, "view_applied", applied)


def _restored_is_strong(patch: Patch) -> None:
    """What the local tier kept is believed for a lease."""
    unpatched = EdgeState.restored

    def restored(self: EdgeState, words, *, kept_unix_ms, now_ns: int) -> bool:
        done = unpatched(self, words, kept_unix_ms=kept_unix_ms, now_ns=now_ns)
        if done:
            self._reader._lease_until_ns = now_ns + self._reader.terms.lease_ns
        return done

    patch.setattr(EdgeState, "restored", restored)


def _immediate_is_strong(patch: Patch) -> None:
    unpatched = served._next

    def following(pending, *, strong_until_ns: int):
        return unpatched(pending, strong_until_ns=FOREVER_NS if pending.immediate else strong_until_ns)

    patch.setattr(served, "_next", following)


def _nobody_resigns_for_the_bus(patch: Patch) -> None:
    patch.setattr(Authority, "peer_bus_works", lambda self, *, now_ns: ())


def _restore_keeps_pending(patch: Patch) -> None:
    patch.setattr(restoring._Restoring, "_drop_the_rest", lambda self: {})


def _restore_drops_everything(patch: Patch) -> None:
    patch.setattr(restoring._Restoring, "_is_built_on", lambda self, model: False)


def _restore_keeps_the_epoch(patch: Patch) -> None:
    unpatched = restoring._Restoring.begin

    def begin(self, *, epoch: int, author: str, at_unix_ms: int):
        return unpatched(self, epoch=self.state.epoch, author=author, at_unix_ms=at_unix_ms)

    patch.setattr(restoring._Restoring, "begin", begin)


replace = msgspec.structs.replace

_LOOSE: dict[str, Any] = {"fault_every_ns": 300 * MS}
_LOOSE_FAULTS = frozenset({"distrust", "loose_clock", "election"})

TRUST_MUTANTS = (
    Mutant(
        name="signatures not verified",
        install=_signatures_not_verified,
        breaks=STRONG | {"history", "position", "bound", "broke"},
        plus=frozenset({"forged"}),
    ),
    Mutant(
        name="digests not compared",
        install=_digests_not_compared,
        breaks=frozenset({"digest"}),
        play=play_artifacts,
    ),
    Mutant(
        name="a lease outlives its epoch",
        install=_lease_outlives_epoch,
        plus=frozenset({"restore"}),
        known_seed=16,
    ),
    Mutant(
        name="messages of any epoch count",
        install=_any_epoch_counts,
        breaks=STRONG | {"bound"},
        plus=frozenset({"restore"}),
        known_seed=1,
    ),
    Mutant(
        name="what was served outlives its history",
        install=_last_outlives_history,
        breaks=frozenset({"cohort"}),
        known_seed=23,
        plus=frozenset({"restore", "slow_load"}),
    ),
    Mutant(
        name="a restore keeps pending activations",
        install=_restore_keeps_pending,
        breaks=frozenset({"broke"}),
        plus=frozenset({"restore"}),
    ),
    Mutant(
        name="a restore drops what rollouts stand on",
        install=_restore_drops_everything,
        breaks=frozenset({"broke"}),
        plus=frozenset({"restore", "rollouts", "murder"}),
        caught_within=400,
    ),
    Mutant(
        name="a restore keeps the epoch",
        install=_restore_keeps_the_epoch,
        breaks=STRONG | {"position", "history", "broke"},
        plus=frozenset({"restore"}),
    ),
    Mutant(
        name="a distrusted clock keeps its name",
        install=_distrusted_clock_keeps_its_name,
        plus=_LOOSE_FAULTS,
        directed=_LOOSE,
    ),
    Mutant(
        name="clock shown while distrusted",
        install=_clock_shown_while_distrusted,
        breaks=STRONG | {"contradiction"},
        plus=_LOOSE_FAULTS,
        directed=_LOOSE,
    ),
    Mutant(
        name="waits go on while the clock is distrusted",
        known_seed=1,
        install=_waits_go_on,
        plus=_LOOSE_FAULTS,
        directed=_LOOSE,
    ),
    Mutant(
        name="told by a distrusted clock",
        install=_told_by_distrusted,
        breaks=frozenset({"inversion"}),
        plus=_LOOSE_FAULTS,
        directed=_LOOSE,
    ),
    Mutant(
        name="samples outlive distrust",
        install=_samples_outlive_distrust,
        breaks=STRONG | {"bound", "contradiction"},
        plus=_LOOSE_FAULTS,
        directed=_LOOSE,
    ),
    Mutant(
        name="what was restored is strong",
        install=_restored_is_strong,
        breaks=STRONG | {"unjustified"},
        plus=frozenset({"local_tier", "crash"}),
    ),
    Mutant(name="immediate activations are strong", install=_immediate_is_strong),
    Mutant(
        name="nobody resigns for a dead bus",
        known_seed=2,
        install=_nobody_resigns_for_the_bus,
        breaks=frozenset({"heal"}),
        directed={"deaf_at_the_end": True},
    ),
)
