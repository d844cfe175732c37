"""What is served of one model, in every standing of clocks, shelf and policy."""

from __future__ import annotations

from random import Random

import pytest

from edge_client.core.reading import Guarantee, Loaded
from edge_client.core.served import Served, Target
from edge_client.errors import FallbackRefusedError, ModelNotReadyError, TooStaleError, UnknownModelError
from edge_client.protocol.messages import Beacon, ClockReply
from edge_client.protocol.models import Assignment, ModelView, Pending, Policy, Terms, Version
from edge_client.protocol.position import Position
from edge_client.protocol.reader import NEVER_NS, Reader, SendClockRequest

MS = 1_000_000
SEC = 1_000 * MS
V = {name: Version(version=name, digest=f"sha256:{name}", size_bytes=1) for name in ("1", "2", "3")}


class Desk:
    """A reader whose service clock equals ours within 2 ms, and one served model."""

    def __init__(self, **options: bool) -> None:
        self.reader = Reader(terms=Terms(), rng=Random(1))
        self.reader.epoch_began(Position(5, 10), terms=Terms(), now_ns=0)
        self.served = Served(model="m", edge_id="e", site="", labels={}, **options)
        self.current = True

    def sample(self, *, now_ns: int, clock_id: str = "c") -> None:
        self.reader.applied(self.reader.position, now_ns=now_ns)
        requests = [effect for effect in self.reader.started(now_ns=now_ns) if isinstance(effect, SendClockRequest)]
        reply = ClockReply(
            epoch=5, clock_id=clock_id, nonce=requests[0].nonce, stamped_at_ns=now_ns + MS, node_id="n", url=""
        )
        self.reader.clock_reply_received(reply, now_ns=now_ns + 2 * MS)

    def beacon(self, *, t0_ns: int, clock_id: str = "c", revision: int = 10) -> None:
        beacon = Beacon(epoch=5, revision=revision, clock_id=clock_id, assumption=1, assumed_at_ns=0, t0_ns=t0_ns)
        self.reader.beacon_received(beacon, now_ns=t0_ns + MS)

    def view(self, *, now_ns: int = 0, revision: int = 10, **fields: object) -> None:
        values: dict = {"name": "m", "policy": Policy(), "generation": 1, "assignment": Assignment(stable="1")}
        view = ModelView(**{**values, "versions": V, **fields})
        self.served.view_applied(view, position=Position(5, revision), now_ns=now_ns)

    def load(self, *names: str, now_ns: int = 0) -> None:
        for name in names:
            self.served.loaded(Loaded(name, version=V[name]), now_ns=now_ns)

    def choose(self, *, now_ns: int, strong_only: bool = False):
        self.served.check_invariants()
        choice = self.served.choose(self.reader, epoch_current=self.current, strong_only=strong_only, now_ns=now_ns)
        self.served.check_invariants()
        return choice

    def said(self, *, now_ns: int, strong_only: bool = False) -> tuple[str, int, str]:
        choice = self.choose(now_ns=now_ns, strong_only=strong_only)
        return choice.loaded.value, choice.generation, choice.guarantee.value


@pytest.fixture
def desk() -> Desk:
    desk = Desk()
    desk.sample(now_ns=10 * MS)
    desk.beacon(t0_ns=20 * MS)
    return desk


def pending(*, at_ns: int, revision: int = 11, immediate: bool = False, stable: str = "2") -> Pending:
    return Pending(
        revision=revision,
        generation=2,
        assignment=Assignment(stable=stable),
        effective_at_ns=at_ns,
        lead_ns=SEC,
        clock_id="c",
        assumption=1,
        immediate=immediate,
    )


def test_strong_until_the_lease_ends_then_bounded(desk):
    desk.view()
    desk.load("1")
    choice = desk.choose(now_ns=30 * MS)

    assert (choice.guarantee, choice.bound_ns) == (Guarantee.STRONG, 0)
    assert choice.strong_until_ns == desk.reader.lease_until_ns
    late = desk.choose(now_ns=choice.strong_until_ns)
    assert (late.guarantee, late.strong_until_ns) == (Guarantee.BOUNDED, NEVER_NS)
    assert 2 * SEC <= late.bound_ns <= 2 * SEC + 10 * MS


