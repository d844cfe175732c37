"""The replicated log alone, as a process: registers and lists behind a port, for those who want to break or time it.

    python -m consistency_service.testbed.log_server <settings as JSON>

Picture the service with everything taken out but its log. Clients speak frames on loopback: a length of four bytes, then
`[number, verb, argument]` in msgpack; answers carry the number and come in any order, so that a connection can have many
requests under way. There is no authority, no lease and no edge here; whoever reads without a barrier gets what it asked for.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any, Final

import msgspec

from consistency_service.adapters.raft_log import RaftLog, RaftLogConfig, RaftTls
from consistency_service.core.outcomes import Outcome
from consistency_service.errors import SnapshotError
from consistency_service.runtime.ports import (
    AddMember,
    Committed,
    MembershipOutcome,
    MembershipRefused,
    NotLeader,
    RemoveMember,
    Unknown,
)

logger = logging.getLogger(__name__)

FRAME_BYTES_MAX: Final = 4 << 20
REQUESTS_MAX: Final = 1_024
"""Under way on one connection; one more is answered `unknown` at once."""
UNREAD_BYTES_MAX: Final = 32 << 20
"""Answers a client did not fetch. Beyond that its connection is dropped."""
STATE_BYTES_MAX: Final = 64 << 20
SESSIONS_MAX: Final = 10_000
ITEM_BYTES: Final = 16
"""What one item of a list or one key is counted as, beside its own bytes."""

Value = int | bytes | None


class Command(msgspec.Struct, frozen=True, array_like=True):
    """`session` empty: applied each time it is in the log. Otherwise once, and its answer is kept for repeated questions."""

    session: str
    number: int
    action: str
    """`put`, `cas` (answers what was held before, whether it matched or not) or `append`."""
    key: str
    value: Value
    expected: Value = None


class _State(msgspec.Struct, array_like=True):
    revision: int
    values: dict[str, Value]
    lists: dict[str, list[Value]]
    sessions: list[tuple[str, int, Outcome]]


class Registers:
    """A `StateMachine`. Refuses as `full` what would exceed `STATE_BYTES_MAX`; the longest silent session gives way."""

    def __init__(self) -> None:
        self._revision = 0
        self._values: dict[str, Value] = {}
        self._lists: dict[str, list[Value]] = {}
        self._sessions: OrderedDict[str, tuple[int, Outcome]] = OrderedDict()
        self._size_bytes = 0
        self.applied_index = 0
        self.restored_count = 0

    def read(self, key: str) -> Value | list[Value]:
        return self._lists[key] if key in self._lists else self._values.get(key)

    def apply(self, *, index: int, command: bytes) -> Outcome:
        self.applied_index = index
        try:
            asked = msgspec.msgpack.decode(command, type=Command)
        except msgspec.MsgspecError as error:
            return Outcome(code="malformed", detail={"reason": str(error)})
        known = self._sessions.get(asked.session)
        if known is not None and asked.number <= known[0]:
            return known[1] if asked.number == known[0] else Outcome(code="superseded")
        outcome = self._act(asked)
        if asked.session:
            self._sessions[asked.session] = (asked.number, outcome)
            self._sessions.move_to_end(asked.session)
            if len(self._sessions) > SESSIONS_MAX:
                self._sessions.popitem(last=False)
        return outcome

    def snapshot(self) -> bytes:
        sessions = [(session, number, outcome) for session, (number, outcome) in self._sessions.items()]
        return msgspec.msgpack.encode(_State(self._revision, self._values, self._lists, sessions))

    def restore(self, *, state: bytes, index: int) -> None:
        try:
            found = msgspec.msgpack.decode(state, type=_State)
        except msgspec.MsgspecError as error:
            raise SnapshotError(str(error)) from error
        self._revision, self._values, self._lists = found.revision, found.values, found.lists
        self._sessions = OrderedDict((session, (number, outcome)) for session, number, outcome in found.sessions)
        self._size_bytes = sum(_size_bytes(value) for value in self._values.values())
        self._size_bytes += sum(_size_bytes(item) for items in self._lists.values() for item in items)
        self.applied_index = index
        self.restored_count += 1
        logger.warning("state_restored", extra={"reason": f"at {index}"})

    def digest(self) -> str:
        return hashlib.sha256(self.snapshot()).hexdigest()

    def _act(self, asked: Command) -> Outcome:
        held = self._values.get(asked.key)
        added_bytes = _size_bytes(asked.value)
        if asked.action != "append" and asked.key in self._values:
            added_bytes -= _size_bytes(held)
        if self._size_bytes + added_bytes > STATE_BYTES_MAX:
            return Outcome(code="full", revision=self._revision)
        detail: dict[str, Any] = {}
        match asked.action:
            case "append":
                items = self._lists.setdefault(asked.key, [])
                items.append(asked.value)
                detail = {"length": len(items)}
            case "put":
                self._values[asked.key] = asked.value
            case "cas":
                detail = {"held": held}
                if held != asked.expected:
                    return Outcome(code="mismatch", revision=self._revision, detail=detail)
                self._values[asked.key] = asked.value
            case _:
                return Outcome(code="malformed", revision=self._revision)
        self._size_bytes += added_bytes
        self._revision += 1
        return Outcome(revision=self._revision, detail=detail)


def _size_bytes(value: Value) -> int:
    return ITEM_BYTES + (len(value) if isinstance(value, bytes) else 0)


class _Client(asyncio.Protocol):
    """Reads frames, starts a task for each, and writes the answers of one turn of the loop together."""

    def __init__(self, server: LogServer, *, group: asyncio.TaskGroup) -> None:
        self._server = server
        self._group = group
        self._transport: asyncio.Transport | None = None
        self._unparsed = bytearray()
        self._answers: list[bytes] = []
        self._under_way = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        unparsed = self._unparsed
        unparsed += data
        begin = 0
        while len(unparsed) - begin >= 4:
            size = int.from_bytes(unparsed[begin : begin + 4], "big")
            if size > FRAME_BYTES_MAX:
                self._drop()
                return
            if len(unparsed) - begin - 4 < size:
                break
            frame = bytes(unparsed[begin + 4 : begin + 4 + size])
            begin += 4 + size
            try:
                number, verb, argument = msgspec.msgpack.decode(frame, type=tuple[int, str, Any])
            except msgspec.MsgspecError:
                self._drop()
                return
            if self._under_way >= REQUESTS_MAX:
                self._answer(number, ["unknown", "too many requests under way"])
            else:
                self._under_way += 1
                self._group.create_task(self._serve(number, verb=verb, argument=argument))
        del unparsed[:begin]

    async def _serve(self, number: int, *, verb: str, argument: Any) -> None:
        try:
            answer = await self._server.answer(verb, argument)
        except (TypeError, ValueError, LookupError) as error:
            answer = ["malformed", str(error)]
        self._under_way -= 1
        self._answer(number, answer)

    def _answer(self, number: int, answer: list[Any]) -> None:
        body = msgspec.msgpack.encode((number, answer))
        first = not self._answers
        self._answers += (len(body).to_bytes(4, "big"), body)
        if self._under_way == 0:
            self._flush()
        elif first:
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        answers, self._answers = b"".join(self._answers), []
        if self._transport is not None and answers:
            self._transport.write(answers)
            if self._transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
                self._drop()

    def _drop(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class LogServer:
    """Answers each verb with a list whose first item says of which kind the answer is."""

    def __init__(self, config: RaftLogConfig) -> None:
        self.log = RaftLog(config)
        self.machine = Registers()

    async def serve(self, host: str, port: int) -> None:
        """Until cancelled."""
        await self.log.start(self.machine)
        try:
            async with asyncio.TaskGroup() as group:
                loop = asyncio.get_running_loop()
                server = await loop.create_server(lambda: _Client(self, group=group), host, port)
                async with server:
                    await server.serve_forever()
        finally:
            await self.log.close()

    async def answer(self, verb: str, argument: Any) -> list[Any]:
        """`argument` is a list for all verbs but `propose`, which takes `[command, timeout_ms]`, too."""
        match verb:
            case "propose":
                command, timeout_ms = argument
                return _outcome(await self.log.propose(command, timeout_ms=timeout_ms))
            case "read":
                key, timeout_ms = argument
                outcome = await self.log.barrier(timeout_ms=timeout_ms)
                if isinstance(outcome, Committed):
                    return ["value", self.machine.applied_index, self.machine.read(key)]
                return _outcome(outcome)
            case "peek":  # what is here, however old
                return ["value", self.machine.applied_index, self.machine.read(argument[0])]
            case "status":
                return ["status", msgspec.to_builtins(self._status())]
            case "digest":
                return ["digest", self.machine.applied_index, self.machine.digest()]
            case "resign":
                self.log.resign()
                return ["resigned"]
            case "transfer":
                return ["transferred", self.log.transfer(argument[0])]
            case "add":
                node_id, raft, timeout_ms = argument
                change = AddMember(node_id=node_id, raft=raft, url="")
                return _outcome(await self.log.change_membership(change, timeout_ms=timeout_ms))
            case "remove":
                node_id, timeout_ms = argument
                return _outcome(await self.log.change_membership(RemoveMember(node_id=node_id), timeout_ms=timeout_ms))
        raise ValueError(f"no such verb: {verb}")

    def _status(self) -> dict[str, Any]:
        status = self.log.status()
        return {
            "leader_id": status.leader_id,
            "leading": status.leading,
            "settled": status.term_settled,
            "term": status.term,
            "commit_index": status.commit_index,
            "applied_index": status.applied_index,
            "storage_fault": status.storage_fault,
            "standing": status.standing,
            "members": {member.node_id: member.votes for member in status.members},
            "restored_count": self.machine.restored_count,
            "counters": self.log.counters(),
        }


def _outcome(outcome: MembershipOutcome) -> list[Any]:
    match outcome:
        case Committed(index=index, outcome=applied):
            return ["committed", index, applied.code, applied.revision, applied.detail]
        case NotLeader(leader_id=leader_id):
            return ["not_leader", leader_id]
        case Unknown(reason=reason):
            return ["unknown", reason]
        case MembershipRefused(code=code, reason=reason):
            return ["not_changed", code, reason]


def main() -> None:
    """Serves until killed. `serve` is the clients' port on loopback; everything else is `RaftLogConfig`."""
    settings: dict[str, Any] = json.loads(sys.argv[1])
    port = int(settings.pop("serve"))
    settings["data_dir"] = Path(settings["data_dir"])
    if settings.get("tls") is not None:
        settings["tls"] = RaftTls(**{name: Path(path) for name, path in settings["tls"].items()})
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(process)d %(message)s %(reason)s", defaults={"reason": ""}))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    asyncio.run(LogServer(RaftLogConfig(**settings)).serve("127.0.0.1", port))


if __name__ == "__main__":
    main()
