"""Each rule of the slow barrier, switched off: the simulation must notice (protocol, section 11).

A mutant patches functions of the code under test while a run lasts; the product knows nothing of it. `caught_within` is
the number of seeds, counted from 0, within which some run must break one of `breaks`. What is rare among seeds has a
directed scenario besides: knobs that are set on every seed.
"""

# ruff: noqa: ARG005 -- what stands in for a method has its arguments

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from consistency_service.core.authority import Authority, Effect, Instant, Propose, PublishBeacon
from consistency_service.core.commands import ConfirmAuthority
from consistency_service.core.machine import MetadataMachine
from consistency_service.core.outcomes import Outcome
from consistency_service.core.refusals import RefusalError
from edge_client.core.follower import Follower
from edge_client.protocol.clocks import ClockSamples
from edge_client.protocol.drift import Drift
from edge_client.protocol.messages import Beacon
from edge_client.protocol.position import Position
from edge_client.protocol.reader import Reader
from tests.simulation.clock import MS
from tests.simulation.mutant import STRONG, Mutant, Patch
from tests.simulation.mutants_of_rollouts import ROLLOUT_MUTANTS
from tests.simulation.mutants_of_trust import TRUST_MUTANTS
from tests.simulation.node import SimNode
from tests.simulation.workload import Activation

replace = msgspec.structs.replace


def _confirmations(effects: tuple[Effect, ...]) -> list[ConfirmAuthority]:
    """The commands of what `Authority._confirm` wants."""
    commands = [effect.command for effect in effects if isinstance(effect, Propose)]
    return [command for command in commands if isinstance(command, ConfirmAuthority)]


# ---- clocks


def _no_kappa(patch: Patch) -> None:
    patch.setattr(Drift, "faster_ns", lambda self, elapsed_ns: elapsed_ns)
    patch.setattr(Drift, "slower_ns", lambda self, elapsed_ns: elapsed_ns)


