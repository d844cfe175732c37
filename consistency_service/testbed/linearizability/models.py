"""The sequential objects: what one copy, doing one thing at a time, would have answered.

Each is a pure `step`, which is all the specification there is; the checker knows nothing else of registers or lists.
`without` is for shrinking: it takes an operation out of a history if that cannot turn a linearizable one into another,
so that whatever violation is left was one of the whole history too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Protocol

from consistency_service.testbed.linearizability.operations import (
    MalformedHistoryError,
    Operation,
    Symbol,
    Value,
    label,
)

State = Any
"""Hashable. Never `ILLEGAL`."""

ILLEGAL: Final = Symbol("illegal")
"""What `step` answers if this operation cannot have answered that in this state."""

History = tuple[Operation, ...]


class Model(Protocol):
    """One object, or one of many equal ones under keys. Knows no time."""

    @property
    def name(self) -> str: ...

    @property
    def keyed(self) -> bool:
        """Whether operations name a key; histories of different keys are judged apart."""

    def require(self, operation: Operation) -> None:
        """Raises `MalformedHistoryError` unless the operation is of this object, with arguments of the right shape."""

    def initial(self) -> State: ...

    def step(self, state: State, operation: Operation) -> State:
        """The state after it, or `ILLEGAL`. An operation that did not return can have answered anything."""

    def observes(self, operation: Operation) -> bool:
        """Whether it only looks: leaving it out never makes what follows impossible."""

    def without(self, history: History, index: int) -> History | None:
        """The history without one operation and what depends on it, or `None`.

        Not linearizable only if `history` is not.
        """

    def describe(self, state: State) -> str: ...


@dataclass(frozen=True, slots=True)
class Register:
    """Holds one value: read, write, and compare-and-set."""

    start: Value = None
    name: ClassVar[str] = "register"
    keyed: ClassVar[bool] = False

    def require(self, operation: Operation) -> None:
        _require(operation, model=self, names=("read", "write", "cas"))

    def initial(self) -> State:
        return self.start

    def step(self, state: State, operation: Operation) -> State:
        known = operation.returned is not None
        if operation.name == "read":
            return state if not known or operation.result == state else ILLEGAL
        if operation.name == "cas":
            expected, new = operation.argument
            if known and operation.result != (expected == state):
                return ILLEGAL
            return new if expected == state else state
        return operation.argument

    def observes(self, operation: Operation) -> bool:
        return operation.name == "read" or (
            operation.name == "cas" and operation.returned is not None and not operation.result
        )

    def without(self, history: History, index: int) -> History | None:
        return _without_value(history, index, observes=self.observes, seen=_equal)

    def describe(self, state: State) -> str:
        return label(state)


@dataclass(frozen=True, slots=True)
class KeyValue(Register):
    """A register under each key; strings can be appended to (to nothing as to an empty string)."""

    name: ClassVar[str] = "key-value"
    keyed: ClassVar[bool] = True

    def require(self, operation: Operation) -> None:
        _require(operation, model=self, names=("read", "write", "cas", "append"))
        if operation.name == "append" and not isinstance(operation.argument, str):
            raise MalformedHistoryError(f"line {operation.line}: key-value appends strings; for lists: --model append")

    def step(self, state: State, operation: Operation) -> State:
        if operation.name == "append":
            return ("" if state is None else state if isinstance(state, str) else label(state)) + operation.argument
        return Register.step(self, state, operation)

    def without(self, history: History, index: int) -> History | None:
        appends = any(operation.name == "append" for operation in history)
        return _without_value(history, index, observes=self.observes, seen=_contained if appends else _equal)


@dataclass(frozen=True, slots=True)
class Append:
    """A list under each key, to which elements are appended; a read answers the whole list."""

    name: ClassVar[str] = "append"
    keyed: ClassVar[bool] = True

    def require(self, operation: Operation) -> None:
        _require(operation, model=self, names=("read", "append"))
        if operation.name == "read" and not isinstance(operation.result, tuple | None):
            raise MalformedHistoryError(f"line {operation.line}: a list was to be read, not {label(operation.result)}")

    def initial(self) -> State:
        return ()

    def step(self, state: State, operation: Operation) -> State:
        if operation.name == "append":
            return (*state, operation.argument)
        return state if operation.returned is None or (operation.result or ()) == state else ILLEGAL

    def observes(self, operation: Operation) -> bool:
        return operation.name == "read"

    def without(self, history: History, index: int) -> History | None:
        """A read goes alone; an element leaves all lists at once, which keeps the order of the others."""
        if history[index].name == "read":
            return history[:index] + history[index + 1 :]
        element = history[index].argument
        return tuple(
            replace(operation, result=tuple(item for item in operation.result or () if item != element))
            if operation.name == "read"
            else operation
            for operation in history
            if operation.name == "read" or operation.argument != element
        )

    def describe(self, state: State) -> str:
        return label(state)


@dataclass(frozen=True, slots=True)
class Above:
    """A generation later than `floor`: one was activated, and nobody who knows which has told us yet."""

    floor: int


@dataclass(frozen=True, slots=True)
class Assignment:
    """The active generation of each model: grows at the instant of an activation, and is what strong reads answer."""

    name: ClassVar[str] = "assignment"
    keyed: ClassVar[bool] = True

    def require(self, operation: Operation) -> None:
        _require(operation, model=self, names=("read", "activate"))

    def initial(self) -> State:
        return 0

    def step(self, state: State, operation: Operation) -> State:
        if operation.name == "read" and operation.returned is None:
            return state
        generation = operation.argument if operation.name == "activate" else operation.result
        floor = state.floor if isinstance(state, Above) else state
        if operation.name == "activate":
            if generation is None:
                return Above(floor + 1 if isinstance(state, Above) else floor)
            return generation if generation > floor else ILLEGAL
        if isinstance(state, Above):
            return generation if generation > floor else ILLEGAL
        return state if generation == state else ILLEGAL

    def observes(self, operation: Operation) -> bool:
        return operation.name == "read"

    def without(self, history: History, index: int) -> History | None:
        if history[index].name == "activate" and history[index].argument is None:
            return None
        return _without_value(history, index, observes=self.observes, seen=_equal)

    def describe(self, state: State) -> str:
        return f"later than {state.floor}" if isinstance(state, Above) else label(state)


MODELS: Final[dict[str, Callable[[], Model]]] = {
    "register": Register,
    "key-value": KeyValue,
    "append": Append,
    "assignment": Assignment,
}


def _require(operation: Operation, *, model: Model, names: tuple[str, ...]) -> None:
    if operation.name not in names:
        raise MalformedHistoryError(
            f"line {operation.line}: the {model.name} model knows {', '.join(names)}; not {operation.name}"
        )
    if model.keyed != (operation.key is not None):
        raise MalformedHistoryError(
            f"line {operation.line}: {operation.name} names no key, so try --model register"
            if model.keyed
            else f"line {operation.line}: {operation.name} names the key {label(operation.key)}; try --model key-value"
        )
    if operation.name == "cas" and not (isinstance(operation.argument, tuple) and len(operation.argument) == 2):
        raise MalformedHistoryError(f"line {operation.line}: a cas needs [expected new]")


def _equal(made: Value, seen: Value) -> bool:
    return bool(made == seen)


def _contained(made: Value, seen: Value) -> bool:
    """Whether what was read may hold what was put or appended; strings grow by appending."""
    return bool(made == seen) or (isinstance(seen, str) and (not isinstance(made, str) or made in seen))


def _without_value(
    history: History, index: int, *, observes: Callable[[Operation], bool], seen: Callable[[Value, Value], bool]
) -> History | None:
    """An observation goes freely. What made a value goes if nobody left can have seen it in that place.

    Nobody can who had returned before, or was invoked after another value had surely been put on top. If the value is
    seen at all, one operation that made it stays nevertheless: "it had been overwritten" convinces, "it was never
    written" would be untrue.
    """
    rest = history[:index] + history[index + 1 :]
    operation = history[index]
    if observes(operation):
        return rest
    value = _made(operation)
    topped = _topped(rest, operation)
    made_first = min((other.invoked for other in rest if not observes(other) and _made(other) == value), default=None)
    for other in rest:
        sight = _sight(other)
        if sight is None:
            continue
        exact = other.name == "read" or other.returned is None or bool(other.result)
        if exact and not seen(value, sight[0]):
            continue
        if other.returned is not None and other.returned < operation.invoked:
            continue
        if topped is None or topped >= other.invoked:
            return None
        if exact and (made_first is None or (other.returned is not None and made_first > other.returned)):
            return None
    return rest


def _made(operation: Operation) -> Value:
    return operation.argument[1] if operation.name == "cas" else operation.argument


def _sight(operation: Operation) -> tuple[Value] | None:
    """What it saw, or what it would have acted on."""
    if operation.name == "cas":
        return (operation.argument[0],)
    return (operation.result,) if operation.name == "read" else None


def _topped(rest: Sequence[Operation], operation: Operation) -> int | None:
    """By when something had surely replaced what `operation` made."""
    if operation.returned is None:
        return None
    return min(
        (
            other.returned
            for other in rest
            if other.name in {"write", "activate"} or (other.name == "cas" and other.result)
            if other.returned is not None and other.invoked > operation.returned
        ),
        default=None,
    )
