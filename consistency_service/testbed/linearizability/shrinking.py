"""Of a history that no order explains, the least that is still inexplicable.

Everything after the first return that no order reaches goes first. Then parts are left out, large ones before small ones,
as long as what remains has no order either, and only as `Model.without` permits: a write that a remaining read may have
seen cannot go, for then the read would be inexplicable only because we removed the explanation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from consistency_service.testbed.linearizability.models import History, Model
from consistency_service.testbed.linearizability.operations import Operation
from consistency_service.testbed.linearizability.search import DeadEnd, Search

STEPS_MIN: Final = 20_000
"""An attempt may take twice as many steps as the whole history did, and these."""

STEPS_BETWEEN_LOOKS: Final = 2_000
"""At the clock."""

Name = tuple[int, str]


@dataclass(frozen=True, slots=True)
class Part:
    """Not linearizable, and neither was the history that it was taken from."""

    history: History
    dead_end: DeadEnd
    smallest: bool


def shrunk(search: Search, *, out_of_time: Callable[[], bool]) -> Part:
    """The smallest part of what `search` refuted that was found before `out_of_time`."""
    attempts = _Attempts(search.model, 2 * search.step_count + STEPS_MIN, out_of_time)
    whole = Part(search.history, search.dead_end, smallest=False)
    part = attempts.cut(whole) or whole
    size = max(len(part.history) // 2, 1)
    while not out_of_time():
        before = len(part.history)
        part = attempts.without_chunks(part, size=size, only_observations=False)
        part = attempts.without_chunks(part, size=size, only_observations=True)
        if size == 1 and len(part.history) == before and not out_of_time():
            return replace(part, smallest=True)
        size = max(size // 2, 1)
    return part


@dataclass(frozen=True, slots=True)
class _Attempts:
    model: Model
    step_limit: int
    out_of_time: Callable[[], bool]

    def without_chunks(self, part: Part, *, size: int, only_observations: bool) -> Part:
        """The part without as many as possible of its chunks of `size` neighbours."""
        names = [
            _name(operation) for operation in part.history if not only_observations or self.model.observes(operation)
        ]
        for start in range(0, len(names), size):
            if self.out_of_time():
                break
            smaller = self._without(part.history, set(names[start : start + size]))
            if len(smaller) < len(part.history):
                part = self.proven(smaller) or part
        return part

    def proven(self, history: History) -> Part | None:
        """The history as a part, cut short, if it is known not to be linearizable."""
        search = Search(self.model, history)
        while not self.out_of_time() and search.step_count < self.step_limit:
            settled = search.run(STEPS_BETWEEN_LOOKS)
            if settled is False:
                part = Part(history, search.dead_end, smallest=False)
                return self.cut(part) or part
            if settled or search.full:
                break
        return None

    def cut(self, part: Part) -> Part | None:
        """Without what began after the blocked operation had returned, and without the returns after that."""
        end = part.history[part.dead_end.blocked].returned
        assert end is not None
        kept = [operation for operation in part.history if operation.invoked <= end]
        late = [operation.returned is None or operation.returned > end for operation in kept]
        cut = tuple(
            replace(operation, returned=None) if is_late else operation
            for operation, is_late in zip(kept, late, strict=True)
            if not is_late or not self.model.observes(operation)
        )
        return self.proven(cut) if cut != part.history else None

    def _without(self, history: History, names: set[Name]) -> History:
        """What only looks goes first, so that nobody has seen what goes afterwards."""
        for looking in (True, False):
            for operation in history:
                if _name(operation) not in names or self.model.observes(operation) != looking:
                    continue
                index = next((place for place, other in enumerate(history) if other is operation), None)
                if index is not None:
                    history = self.model.without(history, index) or history
        return history


def _name(operation: Operation) -> Name:
    """Survives what `Model.without` does to those that stay."""
    return operation.invoked, operation.process
