"""The authority core: the post, the numbers and the due times."""

from __future__ import annotations

from consistency_service.core import commands as c
from consistency_service.core.authority import AskPeersForBus, Resign
from consistency_service.core.machine import MetadataMachine
from edge_client.protocol.drift import Drift
from edge_client.protocol.models import Policy, Terms
from tests.support.region import MS, SILENCE_NS, Driven, activation, assume, bootstrapped


def in_authority(*, clock_id: str = "c1") -> Driven:
    """A node that became the authority long after its epoch began."""
    node = Driven(machine=bootstrapped(), clock_id=clock_id)
    node.take(node.core.restored(now_ns=0))
    node.lead(now_ns=SILENCE_NS)
    assert node.core.is_authority
    return node


def test_nothing_happens_before_bootstrap_and_while_following() -> None:
    node = Driven(machine=MetadataMachine())
    node.lead(now_ns=0)

    assert node.core.next_deadline_ns() is None and node.core.silent(now_ns=10**12)
    assert node.core.tick(now_ns=10**12) == ()
    assert repr(node.core) == "<Authority node-c1 leading clock=c1 number=0>"


def test_a_leader_assumes_and_asks_again_every_300_ms() -> None:
    node = Driven(machine=bootstrapped())
    node.take(node.core.leadership(leading=True, term=1, now_ns=0))
    node.take(node.core.tick(now_ns=299 * MS))
    node.take(node.core.tick(now_ns=300 * MS))

    assert node.proposed == [c.AssumeAuthority(clock_id="c1", node_id="node-c1", replaces=0)] * 2
    assert node.core.next_deadline_ns() == 600 * MS
    node.commit(now_ns=310 * MS)
    assert node.core.is_authority


def test_a_node_elected_anew_assumes_anew() -> None:
    node = in_authority()
    before = node.machine.state.authority
    node.take(node.core.leadership(leading=False, term=1, now_ns=SILENCE_NS))
    assert not node.core.is_authority
    node.lead(term=3, now_ns=SILENCE_NS + 1)

    after = node.machine.state.authority
    assert before is not None and after is not None and after.assumption > before.assumption
    assert node.core.is_authority


def test_the_first_lease_and_margin_of_an_epoch_are_silent() -> None:
    node = Driven(machine=bootstrapped())
    node.take(node.core.restored(now_ns=0))
    node.lead(now_ns=1)
    end_ns = Drift(500).faster_ns(2_006 * MS)

    assert node.core.choose_instant(now_ns=end_ns - 1) is None
    assert node.core.tick(now_ns=end_ns - 1) == () and node.core.next_deadline_ns() == end_ns
    node.take(node.core.tick(now_ns=end_ns))
    node.commit(now_ns=end_ns)
    assert len(node.beacons) == 1


def test_a_confirmation_that_applies_while_silent_grants_nothing() -> None:
    node = in_authority()
    node.take(node.core.tick(now_ns=SILENCE_NS + 100 * MS))
    late = node.proposed.pop()
    other = Driven(machine=node.machine)
    other.lead(now_ns=0)

    outcome = other.machine.apply(late)

    assert outcome.code == "not_authority"
    other.take(other.core.tick(now_ns=1))
    assert other.beacons == []


def test_a_confirmation_of_before_a_new_epoch_grants_nothing_in_it() -> None:
    node = in_authority()
    node.take(node.core.tick(now_ns=SILENCE_NS + 100 * MS))
    node.beacons.clear()
    node.machine.state.epoch = 7

    assert all(outcome.ok for outcome in node.commit(now_ns=SILENCE_NS + 110 * MS))
    assert node.beacons == []


def test_a_beacon_goes_out_when_its_confirmation_applies_and_names_the_revision_of_then() -> None:
    node = in_authority()
    node.beacons.clear()
    t0_ns = SILENCE_NS + 100 * MS
    node.take(node.core.tick(now_ns=t0_ns))
    assert node.beacons == []
    node.machine.apply(c.ChangePolicy(model="m", policy=Policy(versions_kept=3)))
    node.commit(now_ns=t0_ns + 70 * MS)

    beacon = node.beacons[0].beacon
    assert (beacon.t0_ns, beacon.revision) == (t0_ns, node.machine.state.revision)
    assert (beacon.clock_id, beacon.assumed_at_ns, beacon.epoch) == ("c1", SILENCE_NS, 1)


def test_a_refused_confirmation_grants_nothing() -> None:
    node = in_authority()
    node.take(node.core.tick(now_ns=SILENCE_NS + 100 * MS))
    node.beacons.clear()
    assume(node.machine, clock_id="c2")

    assert [outcome.code for outcome in node.commit(now_ns=SILENCE_NS + 150 * MS)] == ["not_authority"]
    assert node.beacons == [] and not node.core.is_authority


def test_an_instant_takes_its_number_with_its_reading() -> None:
    node = in_authority()
    now_ns = SILENCE_NS + 10 * MS

    first, second = node.core.choose_instant(now_ns=now_ns), node.core.choose_instant(now_ns=now_ns)

    assert first is not None and second is not None and second.number == first.number + 1
    assert (first.effective_at_ns - now_ns, first.lead_ns) == (2_006 * MS, 2_006 * MS)


def test_only_the_authority_chooses_an_instant() -> None:
    node = in_authority()
    assume(node.machine, clock_id="c2")

    assert node.core.choose_instant(now_ns=SILENCE_NS) is None


