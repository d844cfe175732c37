"""When does this node speak for the region, and what may it then promise? (protocol, sections 3 to 5 and 7)

Picture a lighthouse keeper with a logbook. The light may flash only after the logbook, read back from a quorum, proves
that nobody else had the post at the moment the flash counts from. The keeper numbers every entry whose meaning depends on
the clock, so that an entry that turns up late is worth nothing. This core keeps the post, the numbers and the due
times; it reads the replicated state, and never learns whether a proposal succeeded except by seeing it apply.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from consistency_service.core.commands import (
    AnyCommand,
    AssumeAuthority,
    ConfirmAuthority,
    SettlePending,
)
from edge_client.protocol.drift import Drift
from edge_client.protocol.messages import Beacon

if TYPE_CHECKING:
    from consistency_service.core.machine import MetadataMachine
    from consistency_service.core.outcomes import Outcome

MS: Final = 1_000_000
ASSUME_RETRY_NS: Final = 300 * MS
SETTLE_RETRY_NS: Final = 300 * MS
RESIGN_PERIOD_NS: Final = 5_000 * MS


@dataclass(frozen=True, slots=True, kw_only=True)
class Propose:
    """Offer this command to the log; nobody waits for the answer."""

    command: AnyCommand


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishBeacon:
    """Broadcast it, and take it as one's own."""

    beacon: Beacon


