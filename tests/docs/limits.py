"""How `docs/reference/limits.md` writes a limit, and where the code has it."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

_UNITS = (
    ("_PER_S", "per s"),
    ("_PER_S_MAX", "per s"),
    ("_BYTES", "B"),
    ("_CHARS", "characters"),
    ("_LENGTH", "characters"),
    ("_MS", "ms"),
    ("_NS", "ns"),
    ("_S", "s"),
)


def value_at(reference: str) -> Any:
    """What `module:NAME` or `module:Class.field` is."""
    module, _, name = reference.partition(":")
    found = importlib.import_module(module)
    holder, _, field = name.partition(".")
    if not field:
        return getattr(found, name)
    return next(one.default for one in dataclasses.fields(getattr(found, holder)) if one.name == field)


def shown(name: str, value: float) -> str:
    """`32 KiB`, `10 s`, `4,096`: the unit is what the constant's name says."""
    words = name.rpartition(".")[2].upper().removesuffix("_MAX").removesuffix("_MIN")
    unit = next((unit for ending, unit in _UNITS if f"_{words}".endswith(ending)), "")
    if unit == "B":
        for factor, prefixed in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
            if value % factor == 0:
                return f"{value // factor:,} {prefixed}"
    if unit in ("ns", "ms"):
        seconds = value / {"ns": 1_000_000_000, "ms": 1_000}[unit]
        return f"{seconds:,g} s" if seconds >= 1 else f"{seconds * 1_000:g} ms"
    return f"{value:,} {unit}".rstrip() if isinstance(value, int) else f"{value:,g} {unit}".rstrip()
