"""What the judge says, as values. `words` and `timeline` turn them into something to read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from consistency_service.testbed.linearizability.operations import Operation, Value, label


class Answer(StrEnum):
    """`UNKNOWN` means that time or memory ran out: neither an order nor its impossibility was found."""

    LINEARIZABLE = "linearizable"
    NOT_LINEARIZABLE = "not linearizable"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A part of the history that no order explains; whatever was left out cannot explain it either."""

    key: Value
    operations: tuple[Operation, ...]
    """In order of invocation. Those that returned only later are shown as not having returned."""

    blocked: int
    """Index in `operations`: everything that had returned before it can be explained, but not this as well."""

    order: tuple[int, ...]
    """Indices of operations in an order that explains all that had returned before the blocked one."""

    states: tuple[str, ...]
    """What the state can have been, at the end of such an order."""

    smallest: bool
    """Nothing more can be left out. Otherwise time ran out while trying."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The answer about a whole history."""

    answer: Answer
    model: str
    operation_count: int
    process_count: int
    key_count: int
    """Histories judged apart; 1 for a single object."""

    lost_count: int
    """Operations that never returned."""

    step_count: int
    elapsed_s: float
    reason: str = ""
    """Why it is unknown."""

    undecided: tuple[str, ...] = ()
    """Keys about which nothing is known."""

    violation: Violation | None = None

    @property
    def ok(self) -> bool:
        return self.answer is Answer.LINEARIZABLE

    def document(self) -> dict[str, Any]:
        """The same as one JSON document."""
        violation = self.violation
        return {
            "answer": self.answer.value,
            "model": self.model,
            "operation_count": self.operation_count,
            "process_count": self.process_count,
            "key_count": self.key_count,
            "lost_count": self.lost_count,
            "step_count": self.step_count,
            "elapsed_s": round(self.elapsed_s, 3),
            "reason": self.reason,
            "undecided": list(self.undecided),
            "violation": None
            if violation is None
            else {
                "key": None if violation.key is None else label(violation.key),
                "operations": [
                    {
                        "process": operation.process,
                        "what": str(operation),
                        "invoked": operation.invoked,
                        "returned": operation.returned,
                        "line": operation.line,
                    }
                    for operation in violation.operations
                ],
                "blocked": violation.blocked,
                "order": list(violation.order),
                "states": list(violation.states),
                "smallest": violation.smallest,
            },
        }
