"""As much of EDN, Clojure's notation for data, as histories are written in.

Maps, vectors, lists, sets, strings, numbers, keywords, `nil`, `true`, `false`; comments and commas are space; a tag such as
`#jepsen.history.Op` is passed over and its value kept. Nothing is evaluated. Nesting is limited, recursion there is none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from consistency_service.testbed.linearizability.operations import MalformedHistoryError, Symbol, Value

DEPTH_MAX: Final = 32
DIGITS_MAX: Final = 40

_TOKEN: Final = re.compile(
    r"""(?P<space>[\s,]+|;[^\n]*)
      | "(?P<string>(?:[^"\\]|\\.)*+)"
      | (?P<open>\#\{|[\[({])
      | (?P<close>[\])}])
      | (?P<discard>\#_)
      | (?P<tag>\#[^\s,\[\](){}";]+)
      | (?P<number>[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?[NM]?(?=[\s,\])};]|$))
      | (?P<word>[^\s,\[\](){}";\#]+)""",
    re.VERBOSE | re.DOTALL,
)
_CLOSING: Final = {"[": "]", "(": ")", "{": "}", "#{": "}"}
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r"}
_NAMED: Final[dict[str, Value]] = {"nil": None, "true": Symbol("true"), "false": Symbol("false")}


@dataclass(frozen=True, slots=True)
class Map:
    """A map, and the line on which it began. Keywords that are keys lose their colon."""

    items: tuple[tuple[Value, Value], ...]
    line: int = field(compare=False, default=0)

    def fields(self) -> dict[Value, Value]:
        return {key.name.removeprefix(":") if isinstance(key, Symbol) else key: value for key, value in self.items}


@dataclass(slots=True)
class _Level:
    opening: str
    line: int
    items: list[Value] = field(default_factory=list)
    discards: int = 0


def values(text: str, *, line: int = 1) -> Iterator[Value]:
    """Every value at the top, in order. Raises `MalformedHistoryError` naming the line, counted from `line`."""
    levels = [_Level("", line)]
    position = 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise MalformedHistoryError(f"line {line}: not EDN from {text[position : position + 20]!r} on")
        position, kind, token = found.end(), found.lastgroup, found.group()
        level = levels[-1]
        if kind == "open":
            if len(levels) > DEPTH_MAX:
                raise MalformedHistoryError(f"line {line}: nested deeper than {DEPTH_MAX}")
            levels.append(_Level(token, line))
        elif kind == "discard":
            level.discards += 1
        elif kind not in ("space", "tag"):
            if kind == "close":
                if len(levels) == 1 or _CLOSING[level.opening] != token:
                    raise MalformedHistoryError(f"line {line}: {token} closes nothing")
                value = _collected(levels.pop())
                level = levels[-1]
            else:
                value = _atom(kind, found, line=line)
            if level.discards:
                level.discards -= 1
            elif len(levels) == 1:
                yield value
            else:
                level.items.append(value)
        line += token.count("\n")
    if len(levels) > 1:
        raise MalformedHistoryError(f"line {levels[-1].line}: {levels[-1].opening} is never closed")


def _collected(level: _Level) -> Value:
    if level.opening == "{":
        if len(level.items) % 2:
            raise MalformedHistoryError(f"line {level.line}: a map with a key without a value")
        return Map(tuple(zip(level.items[::2], level.items[1::2], strict=True)), level.line)
    return frozenset(level.items) if level.opening == "#{" else tuple(level.items)


def _atom(kind: Any, found: re.Match[str], *, line: int) -> Value:
    if kind == "string":
        return re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[1]), found["string"], flags=re.DOTALL)
    if kind == "number":
        digits = found["number"].rstrip("NM")
        if len(digits) > DIGITS_MAX:
            raise MalformedHistoryError(f"line {line}: a number of more than {DIGITS_MAX} digits")
        return float(digits) if re.search(r"[.eE]", digits) else int(digits)
    return _NAMED.get(found["word"], Symbol(found["word"]))
