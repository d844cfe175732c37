"""Reads histories: our lines of JSON, the log lines of Jepsen, and histories in EDN. The formats: docs/reference/history.md.

Ours have one line for an operation, with its two instants. The others have one for each event, in order of time, and the
place in that order serves as the instant. A process that is invoked twice before it answers, or answers without having
been asked, makes a history unusable; it is refused, not repaired.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from consistency_service.testbed import history as recorded
from consistency_service.testbed.linearizability import edn
from consistency_service.testbed.linearizability.operations import MalformedHistoryError, Operation, Symbol, frozen

FILE_BYTES_MAX: Final = 64 << 20
LINE_CHARS_MAX: Final = 1 << 20
OPERATIONS_MAX: Final = 1_000_000

_LOG_LINE: Final = re.compile(
    r"(?:^|.*\s)INFO\s.*?jepsen\.util\s*[-:]\s+(?P<process>\d+)\s+:(?P<type>invoke|ok|fail|info)\s+:(?P<f>[\w-]+)"
    r"(?:\s+(?P<rest>.*))?$"
)
_NAMES: Final = {"get": "read", "put": "write"}
_NOTHING: Final = Symbol("nothing")


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One operation of ours; the fields are described in docs/reference/history.md."""

    process: str
    op: Literal["read", "write", "cas", "append", "get", "put"]
    invoked_ns: int
    returned_ns: int | None = None
    outcome: Literal["ok", "failed", "unknown"] = "ok"
    key: str | int | None = None
    value: Any = None
    result: Any = None


