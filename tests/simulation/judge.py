"""What is true, and whether anybody said otherwise: exact, by intervals of real time, while the run goes on.

Picture a court reporter who knows when everything really happened. `Truth` applies each command at the instant at which
it is committed and notes when each generation really became active. `Judge` is told, for every reader, the real-time
interval in which it would have answered strong(g), and compares ends with beginnings; nothing is sampled.

Generations of one model are ordered by `Key`: a deleted model that is created anew is another incarnation, and a new
epoch is another history.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
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
        self.starts: dict[str, dict[Key, int]] = {}
        self.assignments: dict[str, dict[Key, Assignment]] = {}
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
            self.starts.setdefault(command.model, {})[Key(*state.position, 0)] = now_ns
        elif isinstance(command, c.ActivateGeneration):
            clock = self._clocks[command.clock_id]
            start_ns = max(now_ns, clock.real_ns(command.effective_at_ns))
            for change in command.changes:
                key = self.key(change.model, state.position, views[change.model].generation + 1)
                self.starts[change.model][key] = start_ns
                self.assignments.setdefault(change.model, {})[key] = change.assignment
        return outcome

    def restored(self, payload: bytes, *, now_ns: int) -> None:
        """A new epoch begins from a backup."""
        self.machine.restore(payload)
        state = self.machine.state
        self.views[state.position] = {name: model.view() for name, model in state.models.items()}
        for name, model in state.models.items():
            self.created.setdefault(name, []).append(state.position)
            key = Key(*state.position, model.generation)
            self.starts.setdefault(name, {})[key] = now_ns
            if model.assignment is not None:
                self.assignments.setdefault(name, {})[key] = model.assignment
            if model.previous is not None:
                before = key._replace(generation=model.generation - 1)
                self.starts[name][before] = now_ns
                self.assignments[name][before] = model.previous

    def key(self, model: str, position: Position, generation: int) -> Key:
        created = self.created[model]
        return Key(*created[bisect_right(created, position) - 1], generation)

    def superseded_ns(self, model: str, key: Key) -> int:
        """When the next generation of this incarnation really became active; far away if none did."""
        return self.starts[model].get(key._replace(generation=key.generation + 1), FAR_NS)


class Judge:
    """Compares what was said with what is true."""

    def __init__(self, truth: Truth) -> None:
        self._truth = truth
        self.violations: list[Violation] = []
        self.seen: Counter[str] = Counter()
        self._keys: dict[str, list[Key]] = {}
        self._first: dict[tuple[str, Key], int] = {}  # the earliest end of an answer or of a promise
        self._last: dict[tuple[str, Key], tuple[int, str]] = {}  # the latest invocation of an answer
        self._floor: dict[tuple[str, Key], int] = {}  # the earliest answer or promise of anything newer

    def accuse(self, rule: str, at_ns: int, what: str) -> None:
        if len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(Violation(rule, at_ns, what))

    def strong(self, model: str, key: Key, *, begin_ns: int, end_ns: int, who: str) -> None:
        """`who` would have said strong(key) at every instant of `[begin_ns, end_ns)`."""
        starts = self._truth.starts[model]
        start_ns = starts.get(key)
        if start_ns is None or begin_ns < start_ns:
            self.accuse("active", begin_ns, f"{who} strong({model} {key}) from {begin_ns}, active from {start_ns}")
        superseded_ns = starts.get(key._replace(generation=key.generation + 1), FAR_NS)
        if end_ns > superseded_ns:
            self.accuse("active", end_ns, f"{who} strong({model} {key}) until {end_ns}, superseded {superseded_ns}")
        self._said(model, key, invoked_last_ns=end_ns, returned_first_ns=begin_ns, who=who)

    def strong_call(self, model: str, key: Key, *, invoked_ns: int, returned_ns: int, who: str) -> None:
        """`who` was asked at one instant and answered strong(key) at a later one."""
        starts = self._truth.starts[model]
        start_ns = starts.get(key)
        superseded_ns = starts.get(key._replace(generation=key.generation + 1), FAR_NS)
        if start_ns is None or returned_ns < start_ns or invoked_ns > superseded_ns:
            what = f"{who} strong({model} {key}) in {invoked_ns}..{returned_ns}, active {start_ns}..{superseded_ns}"
            self.accuse("active", returned_ns, what)
        self._said(model, key, invoked_last_ns=invoked_ns, returned_first_ns=returned_ns, who=who)

    def told(self, model: str, key: Key, *, at_ns: int, who: str) -> None:
        """A caller heard that `key`, or its deletion, is complete."""
        self.seen["told"] += 1
        self._newer(model, key, at_ns, f"{who} told {model} {key}")

    def bound(self, model: str, key: Key, *, bound_ns: int | None, at_ns: int, who: str) -> None:
        """`who` said at `at_ns` that `key` had been active at most `bound_ns` before."""
        if bound_ns is not None and at_ns - self._truth.superseded_ns(model, key) > bound_ns:
            stale_ns = at_ns - self._truth.superseded_ns(model, key)
            self.accuse("bound", at_ns, f"{who} {model} {key} bound {bound_ns} but stale for {stale_ns}")

    def _said(self, model: str, key: Key, *, invoked_last_ns: int, returned_first_ns: int, who: str) -> None:
        at = (model, key)
        if at not in self._floor:
            self._add(model, key)
        if invoked_last_ns > self._floor[at]:
            what = f"{who} strong({model} {key}) at {invoked_last_ns}, newer since {self._floor[at]}"
            self.accuse("inversion", invoked_last_ns, what)
        if at not in self._last or invoked_last_ns > self._last[at][0]:
            self._last[at] = (invoked_last_ns, who)
        # "Nothing is active" is said as soon as a deletion has applied, which waits for nobody: it ends older answers of
        # older epochs only. That the caller of a deletion is told ends the others (`told`).
        ends = key if key.generation else Key(key.epoch, 0, 0)
        if returned_first_ns < self._first.get((model, ends), FAR_NS):
            self._newer(model, ends, returned_first_ns, f"{who} strong({model} {key})")

    def _newer(self, model: str, key: Key, at_ns: int, what: str) -> None:
        at = (model, key)
        if at not in self._floor:
            self._add(model, key)
        if at_ns >= self._first.get(at, FAR_NS):
            return
        self._first[at] = at_ns
        for older in self._keys[model]:
            if older >= key:
                break
            if at_ns < self._floor[model, older]:
                self._floor[model, older] = at_ns
                last = self._last.get((model, older))
                if last is not None and last[0] > at_ns:
                    self.accuse("inversion", last[0], f"{last[1]} strong({model} {older}) at {last[0]}; {what} {at_ns}")

    def _add(self, model: str, key: Key) -> None:
        keys = self._keys.setdefault(model, [])
        keys.append(key)
        keys.sort()
        self._floor[model, key] = min((self._first.get((model, k), FAR_NS) for k in keys if k > key), default=FAR_NS)
