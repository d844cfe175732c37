"""A strategy with mistakes of form, made readable, so that its other mistakes are found in the same breath.

Picture a proof-reader who puts a slip over each word that he cannot read and reads on. What is under a slip takes its default;
nothing mended is ever rolled out, it only lets the rest be looked at.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterator
from typing import Any, Final

LEAST_SHARE: Final = "1bp"
_TOP: Final = re.compile(r"[^.\[]+")


def mended(value: Any, places: Collection[str]) -> Any:
    """A copy without what is at these places; a share becomes that of the stage before, so that it shrinks nothing."""
    made = copy.deepcopy(value)
    for place, container, key in list(_parts(made, "")):
        if place in places and isinstance(container, dict):
            container.pop(key, None)
    before: Any = LEAST_SHARE
    stages = made.get("stages") if isinstance(made, dict) else None
    for stage in stages if isinstance(stages, list) else ():
        if isinstance(stage, dict):
            before = stage.setdefault("share", before)
    return made


def without(value: Any, places: Collection[str]) -> Any:
    """A copy without the whole fields, stages excepted, that have something at these places."""
    tops = {match.group() for place in places if (match := _TOP.match(place))} - {"stages"}
    return {name: inner for name, inner in value.items() if name not in tops} if isinstance(value, dict) else value


def _parts(value: Any, place: str) -> Iterator[tuple[str, Any, Any]]:
    """Every part under its place, deepest first."""
    if isinstance(value, dict):
        for key, inner in value.items():
            name = f"{place}.{key}" if place else str(key)
            yield from _parts(inner, name)
            yield name, value, key
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _parts(inner, f"{place}[{index}]")
