"""The reader, rule by rule, in small numbers; `tests/simulation/reader` shows that the rules suffice."""

from random import Random

import msgspec
import pytest

from edge_client.protocol.clocks import ClockSamples
from edge_client.protocol.messages import Beacon, ClockReply
from edge_client.protocol.models import Assignment, Pending, Terms
from edge_client.protocol.position import Position
from edge_client.protocol.reader import (
    BEACONS_KEPT,
    CLOCKS_MAX,
    FOREVER_NS,
    MS,
    NEVER_NS,
    REQUEST_LIFE_NS,
    REQUESTS_MAX,
    SAMPLE_PERIOD_NS,
    Effect,
    Reader,
    Resync,
    SendClockRequest,
    Standing,
)

TERMS = Terms(lease_ms=1_000, margin_ms=110, rho_ppm=50_000)
"""Kappa is 21/19."""
LEASE_NS = TERMS.lease_ns
NO_LEASE = Standing(serve_next=False, strong_until_ns=NEVER_NS, changes_at_ns=None)


def beacon(revision: int = 1, *, t0_ns: int, clock_id: str = "c1", epoch: int = 1) -> Beacon:
    return Beacon(epoch=epoch, revision=revision, clock_id=clock_id, assumption=1, assumed_at_ns=0, t0_ns=t0_ns)


def pending(effective_at_ns: int, *, clock_id: str = "c1", revision: int = 2) -> Pending:
    return Pending(
        revision=revision,
        generation=2,
        assignment=Assignment(stable="2.0.0"),
        effective_at_ns=effective_at_ns,
        lead_ns=LEASE_NS + TERMS.margin_ns,
        clock_id=clock_id,
        assumption=1,
    )


def a_reader(*, own_clock_id: str | None = None, started: bool = True) -> Reader:
    """At epoch 1, revision 1, at local time 0."""
    reader = Reader(terms=TERMS, rng=Random(1), own_clock_id=own_clock_id)
    if started:
        reader.epoch_began(Position(1, 1), terms=TERMS, now_ns=0)
    return reader


def ask(reader: Reader, *, now_ns: int) -> bytes:
    """The nonce of a request to everybody, sent at `now_ns`."""
    (request,) = (e for e in reader.started(now_ns=now_ns) if isinstance(e, SendClockRequest) and e.clock_id is None)
    return request.nonce


def reply(reader: Reader, nonce: bytes, *, stamped_at_ns: int, now_ns: int, clock_id: str = "c1", epoch: int = 1):
    message = ClockReply(
        epoch=epoch, clock_id=clock_id, nonce=nonce, stamped_at_ns=stamped_at_ns, node_id="n", url="http://n"
    )
    effects = reader.clock_reply_received(message, now_ns=now_ns)
    reader.check_invariants()
    return effects


def sample(reader: Reader, *, stamped_at_ns: int, sent_at_ns: int, now_ns: int, clock_id: str = "c1") -> None:
    reply(reader, ask(reader, now_ns=sent_at_ns), stamped_at_ns=stamped_at_ns, now_ns=now_ns, clock_id=clock_id)


def due_ns(reader: Reader) -> int:
    deadline_ns = reader.next_deadline_ns()
    assert deadline_ns is not None
    return deadline_ns


def requests(effects: tuple[Effect, ...]) -> list[SendClockRequest]:
    assert all(isinstance(effect, SendClockRequest) for effect in effects)
    return [effect for effect in effects if isinstance(effect, SendClockRequest)]


def samples_of(reader: Reader, clock_id: str) -> ClockSamples:
    samples = reader.samples_of(clock_id)
    assert samples is not None
    return samples


# ---- leases


def test_a_new_reader_knows_nothing_and_says_so():
    reader = a_reader(started=False)

    assert repr(reader) == f"<Reader e0 r0 lease_until={NEVER_NS} clocks=0>"
    assert reader.next_deadline_ns() is None
    assert reader.tick(now_ns=0) == ()
    assert reader.standing(None, now_ns=0) == NO_LEASE
    assert reader.standing(pending(5), now_ns=0) == NO_LEASE
    assert reader.staleness_bound_ns(None, serve_next=False, now_ns=0) is None
    assert reader.samples_of("c1") is None
    assert reader.uncertainty_ns(now_ns=0) is None
    assert reader.behind() is None
    assert reader.trusted


