"""The page of problem codes, made from the one table by which errors become answers."""

from __future__ import annotations

from typing import Final

from consistency_service.api.problems import KINDS, TYPE_PREFIX
from ops.site.sources import cell

HEAD: Final = f"""# Problems

<!-- Generated: python -m ops.site -->

For whoever meets an error of the REST API, or writes a program that does. Every error is a problem document (RFC 9457,
`application/problem+json`) with a stable `type`, `{TYPE_PREFIX}CODE`; `ccs` shows the same sentences. Words in braces are fields of the document.
All 503 carry `Retry-After` and may be asked again; with the same `Idempotency-Key` nothing is done twice.

What the Python client raises is in [Python](python.md#errors).
"""


def problems() -> str:
    """The whole page."""
    parts = [HEAD]
    for status in sorted({kind.status for kind in KINDS.values()}):
        parts += [f"## {status}\n", "| code | title | what to know |", "| --- | --- | --- |"]
        parts += [
            f"| `{code}` | {kind.title} | {cell(kind.detail)} |"
            for code, kind in sorted(KINDS.items())
            if kind.status == status
        ]
        parts.append("")
    return "\n".join(parts)
