"""What clients saw, and whether one copy of the data, changed one step at a time, could have shown it to them.

Picture a judge who knows only letters with postmarks: when something was asked, when the answer came. Lists are judged
exactly: the list itself tells the order of its appends. Registers are judged by search (Wing and Gong's, with the memory
that Lowe gave it): it looks for any order of the operations that explains all answers. Nothing here asks or waits.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

STATES_MAX: Final = 2_000_000
"""Looked at for one register; beyond that the question is left undecided, which is reported like a violation."""


@dataclass(slots=True, kw_only=True)
class Operation:
    """`status`: `ok` was answered, `failed` says that nothing was done, `unknown` says nothing."""

    client: int
    action: Literal["append", "put", "cas", "read"]
    key: str
    value: Any = None
    expected: Any = None
    begun: float
    ended: float = math.inf
    status: Literal["ok", "failed", "unknown"] = "unknown"
    found: Any = None
    """Of a read the value, of a cas what it held before, of an append the length after it."""


# Lists.


def faults_of_list(operations: Iterable[Operation], *, final: list[Any]) -> list[str]:
    """Every way in which appends to and reads of one list contradict what it came to in the end."""
    operations = list(operations)
    appends = {each.value: each for each in operations if each.action == "append"}
    reads = [each for each in operations if each.action == "read" and each.status == "ok"]
    counted, place = Counter(final), {value: index for index, value in enumerate(final)}
    faults = [f"{value} is there {count} times" for value, count in counted.items() if count > 1]
    faults += [f"{value} comes from nowhere" for value in counted if value not in appends]
    for value, append in appends.items():
        if append.status == "ok" and value not in counted:
            faults.append(f"{value} was acknowledged and is lost: {append}")
        elif append.status == "failed" and value in counted:
            faults.append(f"{value} was refused and is there: {append}")
        elif append.status == "ok" and append.found != place[value] + 1:
            faults.append(f"{value} was acknowledged as number {append.found} and is number {place[value] + 1}")
    faults += [f"a read saw what never was: {read}" for read in reads if read.found != final[: len(read.found)]]
    return faults or _out_of_order(appends, reads=reads, final=final)


def _out_of_order(appends: dict[Any, Operation], *, reads: list[Operation], final: list[Any]) -> list[str]:
    """Each operation has its place in the list; none may come after one that began when it had ended."""
    steps = [(2 * index, appends[value]) for index, value in enumerate(final)]
    steps += [(2 * len(read.found) - 1, read) for read in reads]  # just after the last append it saw
    steps.sort(key=lambda step: step[0])
    faults: list[str] = []
    earliest: Operation | None = None
    later: list[Operation] = []
    place = math.inf
    for step, operation in reversed(steps):
        if step != place:  # reads of the same length may stand in any order
            earliest = min([*later, *([earliest] if earliest else [])], key=lambda each: each.ended, default=None)
            later, place = [], step
        later.append(operation)
        if earliest is not None and earliest.ended < operation.begun:
            faults.append(f"{operation} began after this had ended, and stands before it: {earliest}")
    return faults


# Registers.


def fault_of_register(operations: Iterable[Operation], *, initial: Any = None) -> str | None:
    """None if some order of the operations explains every answer. Each value is written at most once."""
    relevant = sorted(_relevant(list(operations), initial=initial), key=lambda each: each.begun)
    needed = sum(1 << index for index, each in enumerate(relevant) if each.status == "ok")
    stack, seen = [(0, initial)], {(0, initial)}
    deepest = 0
    while stack:
        done, value = stack.pop()
        if done & needed == needed:
            return None
        deepest = max(deepest, done & needed, key=int.bit_count)
        for index in _next(relevant, done=done):
            possible, after = _step(relevant[index], value=value)
            state = (done | 1 << index, after)
            if possible and state not in seen:
                seen.add(state)
                stack.append(state)
        if len(seen) > STATES_MAX:
            return f"undecided after {len(seen)} states"
    stuck = [relevant[index] for index in _next(relevant, done=deepest)]
    return f"no order explains the answers; {deepest.bit_count()} of {needed.bit_count()} could be, then one of {stuck}"


def _relevant(operations: list[Operation], *, initial: Any) -> list[Operation]:
    """Without what was not done, and without unknown writes that nobody can have seen: they explain nothing.

    A cas answers what it held, so that whoever met a value says so; an unknown one that matters met what it expected.
    """
    needed = [each for each in operations if each.status == "ok"]
    unknown = [each for each in operations if each.status == "unknown" and each.action != "read"]
    seen = {each.found for each in needed if each.action in {"read", "cas"}} - {initial}
    while met := [each for each in unknown if each.value in seen]:
        needed += met
        unknown = [each for each in unknown if each.value not in seen]
        seen |= {each.expected for each in met if each.action == "cas"}
    return needed


def _next(operations: list[Operation], *, done: int) -> list[int]:
    """Whatever had begun before the first of the rest ended."""
    index = ((~done) & (done + 1)).bit_length() - 1
    open_ones: list[int] = []
    first_end = math.inf
    while index < len(operations) and operations[index].begun <= first_end:
        if not done >> index & 1:
            open_ones.append(index)
            first_end = min(first_end, operations[index].ended)
        index += 1
    return [index for index in open_ones if operations[index].begun <= first_end]


def _step(operation: Operation, *, value: Any) -> tuple[bool, Any]:
    match operation.action:
        case "read":
            return operation.found == value, value
        case "put":
            return True, operation.value
        case _:
            held = operation.status != "ok" or operation.found == value
            return held, operation.value if value == operation.expected else value