def test_a_lease_needs_a_beacon_and_an_upper_bound():
    reader = a_reader()

    reader.beacon_received(beacon(t0_ns=1_000 * MS), now_ns=10)
    assert reader.lease_until_ns == NEVER_NS
    sample(reader, stamped_at_ns=1_000 * MS, sent_at_ns=10, now_ns=20)
    assert reader.lease_until_ns == 10 + LEASE_NS * 19 // 21
    assert reader.standing(None, now_ns=20) == Standing(
        serve_next=False, strong_until_ns=reader.lease_until_ns, changes_at_ns=None
    )


def test_a_late_beacon_counts_from_its_t0():
    reader = a_reader()
    sample(reader, stamped_at_ns=0, sent_at_ns=0, now_ns=0)

    reader.beacon_received(beacon(t0_ns=100 * MS), now_ns=900 * MS)

    assert reader.lease_until_ns == (100 * MS + LEASE_NS) * 19 // 21


def test_an_older_or_repeated_beacon_changes_nothing():
    reader = a_reader()
    sample(reader, stamped_at_ns=0, sent_at_ns=0, now_ns=0)
    reader.beacon_received(beacon(t0_ns=100 * MS), now_ns=900 * MS)
    before = reader.lease_until_ns

    reader.beacon_received(beacon(t0_ns=100 * MS), now_ns=901 * MS)
    reader.beacon_received(beacon(t0_ns=50 * MS), now_ns=902 * MS)

    assert before == reader.lease_until_ns


def test_a_new_authority_voids_no_lease():
    reader = a_reader()
    sample(reader, stamped_at_ns=0, sent_at_ns=0, now_ns=0, clock_id="c1")
    sample(reader, stamped_at_ns=5_000 * MS, sent_at_ns=0, now_ns=0, clock_id="c2")
    reader.beacon_received(beacon(t0_ns=300 * MS, clock_id="c1"), now_ns=400 * MS)
    before = reader.lease_until_ns

    reader.beacon_received(beacon(t0_ns=5_100 * MS, clock_id="c2"), now_ns=401 * MS)

    assert before == reader.lease_until_ns


def test_repeated_beacons_push_no_other_out_while_behind():
    reader = a_reader()
    sample(reader, stamped_at_ns=0, sent_at_ns=0, now_ns=0)
    reader.beacon_received(beacon(2, t0_ns=90 * MS), now_ns=100 * MS)
    for _ in range(BEACONS_KEPT + 1):
        reader.beacon_received(beacon(3, t0_ns=100 * MS), now_ns=110 * MS)

    reader.applied(Position(1, 2), now_ns=120 * MS)

    assert reader.lease_until_ns == (90 * MS + LEASE_NS) * 19 // 21


def test_a_reader_that_is_behind_keeps_the_beacon_and_takes_the_lease_when_caught_up():
    reader = a_reader()
    sample(reader, stamped_at_ns=0, sent_at_ns=0, now_ns=0)
    reader.beacon_received(beacon(3, t0_ns=100 * MS), now_ns=110 * MS)
    reader.beacon_received(beacon(4, t0_ns=200 * MS), now_ns=210 * MS)

    assert reader.behind() == Position(1, 4)
    assert reader.lease_until_ns == NEVER_NS
    reader.applied(Position(1, 3), now_ns=220 * MS)
    assert reader.lease_until_ns == (100 * MS + LEASE_NS) * 19 // 21
    assert reader.behind() == Position(1, 4)
    reader.applied(Position(1, 2), now_ns=225 * MS)  # never back
    assert reader.position == Position(1, 3)
    reader.applied(Position(1, 4), now_ns=230 * MS)
    assert reader.lease_until_ns == (200 * MS + LEASE_NS) * 19 // 21
    assert reader.behind() is None
    reader.check_invariants()


def test_only_the_last_beacons_are_kept():
    reader = a_reader()
    for count in range(BEACONS_KEPT + 3):
        reader.beacon_received(beacon(2 + count, t0_ns=count), now_ns=1_000 + count)
        reader.check_invariants()

    assert reader.counters["beacons_dropped_while_behind"] == 3


