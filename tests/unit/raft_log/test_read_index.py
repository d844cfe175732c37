"""Every read is answered once, by an index no older than the read; and a slow leader is slow, not silent."""

from __future__ import annotations

from dataclasses import dataclass, field

from consistency_service.adapters.raft_log import wire
from consistency_service.adapters.raft_log.read_index import LOST_AFTER_NS, ReadIndex

MS = 1_000_000


@dataclass
class Host:
    term: int = 1
    leading: bool = False
    leader_id: str | None = "n1"
    commit_index: int = 5
    applied_index: int = 5
    read_floor: int = 0
    heard_through: int = 0
    stamp: int = 0
    rounds: int = 0
    rejoining: bool = False
    made: int = 0
    agreed: list[int] = field(default_factory=list)

    def next_stamp(self) -> int:
        self.stamp += 1
        return self.stamp

    def confirm_lead(self) -> int:
        self.rounds += 1
        return self.next_stamp()

    def make_entry(self) -> int:
        self.made += 1
        return 100 + self.made

    def commit_agreed(self, index: int, *, leader_id: str, term: int) -> None:
        self.agreed.append(index)


@dataclass
class Desk:
    host: Host
    sent: list[tuple[str, wire.Message]] = field(default_factory=list)
    answers: list[tuple[int, int | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reads = ReadIndex(
            self.host,
            host=self.host,
            send=self.send,
            resolve=lambda number, index: self.answers.append((number, index)),
        )

    def send(self, node_id: str, message: wire.Message) -> bool:
        self.sent.append((node_id, message))
        return True


def leading() -> Desk:
    return Desk(host=Host(leading=True, leader_id="n1"))


def following() -> Desk:
    return Desk(host=Host())


def answer(number: int, *, index: int = 7, confirmed: bool = True) -> wire.ReadIndexAnswer:
    return wire.ReadIndexAnswer(number=number, confirmed=confirmed, index=index, term=1)


def test_a_read_waits_for_a_majority_and_for_the_machine():
    desk = leading()
    desk.host.commit_index = 6
    desk.reads.begin(1)
    desk.reads.step(now_ns=0)
    assert (1, []) == (desk.host.rounds, desk.answers)
    desk.host.heard_through = desk.host.stamp
    desk.reads.step(now_ns=0)
    assert [] == desk.answers
    desk.host.applied_index = 6
    desk.reads.step(now_ns=0)

    assert [(1, 6)] == desk.answers


def test_reads_that_come_during_a_round_share_the_next():
    desk = leading()
    for number in range(1, 101):
        desk.reads.begin(number)
        desk.reads.step(now_ns=0)
    assert 1 == desk.host.rounds
    desk.host.heard_through = desk.host.stamp - 99
    desk.reads.step(now_ns=0)
    assert (2, [(1, 5)]) == (desk.host.rounds, desk.answers)
    desk.host.heard_through = desk.host.stamp
    desk.reads.step(now_ns=0)

    assert (2, [(number, 5) for number in range(1, 101)]) == (desk.host.rounds, desk.answers)


def test_a_leader_waits_for_the_first_entry_of_its_term():
    desk = leading()
    desk.host.read_floor = 9
    desk.reads.begin(1)
    desk.host.heard_through = 100
    desk.reads.step(now_ns=0)

    assert [] == desk.answers
    desk.host.applied_index = 9
    desk.reads.step(now_ns=0)
    assert [(1, 9)] == desk.answers


def test_a_follower_is_answered_with_what_is_committed_only():
    desk = leading()
    desk.host.read_floor = 9
    desk.reads.request_received("n2", wire.ReadIndexRequest(number=3, afresh=False))
    desk.host.heard_through = 100
    desk.reads.step(now_ns=0)
    assert [] == desk.sent
    desk.host.commit_index = 9
    desk.reads.step(now_ns=0)

    assert [("n2", wire.ReadIndexAnswer(number=3, confirmed=True, index=9, term=1))] == desk.sent


def test_a_question_put_again_does_not_begin_anew():
    desk = leading()
    desk.reads.request_received("n2", wire.ReadIndexRequest(number=1, afresh=False))
    desk.host.heard_through = desk.host.stamp
    desk.reads.request_received("n2", wire.ReadIndexRequest(number=2, afresh=False))
    desk.reads.step(now_ns=0)

    assert [("n2", answer(1, index=5))] == desk.sent


def test_who_does_not_lead_says_so():
    desk = following()
    desk.reads.request_received("n2", wire.ReadIndexRequest(number=1, afresh=False))

    assert [("n2", wire.ReadIndexAnswer(number=1, confirmed=False, index=0, term=0))] == desk.sent


def test_a_late_answer_answers_the_reads_of_its_question_and_the_rest_ask_again():
    desk = following()
    desk.reads.begin(1)
    desk.reads.step(now_ns=0)
    desk.reads.begin(2)
    desk.reads.step(now_ns=LOST_AFTER_NS // 2)
    assert [("n1", wire.ReadIndexRequest(number=1, afresh=False))] == desk.sent
    desk.reads.step(now_ns=LOST_AFTER_NS)
    desk.reads.answer_received("n1", answer(1))
    desk.host.applied_index = 7
    desk.reads.step(now_ns=LOST_AFTER_NS + 1)

    assert [(1, 7)] == desk.answers
    assert [1, 2, 3] == [message.number for _, message in desk.sent if isinstance(message, wire.ReadIndexRequest)]
    desk.reads.answer_received("n1", answer(3))
    desk.reads.step(now_ns=LOST_AFTER_NS + 2)
    assert [(1, 7), (2, 7)] == desk.answers
    assert 0 == desk.reads.waiting_count


def test_an_answer_nobody_asked_for_or_of_another_node_changes_nothing():
    desk = following()
    desk.reads.answer_received("n1", answer(1))
    desk.reads.begin(1)
    desk.reads.step(now_ns=0)
    desk.reads.answer_received("n3", answer(1))

    assert ([], []) == (desk.answers, desk.host.agreed)
    assert 1 == desk.reads.waiting_count


def test_with_another_leader_nothing_unconfirmed_is_answered():
    desk = following()
    for number in (1, 2):
        desk.reads.begin(number)
        desk.reads.step(now_ns=0)
    desk.reads.lead_changed()
    desk.host.leader_id = None
    desk.reads.begin(3)

    assert [(1, None), (2, None), (3, None)] == desk.answers


def test_who_lost_its_memory_is_answered_by_an_entry_made_for_it_and_committed():
    desk = leading()
    desk.reads.request_received("n2", wire.ReadIndexRequest(number=1, afresh=True))
    desk.host.heard_through = desk.host.stamp
    desk.reads.step(now_ns=MS)

    assert (1, []) == (desk.host.made, desk.sent)

    desk.host.commit_index = 101
    desk.reads.step(now_ns=2 * MS)

    assert [("n2", wire.ReadIndexAnswer(number=1, confirmed=True, index=101, term=1))] == desk.sent


def test_a_node_without_memory_says_so_in_every_question():
    desk = following()
    desk.host.rejoining = True
    desk.reads.begin(0)
    desk.reads.step(now_ns=MS)

    assert [("n1", wire.ReadIndexRequest(number=1, afresh=True))] == desk.sent