def _first_order_kappa(patch: Patch) -> None:
    """1 + 2 rho: the first term of the series."""
    patch.setattr(Drift, "faster_ns", lambda self, ns: -(-ns * (1_000_000 + 2 * self.rho_ppm) // 1_000_000))
    patch.setattr(Drift, "slower_ns", lambda self, ns: ns * 1_000_000 // (1_000_000 + 2 * self.rho_ppm))


def _no_nonce_pairing(patch: Patch) -> None:
    """A reply answers the latest request."""
    unpatched = Reader.clock_reply_received

    def received(self: Reader, reply, *, now_ns: int):
        if self._requests:
            nonce = list(self._requests)[-1]
            self._requests[nonce] = (self._requests[nonce][0], None)
            reply = replace(reply, nonce=nonce)
        return unpatched(self, reply, now_ns=now_ns)

    patch.setattr(Reader, "clock_reply_received", received)


def _stop_by_lo(patch: Patch) -> None:
    unpatched = Reader.standing

    def standing(self: Reader, pending, **more: Any):
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(ClockSamples, "surely_before_until_ns", ClockSamples.surely_reached_from_ns)
            return unpatched(self, pending, **more)

    patch.setattr(Reader, "standing", standing)


def _lease_by_lo(patch: Patch) -> None:
    unpatched = Reader._renew_lease

    def renew(self: Reader) -> None:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(ClockSamples, "surely_before_until_ns", ClockSamples.surely_reached_from_ns)
            unpatched(self)

    patch.setattr(Reader, "_renew_lease", renew)


def _start_by_hi(patch: Patch) -> None:
    patch.setattr(ClockSamples, "surely_reached_from_ns", ClockSamples.surely_before_until_ns)


# ---- beacons


def _no_confirm_round(patch: Patch) -> None:
    """The beacon goes out when it is proposed."""
    unpatched = Authority._confirm
    patch.setattr(Authority, "_beacon", lambda self, command, *, now_ns: ())

    def confirm(self: Authority, *, now_ns: int):
        effects = unpatched(self, now_ns=now_ns)
        state = self._machine.state
        return effects + tuple(
            PublishBeacon(
                beacon=Beacon(
                    epoch=state.epoch,
                    revision=state.revision,
                    clock_id=self.clock_id,
                    assumption=command.assumption,
                    assumed_at_ns=0,
                    t0_ns=command.t0_ns,
                )
            )
            for command in _confirmations(effects)
        )

    patch.setattr(Authority, "_confirm", confirm)


def _lease_from_confirmation(patch: Patch) -> None:
    """`t0` is read when the confirmation applies."""
    unpatched = Authority._beacon
    patch.setattr(
        Authority,
        "_beacon",
        lambda self, command, *, now_ns: unpatched(self, replace(command, t0_ns=now_ns), now_ns=now_ns),
    )


def _revision_at_proposal(patch: Patch) -> None:
    """The beacon names the revision of when it was proposed."""
    unpatched, unpatched_beacon = Authority._confirm, Authority._beacon
    revisions: dict[tuple[str, int, int], int] = {}

    def confirm(self: Authority, *, now_ns: int):
        effects = unpatched(self, now_ns=now_ns)
        for command in _confirmations(effects):
            revisions[command.clock_id, command.assumption, command.number] = self._machine.state.revision
        return effects

    def beacon(self: Authority, command: ConfirmAuthority, *, now_ns: int):
        revision = revisions.get((command.clock_id, command.assumption, command.number))
        return tuple(
            PublishBeacon(beacon=replace(effect.beacon, revision=revision or effect.beacon.revision))
            for effect in unpatched_beacon(self, command, now_ns=now_ns)
            if isinstance(effect, PublishBeacon)
        )

    patch.setattr(Authority, "_confirm", confirm)
    patch.setattr(Authority, "_beacon", beacon)


def _not_caught_up(patch: Patch) -> None:
    unpatched = Reader.beacon_received

    def received(self: Reader, beacon: Beacon, *, now_ns: int):
        if beacon.epoch == self.position.epoch:
            beacon = replace(beacon, revision=min(beacon.revision, self.position.revision))
        return unpatched(self, beacon, now_ns=now_ns)

    patch.setattr(Reader, "beacon_received", received)


# ---- who may speak


def _no_fence(patch: Patch) -> None:
    """Whoever believes to have authority may speak, in the order of numbers of each."""

    def fence(self: MetadataMachine, command) -> None:
        return

    patch.setattr(MetadataMachine, "_pass_fence", fence)


def _fence(self: MetadataMachine, command, *, assumption: bool, number: bool) -> None:
    authority = self.state.authority
    if authority is None or authority.clock_id != command.clock_id:
        raise RefusalError("not_authority")
    if assumption and authority.assumption != command.assumption:
        raise RefusalError("not_authority")
    if number and command.number <= self.state.last_number:
        raise RefusalError("number_passed")
    self.state.last_number = command.number


def _no_assumption_in_fence(patch: Patch) -> None:
    patch.setattr(
        MetadataMachine, "_pass_fence", lambda self, command: _fence(self, command, assumption=False, number=True)
    )


def _no_numbers(patch: Patch) -> None:
    patch.setattr(
        MetadataMachine, "_pass_fence", lambda self, command: _fence(self, command, assumption=True, number=False)
    )


def _no_compare_and_set(patch: Patch) -> None:
    unpatched = MetadataMachine._assume

    def assume(self: MetadataMachine, command):
        current = self.state.authority.assumption if self.state.authority else 0
        return unpatched(self, replace(command, replaces=current))

    patch.setattr(MetadataMachine, "_assume", assume)


def _instant_before_assumption(patch: Patch) -> None:
    """The instant is counted from when authority was asked for."""
    unpatched, unpatched_assume = Authority.choose_instant, Authority._assume

    def assume(self: Authority, *, now_ns: int):
        effects = unpatched_assume(self, now_ns=now_ns)
        if effects:
            self._asked_at_ns = now_ns  # type: ignore[attr-defined]
        return effects

    def choose(self: Authority, *, now_ns: int) -> Instant | None:
        instant = unpatched(self, now_ns=now_ns)
        early_ns = now_ns - self._asked_at_ns if instant else 0  # type: ignore[attr-defined]
        if instant is None or early_ns > 2 * instant.lead_ns:
            return instant
        return Instant(
            clock_id=instant.clock_id,
            assumption=instant.assumption,
            number=instant.number,
            effective_at_ns=instant.effective_at_ns - early_ns,
            lead_ns=instant.lead_ns,
        )

    patch.setattr(Authority, "_assume", assume)
    patch.setattr(Authority, "choose_instant", choose)


# ---- activation and settlement


def _choose(patch: Patch, lead: Callable[[Any], int]) -> None:
    unpatched = Authority.choose_instant

    def choose(self: Authority, *, now_ns: int) -> Instant | None:
        instant = unpatched(self, now_ns=now_ns)
        if instant is None:
            return None
        lead_ns = lead(self._machine.state.terms)
        return Instant(
            clock_id=instant.clock_id,
            assumption=instant.assumption,
            number=instant.number,
            effective_at_ns=now_ns + lead_ns,
            lead_ns=lead_ns,
        )

    patch.setattr(Authority, "choose_instant", choose)


def _no_margin(patch: Patch) -> None:
    _choose(patch, lambda terms: terms.lease_ns)


def _lease_changed_within_epoch(patch: Patch) -> None:
    """The authority was started with another, shorter L than the epoch's."""
    _choose(patch, lambda terms: terms.lease_ns * 3 // 4 + terms.margin_ns)


def _two_pending(patch: Patch) -> None:
    unpatched = MetadataMachine._changeable

    def changeable(self: MetadataMachine, change):
        model = self.state.models.get(change.model)
        pending = model.pending if model is not None else None
        if model is not None and pending is not None:
            model.pending = None
        try:
            return unpatched(self, change)
        except RefusalError:
            if model is not None:
                model.pending = pending
            raise

    patch.setattr(MetadataMachine, "_changeable", changeable)


def _no_settle_wait(patch: Patch) -> None:
    unpatched = Authority._settle_foreign

    def settle(self: Authority, *, now_ns: int):
        self._pending_seen_at_ns = dict.fromkeys(self._pending_seen_at_ns, -(1 << 61))
        return unpatched(self, now_ns=now_ns)

    patch.setattr(Authority, "_settle_foreign", settle)


def _settle_wait_without_kappa(patch: Patch) -> None:
    unpatched = Authority._settle_foreign

    def settle(self: Authority, *, now_ns: int):
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Drift, "faster_ns", lambda self, ns: ns)
            return unpatched(self, now_ns=now_ns)

    patch.setattr(Authority, "_settle_foreign", settle)


def _own_settled_early(patch: Patch) -> None:
    """The authority settles its own activation before the instant, and the log believes it."""
    unpatched = Authority._confirm

    def confirm(self: Authority, *, now_ns: int):
        own = tuple(r for r, p in self._machine.state.pendings().items() if p.clock_id == self.clock_id)
        commands = _confirmations(unpatched(self, now_ns=now_ns))
        return tuple(Propose(command=replace(command, settled=own)) for command in commands)

    def settle(self: MetadataMachine, command):
        unpatched_state = self.state
        for model in unpatched_state.models.values():
            if model.pending is not None and model.pending.revision in command.settled:
                model.pending = replace(model.pending, effective_at_ns=-(1 << 61))
        return unpatched_confirm(self, command)

    unpatched_confirm = MetadataMachine._confirm
    patch.setattr(Authority, "_confirm", confirm)
    patch.setattr(MetadataMachine, "_confirm", settle)


def _told_at_once(patch: Patch) -> None:
    """The caller of an activation is told when it has applied."""

    def wait_effective(self: Activation, node: SimNode, outcome: Outcome, now_ns: int) -> None:
        position = Position(node.machine.state.epoch, outcome.revision)
        self._told(node, position, outcome, now_ns)

    patch.setattr(Activation, "_wait_effective", wait_effective)


def _settle_whatever_is_pending(patch: Patch) -> None:
    def settle_pending(self: MetadataMachine, command):
        models = [m for m in self.state.models.values() if m.pending is not None]
        if not models:
            raise RefusalError("nothing_pending", activation=command.activation)
        return self._settle(models, command)

    patch.setattr(MetadataMachine, "_settle_pending", settle_pending)


def _pending_rule_off_through_log(patch: Patch) -> None:
    unpatched = Reader.standing

    def standing(self: Reader, pending, *, now_ns: int, through_log: bool = False):
        return unpatched(self, None if through_log else pending, now_ns=now_ns, through_log=through_log)

    patch.setattr(Reader, "standing", standing)


def _no_silence(patch: Patch) -> None:
    patch.setattr(Authority, "silent", lambda self, *, now_ns: not self._machine.state.epoch)


# ---- order


def _old_snapshots_taken(patch: Patch) -> None:
    """A snapshot is taken whatever its revision."""
    unpatched, unpatched_applied = Follower._install, Reader.applied

    def install(self: Follower, assembled):
        snapshot = assembled.snapshot
        if snapshot.epoch == self.position.epoch and snapshot.revision < self.position.revision:
            self.position = Position(snapshot.epoch, snapshot.revision - 1)
        return unpatched(self, assembled)

    patch.setattr(Follower, "_install", install)
    patch.setattr(Reader, "applied", _applied_whatever(unpatched_applied))


def _old_events_taken(patch: Patch) -> None:
    """An event is taken again when it comes again."""
    unpatched, unpatched_applied = Follower.event_received, Reader.applied

    def received(self: Follower, event, *, frame: bytes, now_ns: int):
        if event.epoch == self.position.epoch and event.revision < self.position.revision:
            return (self._apply(event, frame=frame),)
        return unpatched(self, event, frame=frame, now_ns=now_ns)

    patch.setattr(Follower, "event_received", received)
    patch.setattr(Reader, "applied", _applied_whatever(unpatched_applied))


def _applied_whatever(unpatched: Callable[..., None]) -> Callable[..., None]:
    def applied(self: Reader, position: Position, *, now_ns: int) -> None:
        if position < self.position:
            self.position = position
        else:
            unpatched(self, position, now_ns=now_ns)

    return applied


def _events_in_any_order(patch: Patch) -> None:
    """Gaps are not noticed."""
    unpatched = Follower.event_received

    def received(self: Follower, event, *, frame: bytes, now_ns: int):
        if event.epoch == self.position.epoch and event.revision > self.position.revision:
            self._early = {position: early for position, early in self._early.items() if position > event.position}
            effects = (self._apply(event, frame=frame),)
            return (*effects, *self._settle_wants(now_ns=now_ns))
        return unpatched(self, event, frame=frame, now_ns=now_ns)

    patch.setattr(Follower, "event_received", received)


def _no_deduplication(patch: Patch) -> None:
    patch.setattr(MetadataMachine, "_remember", lambda self, command, outcome: None)


# ---- the bound


def _bound_without_beacons(patch: Patch) -> None:
    def bound(self: Reader, pending, *, serve_next: bool, now_ns: int):
        if pending is None or serve_next:
            return 0
        hi_ns = clock.samples.hi_ns(now_ns=now_ns) if (clock := self._clocks.get(pending.clock_id)) else None
        return None if hi_ns is None else self._drift.real_ns_max(max(0, hi_ns - pending.effective_at_ns))

    patch.setattr(Reader, "staleness_bound_ns", bound)


def _bound_without_pending(patch: Patch) -> None:
    unpatched = Reader.staleness_bound_ns
    patch.setattr(
        Reader,
        "staleness_bound_ns",
        lambda self, pending, *, serve_next, now_ns: unpatched(self, None, serve_next=serve_next, now_ns=now_ns),
    )


def _bound_without_rate(patch: Patch) -> None:
    patch.setattr(Drift, "real_ns_max", lambda self, elapsed_ns: elapsed_ns)


_BOUND = frozenset({"bound"})
_BACK = frozenset({"position", "history", *STRONG})
_WRONG_CLOCKS: dict[str, Any] = {
    "faults": frozenset({"election"}),
    "rho_ppm": 50_000,
    "nodes": 3,
    "edges": 1,
    "lease_ms": 500,
    "delay_ns": 1 * MS,
    "apply_ns": 1 * MS,
    "late_chance": 0.0,
    "loss_chance": 0.0,
    "pause_chance": 0.0,
    "beacon_ns": 50 * MS,
    "fault_every_ns": 500 * MS,
    "work_every_ns": 150 * MS,
    "duration_ns": 20_000 * MS,
}
"""Quick messages and the worst of clocks: what is left is what the clocks do."""
_TAKEN_OVER: dict[str, Any] = _WRONG_CLOCKS | {
    "faults": frozenset({"election", "partition", "wrong_leader"}),
    "fault_every_ns": 1_500 * MS,
    "work_every_ns": 60_000 * MS,
    "beacon_ns": 20 * MS,
    "eager": True,
    "duration_ns": 30_000 * MS,
}
"""A slow clock loses authority to a fast one that decides at once, while somebody hears of neither."""
_SLOW_ARTIFACTS: dict[str, Any] = _WRONG_CLOCKS | {
    "faults": frozenset({"slow_load"}),
    "lease_ms": 300,
    "edges": 5,
    "work_every_ns": 2_500 * MS,
}
"""Edges fall back for seconds, with good samples of a slow clock."""
_RESTORED: dict[str, Any] = {
    "faults": frozenset({"restore"}),
    "nodes": 3,
    "edges": 3,
    "lease_ms": 500,
    "beacon_ns": 100 * MS,
    "fault_every_ns": 500 * MS,
    "work_every_ns": 150 * MS,
    "apply_ns": 10 * MS,
    "duration_ns": 10_000 * MS,
}
"""One epoch after the other, while edges hold leases of the one before."""
_IMPATIENT: dict[str, Any] = {
    "faults": frozenset({"late_proposals"}),
    "nodes": 3,
    "edges": 1,
    "lease_ms": 500,
    "beacon_ns": 100 * MS,
    "late_proposal_chance": 0.3,
    "late_ns": 4_000 * MS,
    "work_every_ns": 40 * MS,
    "apply_ns": 10 * MS,
    "duration_ns": 10_000 * MS,
}
"""Callers ask again while what they asked before is on its way."""
_LAGGING: dict[str, Any] = {
    "faults": frozenset({"loss", "late_messages"}),
    "nodes": 3,
    "edges": 5,
    "lease_ms": 1_000,
    "beacon_ns": 250 * MS,
    "pause_chance": 0.0,
    "loss_chance": 0.1,
    "late_chance": 0.5,
    "late_ns": 1_000 * MS,
    "delay_ns": 40 * MS,
    "apply_ns": 10 * MS,
    "work_every_ns": 30 * MS,
    "duration_ns": 15_000 * MS,
}
"""Snapshots are slow, events get lost, and much happens."""
_BACK_AND_FORTH: dict[str, Any] = {
    "faults": frozenset({"late_proposals", "election", "wrong_leader"}),
    "nodes": 2,
    "lease_ms": 500,
    "late_proposal_chance": 0.3,
    "late_ns": 2_500 * MS,
    "fault_every_ns": 300 * MS,
    "work_every_ns": 100 * MS,
    "delay_ns": 5 * MS,
    "apply_ns": 5 * MS,
}
"""Authority goes to and fro between two nodes while proposals lie about."""


def _mutant(name: str, install: Callable[[Patch], None], breaks: frozenset[str] = STRONG, **more: Any) -> Mutant:
    return Mutant(name=name, install=install, breaks=breaks, **more)


MUTANTS = (
    _mutant("kappa removed", _no_kappa),
    _mutant("kappa to first order", _first_order_kappa, known_seed=32),
    _mutant("nonce pairing off", _no_nonce_pairing, known_seed=4),
    _mutant("lo for stopping", _stop_by_lo),
    _mutant("lo for the lease", _lease_by_lo, known_seed=32),
    _mutant("hi for starting", _start_by_hi),
    _mutant("no confirm round", _no_confirm_round, known_seed=2),
    _mutant("lease counted from the confirmation", _lease_from_confirmation, known_seed=2),
    _mutant("revision read at proposal", _revision_at_proposal, known_seed=2),
    _mutant("lease before caught up", _not_caught_up, known_seed=2),
    _mutant("no fence", _no_fence, directed=_BACK_AND_FORTH),
    _mutant("no assumption in the fence", _no_assumption_in_fence, directed=_BACK_AND_FORTH),
    _mutant("no numbers", _no_numbers, known_seed=11),
    _mutant("no compare and set", _no_compare_and_set, frozenset({"deposed"})),
    _mutant("instant chosen before assuming", _instant_before_assumption, known_seed=1),
    _mutant("no margin", _no_margin, directed=_TAKEN_OVER),
    _mutant("L changed within an epoch", _lease_changed_within_epoch, known_seed=2),
    _mutant("two pending", _two_pending),
    _mutant("no settle wait", _no_settle_wait),
    _mutant("settle wait without kappa", _settle_wait_without_kappa, directed=_WRONG_CLOCKS),
    _mutant("own activation settled early", _own_settled_early),
    _mutant("caller told at once", _told_at_once, frozenset({"inversion"})),
    _mutant("settle whatever is pending", _settle_whatever_is_pending, known_seed=7),
    _mutant("no pending rule through the log", _pending_rule_off_through_log),
    _mutant("no silence in a new epoch", _no_silence, directed=_RESTORED, known_seed=1),
    _mutant("old snapshots taken", _old_snapshots_taken, _BACK, directed=_LAGGING, known_seed=1),
    _mutant("old events taken", _old_events_taken, _BACK),
    _mutant("events in any order", _events_in_any_order, frozenset({"history"})),
    _mutant("no request ids", _no_deduplication, frozenset({"twice"}), directed=_IMPATIENT),
    _mutant("bound without the beacons' term", _bound_without_beacons, _BOUND, known_seed=2),
    _mutant("bound without the pending term", _bound_without_pending, _BOUND, known_seed=2),
    _mutant("bound without the rate", _bound_without_rate, _BOUND, directed=_SLOW_ARTIFACTS),
    *TRUST_MUTANTS,
    *ROLLOUT_MUTANTS,
)
