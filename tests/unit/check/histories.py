"""Histories to judge: made by a real linearizable object, made at random, and a judge that tries every order."""

from __future__ import annotations

import heapq
import random
from dataclasses import replace
from itertools import combinations, permutations
from typing import Any

from hypothesis import strategies as st

from consistency_service.testbed.linearizability import Append, Assignment, KeyValue, Operation, Register
from consistency_service.testbed.linearizability.models import ILLEGAL, Model

MODELS: tuple[Model, ...] = (Register(), Register(0), KeyValue(""), Append(), Assignment())


def read(process, invoked, returned, result, **more):
    return Operation(process=process, name="read", invoked=invoked, returned=returned, result=result, **more)


def write(process, invoked, returned, argument, **more):
    return Operation(process=process, name="write", invoked=invoked, returned=returned, argument=argument, **more)


def brute_force(model: Model, history: tuple[Operation, ...]) -> bool:
    """The definition itself: some order of what returned and of some of the rest, which time allows and the model explains."""
    certain = [operation for operation in history if operation.returned is not None]
    lost = [operation for operation in history if operation.returned is None]
    return any(
        in_time(order) and explained(model, order)
        for count in range(len(lost) + 1)
        for chosen in combinations(lost, count)
        for order in permutations([*certain, *chosen])
    )


def in_time(order) -> bool:
    return not any(
        later.returned is not None and later.returned < earlier.invoked
        for place, earlier in enumerate(order)
        for later in order[place + 1 :]
    )


def explained(model: Model, order) -> bool:
    state = model.initial()
    for operation in order:
        state = model.step(state, operation)
        if state is ILLEGAL:
            return False
    return True


def arguments(model: Model) -> st.SearchStrategy[dict[str, Any]]:
    """Name, argument and result of operations with few values, so that they meet."""
    if isinstance(model, KeyValue):
        text = st.sampled_from(["", "a", "b"])
        reads = st.fixed_dictionaries(
            {"name": st.just("read"), "result": st.sampled_from(["", "a", "b", "ab", "aa", "ba"])}
        )
        puts = st.fixed_dictionaries({"name": st.sampled_from(["write", "append"]), "argument": text})
        return st.one_of(reads, puts)
    if isinstance(model, Append):
        lists = st.lists(st.integers(1, 3), max_size=3).map(tuple)
        return st.one_of(
            st.fixed_dictionaries({"name": st.just("read"), "result": lists}),
            st.fixed_dictionaries({"name": st.just("append"), "argument": st.integers(1, 3)}),
        )
    if isinstance(model, Assignment):
        return st.one_of(
            st.fixed_dictionaries({"name": st.just("read"), "result": st.integers(0, 4)}),
            st.fixed_dictionaries({"name": st.just("activate"), "argument": st.integers(1, 4) | st.none()}),
        )
    value = st.integers(0, 2)
    return st.one_of(
        st.fixed_dictionaries({"name": st.just("read"), "result": value}),
        st.fixed_dictionaries({"name": st.just("write"), "argument": value}),
        st.fixed_dictionaries({"name": st.just("cas"), "argument": st.tuples(value, value), "result": st.booleans()}),
    )


@st.composite
def any_history(draw: st.DrawFn, model: Model, *, count_max: int = 6, lost_max: int = 2) -> tuple[Operation, ...]:
    """Whatever may have been recorded; each operation by a process of its own."""
    operations = []
    for index, fields in enumerate(draw(st.lists(arguments(model), min_size=1, max_size=count_max))):
        invoked = draw(st.integers(0, 12))
        returned = invoked + draw(st.integers(0, 6))
        lost = lost_max > 0 and draw(st.integers(0, 4)) == 0
        lost_max -= lost
        key = "k" if model.keyed else None
        answer = {"result": None} if lost else {}
        operations.append(
            Operation(
                process=f"p{index}",
                key=key,
                invoked=invoked,
                returned=None if lost else returned,
                **{**fields, **answer},
            )
        )
    return tuple(sorted(operations, key=lambda operation: (operation.invoked, operation.process)))


def lived(seed: int, *, count: int, clients: int, values: int = 5, lost: float = 0.0) -> list[Operation]:
    """What clients of one true register saw: each operation takes effect at one instant between its ends."""
    chance = random.Random(seed)
    state: int | None = None
    history: list[Operation] = []
    begun = 0
    agenda: list[tuple[int, int, str, Operation | None]] = [
        (chance.randrange(100), p, "begin", None) for p in range(clients)
    ]
    heapq.heapify(agenda)
    names = clients
    while agenda:
        now, process, what, operation = heapq.heappop(agenda)
        if operation is None:
            if begun < count:
                begun += 1
                name = chance.choice(["read", "write", "cas"])
                argument: Any = {
                    "read": None,
                    "write": chance.randrange(values),
                    "cas": (chance.randrange(values), chance.randrange(values)),
                }[name]
                operation = Operation(process=str(process), name=name, argument=argument, invoked=now)
                heapq.heappush(agenda, (now + chance.randrange(1, 1000), process, "effect", operation))
        elif what == "effect":
            result: Any = None
            if operation.name == "read":
                result = state
            elif operation.name == "cas":
                result = operation.argument[0] == state
                state = operation.argument[1] if result else state
            else:
                state = operation.argument
            answered = replace(operation, result=result)
            heapq.heappush(agenda, (now + chance.randrange(1, 100), process, "end", answered))
        elif chance.random() < lost:
            if operation.name != "read":
                history.append(replace(operation, result=None))
            names += 1
            heapq.heappush(agenda, (now + 1, names, "begin", None))
        else:
            history.append(replace(operation, returned=now))
            heapq.heappush(agenda, (now + 1, process, "begin", None))
    return history


def spoiled(history: list[Operation], *, seed: int) -> list[Operation]:
    """With a late read of what was written first, long before."""
    reads = [index for index, operation in enumerate(history) if operation.name == "read"]
    index = random.Random(seed).choice(reads[-(len(reads) // 5) - 1 :])
    first = next(operation.argument for operation in history if operation.name == "write")
    return [*history[:index], replace(history[index], result=first), *history[index + 1 :]]
