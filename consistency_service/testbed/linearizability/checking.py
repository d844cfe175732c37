"""From a history to an answer: taken apart by key, one search each, within a budget of time."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Final

from consistency_service.testbed.linearizability.models import MODELS, Model
from consistency_service.testbed.linearizability.operations import MalformedHistoryError, Operation, Value, label
from consistency_service.testbed.linearizability.result import Answer, Result, Violation
from consistency_service.testbed.linearizability.search import CONFIGURATIONS_MAX, Search
from consistency_service.testbed.linearizability.shrinking import STEPS_BETWEEN_LOOKS, shrunk

BUDGET_S: Final = 60.0
SHRINK_S: Final = 10.0


def check(
    history: Iterable[Operation],
    *,
    model: Model | str = "register",
    budget_s: float = BUDGET_S,
    shrink_s: float = SHRINK_S,
    now_s: Callable[[], float] = time.monotonic,
) -> Result:
    """The answer, after at most about `budget_s`, and `shrink_s` more to make a violation small.

    Stops at the first key with a violation. Raises `MalformedHistoryError` if the model cannot judge these operations.
    """
    model = _model(model)
    operations = sorted(history, key=lambda operation: (operation.invoked, operation.process))
    for operation in operations:
        model.require(operation)
    if not operations:
        raise MalformedHistoryError("there are no operations to judge")
    parts: dict[Value, list[Operation]] = defaultdict(list)
    for operation in operations:
        parts[operation.key].append(operation)
    began_s = now_s()
    step_count, undecided, reasons = 0, list[str](), set[str]()
    violation = None
    for done, key in enumerate(sorted(parts, key=lambda key: (len(parts[key]), label(key)))):
        part = tuple(parts[key])
        share_s = max(budget_s - (now_s() - began_s), 0.0) / (len(parts) - done)
        search = Search(model, part)
        settled = _decide(search, now_s=now_s, deadline_s=now_s() + share_s)
        step_count += search.step_count
        if settled is None:
            undecided.append(label(key))
            reasons.add(
                f"{CONFIGURATIONS_MAX:,} configurations remembered" if search.full else f"{budget_s:g} s are over"
            )
        elif not settled:
            violation = _violation(search, key=key, deadline_s=now_s() + shrink_s, now_s=now_s)
            break
    answer = Answer.UNKNOWN if undecided else Answer.LINEARIZABLE
    return Result(
        answer=Answer.NOT_LINEARIZABLE if violation else answer,
        model=model.name,
        operation_count=len(operations),
        process_count=len({operation.process for operation in operations}),
        key_count=len(parts),
        lost_count=sum(1 for operation in operations if operation.returned is None),
        step_count=step_count,
        elapsed_s=now_s() - began_s,
        reason=" and ".join(sorted(reasons)),
        undecided=tuple(undecided),
        violation=violation,
    )


def _model(model: Model | str) -> Model:
    if not isinstance(model, str):
        return model
    if model not in MODELS:
        raise MalformedHistoryError(f"no model {model}; there are {', '.join(MODELS)}")
    return MODELS[model]()


def _decide(search: Search, *, now_s: Callable[[], float], deadline_s: float) -> bool | None:
    while True:
        settled = search.run(STEPS_BETWEEN_LOOKS)
        if settled is not None or search.full or now_s() >= deadline_s:
            return settled


def _violation(search: Search, *, key: Value, deadline_s: float, now_s: Callable[[], float]) -> Violation:
    part = shrunk(search, out_of_time=lambda: now_s() >= deadline_s)
    return Violation(
        key=key,
        operations=part.history,
        blocked=part.dead_end.blocked,
        order=part.dead_end.order,
        states=tuple(search.model.describe(state) for state in part.dead_end.states),
        smallest=part.smallest,
    )
