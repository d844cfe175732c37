"""Could one copy, doing one thing at a time, have given these answers? A judge of histories, ours or anybody's.

Picture a court that hears every operation as an interval: it may have taken effect at any one instant in it. A history is
linearizable if instants can be chosen so that a plain sequential object (`models`) would have answered the same. `search`
finds such a choice or proves that there is none; `checking` takes a history apart by key and keeps to a budget;
`shrinking` leaves of a violation only what it needs; `words` and `timeline` show it; `reading` knows the file formats.

Rules for people and the formats: docs/reference/history.md. The rules about staleness bounds, which no sequential object
can express, are judged by `consistency_service.testbed.history`.
"""

from __future__ import annotations

from consistency_service.testbed.linearizability.checking import check
from consistency_service.testbed.linearizability.models import MODELS, Append, Assignment, KeyValue, Register
from consistency_service.testbed.linearizability.operations import MalformedHistoryError, Operation
from consistency_service.testbed.linearizability.reading import read_files, read_text
from consistency_service.testbed.linearizability.result import Answer, Result, Violation
from consistency_service.testbed.linearizability.timeline import page
from consistency_service.testbed.linearizability.words import words

__all__ = [
    "MODELS",
    "Answer",
    "Append",
    "Assignment",
    "KeyValue",
    "MalformedHistoryError",
    "Operation",
    "Register",
    "Result",
    "Violation",
    "check",
    "page",
    "read_files",
    "read_text",
    "words",
]
