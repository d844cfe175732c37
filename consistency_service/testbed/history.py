"""Did everybody see the same world? Checks a recorded history of reads and activations, exactly.

Picture a court. Every operation has an alibi: it may have taken effect at any instant between its invocation and its
return, and the judge assumes the one that favours it. What is left is certain. There is one rule for strong, bounded and
fallback readings alike: a reading of generation g that states a bound b (0 if strong) says "g was active no longer than b
ago", so it must not be invoked more than b after a proof that a later generation was active. Proofs are strong readings
that returned, and activations whose callers were told that they are effective. Generations only grow, which makes the
newest proof before an instant the only one that matters.

The format and the rules for people: docs/reference/history.md. Who writes histories: `recorder`.
"""

from __future__ import annotations

import bisect
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Literal

import msgspec

from consistency_service.testbed.errors import TestbedError
from edge_client.protocol.models import Assignment

VIOLATIONS_KEPT: Final = 20
LINE_BYTES_MAX: Final = 4_096


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a history; the fields are described in docs/reference/history.md."""

    process: str
    op: Literal["read", "activate", "limit"]
    invoked_ns: int = 0
    returned_ns: int = 0
    model: str = ""
    generation: int | None = None
    guarantee: Literal["strong", "bounded", "fallback"] | None = None
    version: str | None = None
    bound_ns: int | None = None
    outcome: Literal["ok", "failed", "effective", "accepted", "unknown", "refused"] = "ok"
    reads: int = 1
    assignment: Assignment | None = None
    """Which version is for whom: what was activated, or what a caller, who is no edge, read."""
    site: str = ""
    labels: dict[str, str] = {}

    @property
    def strong(self) -> bool:
        return self.op == "read" and self.outcome == "ok" and self.guarantee == "strong"


class Kind(StrEnum):
    """Which rule was broken."""

    STRONG_INVERSION = "strong_inversion"
    COMPLETION_NOT_SEEN = "completion_not_seen"
    BOUND_EXCEEDED = "bound_exceeded"
    GENERATION_UNKNOWN = "generation_unknown"
    READ_BEFORE_ACTIVATION = "read_before_activation"
    VERSION_WRONG = "version_wrong"


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One operation that broke a rule, and the operation that convicts it, where there is one."""

    kind: Kind
    text: str
    read: Operation
    proof: Operation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What can be concluded from a history. `violations` holds the first few of each kind; `violation_count` all."""

    process_count: int
    line_count: int
    activation_count: int
    read_count: int
    reads_by_guarantee: dict[str, int]
    failed_read_count: int
    violation_count: dict[str, int]
    violations: tuple[Violation, ...]
    incomplete: tuple[str, ...]
    """Processes that stopped recording."""

    @property
    def ok(self) -> bool:
        return not self.violation_count and not self.incomplete

    def words(self) -> str:
        """The verdict for people: one sentence if all is well, one line for each violation otherwise."""
        kinds = ", ".join(f"{count:,} {name}" for name, count in self.reads_by_guarantee.items()) or "none"
        facts = (
            f"{self.read_count:,} reads ({kinds}; {self.failed_read_count:,} failed) by {self.process_count} processes, "
            f"{self.activation_count} activations"
        )
        if self.ok:
            return f"linearizable: {facts}; no strong read went back, no stated bound was exceeded"
        lines = [f"NOT as promised: {facts}"]
        lines += [f"incomplete: {process} stopped recording" for process in self.incomplete]
        lines += [f"{kind}: {count}" for kind, count in self.violation_count.items()]
        lines += [f"  {violation.kind}: {violation.text}" for violation in self.violations]
        return "\n".join(lines)


class HistoryError(TestbedError):
    """The lines are not a history: not the format, or one process does two things at once."""


def check(operations: Iterable[Operation]) -> Verdict:
    """The verdict on all operations, in any order between processes. Raises `HistoryError`."""
    listed = list(operations)
    incomplete = tuple(sorted({operation.process for operation in listed if operation.op == "limit"}))
    _require_order(listed)
    by_model: dict[str, list[Operation]] = defaultdict(list)
    for operation in listed:
        if operation.op != "limit":
            by_model[operation.model].append(operation)
    counts: Counter[str] = Counter()
    kept: list[Violation] = []
    for model in sorted(by_model):
        for violation in _violations(by_model[model]):
            counts[violation.kind] += 1
            if counts[violation.kind] <= VIOLATIONS_KEPT:
                kept.append(violation)
    reads = [operation for operation in listed if operation.op == "read"]
    guarantees: Counter[str] = Counter()
    for read in reads:
        guarantees[read.guarantee or "failed"] += read.reads
    failed_count = guarantees.pop("failed", 0)
    return Verdict(
        process_count=len({operation.process for operation in listed}),
        line_count=len(listed),
        activation_count=sum(1 for operation in listed if operation.op == "activate"),
        read_count=sum(read.reads for read in reads),
        reads_by_guarantee=dict(sorted(guarantees.items(), reverse=True)),
        failed_read_count=failed_count,
        violation_count=dict(sorted(counts.items())),
        violations=tuple(kept),
        incomplete=incomplete,
    )


def parse(lines: Iterable[bytes], *, origin: str) -> Iterator[Operation]:
    """The operations of a file's lines. Raises `HistoryError` that names the line."""
    decoder = msgspec.json.Decoder(Operation)
    for number, line in enumerate(lines, start=1):
        try:
            if len(line) > LINE_BYTES_MAX:
                raise msgspec.ValidationError(f"longer than {LINE_BYTES_MAX} bytes")
            operation = decoder.decode(line)
            _require_sense(operation)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise HistoryError(f"{origin}, line {number}: {error}") from error
        yield operation


