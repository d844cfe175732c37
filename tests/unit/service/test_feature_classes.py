"""Feature classes in the state machine: what people set, what the authority moves, and what neither may touch."""

from __future__ import annotations

import msgspec
import pytest

from consistency_service.core import commands as c
from consistency_service.core import feature_machine
from consistency_service.core.machine import MetadataMachine
from consistency_service.core.outcomes import Outcome
from edge_client.protocol.feature_classes import FeatureClass, FeatureKind
from edge_client.protocol.messages import Event
from tests.support.region import assume, bootstrapped

TRACK = FeatureClass(name="track", kind=FeatureKind.CRITICAL, window_base_ms=4_000, window_floor_ms=500)


class Region:
    """A machine with an authority that gives every order its next number."""

    def __init__(self) -> None:
        self.machine = bootstrapped()
        self.assumption = assume(self.machine, clock_id="a")
        self.number = 0

    def set(self, feature_class: FeatureClass = TRACK, **more: object) -> Outcome:
        return self._applied(c.SetFeatureClass(feature_class=feature_class, author="ann", **more))  # type: ignore[arg-type]

    def remove(self, name: str = "track", **more: object) -> Outcome:
        return self._applied(c.RemoveFeatureClass(class_name=name, author="ann", **more))  # type: ignore[arg-type]

    def window(self, window_ms: int, *, name: str = "track", clock_id: str = "a", reason: str = "drift") -> Outcome:
        self.number += 1
        return self._applied(
            c.SetFeatureWindow(
                clock_id=clock_id,
                assumption=self.assumption,
                number=self.number,
                class_name=name,
                window_ms=window_ms,
                reason=reason,
                proposed_at_unix_ms=77,
            )
        )

    def _applied(self, command: c.AnyCommand) -> Outcome:
        outcome = self.machine.apply(command)
        self.machine.check_invariants()
        return outcome

    @property
    def track(self) -> FeatureClass:
        return self.machine.state.feature_classes["track"].feature_class

    @property
    def newest(self) -> Event:
        return self.machine.state.outbox[-1]


@pytest.fixture
def region() -> Region:
    return Region()


def test_a_class_is_set_told_and_in_the_snapshot(region: Region) -> None:
    outcome = region.set()

    assert (outcome.code, region.newest.name) == ("ok", "FeatureClassSet")
    assert region.newest.feature_classes == region.machine.state.reader_snapshot().feature_classes == (TRACK,)
    assert region.machine.state.feature_classes["track"].revision == outcome.revision
    assert region.machine.state.feature_classes["track"].author == "ann"
    assert region.machine.state.audit[-1].subject == "track"


def test_setting_the_same_again_changes_nothing(region: Region) -> None:
    first = region.set()
    events = len(region.machine.state.outbox)

    assert region.set() == Outcome(revision=first.revision)
    assert len(region.machine.state.outbox) == events
    assert region.machine.state.feature_classes["track"].revision == first.revision


def test_a_class_is_changed_only_from_the_revision_that_was_seen(region: Region) -> None:
    assert region.set(revision_expected=9).code == "revision_mismatch"
    seen = region.set(revision_expected=0).revision
    assert region.set(revision_expected=0).detail == {"class_name": "track", "revision": seen}
    region.window(2_000)
    changed = region.set(msgspec.structs.replace(TRACK, shards=8), revision_expected=seen)

    assert changed.ok
    assert region.remove(revision_expected=seen).code == "revision_mismatch"
    assert region.remove(revision_expected=changed.revision).ok
    assert region.set(revision_expected=changed.revision).code == "revision_mismatch", "another class of that name"


def test_a_removed_class_is_told_by_name(region: Region) -> None:
    region.set()
    region.remove()

    assert (region.newest.name, region.newest.feature_classes_removed) == ("FeatureClassRemoved", ("track",))
    assert region.machine.state.reader_snapshot().feature_classes == ()
    assert region.remove().code == region.window(900).code == "unknown_feature_class"


def test_the_window_is_the_regions_own(region: Region) -> None:
    refused = region.set(msgspec.structs.replace(TRACK, window_ms=900))

    assert (refused.code, refused.detail["field"]) == ("invalid", "window_ms")
    assert region.machine.state.feature_classes == {}


def test_the_authority_moves_the_window_and_says_why(region: Region) -> None:
    set_at = region.set().revision
    region.window(1_000, reason="x" * 9_000)
    known = region.machine.state.feature_classes["track"]

    assert region.newest.name == "FeatureWindowSet"
    assert region.newest.feature_classes == (msgspec.structs.replace(TRACK, window_ms=1_000),)
    assert region.newest.detail["window_ms_before"] == 4_000 and len(region.newest.detail["reason"]) == 500
    assert (known.window_at_unix_ms, known.revision) == (77, set_at)
    region.window(4_000)
    assert region.track == TRACK, "the base is no window of its own: it moves with the base"


@pytest.mark.parametrize("window_ms", [499, 4_001, -1])
def test_no_window_lies_outside_floor_and_base(region: Region, window_ms: int) -> None:
    region.set()

    assert region.window(window_ms).code == "invalid"
    assert region.track.window_now_ms == 4_000


def test_who_is_not_the_authority_moves_no_window(region: Region) -> None:
    region.set()

    assert region.window(900, clock_id="b").code == "not_authority"
    region.number = 0
    assert region.window(900).ok
    region.number = 0
    assert region.window(800).code == "number_passed"
    assert region.track.window_now_ms == 900


@pytest.mark.parametrize(
    ("base_ms", "floor_ms", "expected"),
    [(800, 500, None), (4_000, 1_500, 1_500), (9_000, 100, 1_000), (1_000, 1, None)],
)
def test_another_base_or_floor_clamps_the_window_that_holds(region: Region, base_ms, floor_ms, expected) -> None:
    region.set()
    region.window(1_000)
    region.set(msgspec.structs.replace(TRACK, window_base_ms=base_ms, window_floor_ms=floor_ms))

    assert region.track.window_ms == expected


def test_classes_are_bounded_and_those_there_can_still_change(region: Region, monkeypatch) -> None:
    monkeypatch.setattr(feature_machine, "CLASSES_MAX", 1)
    region.set()

    assert region.set(FeatureClass(name="plate")).detail == {"limit": "feature classes", "value": 1}
    assert region.set(msgspec.structs.replace(TRACK, shards=8)).ok


def test_asking_again_under_one_key_does_it_once(region: Region) -> None:
    first = region.set(request_id="q", fingerprint="f")
    region.remove()

    assert region.set(request_id="q", fingerprint="f") == first
    assert region.machine.state.feature_classes == {}
    assert region.set(request_id="q", fingerprint="g").code == "request_id_reused"


def test_what_is_no_class_is_no_command() -> None:
    command = c.encode_command(c.SetFeatureClass(feature_class=TRACK))
    wire = msgspec.msgpack.decode(command[1:])
    wire["feature_class"]["window_floor_ms"] = 9_000

    assert c.decode_command(command) == c.SetFeatureClass(feature_class=TRACK)
    assert c.decode_command(command[:1] + msgspec.msgpack.encode(wire)) is None


def test_a_state_of_before_has_no_classes_and_one_of_now_keeps_them(region: Region) -> None:
    region.set()
    region.window(900)
    payload = region.machine.snapshot()
    old = msgspec.msgpack.decode(payload)
    del old["feature_classes"]
    restored, before = MetadataMachine(), MetadataMachine()
    restored.restore(payload)
    before.restore(msgspec.msgpack.encode(old))

    assert restored.state == region.machine.state
    assert before.state.feature_classes == {}
