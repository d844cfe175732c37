"""Whatever is asked of feature classes, in whatever sequence: a model agrees, and so does an edge that only heard of it."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from consistency_service.core import commands as c
from consistency_service.core.machine import MetadataMachine
from edge_client.core.follower import Follower
from edge_client.protocol.feature_classes import FeatureClass
from edge_client.protocol.messages import SnapshotChunk, encode_snapshot
from tests.support.region import assume, bootstrapped

NAMES = ("default", "plate", "track")


@dataclass(frozen=True, slots=True)
class Asked:
    word: str
    name: str
    base_ms: int
    floor_ms: int
    window_ms: int
    seen: int | None
    """How many settings ago the caller looked; None: it does not say."""


ASKED = st.builds(
    Asked,
    word=st.sampled_from(("set", "set", "set", "remove", "window", "window", "restart")),
    name=st.sampled_from(NAMES),
    base_ms=st.sampled_from((1_000, 2_000, 5_000)),
    floor_ms=st.sampled_from((1, 500, 1_000)),
    window_ms=st.sampled_from((0, 500, 900, 1_000, 1_500, 5_000)),
    seen=st.sampled_from((None, None, 0, 0, 1)),
)


class Play:
    """The machine, a model that is as simple as can be, and an edge that hears every event."""

    def __init__(self) -> None:
        self.machine = bootstrapped()
        self.assumption = assume(self.machine, clock_id="a")
        self.model: dict[str, tuple[int, int, int, int]] = {}
        """Name to base, floor, window and revision."""
        self.seen: dict[str, list[int]] = {name: [0] for name in NAMES}
        self.edge = _following(self.machine)
        self.number = 0

    def ask(self, asked: Asked) -> None:
        if asked.word == "restart":
            restored = MetadataMachine()
            restored.restore(self.machine.snapshot())
            assert restored.snapshot() == self.machine.snapshot()
            self.machine = restored
            return
        before = self.machine.state.revision
        outcome = self.machine.apply(self._command(asked))
        self.machine.check_invariants()
        assert outcome.code == self._expected(asked), asked
        if self.machine.state.revision > before:
            event = self.machine.state.outbox[-1]
            self.edge.event_received(event, frame=b"", now_ns=0)
        self._agree()

    def _command(self, asked: Asked) -> c.AnyCommand:
        if asked.word == "window":
            self.number += 1
            return c.SetFeatureWindow(
                clock_id="a",
                assumption=self.assumption,
                number=self.number,
                class_name=asked.name,
                window_ms=asked.window_ms,
                reason="",
            )
        expected = None if asked.seen is None else self._looked(asked)
        if asked.word == "remove":
            return c.RemoveFeatureClass(class_name=asked.name, revision_expected=expected)
        given = FeatureClass(name=asked.name, window_base_ms=asked.base_ms, window_floor_ms=asked.floor_ms)
        return c.SetFeatureClass(feature_class=given, revision_expected=expected)

    def _looked(self, asked: Asked) -> int:
        assert asked.seen is not None
        return self.seen[asked.name][-1 - min(asked.seen, len(self.seen[asked.name]) - 1)]

    def _expected(self, asked: Asked) -> str:
        """What the model says, which is brought forward by it."""
        known = self.model.get(asked.name)
        if known is None and asked.word != "set":
            return "unknown_feature_class"
        base_ms, floor_ms, window_ms, revision = known or (0, 0, 0, 0)
        if asked.word == "window":
            if not floor_ms <= asked.window_ms <= base_ms:
                return "invalid"
            self.model[asked.name] = (base_ms, floor_ms, asked.window_ms, revision)
            return "ok"
        if asked.seen is not None and self._looked(asked) != revision:
            return "revision_mismatch"
        if asked.word == "remove":
            del self.model[asked.name]
            self.seen[asked.name].append(0)
        elif (base_ms, floor_ms) != (asked.base_ms, asked.floor_ms):
            follows_base = known is None or window_ms == base_ms
            window_ms = asked.base_ms if follows_base else min(max(window_ms, asked.floor_ms), asked.base_ms)
            self.model[asked.name] = (asked.base_ms, asked.floor_ms, window_ms, self.machine.state.revision)
            self.seen[asked.name].append(self.machine.state.revision)
        return "ok"

    def _agree(self) -> None:
        state = self.machine.state
        found = {
            name: (k.window_base_ms, k.window_floor_ms, k.window_now_ms, state.feature_classes[name].revision)
            for name, k in ((name, known.feature_class) for name, known in state.feature_classes.items())
        }
        told = {one.name: one for one in state.reader_snapshot().feature_classes}
        assert found == self.model
        assert dict(self.edge.feature_classes) == told == dict(_following(self.machine).feature_classes)


def _following(machine: MetadataMachine) -> Follower:
    """An edge that begins with the machine's snapshot, as bytes."""
    edge = Follower(region="test", rng=Random(1))
    (asked,) = edge.started(now_ns=0)
    data = encode_snapshot(machine.state.reader_snapshot())
    chunk = SnapshotChunk(
        epoch=1,
        nonce=asked.nonce,  # type: ignore[union-attr]
        revision=machine.state.revision,
        index=0,
        count=1,
        data=data,
    )
    edge.snapshot_chunk_received(chunk, frame=b"", now_ns=0)
    edge.check_invariants()
    return edge


@settings(max_examples=150)
@given(st.lists(ASKED, min_size=5, max_size=40))
def test_a_model_and_an_edge_agree_with_the_machine(asked: list[Asked]) -> None:
    play = Play()
    for one in asked:
        play.ask(one)


def test_a_long_play_changes_something_and_is_refused_something() -> None:
    rng, play, moved = Random(7), Play(), []
    for _ in range(600):
        name = rng.choice(NAMES)
        asked = Asked(
            word=rng.choice(("set", "remove", "window")),
            name=name,
            base_ms=rng.choice((1_000, 5_000)),
            floor_ms=rng.choice((1, 500)),
            window_ms=rng.choice((0, 900, 5_000)),
            seen=rng.choice((None, 0, 1)),
        )
        before = play.machine.state.revision
        play.ask(asked)
        moved.append(play.machine.state.revision > before)

    assert 100 < sum(moved) < 500