@pytest.mark.parametrize("spoiler", ["clock", "suspension", "epoch heard", "epoch applied"])
def test_no_strength_without_each_of_its_conditions(spoiler):
    desk = Desk(counts_suspension=spoiler != "suspension")
    desk.sample(now_ns=10 * MS)
    desk.beacon(t0_ns=20 * MS)
    desk.view()
    desk.load("1")
    if spoiler == "clock":
        desk.reader.own_clock_distrusted(now_ns=25 * MS)
    elif spoiler == "epoch heard":
        desk.current = False
    elif spoiler == "epoch applied":
        desk.reader.position = Position(6, 1)

    assert desk.said(now_ns=30 * MS) == ("1", 1, "bounded")


def test_the_pending_rule(desk):
    at_ns = 1_000 * MS
    desk.view(pending=pending(at_ns=at_ns), revision=11, now_ns=25 * MS)
    desk.load("1", "2")
    samples = desk.reader.samples_of("c")
    stop_ns, start_ns = samples.surely_before_until_ns(at_ns), samples.surely_reached_from_ns(at_ns)
    assert desk.served.changes_at_ns(desk.reader, now_ns=30 * MS) == stop_ns

    assert desk.choose(now_ns=stop_ns - 1).strong_until_ns == stop_ns
    assert desk.said(now_ns=stop_ns) == ("1", 1, "bounded")
    assert desk.served.changes_at_ns(desk.reader, now_ns=stop_ns) == start_ns
    assert desk.said(now_ns=start_ns - 1) == ("1", 1, "bounded")
    assert desk.said(now_ns=start_ns) == ("2", 2, "strong")
    assert desk.served.changes_at_ns(desk.reader, now_ns=start_ns) is None
    assert repr(desk.served) == "<Served m g1 pending=g2@r11 crossed=r11 shelf=[1,2]>"


def test_there_is_no_way_back_whatever_happens_to_the_samples(desk):
    desk.view(pending=pending(at_ns=100 * MS), revision=11)
    desk.load("1", "2")
    assert desk.said(now_ns=500 * MS) == ("2", 2, "strong")
    desk.reader.own_clock_distrusted(now_ns=500 * MS)
    assert desk.said(now_ns=501 * MS) == ("2", 2, "bounded")


def test_what_voided_samples_said_is_served_on_but_not_as_strong(desk):
    desk.view(pending=pending(at_ns=100 * MS), revision=11)
    desk.load("1", "2")
    assert desk.said(now_ns=500 * MS) == ("2", 2, "strong")
    desk.sample(now_ns=501 * MS, clock_id="d")
    desk.beacon(t0_ns=510 * MS, clock_id="d")
    desk.beacon(t0_ns=99_000 * MS)  # contradicts what was known of "c"
    assert desk.reader.lease_until_ns > 520 * MS

    assert desk.said(now_ns=520 * MS) == ("2", 2, "bounded")


def test_the_switch_is_recorded_once_by_the_middle_of_the_bounds(desk):
    at_ns = 100 * MS
    desk.view(pending=pending(at_ns=at_ns), revision=11, now_ns=25 * MS)
    desk.load("1", "2")
    for now_ns in (90 * MS, 700 * MS, 701 * MS):
        desk.choose(now_ns=now_ns)
    desk.view(generation=2, assignment=Assignment(stable="2"), revision=12, now_ns=702 * MS)
    desk.choose(now_ns=703 * MS)

    (switch,) = desk.served.switches
    assert (switch.model, switch.generation, switch.activation, switch.clock_id) == ("m", 2, 11, "c")
    assert 0 <= switch.late_ns <= switch.uncertainty_ns <= 3 * MS


def test_a_switch_that_waited_for_its_artifact_is_late_by_that(desk):
    desk.view(pending=pending(at_ns=100 * MS), revision=11, now_ns=25 * MS)
    desk.load("1")
    assert desk.said(now_ns=200 * MS) == ("1", 1, "fallback")
    assert not desk.served.switches
    desk.load("2", now_ns=400 * MS)
    assert desk.said(now_ns=500 * MS) == ("2", 2, "strong")
    assert 298 * MS <= desk.served.switches[0].late_ns <= 302 * MS


def test_a_settlement_is_believed_though_our_bounds_are_wider(desk):
    desk.view(pending=pending(at_ns=100 * MS), revision=11, now_ns=25 * MS)
    desk.load("1", "2")
    desk.view(generation=2, assignment=Assignment(stable="2"), revision=12, now_ns=99 * MS)
    assert desk.said(now_ns=99 * MS) == ("2", 2, "strong")
    assert -2 * MS <= desk.served.switches[0].late_ns <= 0