def read_files(paths: Iterable[Path]) -> list[Operation]:
    """Everything that is recorded in these files. Raises `HistoryError`."""
    operations: list[Operation] = []
    for path in paths:
        try:
            with path.open("rb") as file:
                operations.extend(parse(file, origin=str(path)))
        except OSError as error:
            raise HistoryError(f"cannot read {path}: {error.strerror}") from error
    return operations


@dataclass(frozen=True, slots=True)
class _Proofs:
    """Who had shown which generation by when; answers for any instant in logarithmic time."""

    returned_ns: Sequence[int]
    newest: Sequence[Operation]
    """`newest[i]`: of the first i + 1 proofs, the one of the greatest generation."""

    @classmethod
    def of(cls, operations: Iterable[Operation]) -> _Proofs:
        ordered = sorted(operations, key=lambda operation: operation.returned_ns)
        newest: list[Operation] = []
        for operation in ordered:
            newest.append(operation if not newest or _generation(operation) > _generation(newest[-1]) else newest[-1])
        return cls([operation.returned_ns for operation in ordered], newest)

    def against(self, read: Operation) -> Operation | None:
        """The proof, returned before the earliest instant of which `read` speaks, of a later generation; or None."""
        if read.bound_ns is None and not read.strong:
            return None
        bound_ns = 0 if read.strong else read.bound_ns or 0
        count = bisect.bisect_left(self.returned_ns, read.invoked_ns - bound_ns)
        proof = self.newest[count - 1] if count else None
        return proof if proof is not None and _generation(proof) > _generation(read) else None


def _violations(operations: list[Operation]) -> Iterator[Violation]:
    """Of one model."""
    activations = [operation for operation in operations if operation.op == "activate"]
    reads = [operation for operation in operations if operation.op == "read" and operation.outcome == "ok"]
    told = _Proofs.of(operation for operation in activations if operation.outcome == "effective")
    seen = _Proofs.of(read for read in reads if read.strong)
    for read in reads:
        if (proof := seen.against(read)) is not None:
            yield _stale(Kind.STRONG_INVERSION if read.strong else Kind.BOUND_EXCEEDED, read, proof)
        if (proof := told.against(read)) is not None:
            yield _stale(Kind.COMPLETION_NOT_SEEN if read.strong else Kind.BOUND_EXCEEDED, read, proof)
    yield from _unexplained(reads, activations)