@dataclass(frozen=True, slots=True, kw_only=True)
class AskPeersForBus:
    """Find out whether another voter's bus works; answer with `peer_bus_works`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resign:
    """Let another node lead."""


Effect = Propose | PublishBeacon | AskPeersForBus | Resign


@dataclass(frozen=True, slots=True, kw_only=True)
class Instant:
    """What an `ActivateGeneration` must carry: number and instant, taken with one reading of the clock."""

    clock_id: str
    assumption: int
    number: int
    effective_at_ns: int
    lead_ns: int


class Authority:
    """One node's side of authority. Not thread-safe; every call is one synchronous step."""

    def __init__(
        self, *, machine: MetadataMachine, node_id: str, clock_id: str, beacon_interval_ns: int = 100 * MS
    ) -> None:
        self._machine = machine
        self._node_id = node_id
        self.clock_id = clock_id
        self._interval_ns = beacon_interval_ns
        self.counters: Counter[str] = Counter()
        self._clock_trusted = True
        self._leading = False
        self._term: int | None = None
        self._assumed_term: int | None = None
        self._assumed_at_ns = 0
        self._number = 0
        self._confirm_due_ns = 0
        self._assume_due_ns = 0
        self._settle_due_ns = 0
        self._epoch = 0
        self._silent_until_ns = 0
        self._pending_seen_at_ns: dict[int, int] = {}
        self._published_through = 0
        self._unheard_since_ns: int | None = None
        self._resigned_at_ns: int | None = None
        self._peers_asked_at_ns: int | None = None

    # ---- inputs

    def leadership(self, *, leading: bool, term: int, now_ns: int) -> tuple[Effect, ...]:
        """This node believes that it leads `term` and has applied that term's first entry; or that it does not."""
        if not leading:
            self._leading = False
            return ()
        if not self._leading or term != self._term:
            self._leading, self._term = True, term
            self._assume_due_ns = now_ns
        return self.tick(now_ns=now_ns)

    def applied(self, command: AnyCommand, outcome: Outcome, *, now_ns: int) -> tuple[Effect, ...]:
        """A command was applied here: the only way in which this core learns of success."""
        self._look_at_state(now_ns=now_ns)
        if not outcome.ok:
            return ()
        if isinstance(command, AssumeAuthority) and command.clock_id == self.clock_id:
            self._assumed_term = self._term if self._leading else None
            self._assumed_at_ns = now_ns
            self._number = 0
            self._confirm_due_ns = now_ns
            self._unheard_since_ns = None
            return self.tick(now_ns=now_ns)
        if isinstance(command, ConfirmAuthority) and command.clock_id == self.clock_id:
            return self._beacon(command, now_ns=now_ns)
        return ()

    def restored(self, *, now_ns: int) -> tuple[Effect, ...]:
        """The state was replaced by a snapshot's."""
        self._look_at_state(now_ns=now_ns)
        return ()

    def published(self, *, through: int) -> None:
        """The bus has accepted every event up to this revision."""
        self._published_through = max(self._published_through, through)

    def own_beacon_heard(self) -> None:
        """One of our own beacons came back on the bus."""
        self._unheard_since_ns = None

    def peer_bus_works(self, *, now_ns: int) -> tuple[Effect, ...]:
        """Another voter says that its bus works. If ours is still silent: resign, at most once in 5 s."""
        if not self._bus_silent(now_ns=now_ns):
            return ()
        return () if self._resigned_lately(now_ns=now_ns) else self._resign(now_ns=now_ns)

    def clock_distrusted(self, clock_id: str, *, now_ns: int) -> tuple[Effect, ...]:
        """Our clock broke its rate: its instants are worth nothing. Take a new name, and no authority (section 1)."""
        self.clock_id = clock_id
        self._clock_trusted = False
        self._assumed_term = None
        self.counters["clock_distrusted"] += 1
        return self._resign(now_ns=now_ns) if self._leading else ()

    def clock_trusted(self, *, now_ns: int) -> None:
        """Our clock keeps its rate again. What it measured before counts for nothing: every wait begins anew, as in a new life."""
        self._clock_trusted = True
        self._epoch = 0
        self._look_at_state(now_ns=now_ns)

    def tick(self, *, now_ns: int) -> tuple[Effect, ...]:
        """Whatever is due: assume, confirm, settle, look after the bus."""
        self._look_at_state(now_ns=now_ns)
        if not self._leading or not self._machine.state.epoch:
            return ()
        if not self._clock_trusted:
            return () if self._resigned_lately(now_ns=now_ns) else self._resign(now_ns=now_ns)
        if not self.is_authority:
            return self._assume(now_ns=now_ns)
        effects: list[Effect] = []
        if not self.silent(now_ns=now_ns):
            effects += self._confirm(now_ns=now_ns)
            effects += self._settle_foreign(now_ns=now_ns)
            if self._bus_silent(now_ns=now_ns) and self._ask_peers_due(now_ns=now_ns):
                self._peers_asked_at_ns = now_ns
                effects.append(AskPeersForBus())
        return tuple(effects)

    def next_deadline_ns(self) -> int | None:
        """When `tick` next has something to do."""
        if not self._leading or not self._machine.state.epoch:
            return None
        if not self._clock_trusted:
            return None
        if not self.is_authority:
            return self._assume_due_ns
        return max(self._confirm_due_ns, self._silent_until_ns)

    # ---- answers

    @property
    def clock_is_trusted(self) -> bool:
        """Whether instants of our clock may be uttered at all."""
        return self._clock_trusted

    @property
    def is_authority(self) -> bool:
        """The applied state names us, and we were elected in no later term since. A routing hint for reads."""
        authority = self._machine.state.authority
        return (
            authority is not None
            and authority.clock_id == self.clock_id
            and self._leading
            and self._assumed_term == self._term
        )

    def silent(self, *, now_ns: int) -> bool:
        """In the first kappa * (L + margin) that this life knows the epoch, nothing is promised (section 7).

        Nor while our clock is distrusted, and as long again after that.
        """
        return not self._machine.state.epoch or not self._clock_trusted or now_ns < self._silent_until_ns

    def choose_instant(self, *, now_ns: int) -> Instant | None:
        """The next number and the instant `now + L + margin`; None unless we may decide now."""
        authority = self._machine.state.authority
        if not self.is_authority or authority is None or self.silent(now_ns=now_ns):
            return None
        terms = self._machine.state.terms
        lead_ns = terms.lease_ns + terms.margin_ns
        return Instant(
            clock_id=self.clock_id,
            assumption=authority.assumption,
            number=self._next_number(),
            effective_at_ns=now_ns + lead_ns,
            lead_ns=lead_ns,
        )

    def check_invariants(self) -> None:
        state = self._machine.state
        if self._epoch == state.epoch:
            assert self._pending_seen_at_ns.keys() == state.pendings().keys()
            assert self._published_through <= state.revision

    def __repr__(self) -> str:
        role = "authority" if self.is_authority else "leading" if self._leading else "following"
        return f"<Authority {self._node_id} {role} clock={self.clock_id} number={self._number}>"

    # ---- helpers

    def _look_at_state(self, *, now_ns: int) -> None:
        """Note when this life first saw the epoch and each pending activation; forget those that are gone."""
        state = self._machine.state
        if state.epoch != self._epoch:
            terms = state.terms
            silence_ns = Drift(terms.rho_ppm).faster_ns(terms.lease_ns + terms.margin_ns)
            self._epoch, self._silent_until_ns = state.epoch, now_ns + silence_ns
            self._pending_seen_at_ns.clear()
            self._published_through = 0
        pendings = state.pendings()
        if pendings.keys() != self._pending_seen_at_ns.keys():
            self._pending_seen_at_ns = {r: self._pending_seen_at_ns.get(r, now_ns) for r in pendings}

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    def _assume(self, *, now_ns: int) -> tuple[Effect, ...]:
        if now_ns < self._assume_due_ns:
            return ()
        self._assume_due_ns = now_ns + ASSUME_RETRY_NS
        authority = self._machine.state.authority
        replaces = authority.assumption if authority else 0
        return (Propose(command=AssumeAuthority(clock_id=self.clock_id, node_id=self._node_id, replaces=replaces)),)

    def _confirm(self, *, now_ns: int) -> tuple[Effect, ...]:
        if now_ns < self._confirm_due_ns:
            return ()
        state = self._machine.state
        assert state.authority is not None
        self._confirm_due_ns = now_ns + self._interval_ns
        settled = tuple(
            revision
            for revision, pending in state.pendings().items()
            if pending.clock_id == self.clock_id and pending.effective_at_ns <= now_ns
        )
        command = ConfirmAuthority(
            clock_id=self.clock_id,
            assumption=state.authority.assumption,
            number=self._next_number(),
            t0_ns=now_ns,
            settled=settled,
            published_through=self._published_through,
        )
        return (Propose(command=command),)

    def _settle_foreign(self, *, now_ns: int) -> tuple[Effect, ...]:
        """Settle activations of other clocks once their instant has passed on any clock."""
        if now_ns < self._settle_due_ns:
            return ()
        state = self._machine.state
        assert state.authority is not None
        drift = Drift(state.terms.rho_ppm)
        due = [
            revision
            for revision, pending in state.pendings().items()
            if pending.clock_id != self.clock_id
            and now_ns >= self._pending_seen_at_ns[revision] + drift.faster_ns(pending.lead_ns)
        ]
        if due:
            self._settle_due_ns = now_ns + SETTLE_RETRY_NS
        return tuple(
            Propose(
                command=SettlePending(
                    clock_id=self.clock_id,
                    assumption=state.authority.assumption,
                    number=self._next_number(),
                    activation=revision,
                )
            )
            for revision in due
        )

    def _beacon(self, command: ConfirmAuthority, *, now_ns: int) -> tuple[Effect, ...]:
        """Our confirmation applied, so nobody else had authority at its `t0`: the beacon may go out."""
        state = self._machine.state
        if self.silent(now_ns=now_ns):
            return ()
        beacon = Beacon(
            epoch=state.epoch,
            revision=state.revision,
            clock_id=self.clock_id,
            assumption=command.assumption,
            assumed_at_ns=self._assumed_at_ns,
            t0_ns=command.t0_ns,
        )
        if self._unheard_since_ns is None:
            self._unheard_since_ns = now_ns
        return (PublishBeacon(beacon=beacon),)

    def _bus_silent(self, *, now_ns: int) -> bool:
        half_lease_ns = self._machine.state.terms.lease_ns // 2
        unheard_since_ns = self._unheard_since_ns
        return self.is_authority and unheard_since_ns is not None and now_ns - unheard_since_ns > half_lease_ns

    def _ask_peers_due(self, *, now_ns: int) -> bool:
        half_lease_ns = self._machine.state.terms.lease_ns // 2
        return self._peers_asked_at_ns is None or now_ns - self._peers_asked_at_ns > half_lease_ns

    def _resigned_lately(self, *, now_ns: int) -> bool:
        return self._resigned_at_ns is not None and now_ns - self._resigned_at_ns < RESIGN_PERIOD_NS

    def _resign(self, *, now_ns: int) -> tuple[Effect, ...]:
        self._resigned_at_ns = now_ns
        self._leading = False
        self.counters["resigned"] += 1
        return (Resign(),)