def test_a_switch_of_an_unknown_clock_is_counted_unmeasured(desk):
    desk.view(pending=pending(at_ns=100 * MS), revision=11)
    desk.load("2")
    desk.view(generation=2, assignment=Assignment(stable="2"), revision=12)
    desk.reader.own_clock_distrusted(now_ns=50 * MS)
    desk.choose(now_ns=60 * MS)
    assert desk.served.counters["switches_unmeasured"] == 1 and not desk.served.switches


def test_immediate_is_served_bounded_once_it_is_loaded_but_never_strong_early(desk):
    desk.view(pending=pending(at_ns=900 * MS, immediate=True), revision=11)
    desk.load("1")
    assert desk.said(now_ns=100 * MS) == ("1", 1, "strong")
    desk.load("2")
    assert desk.said(now_ns=100 * MS) == ("2", 2, "bounded")
    assert desk.said(now_ns=100 * MS, strong_only=True) == ("1", 1, "strong")
    assert desk.said(now_ns=910 * MS) == ("2", 2, "strong")


def test_falls_back_to_the_one_before_with_a_bound_from_the_instant(desk):
    desk.view(pending=pending(at_ns=100 * MS), revision=11)
    desk.load("1")
    choice = desk.choose(now_ns=600 * MS)
    assert choice.guarantee is Guarantee.FALLBACK
    assert 579 * MS <= choice.bound_ns <= 590 * MS

    desk.view(generation=2, assignment=Assignment(stable="2"), previous=Assignment(stable="1"), revision=12)
    settled = desk.choose(now_ns=1_600 * MS)
    assert (settled.loaded.value, settled.generation) == ("1", 1)
    assert 1_500 * MS <= settled.bound_ns <= 1_600 * MS


def test_falls_back_to_what_was_served_last_and_keeps_it_meanwhile(desk):
    desk.view()
    desk.load("1")
    desk.choose(now_ns=30 * MS)
    desk.view(generation=4, assignment=Assignment(stable="3"), previous=Assignment(stable="2"), revision=12)
    choice = desk.choose(now_ns=40 * MS)
    assert (choice.loaded.value, choice.generation, choice.bound_ns) == ("1", 1, None)
    assert desk.served.targets() == tuple(
        Target(version=V[name], role=role) for name, role in (("3", "current"), ("2", "previous"), ("1", "serving"))
    )
    desk.load("3")
    desk.choose(now_ns=41 * MS)
    assert [target.version.version for target in desk.served.targets()] == ["3", "2"]
    desk.served.let_go("sha256:1", now_ns=42 * MS)
    desk.served.let_go("sha256:3", now_ns=42 * MS)
    with pytest.raises(ModelNotReadyError):
        desk.choose(now_ns=43 * MS)


def test_no_fallback_is_older_than_the_one_before_it(desk):
    desk.view()
    desk.load("1")
    assert desk.said(now_ns=30 * MS) == ("1", 1, "strong")
    third = {"generation": 3, "assignment": Assignment(stable="3"), "previous": Assignment(stable="2")}
    desk.view(revision=12, **third)
    desk.load("2")
    assert desk.said(now_ns=40 * MS) == ("2", 2, "fallback")
    fourth = Pending(
        revision=13, generation=4, assignment=Assignment(stable="4"), effective_at_ns=50 * MS, lead_ns=SEC,
        clock_id="c", assumption=1,
    )  # fmt: skip
    desk.view(revision=13, pending=fourth, **third)
    assert desk.said(now_ns=500 * MS) == ("2", 2, "fallback")

    desk.view(revision=14, generation=4, assignment=Assignment(stable="4"), previous=Assignment(stable="3"))
    assert desk.said(now_ns=510 * MS) == ("2", 2, "fallback")
    assert V["2"] in [target.version for target in desk.served.targets()]
    desk.load("3")
    assert desk.said(now_ns=520 * MS) == ("3", 3, "fallback")


def test_a_fallback_names_the_generation_under_which_it_was_active(desk):
    """In a rollout `previous` is what was active when it started, not the stage before."""
    desk.load("1")
    stage = Assignment(stable="1", candidate="3", share_bp=10_000)
    desk.view(generation=4, assignment=stage, previous=Assignment(stable="1"), previous_generation=2)

    assert desk.said(now_ns=30 * MS) == ("1", 2, "fallback")