# ---- the pending rule


def test_before_between_and_after_the_instant():
    reader = a_reader()
    sample(reader, stamped_at_ns=0, sent_at_ns=0, now_ns=19 * MS)
    reader.beacon_received(beacon(t0_ns=90 * MS), now_ns=95 * MS)
    lease_ns, soon = reader.lease_until_ns, pending(210 * MS)
    stop_ns, start_ns = 190 * MS, 95 * MS + -(-120 * MS * 21 // 19)

    assert reader.standing(soon, now_ns=stop_ns - 1) == Standing(
        serve_next=False, strong_until_ns=stop_ns, changes_at_ns=stop_ns
    )
    for now_ns in (stop_ns, start_ns - 1):
        assert reader.standing(soon, now_ns=now_ns) == Standing(
            serve_next=False, strong_until_ns=NEVER_NS, changes_at_ns=start_ns
        )
    assert reader.standing(soon, now_ns=start_ns) == Standing(
        serve_next=True, strong_until_ns=lease_ns, changes_at_ns=None
    )


def test_the_end_of_the_lease_may_come_before_the_instant():
    reader = a_reader()
    sample(reader, stamped_at_ns=0, sent_at_ns=0, now_ns=0)
    reader.beacon_received(beacon(t0_ns=0), now_ns=0)

    standing = reader.standing(pending(21_000 * MS), now_ns=5)

    assert standing == Standing(serve_next=False, strong_until_ns=LEASE_NS * 19 // 21, changes_at_ns=19_000 * MS)


def test_with_beacons_alone_one_can_start_but_not_stop():
    reader = a_reader()
    reader.beacon_received(beacon(t0_ns=100), now_ns=50)

    assert reader.standing(pending(119), now_ns=60) == Standing(
        serve_next=False, strong_until_ns=NEVER_NS, changes_at_ns=71
    )
    assert reader.standing(pending(119), now_ns=71).serve_next


def test_a_pending_activation_of_an_unknown_clock_silences_only_its_model():
    reader = a_reader()
    sample(reader, stamped_at_ns=0, sent_at_ns=0, now_ns=0)
    reader.beacon_received(beacon(t0_ns=0), now_ns=0)

    assert reader.standing(pending(10, clock_id="gone"), now_ns=5) == NO_LEASE
    assert reader.standing(None, now_ns=5).strong_until_ns > 5


def test_through_the_log_no_lease_is_needed_but_the_pending_rule_holds():
    reader = a_reader()
    sample(reader, stamped_at_ns=0, sent_at_ns=0, now_ns=19)

    assert reader.standing(None, now_ns=20, through_log=True).strong_until_ns == FOREVER_NS
    assert reader.standing(pending(2_100), now_ns=20, through_log=True).strong_until_ns == 1_900
    assert reader.standing(pending(2_100), now_ns=1_900, through_log=True).strong_until_ns == NEVER_NS
    assert reader.standing(pending(2_100), now_ns=9_000, through_log=True) == Standing(
        serve_next=True, strong_until_ns=FOREVER_NS, changes_at_ns=None
    )


def test_on_the_node_itself_the_switch_has_no_width():
    reader = a_reader(own_clock_id="me")
    reader.beacon_received(beacon(t0_ns=100, clock_id="me"), now_ns=200)

    assert reader.lease_until_ns == 100 + LEASE_NS
    assert reader.standing(pending(500, clock_id="me"), now_ns=499).strong_until_ns == 500
    assert reader.standing(pending(500, clock_id="me"), now_ns=500).serve_next
    assert reader.uncertainty_ns(now_ns=1) == 0
    assert reader.pending_known(pending(10**18, clock_id="me"), now_ns=1) == ()


# ---- the bound


def test_the_bound_counts_from_the_newest_beacon_and_from_the_instant():
    reader = a_reader()
    sample(reader, stamped_at_ns=0, sent_at_ns=0, now_ns=0)
    reader.beacon_received(beacon(t0_ns=2_000), now_ns=1_900 + 95)

    def bound(which: Pending | None, *, serve_next: bool, now_ns: int) -> int | None:
        return reader.staleness_bound_ns(which, serve_next=serve_next, now_ns=now_ns)

    assert bound(None, serve_next=False, now_ns=3_800) == 2_316  # (4200 - 2000) / 0.95, up
    assert bound(pending(100), serve_next=False, now_ns=3_800) == 4_316  # (4200 - 100) / 0.95
    assert bound(pending(100), serve_next=True, now_ns=3_800) == 2_316
    assert bound(pending(4_000), serve_next=False, now_ns=3_800) == 2_316
    assert bound(pending(100, clock_id="gone"), serve_next=False, now_ns=3_800) is None
    assert bound(pending(100, clock_id="gone"), serve_next=True, now_ns=3_800) == 2_316


def test_the_bound_is_never_negative():
    reader = a_reader(own_clock_id="me")
    reader.beacon_received(beacon(t0_ns=2_000, clock_id="me"), now_ns=2_000)

    assert reader.staleness_bound_ns(None, serve_next=False, now_ns=1_000) == 0


def test_without_an_upper_bound_of_the_clock_there_is_no_bound():
    reader = a_reader()
    sample(reader, stamped_at_ns=0, sent_at_ns=0, now_ns=0)
    reader.beacon_received(beacon(t0_ns=0), now_ns=1)
    reader.beacon_received(beacon(t0_ns=5, clock_id="c2"), now_ns=1)

    assert reader.staleness_bound_ns(pending(5, clock_id="c2"), serve_next=False, now_ns=9) is None


# ---- asking clocks


def test_an_unknown_clock_is_asked_within_an_eighth_of_the_lease_until_it_answers():
    reader = a_reader()
    assert reader.beacon_received(beacon(t0_ns=0), now_ns=100) == ()
    first_ns = due_ns(reader)

    assert 100 < first_ns <= 101 + LEASE_NS // 8
    assert reader.tick(now_ns=first_ns - 1) == ()
    (first,) = requests(reader.tick(now_ns=first_ns))
    assert first.clock_id == "c1"
    again_ns = due_ns(reader)
    (second,) = requests(reader.tick(now_ns=again_ns))
    assert second.nonce != first.nonce
    reply(reader, first.nonce, stamped_at_ns=first_ns, now_ns=again_ns + 5)
    assert due_ns(reader) == reader._sample_all_due_ns


def test_clocks_that_never_answer_are_asked_ever_more_rarely_and_crowd_nobody_out():
    """Fifteen dead clocks, and a living one behind a link of 700 ms, whose reply must still find its request."""
    reader = a_reader()
    for count in range(CLOCKS_MAX - 1):
        reader.pending_known(pending(5, clock_id=f"dead{count}", revision=2 + count), now_ns=0)
    asked, replies, now_ns = 0, list[tuple[int, int, bytes]](), 0

    while now_ns < 60_000 * MS:
        now_ns = due_ns(reader)
        while replies and replies[0][0] <= now_ns:
            arrives_ns, sent_ns, nonce = replies.pop(0)
            reply(reader, nonce, stamped_at_ns=sent_ns, now_ns=arrives_ns, clock_id="living")
        for request in requests(reader.tick(now_ns=now_ns)):
            if request.clock_id is None:
                replies.append((now_ns + 700 * MS, now_ns, request.nonce))
            else:
                asked += 1

    assert samples_of(reader, "living").two_way
    assert asked < 1.5 * 60 * (CLOCKS_MAX - 1)


def test_a_sample_that_took_longer_than_a_lease_is_asked_for_again_and_ever_more_rarely():
    """A pause between question and answer must not cost the lease until the next round of samples, 20 s later."""
    reader = a_reader()
    sample(reader, stamped_at_ns=5 * LEASE_NS, sent_at_ns=0, now_ns=5 * LEASE_NS)
    now_ns, asked = 5 * LEASE_NS, 0
    for _ in range(100):
        now_ns += 100 * MS
        asked += len(requests(reader.beacon_received(beacon(t0_ns=now_ns), now_ns=now_ns)))
    assert reader.lease_until_ns < now_ns
    assert 3 <= asked <= 15

    now_ns = due_ns(reader)
    (request,) = requests(reader.tick(now_ns=now_ns))
    reply(reader, request.nonce, stamped_at_ns=now_ns, now_ns=now_ns + MS)
    reader.beacon_received(beacon(t0_ns=now_ns + 2 * MS), now_ns=now_ns + 3 * MS)
    assert reader.lease_until_ns > now_ns + LEASE_NS // 2


def test_a_sample_that_took_nearly_a_lease_is_asked_for_again():
    """What it leaves of each lease would end before the next beacon."""
    reader, took_ns = a_reader(), 17 * LEASE_NS // 20
    sample(reader, stamped_at_ns=0, sent_at_ns=0, now_ns=took_ns)
    asked = [reader.beacon_received(beacon(t0_ns=n * MS), now_ns=took_ns + n * MS) for n in range(100, 600, 100)]
    assert "c1" in {request.clock_id for effects in asked for request in requests(effects)}


def test_all_clocks_are_sampled_again_and_again():
    reader = a_reader()
    (first,) = requests(reader.started(now_ns=0))
    assert first.clock_id is None
    assert 0.35 * LEASE_NS <= due_ns(reader) <= 0.65 * LEASE_NS  # nothing known yet

    reply(reader, first.nonce, stamped_at_ns=0, now_ns=1)
    reader.started(now_ns=2)

    assert 0.7 * SAMPLE_PERIOD_NS <= due_ns(reader) <= 1.3 * SAMPLE_PERIOD_NS + 2


def test_only_the_reply_to_our_own_request_counts():
    reader = a_reader()
    reader.beacon_received(beacon(t0_ns=0), now_ns=0)
    (direct,) = requests(reader.tick(now_ns=due_ns(reader)))
    assert direct.clock_id == "c1"

    reply(reader, b"never asked", stamped_at_ns=0, now_ns=LEASE_NS)
    reply(reader, direct.nonce, stamped_at_ns=0, now_ns=LEASE_NS, clock_id="c2")

    assert reader.counters["clock_replies_unasked"] == 2
    assert not samples_of(reader, "c1").two_way


def test_a_request_is_forgotten_in_time():
    reader = a_reader()
    nonce = ask(reader, now_ns=0)

    reader.tick(now_ns=REQUEST_LIFE_NS)
    reply(reader, nonce, stamped_at_ns=0, now_ns=REQUEST_LIFE_NS)

    assert reader.counters["clock_replies_unasked"] == 1


def test_requests_are_bounded():
    reader = a_reader()
    nonces = [ask(reader, now_ns=1) for _ in range(REQUESTS_MAX + 1)]

    assert reader.counters["clock_requests_forgotten"] == 2  # the reader's own first one too
    reply(reader, nonces[0], stamped_at_ns=0, now_ns=5)
    assert reader.counters["clock_replies_unasked"] == 1
    reply(reader, nonces[1], stamped_at_ns=0, now_ns=5)
    assert samples_of(reader, "c1").two_way


def test_the_clock_of_a_pending_activation_is_asked_in_each_third_of_the_lead():
    reader = a_reader()
    sample(reader, stamped_at_ns=0, sent_at_ns=0, now_ns=0)
    ask(reader, now_ns=1)  # now that a clock is known, the next round is far away
    samples = reader.samples_of("c1")
    stop_ns = samples.surely_before_until_ns(2_100 * MS) if samples else None
    assert stop_ns is not None
    third_ns = (stop_ns - 100 * MS) / 3

    assert reader.pending_known(pending(2_100 * MS), now_ns=100 * MS) == ()
    for number in range(3):
        at_ns = due_ns(reader)
        assert 100 * MS + number * third_ns <= at_ns < 100 * MS + (number + 1) * third_ns
        (request,) = requests(reader.tick(now_ns=at_ns))
        assert request.clock_id == "c1"
        assert reader.pending_known(pending(2_100 * MS), now_ns=at_ns) == ()  # known already
    assert due_ns(reader) == reader._sample_all_due_ns


def test_samples_that_were_missed_while_paused_are_one():
    reader = a_reader()
    sample(reader, stamped_at_ns=0, sent_at_ns=0, now_ns=0)
    ask(reader, now_ns=1)
    reader.pending_known(pending(2_100 * MS), now_ns=100 * MS)

    assert len(requests(reader.tick(now_ns=2_200 * MS))) == 1
    assert due_ns(reader) == reader._sample_all_due_ns


def test_no_more_is_asked_when_the_instant_may_have_passed():
    reader = a_reader()
    sample(reader, stamped_at_ns=0, sent_at_ns=0, now_ns=0)
    reader.pending_known(pending(2_100), now_ns=1_900)

    assert due_ns(reader) == reader._sample_all_due_ns


def test_a_pending_activation_of_an_unknown_clock_makes_us_ask_that_clock():
    reader = a_reader()
    reader.pending_known(pending(2_100, clock_id="c9"), now_ns=10)
    (request,) = requests(reader.tick(now_ns=10 + 1 + LEASE_NS // 8))

    assert request.clock_id == "c9"


def test_the_clock_heard_least_lately_gives_way_but_never_our_own():
    reader = a_reader(own_clock_id="me")
    for count in range(CLOCKS_MAX + 1):
        reader.beacon_received(beacon(9, t0_ns=0, clock_id=f"c{count}"), now_ns=count)
        reader.check_invariants()

    assert reader.counters["clocks_forgotten"] == 2
    assert reader.samples_of("c0") is reader.samples_of("c1") is None
    assert reader.samples_of("me") is not None
    reader.applied(Position(1, 9), now_ns=100)
    assert reader.counters["beacons_of_forgotten_clocks"] == 2


# ---- what breaks an assumption


def test_a_contradiction_voids_the_clock_and_all_that_rests_on_it():
    reader = a_reader()
    sample(reader, stamped_at_ns=0, sent_at_ns=0, now_ns=0, clock_id="c1")
    sample(reader, stamped_at_ns=0, sent_at_ns=0, now_ns=0, clock_id="c2")
    reader.beacon_received(beacon(t0_ns=20, clock_id="c2"), now_ns=100)
    other_ns = reader.lease_until_ns
    reader.beacon_received(beacon(t0_ns=100, clock_id="c1"), now_ns=100)
    assert reader.lease_until_ns > other_ns

    reader.beacon_received(beacon(t0_ns=10**9, clock_id="c1"), now_ns=200)

    assert reader.counters["clocks_contradicted"] == 1
    assert reader.lease_until_ns == other_ns
    assert not samples_of(reader, "c1").two_way
    assert samples_of(reader, "c1").lo_ns(now_ns=200) is None
    reader.check_invariants()


def test_a_reply_can_contradict_too():
    reader = a_reader()
    reader.beacon_received(beacon(t0_ns=10**9), now_ns=0)

    sample(reader, stamped_at_ns=5, sent_at_ns=0, now_ns=10)

    assert reader.counters["clocks_contradicted"] == 1
    assert reader.lease_until_ns == NEVER_NS


def test_a_contradicted_clock_gives_no_lease_by_a_beacon_that_waited():
    """The clock steps back by ten seconds; a beacon from before the step waits, and would be worth eleven seconds."""
    reader = a_reader()
    sample(reader, stamped_at_ns=10_000 * MS, sent_at_ns=0, now_ns=0)
    reader.beacon_received(beacon(7, t0_ns=10_050 * MS), now_ns=60 * MS)
    sample(reader, stamped_at_ns=100 * MS, sent_at_ns=100 * MS, now_ns=100 * MS)
    assert reader.counters["clocks_contradicted"] == 1
    sample(reader, stamped_at_ns=200 * MS, sent_at_ns=200 * MS, now_ns=200 * MS)

    reader.applied(Position(1, 7), now_ns=210 * MS)

    assert reader.lease_until_ns == NEVER_NS


@pytest.mark.parametrize("own_clock_id", [None, "me"])
def test_while_our_own_clock_is_distrusted_nothing_is_believed(own_clock_id):
    reader = a_reader(own_clock_id=own_clock_id)
    nonce = ask(reader, now_ns=0)
    sample(reader, stamped_at_ns=0, sent_at_ns=0, now_ns=0)
    reader.beacon_received(beacon(t0_ns=0), now_ns=0)

    reader.own_clock_distrusted(now_ns=10)
    reader.own_clock_distrusted(now_ns=11)
    reader.check_invariants()
    assert (reader.trusted, reader.lease_until_ns, reader.next_deadline_ns()) == (False, NEVER_NS, None)
    assert reader.beacon_received(beacon(t0_ns=0), now_ns=20) == ()
    assert reader.tick(now_ns=10**12) == ()
    reply(reader, nonce, stamped_at_ns=0, now_ns=21)
    assert reader.pending_known(pending(10**12), now_ns=22) == ()
    assert reader.epoch_began(Position(2, 1), terms=TERMS, now_ns=23) == ()
    reader.check_invariants()
    assert dict(reader.counters) == {
        "own_clock_distrusted": 1,
        "beacons_ignored_untrusted_clock": 1,
        "clock_replies_unasked": 1,
    }

    (request,) = requests(reader.own_clock_trusted(now_ns=30))
    assert reader.own_clock_trusted(now_ns=31) == ()
    assert request.clock_id is None
    assert (reader.samples_of("me") is not None) == (own_clock_id is not None)


def test_a_reply_that_was_asked_for_after_the_distrust_is_not_believed():
    reader = a_reader()
    reader.own_clock_distrusted(now_ns=10)
    reader._requests[b"n"] = (11, None)  # cannot happen: `tick` asks nobody; the guard stands all the same

    assert reply(reader, b"n", stamped_at_ns=0, now_ns=12) == ()
    assert reader.samples_of("c1") is None


def test_our_own_reply_tells_us_nothing_about_our_own_clock():
    reader = a_reader(own_clock_id="me")
    reply(reader, ask(reader, now_ns=5), stamped_at_ns=10**9, now_ns=6, clock_id="me")

    assert samples_of(reader, "me").lo_ns(now_ns=7) == 7


# ---- epochs


def test_a_greater_epoch_asks_for_a_snapshot_and_an_older_one_is_dropped():
    reader = a_reader()
    nonce = ask(reader, now_ns=0)

    assert reader.beacon_received(beacon(7, t0_ns=0, epoch=2), now_ns=1) == (Resync(at_least=Position(2, 7)),)
    assert reader.beacon_received(beacon(0, t0_ns=0, epoch=2), now_ns=1) == (Resync(at_least=Position(2, 1)),)
    assert reply(reader, nonce, stamped_at_ns=0, now_ns=1, epoch=2) == (Resync(at_least=Position(2, 1)),)
    assert reader.beacon_received(beacon(7, t0_ns=0, epoch=0), now_ns=1) == ()
    assert reply(reader, nonce, stamped_at_ns=0, now_ns=1, epoch=0) == ()
    assert reader.counters["messages_of_old_epoch"] == 2
    assert reader.samples_of("c1") is None


@pytest.mark.parametrize("own_clock_id", [None, "me"])
def test_a_new_epoch_drops_everything(own_clock_id):
    reader = a_reader(own_clock_id=own_clock_id)
    nonce = ask(reader, now_ns=0)
    sample(reader, stamped_at_ns=0, sent_at_ns=0, now_ns=0)
    reader.beacon_received(beacon(t0_ns=0), now_ns=0)
    reader.beacon_received(beacon(5, t0_ns=10), now_ns=20)
    terms = msgspec.structs.replace(TERMS, lease_ms=500)

    (request,) = requests(reader.epoch_began(Position(2, 3), terms=terms, now_ns=100))

    assert (reader.position, reader.terms, reader.lease_until_ns) == (Position(2, 3), terms, NEVER_NS)
    assert (reader.behind(), reader.samples_of("c1")) == (None, None)
    assert reply(reader, nonce, stamped_at_ns=0, now_ns=101, epoch=2) == ()
    assert reader.counters["clock_replies_unasked"] == 1
    reply(reader, request.nonce, stamped_at_ns=0, now_ns=100, epoch=2)
    reader.beacon_received(beacon(3, t0_ns=0, epoch=2), now_ns=101)
    assert reader.lease_until_ns == 100 + 500 * MS * 19 // 21
