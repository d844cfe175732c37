"""Is there an order? The search of Wing and Gong, with the memory of Lowe, and four shortcuts that lose nothing.

Picture the events as a train of cars, an invocation and a return for each operation. Whatever was invoked before the
first return still in the train may be next; taking it removes both its cars, and the train is empty exactly if everything
was placed. A dead end puts the last pair back (hence the linked list) and tries another. A *configuration*, what has been
placed and the state it left, never needs a second visit.

1. What only looks, and agrees with the state, is placed at once and for good: it could be placed later only at a greater
   cost. 2. Operations that never returned may be left out, so a configuration that took more of them for the same state is
   no better than one that took fewer. 3. Of those with equal arguments, the one invoked first will do. 4. One of
them is placed only if something that may come next can tell the difference.

No recursion, no clock: `run` goes a number of steps, and whoever calls it decides whether to go on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from consistency_service.testbed.linearizability.models import ILLEGAL, History, Model, State

CONFIGURATIONS_MAX: Final = 1_500_000
"""Remembered; a few hundred bytes each. A search that needs more is given up."""

STATES_KEPT: Final = 8

HEAD: Final = 0


@dataclass(frozen=True, slots=True)
class DeadEnd:
    """The first return, in order of time, that no order reaches; and how far one that got there had come."""

    blocked: int
    """Index of the operation that cannot be placed."""

    order: tuple[int, ...]
    """Indices of operations in an order that explains everything that had returned before."""

    states: tuple[State, ...]
    """Some of the states in which a search that got there was; all of them, if fewer than `STATES_KEPT`."""


@dataclass(slots=True)
class _Frame:
    """One placement: enough to take it back, and to go on with the next choice."""

    state: int
    node: int
    """Its invocation's car; `HEAD` if it never returned."""

    group: int
    """Of operations that never returned; -1 if it did."""

    operation: int
    forced: bool


class Search:
    """Over one object's history. `run` until it says something."""

    def __init__(self, model: Model, history: History) -> None:
        self.model = model
        self.history = history
        self.step_count = 0
        self.configuration_count = 0
        self.full = False
        """Gave up: there was no room to remember."""

        self._train = _Train(model, history)
        self._moves = _Moves(model, history)
        self._frames: list[_Frame] = []
        self._state = self._moves.number_of(model.initial())
        self._taken = 0
        """Bits of those that returned, by order of invocation."""

        self._taken_lost = 0
        self._group_taken = [0] * len(self._train.groups)
        self._seen: dict[tuple[int, int, int], list[int]] = {}
        self._cursor: int | None = None
        """Where choosing goes on: a car, or minus a group; `None` in a configuration just entered."""

        self._furthest = -1
        self._furthest_order: tuple[int, ...] = ()
        self._furthest_states: set[int] = set()

    @property
    def dead_end(self) -> DeadEnd:
        """After `run` answered False."""
        states = [self._moves.states[number] for number in self._furthest_states]
        return DeadEnd(
            self._train.operation[self._furthest], self._furthest_order, tuple(sorted(states, key=repr)[:STATES_KEPT])
        )

    def run(self, step_limit: int) -> bool | None:
        """Whether the history is linearizable; `None` if `step_limit` steps did not settle that, or memory is full."""
        train = self._train
        for _ in range(step_limit):
            if self.full:
                return None
            self.step_count += 1
            if self._cursor is None:
                if train.next[HEAD] == HEAD:
                    return True
                if self._place_observation():
                    continue
                if self._known():
                    if not self._back():
                        return False
                    continue
                self._cursor = train.next[HEAD]
            if not self._place_next() and not self._back():
                return False
        return None

    def _place_observation(self) -> bool:
        """Shortcut 1: whether there was one that agrees with the state."""
        train, state = self._train, self._state
        node = train.next[HEAD]
        while train.match[node]:
            index = train.operation[node]
            if train.looks[index] and self._moves.of(index, state) == state:
                self._place(node, state, forced=True)
                return True
            node = train.next[node]
        return False

    def _known(self) -> bool:
        """Whether a configuration at least as good was entered before; remembers this one otherwise."""
        floor = self._train.rank[self._train.next[HEAD]]
        key = (floor, self._taken >> floor, self._state)
        lost = self._seen.get(key)
        if lost is None:
            self._seen[key] = [self._taken_lost]
        elif any(other & self._taken_lost == other for other in lost):
            return True
        else:
            lost[:] = [other for other in lost if other & self._taken_lost != self._taken_lost]
            lost.append(self._taken_lost)
        self.configuration_count += 1
        self.full = self.configuration_count >= CONFIGURATIONS_MAX
        return False

    def _place_next(self) -> bool:
        """Whether something could be placed, from the cursor on; else this is a dead end."""
        train, moves, state = self._train, self._moves, self._state
        node = self._cursor
        assert node is not None
        while node > 0 and train.match[node]:
            after = moves.of(train.operation[node], state)
            if after >= 0:
                self._place(node, after, forced=False)
                return True
            node = train.next[node]
        group = -node if node < 0 else 0
        end = train.first_return() if node < 0 else node
        useful: dict[int, bool] = {}
        while group < len(train.groups):
            lost = self._available(group, end)
            if lost is not None:
                after = moves.of(lost, state)
                if after not in useful:
                    useful[after] = after >= 0 and after != state and self._matters(after, end)
                if useful[after]:
                    self._frames.append(_Frame(state, HEAD, group, lost, forced=False))
                    self._group_taken[group] += 1
                    self._taken_lost |= 1 << lost
                    self._state, self._cursor = after, None
                    return True
            group += 1
        if end > self._furthest:
            self._furthest, self._furthest_states = end, {state}
            self._furthest_order = tuple(frame.operation for frame in self._frames)
        elif end == self._furthest and len(self._furthest_states) < STATES_KEPT:
            self._furthest_states.add(state)
        return False

    def _available(self, group: int, end: int) -> int | None:
        """The next of a group that never returned, if it was invoked before the car `end`."""
        members = self._train.groups[group]
        taken = self._group_taken[group]
        return members[taken][1] if taken < len(members) and members[taken][0] < end else None

    def _matters(self, after: int, end: int) -> bool:
        """Shortcut 4: whether anything that may be next tells the state `after` from the present one."""
        train, of, state = self._train, self._moves.of, self._state
        node = train.next[HEAD]
        while node != end:
            index = train.operation[node]
            if of(index, after) != of(index, state):
                return True
            node = train.next[node]
        for group in range(len(train.groups)):
            lost = self._available(group, end)
            if lost is not None and of(lost, after) not in {after, of(lost, state)}:
                return True
        return False

    def _place(self, node: int, after: int, *, forced: bool) -> None:
        train = self._train
        train.lift(node)
        self._taken |= 1 << train.rank[node]
        self._frames.append(_Frame(self._state, node, -1, train.operation[node], forced))
        self._state, self._cursor = after, None

    def _back(self) -> bool:
        """Takes back the last placement that was a choice; whether there was one."""
        train = self._train
        while self._frames:
            frame = self._frames.pop()
            self._state = frame.state
            if frame.node == HEAD:
                self._group_taken[frame.group] -= 1
                self._taken_lost &= ~(1 << frame.operation)
                self._cursor = -(frame.group + 1)
                return True
            train.unlift(frame.node)
            self._taken &= ~(1 << train.rank[frame.node])
            if not frame.forced:
                self._cursor = train.next[frame.node]
                return True
        return False


