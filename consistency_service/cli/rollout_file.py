"""A strategy file: YAML (and so JSON), and where in the file each part of it stands.

Picture a map beside the text: `stages[1].share` is at line 7, column 5. Whoever finds a fault names its place, and the map
says where to look. Words mean what they look like: `yes`, `on`, `12:30` and `2026-11-20` are text, there are no tags, and a
key that is written twice is a fault instead of a surprise.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from consistency_service.cli.errors import LocalError

FILE_BYTES_MAX: Final = 256 * 1024
PARTS_MAX: Final = 20_000
"""Of a document with its aliases followed, so that a short file cannot be a long one."""
DEPTH_MAX: Final = 30
_LAST_PART: Final = re.compile(r"(\.[^.\[\]]*|\[\d+\])$")

_PLAIN: Final = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+)", list("-+.0123456789")),
)
"""Words that are no text: the core schema of YAML 1.2, short of other bases and of what is not finite."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class FileFault:
    """One thing that is wrong in a file; line and column count from 1, and are 0 where the file says nothing about it."""

    line: int
    column: int
    place: str
    message: str

    def told(self, file: str) -> str:
        """As compilers say it, so that editors find it."""
        parts = (f"{file}:{self.line}:{self.column}" if self.line else "", self.place, self.message)
        return ": ".join(part for part in parts if part)

    def document(self) -> dict[str, Any]:
        return {"line": self.line, "column": self.column, "place": self.place, "message": self.message}


@dataclass(slots=True, kw_only=True)
class StrategyFile:
    """What a file says, and where. With `faults` it said something that has no meaning."""

    name: str = ""
    """Of the file; empty: it was put together from options, so nothing has a line."""
    value: Any = None
    places: dict[str, tuple[int, int]] = field(default_factory=dict)
    faults: list[FileFault] = field(default_factory=list)

    def fault(self, place: str, message: str) -> FileFault:
        """A fault at a place, or at the smallest part round it that the file has; what is about a model is in no file."""
        if not self.name or (place.startswith("models.") and "models" not in self.places):
            return FileFault(line=0, column=0, place=place, message=message)
        found = place
        while found and found not in self.places:
            shorter = _LAST_PART.sub("", found)
            found = "" if shorter == found else shorter
        line, column = self.places.get(found, (1, 1))
        return FileFault(line=line, column=column, place=place, message=message)


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Makes nodes only; no tag is ever carried out."""


_Loader.yaml_implicit_resolvers = {}
for _name, _pattern, _firsts in _PLAIN:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"(?:{_pattern})$"), _firsts)


def read_strategy(path: Path) -> StrategyFile:
    """What the file says; what it says badly is in `faults`. Raises `LocalError` if it cannot be read."""
    try:
        with path.open("rb") as stream:
            content = stream.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise LocalError(f"{path}: {error.strerror or error}") from None
    if len(content) > FILE_BYTES_MAX:
        raise LocalError(f"{path} has more than {FILE_BYTES_MAX} bytes; that is no strategy")
    return parse_strategy(content, name=str(path))


def parse_strategy(content: bytes, *, name: str) -> StrategyFile:
    """As `read_strategy`, of bytes."""
    parsed = StrategyFile(name=name)
    try:
        node = yaml.compose(content.decode("utf-8-sig"), Loader=_Loader)
    except UnicodeDecodeError:
        parsed.faults.append(parsed.fault("", "the file is not UTF-8 text"))
    except yaml.reader.ReaderError as error:
        parsed.faults.append(
            parsed.fault("", f"the file has a character that YAML does not allow: {error.character!r}")
        )
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        message = f"{error.problem or 'no YAML'}{', ' + error.context if error.context else ''}"
        parsed.faults.append(FileFault(line=line, column=column, place="", message=message.replace("\n", " ")))
    except RecursionError:
        parsed.faults.append(parsed.fault("", f"it is nested deeper than {DEPTH_MAX}"))
    else:
        if not isinstance(node, yaml.MappingNode):
            parsed.faults.append(parsed.fault("", "a strategy is a mapping, such as `stages: [{share: 100%}]`"))
        else:
            parsed.value = _Walk(parsed).value_of(node, place="", depth=0)
    return parsed


class _Walk:
    """From nodes to values, noting places and faults on the way."""

    def __init__(self, parsed: StrategyFile) -> None:
        self._parsed = parsed
        self._count = 0

    def value_of(self, node: Any, *, place: str, depth: int) -> Any:
        self._count += 1
        if depth > DEPTH_MAX or self._count > PARTS_MAX:
            if self._count != PARTS_MAX + 1 and depth <= DEPTH_MAX:
                return None
            self._fault(
                node, place, f"it is nested deeper than {DEPTH_MAX}" if depth > DEPTH_MAX else "it is too large"
            )
            return None
        match node:
            case yaml.MappingNode(tag="tag:yaml.org,2002:map"):
                return self._mapping(node, place=place, depth=depth)
            case yaml.SequenceNode(tag="tag:yaml.org,2002:seq"):
                return self._sequence(node, place=place, depth=depth)
            case yaml.ScalarNode():
                return self._scalar(node, place=place)
        self._fault(node, place, f"the tag {node.tag} has no meaning here")
        return None

    def _mapping(self, node: Any, *, place: str, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if self._count > PARTS_MAX:
                break
            if not isinstance(key_node, yaml.ScalarNode):
                self._fault(key_node, place, "a key is a word")
                continue
            key = str(key_node.value)
            inner = f"{place}.{key}" if place else key
            if key in found:
                self._fault(key_node, inner, f"{key} is there twice")
                continue
            self._note(key_node, inner)
            found[key] = self.value_of(value_node, place=inner, depth=depth + 1)
        return found

    def _sequence(self, node: Any, *, place: str, depth: int) -> list[Any]:
        found: list[Any] = []
        for index, item in enumerate(node.value):
            if self._count > PARTS_MAX:
                break
            inner = f"{place}[{index}]"
            self._note(item, inner)
            found.append(self.value_of(item, place=inner, depth=depth + 1))
        return found

    def _scalar(self, node: Any, *, place: str) -> Any:
        text = str(node.value)
        match node.tag.removeprefix("tag:yaml.org,2002:"):
            case "str":
                return text
            case "null":
                return None
            case "bool" if text.lower() in {"true", "false"}:
                return text.lower() == "true"
            case "int" if re.fullmatch(r"[-+]?[0-9]{1,18}", text, re.ASCII):
                return int(text)
            case "int" | "float" if re.fullmatch(r"[-+.0-9eE]{1,40}", text, re.ASCII):
                return self._float(node, text, place=place)
        self._fault(node, place, f"{text[:40]!r} has no meaning as {node.tag.rpartition(':')[2]}")
        return None

    def _float(self, node: Any, text: str, *, place: str) -> float | None:
        try:
            value = float(text)
        except ValueError:
            value = float("inf")
        if abs(value) == float("inf"):
            self._fault(node, place, f"{text} is no number that can be counted with")
            return None
        return value

    def _note(self, node: Any, place: str) -> None:
        self._parsed.places.setdefault(place, _position(node))

    def _fault(self, node: Any, place: str, message: str) -> None:
        line, column = _position(node)
        self._parsed.faults.append(FileFault(line=line, column=column, place=place, message=message))


def _position(node: Any) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1
