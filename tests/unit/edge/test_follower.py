"""The position follower, every rule of it: order, gaps, lags, epochs, pieces, refusals, evidence."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import Any

import pytest

from edge_client.core import assembler, follower
from edge_client.core.follower import Applied, EpochBegan, FetchSnapshot, Follower
from edge_client.protocol.feature_classes import FeatureClass
from edge_client.protocol.messages import (
    Event,
    Snapshot,
    SnapshotChunk,
    SnapshotRefused,
    encode_snapshot,
)
from edge_client.protocol.models import Assignment, ModelView, Policy, Terms
from edge_client.protocol.position import ORIGIN, Position

MS = 1_000_000


def view(name: str, *, generation: int = 1) -> ModelView:
    return ModelView(
        name=name, policy=Policy(), generation=generation, assignment=Assignment(stable="1.0.0"), versions={}
    )


def snapshot(
    epoch: int, revision: int, *models: ModelView, region: str = "default", terms: Terms | None = None, **more: Any
) -> Snapshot:
    return Snapshot(epoch=epoch, revision=revision, region=region, terms=terms or Terms(), models=models, **more)


def chunks(given: Snapshot, *, nonce: bytes, count: int = 1) -> list[SnapshotChunk]:
    data = encode_snapshot(given)
    size = -(-len(data) // count)
    return [
        SnapshotChunk(
            epoch=given.epoch,
            nonce=nonce,
            revision=given.revision,
            index=index,
            count=count,
            data=data[index * size : (index + 1) * size],
        )
        for index in range(count)
    ]


def event(epoch: int, revision: int, *models: ModelView, removed: tuple[str, ...] = (), **more: Any) -> Event:
    return Event(epoch=epoch, revision=revision, name="Changed", at_unix_ms=0, models=models, removed=removed, **more)


class Driven:
    """A follower, the effects of each step, and the last request it made."""

    def __init__(self, *, keeps_evidence: bool = True) -> None:
        self.core = Follower(region="default", rng=Random(7), keeps_evidence=keeps_evidence)
        self.now_ns = 0
        self.asked: FetchSnapshot | None = None

    def took(self, effects):
        self.core.check_invariants()
        for effect in effects:
            if isinstance(effect, FetchSnapshot):
                self.asked = effect
        return effects

    def start(self) -> None:
        self.took(self.core.started(now_ns=self.now_ns))

    def answer(self, given: Snapshot, *, count: int = 1):
        assert self.asked is not None
        effects = ()
        for chunk in chunks(given, nonce=self.asked.nonce, count=count):
            frame = f"snapshot r{chunk.revision}.{chunk.index}".encode()
            effects += self.took(self.core.snapshot_chunk_received(chunk, frame=frame, now_ns=self.now_ns))
        return effects

    def hear(self, given: Event):
        return self.took(self.core.event_received(given, frame=f"event r{given.revision}".encode(), now_ns=self.now_ns))

    def wait(self, ms: int):
        """Let time pass from deadline to deadline."""
        effects = ()
        until_ns = self.now_ns + ms * MS
        while (due_ns := self.core.next_deadline_ns()) is not None and due_ns <= until_ns:
            self.now_ns = max(self.now_ns, due_ns)
            effects += self.took(self.core.tick(now_ns=self.now_ns))
        self.now_ns = until_ns
        return effects


@pytest.fixture
def following() -> Driven:
    driven = Driven()
    driven.start()
    driven.answer(snapshot(5, 10, view("a"), view("b")))
    return driven


def test_begins_with_any_snapshot():
    driven = Driven()
    driven.start()
    assert driven.asked is not None and driven.asked.at_least == ORIGIN

    effects = driven.answer(snapshot(5, 10, view("a")), count=3)

    assert effects == (
        EpochBegan(position=Position(5, 10), terms=Terms()),
        Applied(position=Position(5, 10), changed=("a",)),
    )
    assert driven.core.next_deadline_ns() is None
    assert repr(driven.core) == "<Follower e5 r10 models=1 early=0>"


def test_applies_events_in_order_and_drops_what_it_has(following):
    effects = following.hear(event(5, 11, view("a", generation=2), removed=("b",)))

    assert effects == (Applied(position=Position(5, 11), changed=("a", "b")),)
    assert list(following.core.models) == ["a"]
    assert following.hear(event(5, 11)) == () and following.hear(event(4, 99)) == ()
    assert following.core.counters["events_repeated"] == 2


def test_a_gap_asks_for_a_snapshot_and_keeps_what_came_early(following):
    (asked,) = following.hear(event(5, 13, view("c")))

    assert asked.at_least == Position(5, 12)
    assert repr(following.core) == "<Follower e5 r10 models=2 early=1 wants=e5 r12 asked>"
    assert following.hear(event(5, 14, view("d"))) == ()
    effects = following.answer(snapshot(5, 12, view("a")))
    assert [effect.position.revision for effect in effects] == [12, 13, 14]
    assert effects[0].changed == ("b",)
    assert list(following.core.models) == ["a", "c", "d"]
    assert following.core.next_deadline_ns() is None


def test_an_event_that_was_only_late_makes_the_snapshot_needless(following):
    following.hear(event(5, 12))
    asked = following.asked
    following.hear(event(5, 11))

    assert following.core.position == Position(5, 12)
    assert following.core.next_deadline_ns() is None
    following.asked = asked
    assert following.answer(snapshot(5, 12)) == ()
    assert following.core.counters["snapshot_chunks_unasked"] == 1


def test_early_events_are_bounded_and_the_oldest_go(following, monkeypatch):
    monkeypatch.setattr(follower, "EARLY_EVENTS_MAX", 2)
    for revision in (12, 13, 14):
        following.hear(event(5, revision))

    assert following.core.counters["early_events_dropped"] == 1
    following.answer(snapshot(5, 12))
    assert following.core.position == Position(5, 14)


def test_a_beacon_that_is_ahead_is_given_a_quarter_of_a_second(following):
    assert following.took(following.core.beacon_seen(Position(5, 11), now_ns=0)) == ()
    assert following.wait(249) == ()
    following.hear(event(5, 11))
    assert following.wait(1_000) == ()

    following.core.beacon_seen(Position(5, 12), now_ns=following.now_ns)
    following.core.beacon_seen(Position(5, 13), now_ns=following.now_ns)
    (asked,) = following.wait(250)
    assert asked.at_least == Position(5, 12)
    assert following.core.counters["lags"] == 1


def test_a_late_or_old_beacon_asks_for_nothing(following):
    assert following.core.beacon_seen(Position(5, 9), now_ns=0) == ()
    assert following.core.beacon_seen(Position(4, 99), now_ns=0) == ()
    assert following.core.next_deadline_ns() is None


def test_nobody_answers_so_it_asks_again_more_and_more_rarely():
    driven = Driven()
    driven.start()
    instants = []
    for _ in range(9):
        before_ns, asked = driven.now_ns, driven.asked
        while driven.asked is asked:
            driven.wait(10)
        instants.append((driven.now_ns - before_ns) // MS - 2_000)

    assert 140 <= instants[0] <= 260
    assert all(earlier <= later * 1.7 for earlier, later in pairwise(instants))
    assert 3_700 <= instants[-1] <= 6_300
    assert driven.core.counters["snapshot_requests_unanswered"] == 9


def test_a_slow_link_gets_there_since_each_piece_earns_patience():
    driven = Driven()
    driven.start()
    assert driven.asked is not None
    for chunk in chunks(snapshot(5, 10, view("a")), nonce=driven.asked.nonce, count=5):
        driven.wait(1_900)
        driven.took(driven.core.snapshot_chunk_received(chunk, frame=b"", now_ns=driven.now_ns))

    assert driven.core.position == Position(5, 10)
    assert driven.core.counters["snapshot_requests"] == 1


def test_a_node_that_refuses_is_not_the_last_one_asked(following):
    following.hear(event(5, 13))
    asked = following.asked
    refusal = SnapshotRefused(epoch=5, nonce=asked.nonce, revision=10, reason="behind")
    assert following.took(following.core.snapshot_refused(refusal, now_ns=following.now_ns)) == ()
    assert following.took(following.core.snapshot_refused(refusal, now_ns=following.now_ns)) == ()
    (again,) = following.wait(300)

    assert again.at_least == asked.at_least and again.nonce != asked.nonce
    assert following.core.counters["snapshots_refused"] == following.core.counters["snapshot_refusals_unasked"] == 1


def test_a_snapshot_that_is_not_far_enough_is_taken_and_another_asked_for(following):
    following.hear(event(5, 20))
    following.answer(snapshot(5, 15, view("z")))

    assert following.core.position == Position(5, 15)
    (again,) = following.wait(300)
    assert again.at_least == Position(5, 19)
    following.hear(event(5, 22))
    assert following.core.next_deadline_ns() is not None


def test_wants_grow_while_a_retry_is_due():
    driven = Driven()
    driven.start()
    driven.wait(2_001)
    assert driven.hear(event(5, 30)) == ()
    (asked,) = driven.wait(300)
    assert asked.at_least == Position(5, 29)


@pytest.mark.parametrize("herald", ["beacon", "event", "clock reply"])
def test_a_greater_epoch_drops_everything(following, herald):
    if herald == "beacon":
        following.took(following.core.beacon_seen(Position(9, 2), now_ns=0))
    elif herald == "event":
        following.hear(event(9, 2, view("n")))
    else:
        following.took(following.core.greater_epoch_heard(Position(9, 1), now_ns=0))

    assert not following.core.epoch_current
    assert following.hear(event(5, 11, view("a", generation=9))) == ()
    assert following.core.counters["events_of_old_epoch"] == 1
    assert "foreign-epoch" in repr(following.core)
    effects = following.answer(snapshot(9, 2, view("n"), terms=Terms(lease_ms=1_000)))
    assert effects == (
        EpochBegan(position=Position(9, 2), terms=Terms(lease_ms=1_000)),
        Applied(position=Position(9, 2), changed=("a", "b", "n")),
    )
    assert following.core.epoch_current and list(following.core.models) == ["n"]
    assert following.took(following.core.greater_epoch_heard(Position(9, 1), now_ns=0)) == ()


def test_a_snapshot_of_an_epoch_between_does_not_end_the_search(following):
    following.took(following.core.beacon_seen(Position(9, 2), now_ns=0))
    following.answer(snapshot(7, 2))

    assert following.core.position == Position(7, 2) and not following.core.epoch_current
    (again,) = following.wait(300)
    assert again.at_least == Position(9, 2)


@pytest.mark.parametrize(
    ("given", "counter"),
    [
        (snapshot(5, 20, region="other"), "snapshots_of_another_region"),
        (snapshot(4, 20), "snapshots_of_old_epoch"),
        (snapshot(5, 20, terms=Terms(fast_barrier=True)), "regions_unsupported"),
    ],
)
def test_snapshots_that_are_not_for_us_are_counted_and_asked_for_again(following, given, counter):
    following.hear(event(5, 20))

    assert following.answer(given) == ()
    assert following.core.counters[counter] == 1
    assert following.core.position == Position(5, 10)
    assert following.core.unsupported == (counter == "regions_unsupported")
    assert isinstance(following.wait(300)[0], FetchSnapshot)


def test_terms_never_change_within_an_epoch(following):
    following.hear(event(5, 20))
    following.answer(snapshot(5, 20, terms=Terms(lease_ms=9_000, margin_ms=20)))

    assert following.core.terms == Terms()
    assert following.core.counters["terms_changed_within_epoch"] == 1


def test_models_are_bounded(following, monkeypatch):
    monkeypatch.setattr(follower, "MODELS_MAX", 2)
    following.hear(event(5, 11, view("a", generation=2), view("c")))
    assert list(following.core.models) == ["a", "b"]
    following.hear(event(5, 20))
    following.answer(snapshot(5, 20, view("x"), view("y"), view("z")))
    assert list(following.core.models) == ["x", "y"]
    assert following.core.counters["models_beyond_capacity"] == 2


def test_feature_classes_are_those_of_the_snapshot_and_what_events_made_of_them(following):
    first, other = FeatureClass(name="track"), FeatureClass(name="plate", window_ms=700)
    following.hear(event(5, 11, feature_classes=(first, other)))
    before = following.core.feature_classes
    following.hear(event(5, 12, view("a", generation=2)))
    assert following.core.feature_classes is before

    tighter = FeatureClass(name="track", window_ms=900)
    following.hear(event(5, 13, feature_classes=(tighter,), feature_classes_removed=("plate", "never")))
    assert following.core.feature_classes == {"track": tighter}
    assert before == {"track": first, "plate": other}

    following.hear(event(5, 20))
    following.answer(snapshot(5, 20, feature_classes=(other,)))
    assert following.core.feature_classes == {"plate": other}


def test_feature_classes_of_a_greater_epoch_replace_them_all(following):
    following.hear(event(5, 11, feature_classes=(FeatureClass(name="track"),)))
    following.took(following.core.beacon_seen(Position(9, 2), now_ns=0))
    following.answer(snapshot(9, 2))

    assert following.core.feature_classes == {}


def test_feature_classes_are_bounded_and_what_changes_still_changes(following, monkeypatch):
    monkeypatch.setattr(follower, "CLASSES_MAX", 2)
    following.hear(event(5, 11, feature_classes=tuple(FeatureClass(name=name) for name in "abc")))
    assert list(following.core.feature_classes) == ["a", "b"]
    following.hear(event(5, 12, feature_classes=(FeatureClass(name="b", shards=2), FeatureClass(name="d"))))

    assert following.core.feature_classes["b"].shards == 2
    assert list(following.core.feature_classes) == ["a", "b"]
    assert following.core.counters["feature_classes_beyond_capacity"] == 2


def test_feature_classes_are_restored_from_evidence():
    track, plate = FeatureClass(name="track"), FeatureClass(name="plate")
    words: list[tuple[Event | SnapshotChunk, bytes]] = [
        *((chunk, b"s") for chunk in chunks(snapshot(5, 10, feature_classes=(track,)), nonce=b"x", count=2)),
        (event(5, 11, feature_classes=(plate,)), b"e"),
    ]
    restored = Driven()
    restored.start()
    restored.took(restored.core.restore(words, now_ns=0))

    assert restored.core.feature_classes == {"track": track, "plate": plate}


def test_evidence_is_the_snapshot_and_what_followed_and_restores_the_same_state(following):
    following.hear(event(5, 11, view("c")))
    assert following.core.evidence() == (b"snapshot r10.0", b"event r11")
    words: list[tuple[Event | SnapshotChunk, bytes]] = [
        *((chunk, b"s") for chunk in chunks(snapshot(5, 10, view("a"), view("b")), nonce=b"x", count=2)),
        (event(5, 11, view("c")), b"e"),
        (event(5, 13, view("never")), b"e"),
    ]
    restored = Driven()
    restored.start()

    effects = restored.took(restored.core.restore(words, now_ns=0))

    assert [type(effect) for effect in effects] == [EpochBegan, Applied, Applied]
    assert restored.core.models == following.core.models
    assert restored.core.restored and "restored" in repr(restored.core)
    assert restored.core.restore(words, now_ns=0) == ()
    restored.core.beacon_seen(Position(5, 12), now_ns=0)
    assert restored.core.restored
    restored.core.beacon_seen(Position(5, 11), now_ns=0)
    assert not restored.core.restored


def test_restored_events_join_those_that_came_too_early():
    restored = Driven()
    restored.start()
    for revision in (12, 13):
        restored.hear(event(5, revision, view("a", generation=revision)))
    words: list[tuple[Event | SnapshotChunk, bytes]]
    words = [(chunks(snapshot(5, 10, view("a")), nonce=b"")[0], b"snapshot r10")]
    words += [(event(5, r, view("a", generation=r)), f"event r{r}".encode()) for r in (11, 12)]
    effects = restored.took(restored.core.restore(words, now_ns=0))
    assert [e.position.revision for e in effects if isinstance(e, Applied)] == [10, 11, 12, 13]
    assert restored.core.position == Position(5, 13) and restored.core.models["a"].generation == 13
    assert restored.core.evidence() == (b"snapshot r10", b"event r11", b"event r12", b"event r13")


def test_nothing_to_restore_changes_nothing():
    driven = Driven()
    assert driven.took(driven.core.restore([(event(5, 1), b"")], now_ns=0)) == ()
    assert not driven.core.restored and driven.core.evidence() == ()


def test_long_evidence_is_replaced_by_a_fresh_snapshot_even_if_that_is_older(following, monkeypatch):
    monkeypatch.setattr(follower, "EVIDENCE_EVENTS", 3)
    for revision in range(11, 15):
        following.hear(event(5, revision))
    asked = following.wait(10_000)
    assert {effect.at_least for effect in asked} == {Position(5, 14)}
    following.hear(event(5, 15))
    following.answer(snapshot(5, 14))

    assert following.core.evidence() == (b"snapshot r14.0", b"event r15")
    assert following.core.next_deadline_ns() is None


def test_evidence_is_dropped_rather_than_unbounded_and_found_again(following, monkeypatch):
    monkeypatch.setattr(follower, "EVIDENCE_EVENTS", 2)
    monkeypatch.setattr(follower, "EVIDENCE_EVENTS_MAX", 4)
    for revision in range(11, 17):
        following.hear(event(5, revision))
    assert following.core.evidence() == ()
    assert following.core.counters["evidence_dropped"] == 2
    following.wait(10_000)
    following.answer(snapshot(5, 11))
    assert following.core.evidence() == ()
    assert following.core.counters["snapshots_older"] == 1
    following.wait(10_000)
    following.answer(snapshot(5, 16))
    assert following.core.evidence() == (b"snapshot r16.0",)


def test_without_a_local_tier_no_evidence_is_kept():
    driven = Driven(keeps_evidence=False)
    driven.start()
    driven.answer(snapshot(5, 10))
    driven.hear(event(5, 11))
    assert driven.core.evidence() == ()


# ---- pieces


def piece(**changes: object) -> SnapshotChunk:
    values: dict = {"epoch": 5, "nonce": b"n", "revision": 1, "index": 0, "count": 2, "data": b"x"}
    return SnapshotChunk(**{**values, **changes})


@pytest.mark.parametrize("bad", [{"index": -1}, {"index": 2}, {"count": 0}, {"count": 257}])
def test_pieces_out_of_range_are_dropped(following, bad):
    made = assembler.Assembler(counters=following.core.counters)
    assert made.add(piece(**bad), frame=b"") is None
    assert following.core.counters["snapshot_chunks_out_of_range"] == 1


def test_two_nodes_at_two_revisions_do_not_mix(following):
    made = assembler.Assembler(counters=following.core.counters)
    older, newer = (chunks(snapshot(5, revision, view("a")), nonce=b"n", count=2) for revision in (6, 7))
    for chunk in (older[0], newer[1], newer[1]):
        assert made.add(chunk, frame=b"") is None
    made.check_invariants()
    assembled = made.add(newer[0], frame=b"f")
    assert assembled is not None and assembled.snapshot.revision == 7
    assert following.core.counters["snapshot_chunks_repeated"] == 1


def test_pieces_are_bounded_in_number_of_variants_and_bytes(following, monkeypatch):
    made = assembler.Assembler(counters=following.core.counters)
    for revision in range(6):
        made.add(piece(revision=revision), frame=b"")
    made.check_invariants()
    assert following.core.counters["snapshot_variants_dropped"] == 2
    monkeypatch.setattr(assembler, "SNAPSHOT_BYTES_MAX", 3)
    assert made.add(piece(revision=9, count=3, data=b"1234"), frame=b"") is None
    assert following.core.counters["snapshots_oversized"] == 1


def test_what_does_not_decode_or_names_itself_wrongly_is_dropped(following):
    made = assembler.Assembler(counters=following.core.counters)
    assert made.add(piece(count=1, data=b"\xc1"), frame=b"") is None
    assert made.add(piece(count=1, revision=3, data=encode_snapshot(snapshot(5, 4))), frame=b"") is None
    assert following.core.counters["snapshots_undecodable"] == following.core.counters["snapshots_mislabelled"] == 1