def _unexplained(reads: list[Operation], activations: list[Operation]) -> Iterator[Violation]:
    made: dict[int, Operation] = {}
    for activation in activations:
        if activation.generation is not None and activation.outcome in ("effective", "accepted"):
            first = made.setdefault(activation.generation, activation)
            if activation.invoked_ns < first.invoked_ns:
                made[activation.generation] = activation
    perhaps = sorted(activation.invoked_ns for activation in activations if activation.outcome == "unknown")
    excused: set[int] = set()
    for read in sorted(reads, key=lambda read: read.returned_ns):
        generation = _generation(read)
        activation_of = made.get(generation)
        if activation_of is None:
            excused.add(generation)
            if len(excused) > bisect.bisect_right(perhaps, read.returned_ns):
                excused.discard(generation)
                yield Violation(kind=Kind.GENERATION_UNKNOWN, text=f"{_name(read)}, which nobody activated", read=read)
        elif read.returned_ns < activation_of.invoked_ns:
            text = f"{_name(read)} before {_name(activation_of)} was asked for"
            yield Violation(kind=Kind.READ_BEFORE_ACTIVATION, text=text, read=read, proof=activation_of)
        elif (wrong := _wrong(read, activation_of)) is not None:
            yield Violation(kind=Kind.VERSION_WRONG, text=f"{_name(read)} {wrong}", read=read, proof=activation_of)


def _wrong(read: Operation, activation: Operation) -> str | None:
    """What is wrong with the version that was read, by the activation of its generation; None: nothing is."""
    assignment = activation.assignment
    if assignment is None:
        if activation.version is None:
            return None
        assignment = Assignment(stable=activation.version)
    if read.assignment is not None:
        return None if read.assignment == assignment else f"as {read.assignment}, but it is {assignment}"
    expected = assignment.version_for(edge_id=read.process, site=read.site, labels=read.labels)
    return None if read.version in (None, expected) else f"with version {read.version}, but it is {expected} there"


def _require_order(operations: list[Operation]) -> None:
    """Each process did one thing at a time with each model, in the order given."""
    last: dict[tuple[str, str], Operation] = {}
    for operation in operations:
        before = last.get((operation.process, operation.model))
        if operation.op == "limit":
            continue
        if before is not None and operation.invoked_ns < before.returned_ns:
            raise HistoryError(
                f"{operation.process} did two things at once with {operation.model}, or its lines are out of order: "
                f"one returned at {before.returned_ns}, the next was invoked at {operation.invoked_ns}"
            )
        last[operation.process, operation.model] = operation


def _require_sense(operation: Operation) -> None:
    if operation.op == "limit":
        return
    if operation.returned_ns < operation.invoked_ns or operation.reads < 1 or not operation.model:
        raise msgspec.ValidationError("returned before it was invoked, no model, or reads below 1")
    answered = operation.outcome in (("ok",) if operation.op == "read" else ("effective", "accepted"))
    if answered and operation.generation is None:
        raise msgspec.ValidationError(f"{operation.op} with outcome {operation.outcome} needs a generation")
    if operation.op == "read" and (operation.outcome not in ("ok", "failed") or answered != bool(operation.guarantee)):
        raise msgspec.ValidationError("a read is ok with a guarantee, or failed without")
    if operation.op == "activate" and operation.outcome in ("ok", "failed"):
        raise msgspec.ValidationError("an activation is effective, accepted, unknown or refused")
    if operation.bound_ns is not None and operation.bound_ns < 0:
        raise msgspec.ValidationError("bound_ns is below 0")


def _stale(kind: Kind, read: Operation, proof: Operation) -> Violation:
    late_ns = read.invoked_ns - proof.returned_ns
    bound = "" if read.strong else f", bound {(read.bound_ns or 0) / 1e6:.3f} ms,"
    text = f"{_name(read)}{bound} was invoked {late_ns / 1e6:.3f} ms after {_name(proof)} had returned"
    return Violation(kind=kind, text=text, read=read, proof=proof)


def _name(operation: Operation) -> str:
    what = f"{operation.guarantee} read of" if operation.op == "read" else "activation of"
    return f"{operation.process}: {what} {operation.model} generation {operation.generation} at {operation.invoked_ns}"


def _generation(operation: Operation) -> int:
    assert operation.generation is not None
    return operation.generation


def main(arguments: Sequence[str]) -> int:
    """Check the files named; the process's exit code."""
    paths = [Path(argument) for argument in arguments if argument != "--json"]
    if not paths or any(argument.startswith("-") and argument != "--json" for argument in arguments):
        sys.stderr.write("usage: python -m consistency_service.testbed.history [--json] FILE...\n")
        return 2
    try:
        verdict = check(read_files(paths))
    except HistoryError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if "--json" in arguments:
        print(msgspec.json.format(msgspec.json.encode(verdict), indent=2).decode())
    else:
        print(verdict.words())
    return 0 if verdict.ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
