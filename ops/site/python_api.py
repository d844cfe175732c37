"""The page of the Python interface, made from what `edge_client` exports."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from enum import Enum
from typing import Final

import edge_client
from edge_client.blocking import Model
from ops.site.sources import cell, code, fields_of, members_of, methods_of, text_of

HEAD: Final = """# Python

<!-- Generated: python -m ops.site -->

For application developers: everything that `edge_client` exports. What is not here may change tomorrow. How it is used:
[in FastAPI](../how-to/embed-in-fastapi.md), [in a camera loop](../how-to/embed-in-a-camera-loop.md), [in workers](../how-to/embed-in-workers.md),
[loaders](../how-to/write-a-loader.md), [features](../how-to/use-features.md).
"""

GROUPS: Final = {
    "Clients and models": ("EdgeClient", "Model", "AsyncEdgeClient", "AsyncModel"),
    "Readings": ("Reading", "Guarantee", "Reason", "Change"),
    "Loaders": ("Artifact",),
    "Features": ("Features", "AsyncFeatures", "FeatureReading", "FeatureVerdict", "FeatureReason"),
    "Status": ("ClientStatus", "ModelStatus", "FeaturesStatus"),
    "Settings": ("EdgeConfig",),
}
UNEXPORTED: Final = {"Model": Model}
"""What is returned by what is exported, and never made by hand."""


def python_api() -> str:
    """The whole page. Raises `ValueError` if something exported has no place in it."""
    errors = [name for name in edge_client.__all__ if name.endswith("Error")]
    homeless = set(edge_client.__all__) - set(errors) - {name for names in GROUPS.values() for name in names}
    if homeless:
        raise ValueError(f"name a group for {', '.join(sorted(homeless))} in {__name__}")
    parts = [HEAD]
    for title, names in GROUPS.items():
        parts += [f"## {title}\n", *(part for name in names for part in _class(name))]
    parts += ["## Errors\n", "All are `EdgeError`.\n", "| error | raised when |", "| --- | --- |"]
    for name in sorted(errors):
        kind = getattr(edge_client, name)
        base = kind.__bases__[0].__name__
        more = f" Is a `{base}`." if base not in {"EdgeError", "Exception"} else ""
        parts.append(f"| `{name}` | {cell(text_of(kind))}{more} |")
    return "\n".join(parts).rstrip() + "\n"


def _class(name: str) -> Iterator[str]:
    kind = UNEXPORTED.get(name) or getattr(edge_client, name)
    yield f"### {name}\n"
    yield text_of(kind) + "\n"
    if name == "EdgeConfig":
        yield "Its fields: [configuration](configuration.md#edges).\n"
        return
    if issubclass(kind, Enum):
        yield "| value | means |\n| --- | --- |"
        yield from (f"| `{member.name}` | {cell(member.text)} |" for member in members_of(kind))
        yield ""
        return
    if attributes := fields_of(kind):
        yield "| attribute | type | |\n| --- | --- | --- |"
        yield from (f"| `{item.name}` | {code(item.type)} | {cell(item.text)} |" for item in attributes)
        yield ""
    for method in methods_of(kind):
        if name == "Model" and method.name in {"adopt", "forked"}:
            continue  # for the client alone, and they say so
        if inspect.isclass(kind) and method.text:
            yield f"#### {name}.{method.name}\n"
            yield f"```py\n{method.signature}\n```\n"
            yield method.text + "\n"