def read_files(paths: Sequence[Path], *, model: str) -> list[Operation]:
    """All operations of a history for this model; several files only if they are ours.

    Raises `MalformedHistoryError`.
    """
    operations: list[Operation] = []
    for path in paths:
        try:
            if path.stat().st_size > FILE_BYTES_MAX:
                raise MalformedHistoryError(f"{path}: more than {FILE_BYTES_MAX >> 20} MiB")
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise MalformedHistoryError(f"cannot read {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise MalformedHistoryError(f"{path}: not text in UTF-8") from error
        if len(paths) > 1 and not _is_ours(text):
            raise MalformedHistoryError(f"{path}: only histories in lines of JSON may come in several files")
        try:
            operations += read_text(text, model=model)
        except MalformedHistoryError as error:
            raise MalformedHistoryError(f"{path}, {error}" if len(paths) > 1 else f"{path}: {error}") from error
    return operations


def read_text(text: str, *, model: str) -> list[Operation]:
    """The operations in a text of any of the formats. Raises `MalformedHistoryError` naming the line."""
    if model == "assignment":
        operations = list(_assignments(text.splitlines()))
    elif _is_ours(text):
        operations = list(_ours(text.splitlines()))
    else:
        keyed = model != "register"
        events = _edn_events(text) if text.lstrip()[:1] in {"{", "[", "(", "#", ";"} else _log_events(text.splitlines())
        operations = _Pairing(keyed=keyed).of(events)
    if not operations:
        raise MalformedHistoryError("no operations in it; known are lines of JSON, EDN, and Jepsen's log lines")
    if len(operations) > OPERATIONS_MAX:
        raise MalformedHistoryError(f"more than {OPERATIONS_MAX:,} operations")
    return operations


def _is_ours(text: str) -> bool:
    return re.match(r"\s*\{\s*(\"|\})", text) is not None


def _ours(lines: Iterable[str]) -> Iterator[Operation]:
    decoder = msgspec.json.Decoder(Line)
    ends: dict[tuple[str, str | int | None], int] = {}
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        _require_short(text, number=number)
        try:
            line = decoder.decode(text)
        except msgspec.MsgspecError as error:
            raise MalformedHistoryError(f"line {number}: {error}") from error
        if line.outcome == "ok" and line.returned_ns is None:
            raise MalformedHistoryError(f"line {number}: outcome ok needs returned_ns")
        if line.returned_ns is not None and line.returned_ns < line.invoked_ns:
            raise MalformedHistoryError(f"line {number}: returned before it was invoked")
        if line.invoked_ns < ends.get((line.process, line.key), line.invoked_ns):
            raise MalformedHistoryError(
                f"line {number}: {line.process} did two things at once, or lines are out of order"
            )
        ends[line.process, line.key] = line.invoked_ns if line.returned_ns is None else line.returned_ns
        name = _NAMES.get(line.op, line.op)
        if line.outcome == "failed" or (name == "read" and line.outcome == "unknown"):
            continue
        if name == "cas" and line.outcome == "ok" and not isinstance(line.result, bool):
            raise MalformedHistoryError(f"line {number}: a cas that returned needs a result, true or false")
        yield Operation(
            process=line.process,
            name=name,
            argument=None if name == "read" else frozen(line.value),
            result=line.result if name == "cas" else frozen(line.result),
            key=line.key,
            invoked=line.invoked_ns,
            returned=line.returned_ns if line.outcome == "ok" else None,
            line=number,
        )


def _assignments(lines: Iterable[str]) -> Iterator[Operation]:
    """Strong reads and activations from what the testbed's edges and the REST callers record."""
    numbered = [(number, text) for number, text in enumerate(lines, start=1) if text.strip()]
    try:
        found = list(recorded.parse((text.encode() for _, text in numbered), origin="history"))
        recorded.check(found)
    except recorded.HistoryError as error:
        raise MalformedHistoryError(str(error)) from error
    for number, operation in zip((number for number, _ in numbered), found, strict=True):
        if operation.op == "limit":
            raise MalformedHistoryError(
                f"line {number}: {operation.process} stopped recording; nothing can be concluded"
            )
        if operation.op == "activate" and operation.outcome != "refused":
            yield Operation(
                process=operation.process,
                name="activate",
                argument=operation.generation,
                key=operation.model,
                invoked=operation.invoked_ns,
                returned=operation.returned_ns if operation.outcome == "effective" else None,
                line=number,
            )
        elif operation.strong:
            yield Operation(
                process=operation.process,
                name="read",
                result=operation.generation,
                key=operation.model,
                invoked=operation.invoked_ns,
                returned=operation.returned_ns,
                line=number,
            )


@dataclass(frozen=True, slots=True)
class _Event:
    process: str
    type: str
    name: str
    value: Any
    key: Any
    failed_for: Any
    """`_NOTHING` unless a reason was given."""

    line: int


def _log_events(lines: Iterable[str]) -> Iterator[_Event]:
    for number, text in enumerate(lines, start=1):
        _require_short(text, number=number)
        found = _LOG_LINE.match(text)
        if found is None:
            continue
        rest = list(edn.values(found["rest"] or "nil", line=number))
        yield _Event(
            process=found["process"],
            type=found["type"],
            name=found["f"],
            value=rest[0] if rest else None,
            key=None,
            failed_for=rest[1] if len(rest) > 1 else _NOTHING,
            line=number,
        )


def _edn_events(text: str) -> Iterator[_Event]:
    for value in edn.values(text):
        for item in value if isinstance(value, tuple) else (value,):
            if not isinstance(item, edn.Map):
                raise MalformedHistoryError(f"a history is made of maps, not of {str(item)[:40]}")
            fields = item.fields()
            kind, name, process = (fields.get(field) for field in ("type", "f", "process"))
            if isinstance(process, Symbol):
                continue  # the nemesis
            if not isinstance(kind, Symbol) or not isinstance(name, Symbol) or process is None:
                raise MalformedHistoryError(f"line {item.line}: an event needs :process, :type and :f")
            if kind.name not in {":invoke", ":ok", ":fail", ":info"}:
                raise MalformedHistoryError(f"line {item.line}: no :type {kind.name}")
            yield _Event(
                process=str(process),
                type=kind.name[1:],
                name=name.name[1:],
                value=fields.get("value"),
                key=fields.get("key"),
                failed_for=fields.get("error", _NOTHING),
                line=item.line,
            )


@dataclass(slots=True)
class _Pairing:
    """Events into operations: what a process answers belongs to what it was asked last."""

    keyed: bool
    operations: list[Operation] = field(default_factory=list)
    pending: dict[str, Operation] = field(default_factory=dict)

    def of(self, events: Iterable[_Event]) -> list[Operation]:
        for place, event in enumerate(events):
            if event.type == "invoke":
                self._invoke(event, place=place)
            else:
                self._answer(event, place=place)
            if len(self.operations) > OPERATIONS_MAX:
                break
        self.operations += [operation for operation in self.pending.values() if operation.name != "read"]
        return sorted(self.operations, key=lambda operation: operation.invoked)

    def _invoke(self, event: _Event, *, place: int) -> None:
        if event.process in self.pending:
            before = self.pending[event.process].line
            raise MalformedHistoryError(
                f"line {event.line}: process {event.process} was still busy with what it began on line {before}"
            )
        if event.name == "txn":
            raise MalformedHistoryError(f"line {event.line}: transactions are no operations on one object")
        key, value = self._split(event)
        name = _NAMES.get(event.name, event.name)
        self.pending[event.process] = Operation(
            process=event.process,
            name=name,
            argument=None if name == "read" else value,
            key=key,
            invoked=place,
            line=event.line,
        )

    def _answer(self, event: _Event, *, place: int) -> None:
        operation = self.pending.pop(event.process, None)
        if operation is None:
            raise MalformedHistoryError(f"line {event.line}: process {event.process} answers, but was not asked")
        if _NAMES.get(event.name, event.name) != operation.name:
            raise MalformedHistoryError(
                f"line {event.line}: process {event.process} answers {event.name}, but was asked for {operation.name}"
            )
        if event.type == "info":
            if operation.name != "read":
                self.operations.append(operation)
            return
        _, value = self._split(event) if event.type == "ok" or isinstance(event.value, tuple) else (None, event.value)
        if event.type == "ok":
            result = True if operation.name == "cas" else value if operation.name == "read" else None
            self.operations.append(replace(operation, result=result, returned=place))
        elif operation.name == "cas" and value == operation.argument and event.failed_for is _NOTHING:
            self.operations.append(replace(operation, result=False, returned=place))

    def _split(self, event: _Event) -> tuple[Any, Any]:
        """Key and value; Jepsen's independent keys come as `[key value]`."""
        if not self.keyed or event.key is not None:
            return event.key, event.value
        if not isinstance(event.value, tuple) or len(event.value) != 2:
            raise MalformedHistoryError(f"line {event.line}: this model needs :key, or [key value] as the value")
        return event.value[0], event.value[1]


def _require_short(text: str, *, number: int) -> None:
    if len(text) > LINE_CHARS_MAX:
        raise MalformedHistoryError(f"line {number}: longer than {LINE_CHARS_MAX:,} characters")
