"""One thing that one process did, and when. All the checker ever knows about a history is a set of these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from consistency_service.testbed.errors import TestbedError

LABEL_CHARS_MAX: Final = 60

Value = Any
"""What is written, read or appended: hashable, compared with `==`. Lists are tuples, see `frozen`."""


class MalformedHistoryError(TestbedError):
    """This is not a history, or not one that the model can judge; the text says where."""


@dataclass(frozen=True, slots=True)
class Symbol:
    """A word that is not a string: a keyword of EDN, `true`, `false`. Never equal to a number, unlike Python's `True`."""

    name: str

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """It took effect at one instant from `invoked` to `returned`, ends included; or never, if it did not return."""

    process: str
    name: str
    """`read`, `write`, `cas`, `append` or `activate`."""

    argument: Value = None
    """Written, appended or activated value; `(expected, new)` of a `cas`; `None` of a read."""

    result: Value = None
    """What a read answered; of a `cas`, whether the value was the expected one. Means nothing if it did not return."""

    key: Value = None
    invoked: int
    returned: int | None = None
    """`None`: nobody knows whether it took effect; if so, at any instant after `invoked`."""

    line: int = 0
    """Where it was invoked, in the file that it was read from; 0 if in none."""

    def __post_init__(self) -> None:
        if self.returned is not None and self.returned < self.invoked:
            raise MalformedHistoryError(f"line {self.line}: {self.process} returned before it invoked")

    def __str__(self) -> str:
        known = self.returned is not None
        if self.name == "read":
            return f"read → {label(self.result)}" if known else "read"
        if self.name == "cas":
            expected, new = self.argument
            verdict = ("" if self.result else " → no") if known else ""
            return f"cas {label(expected)}→{label(new)}{verdict}"
        return f"{self.name} {label(self.argument)}"


def frozen(value: Any) -> Value:
    """The same value, hashable, with lists as tuples and `true` apart from 1."""
    if isinstance(value, bool):
        return Symbol("true" if value else "false")
    if isinstance(value, list | tuple):
        return tuple(frozen(item) for item in value)
    if isinstance(value, dict):
        return frozenset((name, frozen(item)) for name, item in value.items())
    if isinstance(value, set | frozenset):
        return frozenset(frozen(item) for item in value)
    return value


def label(value: Value) -> str:
    """The value as people write it, shortened."""
    text = _text(value)
    return text if len(text) <= LABEL_CHARS_MAX else f"{text[: LABEL_CHARS_MAX // 2]} … {text[-LABEL_CHARS_MAX // 2 :]}"


def _text(value: Value) -> str:
    if value is None:
        return "nil"
    if isinstance(value, tuple):
        return f"[{' '.join(_text(item) for item in value)}]"
    if isinstance(value, str):
        return f'"{value}"'
    return repr(value)