@pytest.mark.parametrize("how", ["deleted", "created anew", "restored"])
@pytest.mark.parametrize("generation", [1, 3, 5])
def test_what_was_served_in_another_history_is_no_fallback(desk, how, generation):
    """Its generation number means another assignment now, or none."""
    desk.view(generation=3)
    desk.load("1")
    assert desk.said(now_ns=30 * MS) == ("1", 3, "strong")
    if how == "deleted":
        desk.served.view_applied(None, position=Position(5, 11), now_ns=40 * MS)
    view = ModelView(
        name="m",
        policy=Policy(),
        generation=generation,
        assignment=Assignment(stable="3"),
        versions=V,
        created=0 if how == "restored" else 11,
    )
    position = Position(6, 12) if how == "restored" else Position(5, 12)
    desk.served.view_applied(view, position=position, now_ns=50 * MS)
    with pytest.raises(ModelNotReadyError):
        desk.choose(now_ns=60 * MS)


def test_policies(desk):
    desk.view(policy=Policy(staleness_max_ms=5_000))
    desk.load("1")
    assert desk.said(now_ns=4 * SEC)[2] == "bounded"
    with pytest.raises(TooStaleError, match=r"6\d\d\d ms"):
        desk.choose(now_ns=6_500 * MS)
    desk.reader.own_clock_distrusted(now_ns=7 * SEC)
    with pytest.raises(TooStaleError, match="no bound"):
        desk.choose(now_ns=7 * SEC)
    desk.view(policy=Policy(fallback_allowed=False), assignment=Assignment(stable="2"), generation=2)
    with pytest.raises(FallbackRefusedError):
        desk.choose(now_ns=7 * SEC)


def test_what_is_unknown_says_so(desk):
    with pytest.raises(ModelNotReadyError, match="nothing is known"):
        desk.choose(now_ns=0)
    desk.served.view_applied(None, position=Position(5, 10), now_ns=0)
    with pytest.raises(UnknownModelError, match="knows no model"):
        desk.choose(now_ns=0)
    assert desk.served.targets() == ()
    assert desk.served.changes_at_ns(desk.reader, now_ns=0) is None
    assert repr(desk.served) == "<Served m unknown shelf=[]>"
    desk.view(generation=0, assignment=None)
    with pytest.raises(UnknownModelError, match="no active version"):
        desk.choose(now_ns=0)
    desk.view()
    with pytest.raises(ModelNotReadyError, match="loaded"):
        desk.choose(now_ns=0)


def test_a_first_activation_has_nothing_before_its_instant(desk):
    desk.view(generation=0, assignment=None, pending=pending(at_ns=100 * MS), revision=11)
    desk.load("2")
    with pytest.raises(UnknownModelError):
        desk.choose(now_ns=50 * MS)
    assert desk.said(now_ns=200 * MS) == ("2", 2, "strong")


def test_a_new_epoch_may_use_the_same_revision_for_another_activation(desk):
    desk.view(pending=pending(at_ns=100 * MS), revision=11)
    desk.load("1", "2", "3")
    assert desk.said(now_ns=200 * MS) == ("2", 2, "strong")
    view = ModelView(
        name="m",
        policy=Policy(),
        generation=1,
        assignment=Assignment(stable="1"),
        versions=V,
        pending=pending(at_ns=9_000 * MS, stable="3"),
    )
    desk.served.view_applied(view, position=Position(6, 11), now_ns=210 * MS)
    assert desk.said(now_ns=220 * MS) == ("1", 1, "bounded")


def test_targets_name_each_version_once_most_needed_first(desk):
    desk.view(
        pending=pending(at_ns=100 * MS),
        prefetch=Assignment(stable="3"),
        previous=Assignment(stable="2"),
        revision=11,
    )
    assert [(target.version.version, target.role) for target in desk.served.targets()] == [
        ("1", "current"),
        ("2", "pending"),
        ("3", "prefetch"),
    ]
    desk.view(assignment=Assignment(stable="nowhere"))
    assert desk.served.targets() == ()


def test_emptied_serves_nothing(desk):
    desk.view()
    desk.load("1")
    desk.choose(now_ns=30 * MS)
    assert desk.served.ready() == ("sha256:1",)
    desk.served.emptied(now_ns=31 * MS)
    with pytest.raises(ModelNotReadyError):
        desk.choose(now_ns=32 * MS)
