"""Reads through the log without writing to it (the dissertation's section 6.4).

Picture a clerk asked whether the book is complete. He notes the page, asks the colleagues *is it still me?*, and when a
majority has answered a question put after he was asked, everything anybody was promised by then is on a page up to that
one. Once he has copied that far, the reader may look. Questions put while one round of asking is under way share the
next round. A follower asks the leader for the page and does its own copying.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from consistency_service.adapters.raft_log import wire

LOST_AFTER_NS: Final = 200_000_000
"""A question to the leader unanswered for so long is put again."""


class Library(Protocol):
    """The variables of the voter that is asked."""

    @property
    def term(self) -> int: ...
    @property
    def leading(self) -> bool: ...
    @property
    def leader_id(self) -> str | None: ...
    @property
    def commit_index(self) -> int: ...
    @property
    def applied_index(self) -> int: ...
    @property
    def read_floor(self) -> int:
        """Of a leader: the first entry of its term."""
        ...

    def next_stamp(self) -> int:
        """Newer than any before, and not older than now."""
        ...


class ReadHost(Protocol):
    """The voter that is asked."""

    @property
    def rejoining(self) -> bool:
        """This node lost its memory, and asks for an entry made since."""
        ...

    @property
    def heard_through(self) -> int:
        """Of a leader: the newest stamp that a majority gave back."""
        ...

    def confirm_lead(self) -> int:
        """Every follower is asked whether we lead; returns a stamp not newer than the question's."""
        ...

    def make_entry(self) -> int:
        """As a leader: the index of an empty entry, appended just now."""
        ...

    def commit_agreed(self, index: int, *, leader_id: str, term: int) -> None:
        """The leader says that its log is committed so far; what of ours agrees with it is."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    stamp: int
    index: int
    number: int


class ReadIndex:
    """Answers each `begin` once through `resolve(number, index)`, index None: the read could not be confirmed."""

    def __init__(
        self,
        library: Library,
        *,
        host: ReadHost,
        send: Callable[[str, wire.Message], bool],
        resolve: Callable[[int, int | None], None],
    ) -> None:
        self._library = library
        self._host = host
        self._send = send
        self._resolve = resolve
        self._asked: deque[Asked] = deque()
        self._asked_by: dict[str, Asked] = {}
        self._round_stamp = 0
        self._applying: deque[tuple[int, int]] = deque()
        self._following: deque[int] = deque()
        self._question: tuple[int, str, int] | None = None
        self._question_number = 0
        self._covered: deque[tuple[int, int]] = deque()

    @property
    def waiting_count(self) -> int:
        """Reads of this node that have no answer yet, given up by their caller or not."""
        return len(self._asked) + len(self._applying) + len(self._following) + len(self._covered)

    def begin(self, number: int) -> None:
        """Bounded by the caller, who gives up by `abandon`."""
        library = self._library
        if library.leading:
            self._asked.append(self._noted(number))
        elif library.leader_id is not None:
            self._following.append(number)
        else:
            self._resolve(number, None)

    def lead_changed(self) -> None:
        """What was asked under another leader, or as one, cannot be confirmed any more."""
        lost = [*(asked.number for asked in self._asked), *(number for number, _ in self._covered), *self._following]
        self._asked.clear()
        self._covered.clear()
        self._following.clear()
        self._question = None
        self._round_stamp = 0
        for node_id, asked in self._asked_by.items():
            self._send(node_id, wire.ReadIndexAnswer(number=asked.number, confirmed=False, index=0, term=0))
        self._asked_by.clear()
        for number in lost:
            self._resolve(number, None)

    def request_received(self, node_id: str, message: wire.ReadIndexRequest) -> None:
        """One question of each follower is kept, the first: put again, it would begin anew and never be answered."""
        if not self._library.leading:
            self._send(node_id, wire.ReadIndexAnswer(number=message.number, confirmed=False, index=0, term=0))
        elif node_id not in self._asked_by:
            index = self._host.make_entry() if message.afresh else 0
            self._asked_by[node_id] = self._noted(message.number, index_min=index)

    def disconnected(self, node_id: str) -> None:
        self._asked_by.pop(node_id, None)

    def answer_received(self, node_id: str, message: wire.ReadIndexAnswer) -> None:
        """Answers every read that began before the question was put."""
        if self._question is None or node_id != self._question[1]:
            return
        self._question = None
        if message.confirmed:
            self._host.commit_agreed(message.index, leader_id=node_id, term=message.term)
        while self._covered and self._covered[0][1] <= message.number:
            number, _ = self._covered.popleft()
            if message.confirmed:
                self._applying.append((message.index, number))
            else:
                self._resolve(number, None)

    def step(self, *, now_ns: int) -> None:
        """Whatever can be confirmed, asked or answered has been."""
        library, host = self._library, self._host
        if library.leading:
            self._confirm()
            waiting = max((asked.stamp for asked in (*self._asked, *self._asked_by.values())), default=0)
            if waiting > self._round_stamp and (self._round_stamp <= host.heard_through):
                self._round_stamp = host.confirm_lead()
                self._confirm()
        elif library.leader_id is not None and (self._following or self._covered):
            self._ask(library.leader_id, now_ns=now_ns)
        applied = library.applied_index
        still: deque[tuple[int, int]] = deque()
        for index, number in self._applying:
            if index <= applied:
                self._resolve(number, index)
            else:
                still.append((index, number))
        self._applying = still

    def _noted(self, number: int, *, index_min: int = 0) -> Asked:
        library = self._library
        index = max(library.commit_index, library.read_floor, index_min)
        return Asked(stamp=library.next_stamp(), index=index, number=number)

    def _confirm(self) -> None:
        library, heard = self._library, self._host.heard_through
        while self._asked and self._asked[0].stamp <= heard:
            asked = self._asked.popleft()
            self._applying.append((asked.index, asked.number))
        for node_id, asked in list(self._asked_by.items()):
            if asked.stamp <= heard and library.commit_index >= asked.index:
                del self._asked_by[node_id]
                answer = wire.ReadIndexAnswer(number=asked.number, confirmed=True, index=asked.index, term=library.term)
                self._send(node_id, answer)

    def _ask(self, leader_id: str, *, now_ns: int) -> None:
        if self._question is not None and now_ns < self._question[2] + LOST_AFTER_NS:
            return
        self._question_number += 1
        self._question = (self._question_number, leader_id, now_ns)
        self._covered.extend((number, self._question_number) for number in self._following)
        self._following.clear()
        self._send(leader_id, wire.ReadIndexRequest(number=self._question_number, afresh=self._host.rejoining))
