"""What is true, and whether anybody said otherwise: exact, by intervals of real time, while the run goes on.

Picture a court reporter who knows when everything really happened. `Truth` applies each command at the instant at which
it is committed and notes when each generation really became active. `Judge` is told, for every reader, the real-time
interval in which it would have answered strong(g), and compares ends with beginnings; nothing is sampled.

Generations of one model are ordered by `Key`: a deleted model that is created anew is another incarnation, and a new
epoch is another history.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from consistency_service.core import commands as c
from consistency_service.core.machine import MetadataMachine
from consistency_service.core.outcomes import Outcome
from edge_client.protocol.models import Assignment, ModelView
from edge_client.protocol.position import Position

if TYPE_CHECKING:
    from tests.simulation.clock import SimClock

VIOLATIONS_MAX = 20
FAR_NS = 1 << 62


class Key(NamedTuple):
    """One generation of one incarnation of a model, in the order of history."""

    epoch: int
    created: int
    generation: int


class Era:
    """One generation on record: when it really was active, and what was said of it so far."""

    __slots__ = (
        *("first_ns", "floor_ns", "key", "last_ns", "last_who", "model", "next", "stale_from_ns", "start_ns"),
        "superseded_ns",
    )

    def __init__(self, *, model: str, key: Key) -> None:
        self.model = model
        self.key = key
        self.next: Era | None = None
        self.start_ns = FAR_NS
        """When it really became active; far away if it never did."""
        self.superseded_ns = FAR_NS
        """When the next generation of this incarnation really became active; far away if none did."""
        self.stale_from_ns = FAR_NS
        """The same, or when its epoch ended, if that was earlier: whoever states a bound counts from there."""
        self.first_ns = FAR_NS
        """The earliest end of an answer or of a promise."""
        self.last_ns = -1
        """The latest invocation of an answer, by `last_who`."""
        self.last_who = ""
        self.floor_ns = FAR_NS
        """The earliest answer or promise of anything newer."""

    def __repr__(self) -> str:
        return f"{self.model} {self.key}"


class Violation(NamedTuple):
    """Something was said that is not true."""

    rule: str
    at_ns: int
    what: str


class Truth:
    """The committed history, applied at the instants of commitment."""

    def __init__(self, clocks: dict[str, SimClock]) -> None:
        self.machine = MetadataMachine()
        self._clocks = clocks
        self.views: dict[Position, dict[str, ModelView]] = {Position(0, 0): {}}
        self.created: dict[str, list[Position]] = {}
        self.eras: dict[str, dict[Key, Era]] = {}
        self._in_order: dict[str, list[Era]] = {}
        self.assignments: dict[str, dict[Key, Assignment]] = {}
        self._ended_ns: dict[int, int] = {}
        """When the old cluster of each epoch was stopped."""
        self.effects: Counter[tuple[int, str]] = Counter()
        """How often each request id changed anything, by epoch: a restore from a backup may forget that it did."""

    @property
    def position(self) -> Position:
        return self.machine.state.position

    @property
    def assumption(self) -> int:
        """The current one; 0 without authority."""
        authority = self.machine.state.authority
        return authority.assumption if authority else 0

    def commit(self, command: c.AnyCommand, *, now_ns: int) -> Outcome:
        before = self.machine.state.position
        outcome = self.machine.apply(command)
        state = self.machine.state
        if state.position == before:
            return outcome
        if command.request_id:
            self.effects[state.epoch, command.request_id] += 1
        views = dict(self.views[before])
        event = state.outbox[-1]
        for view in event.models:
            views[view.name] = view
        for name in event.removed:
            views.pop(name, None)
        self.views[state.position] = views
        if isinstance(command, c.CreateModel):
            self.created.setdefault(command.model, []).append(state.position)
            self._start(command.model, Key(*state.position, 0), now_ns)
        elif isinstance(command, c.ActivateGeneration):
            clock = self._clocks[command.clock_id]
            start_ns = max(now_ns, clock.real_ns(command.effective_at_ns))
            for change in command.changes:
                key = self.key(change.model, state.position, views[change.model].generation + 1)
                self._start(change.model, key, start_ns)
                self.assignments.setdefault(change.model, {})[key] = change.assignment
        elif isinstance(command, c.ActivateRollout):
            start_ns = max(now_ns, self._clocks[command.clock_id].real_ns(command.effective_at_ns))
            for name, generation in outcome.detail["generations"].items():
                key, pending = self.key(name, state.position, generation), views[name].pending
                assert pending is not None
                self._start(name, key, start_ns)
                self.assignments.setdefault(name, {})[key] = pending.assignment
        return outcome

    def restored(self, payload: bytes, *, now_ns: int) -> None:
        """A new epoch begins from a backup, and the one before it has ended."""
        self._ended_ns[self.position.epoch] = now_ns
        for era in (era for eras in self.eras.values() for era in eras.values()):
            era.stale_from_ns = min(era.stale_from_ns, now_ns)
        self.machine.restore(payload)
        state = self.machine.state
        self.views[state.position] = {name: model.view() for name, model in state.models.items()}
        for name, model in state.models.items():
            self.created.setdefault(name, []).append(state.position)
            assignments = self.assignments.setdefault(name, {})
            for entry in model.history:
                key = Key(*state.position, entry.generation)
                self._start(name, key, now_ns)
                assignments[key] = entry.assignment
            key = Key(*state.position, model.generation)
            self._start(name, key, now_ns)
            if model.assignment is not None and assignments.get(key) != model.assignment:
                raise AssertionError(
                    f"{name} stands at g{model.generation}, but its history says {assignments.get(key)}"
                )

    def key(self, model: str, position: Position, generation: int) -> Key:
        created = self.created[model]
        return Key(*created[bisect_right(created, position) - 1], generation)

    def era(self, model: str, key: Key) -> Era:
        """What is on record of one generation, though it be only that somebody named it."""
        eras = self.eras.setdefault(model, {})
        era = eras.get(key)
        if era is None:
            era = eras[key] = Era(model=model, key=key)
            in_order = self._in_order.setdefault(model, [])
            at = bisect_right(in_order, key, key=_key_of)
            in_order.insert(at, era)
            era.floor_ns = min((newer.first_ns for newer in in_order[at + 1 :]), default=FAR_NS)
            following = eras.get(key._replace(generation=key.generation + 1))
            if following is not None:
                era.next, era.superseded_ns = following, following.start_ns
            era.stale_from_ns = min(era.superseded_ns, self._ended_ns.get(key.epoch, FAR_NS))
            before = eras.get(key._replace(generation=key.generation - 1))
            if before is not None:
                before.next = era
        return era

    def era_at(self, model: str, position: Position, generation: int) -> Era:
        """The one that `generation` is for whoever stands at `position`."""
        return self.era(model, self.key(model, position, generation))

    def era_after(self, era: Era) -> Era:
        """The next generation of the same incarnation."""
        return era.next or self.era(era.model, era.key._replace(generation=era.key.generation + 1))

    def older_than(self, era: Era) -> Iterator[Era]:
        """All older ones of the model, the newest first."""
        in_order = self._in_order[era.model]
        for at in range(bisect_left(in_order, era.key, key=_key_of) - 1, -1, -1):
            yield in_order[at]

    def _start(self, model: str, key: Key, start_ns: int) -> None:
        self.era(model, key).start_ns = start_ns
        before = self.eras[model].get(key._replace(generation=key.generation - 1))
        if before is not None:
            before.superseded_ns = start_ns
            before.stale_from_ns = min(start_ns, self._ended_ns.get(key.epoch, FAR_NS))


def _key_of(era: Era) -> Key:
    return era.key


class Judge:
    """Compares what was said with what is true."""

    def __init__(self, truth: Truth) -> None:
        self._truth = truth
        self.violations: list[Violation] = []
        self.seen: Counter[str] = Counter()
        self.strong_ns = 0
        """For how long readers would have answered strongly, in all."""

    def accuse(self, rule: str, at_ns: int, what: str) -> None:
        if len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(Violation(rule, at_ns, what))

    def strong(self, era: Era, *, begin_ns: int, end_ns: int, who: str) -> None:
        """`who` would have said strong(era) at every instant of `[begin_ns, end_ns)`."""
        if begin_ns < era.start_ns:
            self.accuse("active", begin_ns, f"{who} strong({era}) from {begin_ns}, active from {era.start_ns}")
        if end_ns > era.superseded_ns:
            self.accuse("active", end_ns, f"{who} strong({era}) until {end_ns}, superseded {era.superseded_ns}")
        self._said(era, invoked_last_ns=end_ns, returned_first_ns=begin_ns, who=who)

    def strong_call(self, era: Era, *, invoked_ns: int, returned_ns: int, who: str) -> None:
        """`who` was asked at one instant and answered strong(era) at a later one."""
        if returned_ns < era.start_ns or invoked_ns > era.superseded_ns:
            what = f"{who} strong({era}) in {invoked_ns}..{returned_ns}, active {era.start_ns}..{era.superseded_ns}"
            self.accuse("active", returned_ns, what)
        self._said(era, invoked_last_ns=invoked_ns, returned_first_ns=returned_ns, who=who)

    def told(self, era: Era, *, at_ns: int, who: str) -> None:
        """A caller heard that the activation, or the deletion before it, is complete."""
        self.seen["told"] += 1
        self._newer(era, at_ns, f"{who} told {era}")

    def bound(self, era: Era, *, bound_ns: int | None, at_ns: int, who: str, strong: bool = False) -> None:
        """`who` said at `at_ns` that it had been active at most `bound_ns` before.

        What is strong may outlive its epoch for as long as the next one is silent; `strong` and `_said` see to that.
        """
        since_ns = era.superseded_ns if strong else era.stale_from_ns
        if bound_ns is not None and (stale_ns := at_ns - since_ns) > bound_ns:
            self.accuse("bound", at_ns, f"{who} {era} bound {bound_ns} but stale for {stale_ns}")

    def _said(self, era: Era, *, invoked_last_ns: int, returned_first_ns: int, who: str) -> None:
        if invoked_last_ns > era.floor_ns:
            what = f"{who} strong({era}) at {invoked_last_ns}, newer since {era.floor_ns}"
            self.accuse("inversion", invoked_last_ns, what)
        if invoked_last_ns > era.last_ns:
            era.last_ns, era.last_who = invoked_last_ns, who
        # "Nothing is active" is said as soon as a deletion has applied, which waits for nobody: it ends older answers of
        # older epochs only. That the caller of a deletion is told ends the others (`told`).
        ends = era if era.key.generation else self._truth.era(era.model, Key(era.key.epoch, 0, 0))
        if returned_first_ns < ends.first_ns:
            self._newer(ends, returned_first_ns, f"{who} strong({era})")

    def _newer(self, era: Era, at_ns: int, what: str) -> None:
        if at_ns >= era.first_ns:
            return
        era.first_ns = at_ns
        for older in self._truth.older_than(era):
            if older.floor_ns <= at_ns:
                break  # the floor of what is older still is no higher
            older.floor_ns = at_ns
            if older.last_ns > at_ns:
                said = f"{older.last_who} strong({older}) at {older.last_ns}"
                self.accuse("inversion", older.last_ns, f"{said}; {what} {at_ns}")
