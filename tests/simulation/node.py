"""A service node in the world: machine, authority and reader, wired as the runtime's drivers wire them.

Each method mirrors one driver of `consistency_service.runtime`: `_applied` is `Metadata.apply` with its listeners in their
order, `tick` is the loop of `AuthorityDriver`, `_relay` is `Relay`, `read_strong` is `Reads`, and the callers of
activations are in `workload`. What is async there is a step here, so that anything may happen in between.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from consistency_service.core.authority import AskPeersForBus, Authority, Effect, Propose, PublishBeacon, Resign
from consistency_service.core.commands import AnyCommand
from consistency_service.core.machine import MetadataMachine
from consistency_service.core.outcomes import Outcome
from consistency_service.core.state import ModelState
from edge_client.protocol.messages import (
    Beacon,
    ClockReply,
    EdgeReport,
    Event,
    SnapshotChunk,
    SnapshotRefused,
    encode_snapshot,
)
from edge_client.protocol.position import Position
from edge_client.protocol.reader import Effect as ReaderEffect
from edge_client.protocol.reader import Reader, SendClockRequest
from tests.simulation.clock import MS, S, SimClock
from tests.simulation.judge import Era
from tests.simulation.process import Account, Process
from tests.simulation.rollouts import Dispatcher

if TYPE_CHECKING:
    from tests.simulation.fabric import Entry, Log
    from tests.simulation.world import World

IDLE_NS = 100 * MS
FOLLOWING_IDLE_NS = 300 * MS
"""A driver wakes every 100 ms; where nobody leads it finds nothing to do but to ask clocks, which beacons cause as well."""
RELAY_TIMEOUT_NS = 1 * S
RELAY_RETRY_NS = 250 * MS
SNAPSHOT_EVERY = 40

Callback = Callable[[Outcome, int], None]


class SimNode(Process):
    """One node and its lives. The log of the epoch outlives them; so does the newest snapshot of it."""

    def __init__(self, world: World, *, name: str, clock: SimClock) -> None:
        super().__init__(world, name=name, clock=clock)
        self.term = 0
        self.leading = False
        self.settled_from: int | None = None
        """The token of the first entry of the term that we believe to lead; None once it has applied here."""
        self.kept: tuple[int, bytes] | None = None
        self.resigned_at_ns = -10 * S
        self.machine: MetadataMachine
        self.authority: Authority
        self.reader: Reader
        self.start()

    # ---- lives

    def start(self) -> None:
        """Begin a life: replay the log as far as this node knows it, under a new `clock_id`."""
        world = self.world
        self.life += 1
        self.alive = True
        self.free_at_ns = world.now_ns
        self.log: Log = world.log
        self.leading = False
        self.machine = MetadataMachine()
        clock_id = world.new_clock_id(self.clock)
        self.authority = Authority(
            machine=self.machine, node_id=self.name, clock_id=clock_id, beacon_interval_ns=world.knobs.beacon_ns
        )
        self.reader = Reader(terms=world.terms, rng=Random(world.rng.random()), own_clock_id=clock_id)
        self.clock_trusted = True
        self._effects: list[ReaderEffect] = []
        self._callbacks: dict[int, Callback] = {}
        self.waiting: list[tuple[Callable[[], bool], Callable[[int], None]]] = []
        self._position = Position(0, 0)
        self._eras: list[tuple[Era, ModelState]] = []
        self._account = Account(self)
        self._tail: tuple[int, str | None] | None = None
        self._relay_busy_until_ns = 0
        self.applied_index = 0
        local_ns = self.local_ns = self.clock.read(world.now_ns)
        self._since = (world.now_ns, local_ns)
        self.dispatcher = Dispatcher(self) if world.rollouts is not None else None
        self._spoken_epoch = 0
        """The epoch in which this life need not be silent any more."""
        base = self.kept if self.kept is not None and world.rng.random() < 0.7 else None
        if base is not None:
            self.applied_index = base[0]
            self._restore(base[1], local_ns)
        elif self.log.base is not None:
            self._restore(self.log.base, local_ns)
        if world.now_ns < self.loose_until_ns:
            self.run(self.life, self.clock_distrusted)
        self.run(self.life, self.learn, self.log, world.known_index(self))
        self.run(self.life, self._loop)
        if self.dispatcher is not None:
            self.run(self.life, self.dispatcher.loop)

    def crash(self) -> None:
        self.account_now()
        self.alive = False

    # ---- the log

    def propose(self, command: AnyCommand, callback: Callback | None = None) -> None:
        """As `MetadataLog.propose`: the callback hears the outcome when it applies here, in this life, or never."""
        murder = self.world.murder
        if murder is not None and murder.strikes_before(self, command):
            return
        token = self.world.new_token()
        if callback is not None:
            self._callbacks[token] = callback
        if self.leading or self.world.rng.random() < 0.5:
            self.log.propose(self, command, token=token)
        if murder is not None:
            murder.proposed(self, command)

    def learn(self, log: Log, index: int, now_ns: int) -> None:
        """Apply what is committed up to `index`; perhaps not all in one step."""
        if log is not self.log:
            return
        while self.applied_index < index:
            entry = log.entries[self.applied_index]
            self.applied_index += 1
            self._apply(entry, now_ns)
            if self.world.knobs.pause_chance and self.world.rng.random() < self.world.knobs.pause_chance:
                self.after_ns(0, self.learn, log, index)
                return
        if self.kept is None or self.applied_index >= self.kept[0] + SNAPSHOT_EVERY:
            self.kept = (self.applied_index, self.machine.snapshot())

    def has_applied(self, log: Log, index: int) -> bool:
        """There is nothing to learn up to `index`."""
        return log is self.log and self.applied_index >= index

    def install(self, index: int, payload: bytes, log: Log, now_ns: int) -> None:
        """A snapshot of the log comes in place of entries that we lack."""
        if log is self.log and index > self.applied_index:
            self.world.judge.seen["installed"] += 1
            self.applied_index = index
            self._restore(payload, now_ns)
            self._settle_term(now_ns)

    def _apply(self, entry: Entry, now_ns: int) -> None:
        if entry.command is None:
            if entry.token == self.settled_from:
                self.settled_from = None
                self._status_changed(now_ns)
            return
        outcome = self.machine.apply(entry.command)
        if outcome != entry.outcome:
            self.world.judge.accuse("determinism", self.world.now_ns, f"{self.name}: {outcome} is not {entry.outcome}")
        self._follow_state(now_ns)
        self._carry_out(self.authority.applied(entry.command, outcome, now_ns=now_ns), now_ns)
        callback = self._callbacks.pop(entry.token, None)
        if callback is not None:
            callback(outcome, now_ns)
        if self.waiting:
            self._wake_waiting(now_ns)
        if self.dispatcher is not None:
            self.dispatcher.applied(entry.command, outcome)
        if self.world.murder is not None:
            self.world.murder.applied(self, entry.command, outcome)

    def _restore(self, payload: bytes, now_ns: int) -> None:
        self.machine.restore(payload)
        self._follow_state(now_ns)
        self._carry_out(self.authority.restored(now_ns=now_ns), now_ns)
        self._wake_waiting(now_ns)

    def wake_waiting(self) -> None:
        """Somebody has begun to wait, perhaps for what is so already."""
        self._wake_waiting(self.local_ns)

    def _wake_waiting(self, now_ns: int) -> None:
        for waiter in [waiter for waiter in self.waiting if waiter[0]()]:
            self.waiting.remove(waiter)
            waiter[1](now_ns)

    def _follow_state(self, now_ns: int) -> None:
        """As `Reads._follow_state`."""
        state = self.machine.state
        if state.epoch > self.reader.position.epoch:
            self._effects += self.reader.epoch_began(state.position, terms=state.terms, now_ns=now_ns)
        elif state.epoch:
            self.reader.applied(state.position, now_ns=now_ns)
        for pending in state.pendings().values():
            self._effects += self.reader.pending_known(pending, now_ns=now_ns)

    # ---- authority

    def leads(self, log: Log, term: int, token: int, now_ns: int) -> None:
        """The log makes us believe that we lead."""
        if log is self.log and term >= self.term:
            self.term, self.leading, self.settled_from = term, True, token
            self._settle_term(now_ns)

    def _settle_term(self, now_ns: int) -> None:
        if any(entry.token == self.settled_from for entry in self.log.entries[: self.applied_index]):
            self.settled_from = None
        self._status_changed(now_ns)

    def follows(self, term: int, now_ns: int) -> None:
        """We hear that a later term has begun."""
        if term > self.term:
            self.term, self.leading = term, False
            self._status_changed(now_ns)

    def resign(self) -> None:
        self.leading = False
        self.resigned_at_ns = self.world.now_ns

    def _status_changed(self, now_ns: int) -> None:
        leading = self.leading and self.settled_from is None
        self._carry_out(self.authority.leadership(leading=leading, term=self.term, now_ns=now_ns), now_ns)

    def _loop(self, now_ns: int) -> None:
        """As `AuthorityDriver.run` and `Answers._sample_clocks`."""
        self._status_changed(now_ns)  # which ticks where we lead; where we do not, there is nothing to do
        self._effects += self.reader.tick(now_ns=now_ns)
        due_ns = now_ns + (IDLE_NS if self.leading else FOLLOWING_IDLE_NS)
        for deadline_ns in (self.authority.next_deadline_ns(), self.reader.next_deadline_ns()):
            if deadline_ns is not None and deadline_ns < due_ns:
                due_ns = deadline_ns
        self.at_local_ns(max(now_ns + MS, due_ns), self._loop)

    def _carry_out(self, effects: tuple[Effect, ...], now_ns: int) -> None:
        for effect in effects:
            match effect:
                case Propose(command=command):
                    self.propose(command)
                case PublishBeacon(beacon=beacon):
                    self._own_beacon(beacon, now_ns)
                case AskPeersForBus():
                    self.after_ns(10 * MS, self._peers_answered)
                case Resign():
                    self.world.judge.seen["resigned"] += 1
                    self.resign()

    def _own_beacon(self, beacon: Beacon, now_ns: int) -> None:
        self._take_beacon(beacon, now_ns)
        world = self.world
        world.judge.seen["beacons"] += 1
        for node in world.nodes:
            world.bus.send(self, node, node.beacon_received, beacon)
        for edge in world.edges:
            world.bus.send(self, edge, edge.beacon_received, beacon)

    def _peers_answered(self, now_ns: int) -> None:
        bus = self.world.bus
        if any(n.alive and n is not self and n.name not in bus.cannot_hear | bus.cannot_send for n in self.world.nodes):
            self._carry_out(self.authority.peer_bus_works(now_ns=now_ns), now_ns)

    def clock_distrusted(self, now_ns: int) -> None:
        """As `Node._clock_distrusted`."""
        self.clock_trusted = False
        self.reader.own_clock_distrusted(now_ns=now_ns)
        clock_id = self.world.new_clock_id(self.clock)
        self._carry_out(self.authority.clock_distrusted(clock_id, now_ns=now_ns), now_ns)

    def clock_broke(self, until_ns: int, rate: int, now_ns: int) -> None:
        """Our clock breaks its rate and is caught at it."""
        self.break_clock(until_ns, rate)
        self.clock_distrusted(now_ns)

    def clock_trusted_again(self, now_ns: int) -> None:
        """As `Node._clock_trusted`."""
        if self.clock_trusted or self.world.now_ns < self.loose_until_ns:
            return
        self.clock_trusted = True
        clock_id = self.authority.clock_id
        self.reader = Reader(terms=self.machine.state.terms, rng=Random(self.world.rng.random()), own_clock_id=clock_id)
        self._follow_state(now_ns)
        self.authority.clock_trusted(now_ns=now_ns)

    # ---- the bus

    def report_received(self, report: EdgeReport, now_ns: int) -> None:
        if self.dispatcher is not None:
            self.dispatcher.report_received(report, now_ns)

    def beacon_received(self, beacon: Beacon, now_ns: int) -> None:
        if beacon.clock_id == self.authority.clock_id:
            self.authority.own_beacon_heard()
        self._take_beacon(beacon, now_ns)

    def _take_beacon(self, beacon: Beacon, now_ns: int) -> None:
        if beacon.epoch == self.machine.state.epoch:
            self._effects += self.reader.beacon_received(beacon, now_ns=now_ns)

    def clock_request_received(self, source: Process, nonce: bytes, now_ns: int) -> None:
        if not self.machine.state.epoch or not self.authority.clock_is_trusted:
            return
        reply = ClockReply(
            epoch=self.machine.state.epoch,
            clock_id=self.authority.clock_id,
            nonce=nonce,
            stamped_at_ns=now_ns,
            node_id=self.name,
            url=f"http://{self.name}",
        )
        self.world.bus.send(self, source, source.clock_reply_received, reply)  # type: ignore[attr-defined]

    def clock_reply_received(self, reply: ClockReply, now_ns: int) -> None:
        if reply.epoch == self.machine.state.epoch:
            self._effects += self.reader.clock_reply_received(reply, now_ns=now_ns)

    def snapshot_asked(self, edge: Process, at_least: Position, nonce: bytes, now_ns: int) -> None:
        """As `Answers._send_snapshots`."""
        state, bus = self.machine.state, self.world.bus
        if not state.epoch:
            return
        if state.position < at_least:
            refused = SnapshotRefused(epoch=state.epoch, nonce=nonce, revision=state.revision, reason="behind")
            bus.send(self, edge, edge.snapshot_answered, refused)  # type: ignore[attr-defined]
            return
        payload = encode_snapshot(state.reader_snapshot())
        half = len(payload) // 2
        for index, data in enumerate((payload[:half], payload[half:])):
            chunk = SnapshotChunk(
                epoch=state.epoch, nonce=nonce, revision=state.revision, index=index, count=2, data=data
            )
            bus.send(self, edge, edge.snapshot_answered, chunk)  # type: ignore[attr-defined]

    # ---- the relay

    def _relay(self) -> None:
        world = self.world
        if not self.authority.is_authority:
            self._tail = None
            return
        if not self.machine.state.outbox or world.now_ns < self._relay_busy_until_ns:
            return
        self._relay_busy_until_ns = self.free_at_ns + RELAY_TIMEOUT_NS
        if self._tail is None:
            world.bus.tail(self)
            return
        sequence, message_id = self._tail
        relayed = self._relayed_through(message_id)
        event = next((e for e in self.machine.state.outbox if e.revision > relayed), None)
        if event is None:
            self._relay_busy_until_ns = 0
            self.authority.published(through=relayed)
        else:
            world.bus.append(self, event, expected=sequence)

    def _relayed_through(self, message_id: str | None) -> int:
        state = self.machine.state
        epoch, _, revision = (message_id or "0-0").partition("-")
        if int(epoch) == state.epoch:
            return max(state.published_through, min(int(revision), state.revision))
        return state.published_through

    def tail_known(self, sequence: int, message_id: str | None, now_ns: int) -> None:
        self._relay_busy_until_ns = 0
        self._tail = (sequence, message_id)

    def appended(self, event: Event, sequence: int, now_ns: int) -> None:
        self._relay_busy_until_ns = 0
        self._tail = (sequence, event.message_id)
        self.authority.published(through=event.revision)

    def append_refused(self, now_ns: int) -> None:
        self._relay_busy_until_ns = 0
        self._tail = None

    # ---- reads

    def read_strong(self, model: str, invoked_ns: int, now_ns: int) -> None:
        """As `Reads._strong`; what a lease allows is accounted for at every instant, so only the log is asked here."""
        if self.authority.silent(now_ns=now_ns):
            self.world.judge.seen["reads_silent"] += 1
            return
        index = len(self.log.entries)
        if self.name in self.log.cannot_propose or self.name in self.log.cannot_learn:
            return
        log = self.log
        self.waiting.append(
            (lambda: self.applied_index >= index, lambda _: self.after_ns(0, self._barrier, log, model, invoked_ns))
        )
        self._wake_waiting(now_ns)

    def _barrier(self, log: Log, model: str, invoked_ns: int, now_ns: int) -> None:
        if log is self.log:
            self.answer_through_log(model, invoked_ns, now_ns)

    def answer_through_log(self, model: str, invoked_ns: int, now_ns: int) -> None:
        """The barrier has come back."""
        state, world = self.machine.state.models.get(model), self.world
        if state is None:
            return
        standing = self.reader.standing(state.pending, now_ns=now_ns, through_log=True)
        if standing.strong_until_ns <= now_ns:
            world.judge.seen["log_reads_open_switch"] += 1
            if world.now_ns < invoked_ns + 5 * S:
                self.after_ns(20 * MS, self.read_strong, model, invoked_ns)
            return
        generation = state.generation + 1 if standing.serve_next else state.generation
        era = world.truth.era_at(model, self.machine.state.position, generation)
        world.judge.seen["log_reads"] += 1
        who = f"{self.name} through the log"
        world.judge.strong_call(era, invoked_ns=invoked_ns, returned_ns=world.now_ns, who=who)

    def account(self, until_ns: int, until_local_ns: int) -> None:
        since = self._since
        if until_ns <= since[0]:
            return
        until = self._since = (until_ns, until_local_ns)
        reader = self.reader
        if not reader.trusted:
            return
        epoch = self.machine.state.epoch
        if self._spoken_epoch != epoch and not self.authority.silent(now_ns=since[1]):
            self._spoken_epoch = epoch
        may_be_strong = self._spoken_epoch == epoch
        for era, model in self._eras:
            self._account.tell(
                reader,
                era=era,
                pending=model.pending,
                crossed=False,
                may_be_strong=may_be_strong,
                since=since,
                until=until,
            )

    def after(self, now_ns: int) -> None:
        if self._effects:
            effects, self._effects = self._effects, []
            for effect in effects:
                if isinstance(effect, SendClockRequest):
                    self.world.ask_clocks(self, effect)
        state = self.machine.state
        if (state.outbox and self.leading) or self._tail is not None:
            self._relay()
        if state.revision != self._position.revision or state.epoch != self._position.epoch:
            self._moved()
        self.authority.check_invariants()
        self.reader.check_invariants()

    def _moved(self) -> None:
        world, state, position = self.world, self.machine.state, self.machine.state.position
        if position < self._position:
            world.judge.accuse("position", world.now_ns, f"{self.name} went back to {position}")
        self._position = position
        self._eras = [
            (world.truth.era_at(name, position, model.generation), model)
            for name, model in state.models.items()
            if name in world.models
        ]
        self.machine.check_invariants()
