"""What other code asks of the judge: `check(history, model=..., budget_s=...)`, and ways to read and to show.

The judge itself is part of the product, because chaos on real processes ends with it.
"""

from __future__ import annotations

from consistency_service.testbed.linearizability import (
    Answer,
    MalformedHistoryError,
    Operation,
    Result,
    Violation,
    check,
    page,
    read_files,
    read_text,
    words,
)

__all__ = [
    "Answer",
    "MalformedHistoryError",
    "Operation",
    "Result",
    "Violation",
    "check",
    "page",
    "read_files",
    "read_text",
    "words",
]