def decide(node: Driven, *, now_ns: int) -> int:
    instant = node.core.choose_instant(now_ns=now_ns)
    assert instant is not None
    command = activation(
        "1.0.0",
        clock_id=instant.clock_id,
        assumption=instant.assumption,
        number=instant.number,
        at_ns=instant.effective_at_ns,
    )
    outcome = node.machine.apply(command)
    node.take(node.core.applied(command, outcome, now_ns=now_ns))
    return outcome.revision


def test_the_own_activation_is_settled_once_its_instant_has_passed() -> None:
    node = in_authority()
    revision = decide(node, now_ns=SILENCE_NS)
    node.take(node.core.tick(now_ns=SILENCE_NS + 2_005 * MS))
    node.commit(now_ns=SILENCE_NS + 2_005 * MS)
    assert revision in node.machine.state.pendings()

    node.take(node.core.tick(now_ns=SILENCE_NS + 2_106 * MS))
    node.commit(now_ns=SILENCE_NS + 2_106 * MS)

    assert not node.machine.state.pendings() and node.machine.state.models["m"].generation == 1


def test_a_foreign_activation_waits_for_kappa_times_its_lead_since_first_seen() -> None:
    old = in_authority(clock_id="c1")
    revision = decide(old, now_ns=SILENCE_NS)
    new = Driven(machine=old.machine, clock_id="c2")
    seen_ns = 50_000 * MS
    new.take(new.core.restored(now_ns=seen_ns))
    new.lead(now_ns=seen_ns + 1)
    due_ns = seen_ns + Drift(500).faster_ns(2_006 * MS)

    new.take(new.core.tick(now_ns=due_ns - 1))
    new.commit(now_ns=due_ns - 1)
    assert revision in old.machine.state.pendings()
    new.take(new.core.tick(now_ns=due_ns))
    new.take(new.core.tick(now_ns=due_ns + 100 * MS))
    assert sum(isinstance(command, c.SettlePending) for command in new.proposed) == 1
    new.commit(now_ns=due_ns + 1)

    assert not old.machine.state.pendings()


def test_what_was_published_is_told_with_the_next_confirmation() -> None:
    node = in_authority()
    node.core.published(through=5)
    node.core.published(through=3)
    node.take(node.core.tick(now_ns=SILENCE_NS + 100 * MS))

    command = node.proposed[-1]
    assert isinstance(command, c.ConfirmAuthority) and command.published_through == 5


def test_a_silent_bus_makes_it_resign_when_a_peer_hears_it_at_most_once_in_5_s() -> None:
    node = in_authority()
    now_ns = SILENCE_NS + 1_001 * MS
    node.take(node.core.tick(now_ns=now_ns))
    node.commit(now_ns=now_ns)
    node.take(node.core.tick(now_ns=now_ns + 1))
    assert node.other == [AskPeersForBus()]

    node.core.own_beacon_heard()
    assert node.core.peer_bus_works(now_ns=now_ns + 1) == ()
    node.take(node.core.tick(now_ns=now_ns + 200 * MS))
    node.commit(now_ns=now_ns + 200 * MS)
    later_ns = now_ns + 1_202 * MS
    assert node.core.peer_bus_works(now_ns=later_ns) == (Resign(),)
    assert not node.core.is_authority
    node.lead(term=2, now_ns=later_ns + 1)
    assert node.core.peer_bus_works(now_ns=later_ns + 1_100 * MS) == ()


def test_a_distrusted_clock_costs_name_and_post_until_it_is_trusted() -> None:
    node = in_authority()
    now_ns = SILENCE_NS + MS
    assert node.core.clock_distrusted("c9", now_ns=now_ns) == (Resign(),)
    assert node.core.clock_distrusted("c9", now_ns=now_ns) == ()
    node.proposed.clear()

    node.lead(term=2, now_ns=now_ns + 1)
    assert node.proposed == [] and node.core.next_deadline_ns() is None
    node.take(node.core.tick(now_ns=now_ns + 5_001 * MS))
    assert node.other[-1] == Resign()
    assert node.core.silent(now_ns=now_ns + 5_002 * MS)
    node.core.clock_trusted(now_ns=now_ns + 6_000 * MS)
    node.lead(term=3, now_ns=now_ns + 6_000 * MS)
    assert node.core.silent(now_ns=now_ns + 8_000 * MS)
    assert not node.core.silent(now_ns=now_ns + 6_000 * MS + SILENCE_NS)
    assert node.core.is_authority and node.machine.state.authority is not None
    assert node.machine.state.authority.clock_id == "c9"


def test_a_bus_that_had_nothing_to_carry_is_not_silent() -> None:
    node = Driven(machine=bootstrapped())
    node.take(node.core.restored(now_ns=0))
    node.lead(now_ns=1)

    node.take(node.core.tick(now_ns=SILENCE_NS))

    assert node.other == []


def test_a_new_epoch_begins_with_silence_again() -> None:
    node = in_authority()
    node.machine.state.epoch = 7
    now_ns = SILENCE_NS + 10 * MS
    node.machine.state.terms = Terms(lease_ms=4_000, margin_ms=9)

    assert node.core.tick(now_ns=now_ns) == ()
    assert node.core.silent(now_ns=now_ns + 4_000 * MS) and not node.core.silent(now_ns=now_ns + 4_100 * MS)