class _Train:
    """The cars in order of time, invocations before returns of the same instant. Car 0 is head and end."""

    def __init__(self, model: Model, history: History) -> None:
        self.looks = [model.observes(operation) for operation in history]
        self.operation = [-1]
        """Index in the history, of each car."""

        self.match = [HEAD]
        """The car of the return, of each invocation; `HEAD` of a return."""

        self.rank = [0]
        """How many of those that returned were invoked earlier, of each invocation."""

        self.groups: list[list[tuple[int, int]]] = []
        """Never returned and have equal arguments: where in the train, and the index. In order of invocation."""

        cars = [HEAD]
        invoked: dict[int, int] = {}
        group_of: dict[tuple[object, ...], list[tuple[int, int]]] = {}
        for _, kind, index in sorted(_events(history)):
            operation, node = history[index], len(self.operation)
            self.operation.append(index)
            self.match.append(HEAD)
            self.rank.append(len(invoked))
            if operation.returned is None:
                if not self.looks[index]:
                    group_of.setdefault((operation.name, operation.argument), []).append((node, index))
                continue
            cars.append(node)
            if kind == 0:
                invoked[index] = node
            else:
                self.match[invoked[index]] = node
        self.groups = list(group_of.values())
        self.next, self._previous = [HEAD] * len(self.operation), [HEAD] * len(self.operation)
        for before, after in zip(cars, [*cars[1:], HEAD], strict=True):
            self.next[before], self._previous[after] = after, before

    def first_return(self) -> int:
        node = self.next[HEAD]
        while self.match[node]:
            node = self.next[node]
        return node

    def lift(self, node: int) -> None:
        for car in (node, self.match[node]):
            self.next[self._previous[car]], self._previous[self.next[car]] = self.next[car], self._previous[car]

    def unlift(self, node: int) -> None:
        for car in (self.match[node], node):
            self.next[self._previous[car]] = self._previous[self.next[car]] = car


class _Moves:
    """What each operation does to each state, asked once. States are numbered, because long lists are slow to compare."""

    def __init__(self, model: Model, history: History) -> None:
        self.states: list[State] = []
        self._model = model
        self._history = history
        self._numbers: dict[State, int] = {}
        self._known: list[dict[int, int]] = [{} for _ in history]

    def number_of(self, state: State) -> int:
        number = self._numbers.setdefault(state, len(self.states))
        if number == len(self.states):
            self.states.append(state)
        return number

    def of(self, index: int, state: int) -> int:
        """The number of the state after it, or -1."""
        known = self._known[index].get(state)
        if known is None:
            after = self._model.step(self.states[state], self._history[index])
            known = self._known[index][state] = -1 if after is ILLEGAL else self.number_of(after)
        return known


def _events(history: History) -> Iterator[tuple[int, int, int]]:
    for index, operation in enumerate(history):
        yield operation.invoked, 0, index
        if operation.returned is not None:
            yield operation.returned, 1, index
