"""The answer for people: one sentence if all is well; otherwise the smallest offending part, and why nothing fits."""

from __future__ import annotations

from typing import Final

from consistency_service.testbed.linearizability.operations import Operation, label
from consistency_service.testbed.linearizability.result import Answer, Result, Violation
from consistency_service.testbed.linearizability.search import STATES_KEPT

OPERATIONS_SHOWN: Final = 60


def words(result: Result) -> str:
    """One line, or a few; without a line break at the end."""
    keys = f", {result.key_count:,} keys" if result.key_count > 1 else ""
    lost = f", {result.lost_count:,} without an answer" if result.lost_count else ""
    facts = (
        f"{result.operation_count:,} operations by {result.process_count:,} processes{keys}{lost}; "
        f"model {result.model}; {result.step_count:,} steps, {result.elapsed_s:.2f} s"
    )
    if result.violation is not None:
        return f"NOT linearizable: {facts}\n{violation_words(result.violation)}"
    if result.answer is Answer.UNKNOWN:
        named = [f"key {key}" for key in result.undecided if key != "nil"]
        about = f" about {', '.join(named[:8])}{' and others' if len(named) > 8 else ''}" if named else ""
        return f"UNKNOWN{about}: {result.reason}, and neither an order nor its impossibility was found; {facts}"
    return f"linearizable: {facts}"


def violation_words(violation: Violation) -> str:
    """The offending operations, one a line, and the sentence that convicts."""
    shown = violation.operations[:OPERATIONS_SHOWN]
    places = [place(operation) for operation in shown]
    width = max(len(text) for text in places)
    who = max(len(operation.process) for operation in shown)
    lines = [headline(violation)]
    for index, operation in enumerate(shown):
        mark = "!" if index == violation.blocked else " "
        lines.append(f" {mark} {places[index]:<{width}}  {operation.process:>{who}}  {operation}{_end(operation)}")
    if len(violation.operations) > len(shown):
        lines.append(f"   … and {len(violation.operations) - len(shown):,} more")
    lines.append(sentence(violation))
    return "\n".join(lines)


def headline(violation: Violation) -> str:
    """What follows."""
    key = "" if violation.key is None else f", key {label(violation.key)}"
    count = len(violation.operations)
    many = f"{count} operations" if count > 1 else "one operation"
    if violation.smallest:
        return f"the smallest part that no order explains{key}: {many}"
    return f"a part that no order explains{key}: {many} (time ran out before it was made smaller)"


def sentence(violation: Violation) -> str:
    """Why the last straw cannot be placed."""
    blocked = violation.operations[violation.blocked]
    order = [str(violation.operations[index]) for index in violation.order]
    states = list(violation.states)
    held = states[0] if len(states) == 1 else f"one of {', '.join(states)}"
    held += ", or others" if len(states) == STATES_KEPT else ""
    before = (
        ""
        if not order
        else f"; for instance after {', then '.join(order[-4:])}"
        + (f" (and {len(order) - 4} before)" if len(order) > 4 else "")
    )
    reason = f"with all that had returned before it in place, the state is {held}{before}"
    return f"{blocked} by {blocked.process} fits nowhere: {reason}"


def place(operation: Operation) -> str:
    """Where it stands in the file, or when it was invoked."""
    return f"line {operation.line}" if operation.line else f"at {operation.invoked}"


def _end(operation: Operation) -> str:
    return "  (no answer in time)" if operation.returned is None else ""
