"""What the write-behind queue takes, joins, numbers, lets go of, and in which order it is sent."""

from __future__ import annotations

from collections.abc import Generator
from random import Random
from typing import Any

import pytest

from edge_client.core.flush_plan import STEP_COUNT, ShardCut, cut
from edge_client.core.generation import ENTRY_OVERHEAD_BYTES, DeadLetter, Generation, Phase, Row, WriteBehindConfig
from edge_client.core.retry import Backoff
from edge_client.core.write_behind import WriteBehind
from edge_client.errors import FeatureQueueFullError
from edge_client.protocol.feature_classes import MS_MAX, FeatureClass, WhenFull
from edge_client.protocol.feature_codec import decode_block
from edge_client.protocol.features import Entry, key_mark

MS = 1_000_000
END = 1 << 50
ROW_BYTES = ENTRY_OVERHEAD_BYTES + len("track:1") + 1
TRACK = FeatureClass(name="track", flush_ms=1_000)
POSE = FeatureClass(name="pose", flush_ms=1_000)


class Queue:
    """A queue whose driver is the test; what must hold holds after every step."""

    def __init__(self, *, bytes_max: int = 80_000, **config: int) -> None:
        self.core = WriteBehind(
            edge_id="e", pipe="life", config=WriteBehindConfig(bytes_max=bytes_max, **config), rng=Random(1)
        )
        self.stamp = 1_000

    def put(
        self, key: str, value: bytes | None = b"v", *, of: FeatureClass = TRACK, end: int = END, stamp=None
    ) -> bool:
        self.stamp += 1
        taken = self.core.put(of, key, (value, self.stamp if stamp is None else stamp, 7, end))
        self.core.check_invariants()
        return taken

    def fill(self, count: int, *, of: FeatureClass = TRACK, first: int = 0, end: int = END) -> None:
        for number in range(first, first + count):
            assert self.put(f"{of.name}:{number:03}", of=of, end=end)

    def take(self, *, now_ms: int = 0) -> Any:
        """Encode whatever may be, and take what is sent next."""
        while (generation := self.core.departures.take_to_encode(now_ns=now_ms * MS)) is not None:
            self.core.encoded(generation, made=generation, live_count=generation.count)
            self.core.check_invariants()
        return self.core.departures.take_to_send(now_ns=now_ms * MS)

    def store(self, generation: Generation, *, unix_ms: int = 0) -> None:
        self.core.stored(generation, counted=generation.count, unix_ms=unix_ms)
        self.core.check_invariants()

    def value(self, key: str, *, of: FeatureClass = TRACK) -> bytes | None:
        entry = self.core.find(of, key)
        return None if entry is None else entry.value

    def tick(self, *, now_ms: int = 0, unix_ms: int = 0) -> None:
        self.core.tick(now_ns=now_ms * MS, unix_ms=unix_ms)
        self.core.check_invariants()


def test_several_writes_of_a_key_become_the_last_one():
    queue = Queue()
    queue.put("a", b"1")
    queue.put("a", b"22")
    queue.put("b", None)

    assert queue.core.find(TRACK, "a") == Entry(b"22", 1_002, 7, END)
    assert queue.core.find(TRACK, "b") == Entry(None, 1_003, 7, END)
    assert queue.core.find(POSE, "a") is None
    assert (queue.core.accepted, queue.core.coalesced, queue.core.lanes.depth) == (3, 1, 2)
    assert repr(queue.core) == "<WriteBehind 2 queued, 564B in memory, 0B on disk>"


@pytest.mark.parametrize("sealed", [False, True])
def test_an_older_write_that_comes_late_loses(sealed):
    queue = Queue()
    queue.put("a", b"new", stamp=900)
    queue.put("b", b"other", stamp=950)
    if sealed:
        queue.core.seal_all()
    queue.put("a", b"old", stamp=899)
    queue.put("c", b"late and alone", stamp=899)

    assert (queue.value("a"), queue.value("c")) == (b"new", b"late and alone")
    assert queue.core.coalesced == 1


def test_many_at_once_are_as_many_one_by_one():
    one, many = Queue(), Queue()
    values = {f"track:{number}": b"%d" % number for number in range(20)}
    for queue in (one, many):
        queue.put("track:3", b"before")
    for key, value in values.items():
        one.put(key, value, stamp=5_000)
    for part in (
        dict(list(values.items())[:10]),
        dict(list(values.items())[10:]),
    ):  # the first overlaps, the second not
        assert many.core.put_many(TRACK, part, stamp=5_000, writer=7, expires_at_unix_ms=END) == 10
        many.core.check_invariants()

    assert one.core.lanes["track"].readable == many.core.lanes["track"].readable
    assert one.core.counters() == many.core.counters()
    assert one.core.room.size_bytes == many.core.room.size_bytes
    assert many.core.put_many(TRACK, {}, stamp=5_001, writer=7, expires_at_unix_ms=END) == 0


def test_it_seals_by_count_by_size_and_by_age():
    queue = Queue(batch_count_max=3)
    queue.fill(4)
    assert [each.count for each in queue.core.lanes["track"].waiting] == [3]

    queue = Queue(bytes_max=80_000)  # an eighth is 10,000
    queue.put("large", b"x" * 9_600)
    assert not queue.core.lanes["track"].waiting
    queue.put("small")
    assert [each.count for each in queue.core.lanes["track"].waiting] == [2]

    queue = Queue()
    queue.put("a")
    queue.tick(now_ms=5)
    assert queue.core.next_deadline_ns() == 1_005 * MS
    queue.tick(now_ms=1_004)
    assert queue.take() is None
    queue.tick(now_ms=1_005)
    assert queue.core.next_deadline_ns() is None
    assert repr(queue.take()) == "<Generation track life-0/1 sending 282B>"


def test_while_something_waits_age_seals_nothing_so_that_more_is_joined():
    queue = Queue()
    queue.put("a")
    queue.core.seal_all()
    queue.put("a", b"2")
    queue.tick(now_ms=1)
    queue.tick(now_ms=60_000)
    assert len(queue.core.lanes["track"].waiting) == 1

    queue.store(queue.take())
    queue.tick(now_ms=60_001)
    assert [each.sequence for each in queue.core.lanes["track"].waiting] == [2]


def test_what_is_sealed_sent_and_kept_is_found_newest_first():
    queue = Queue(batch_count_max=2)
    queue.fill(2)
    sent = queue.take()
    queue.put("track:000", b"2")
    assert (queue.value("track:000"), queue.value("track:001")) == (b"2", b"v")

    queue.store(sent)
    assert (queue.value("track:000"), queue.value("track:001")) == (b"2", b"v")
    assert queue.core.lanes.depth == 1


def test_what_is_kept_goes_when_it_expires_when_others_come_and_when_room_is_needed():
    queue = Queue()
    queue.put("soon", end=500)
    queue.core.seal_all()
    queue.store(queue.take(), unix_ms=499)
    assert queue.value("soon") == b"v"
    queue.tick(unix_ms=500)
    assert queue.value("soon") is None

    for number in range(10):
        queue.put(f"{number}")
        queue.core.seal_all()
        queue.store(queue.take())
    assert [queue.value(f"{number}") for number in range(10)] == [None, None, *[b"v"] * 8]

    while queue.core.room.size_bytes < 59_000:
        queue.put(f"x{queue.stamp}")
    queue.put("y", b"y" * 2_000)
    assert queue.value("2") is None
    assert queue.core.dropped == 0


def test_one_batch_is_sent_one_is_made_and_a_class_keeps_its_order():
    queue = Queue(batch_count_max=2)
    queue.fill(8)
    first = queue.take()
    assert first.sequence == 1
    assert [each.phase for each in queue.core.lanes["track"].waiting] == ["sending", "ready", "sealed", "sealed"]
    queue.core.unavailable(first, now_ns=0)
    queue.core.check_invariants()
    assert queue.take(now_ms=1) is None

    order = []
    for _ in range(4):
        generation = queue.take(now_ms=10_000)
        order.append((generation.pipe, generation.sequence))
        queue.store(generation)
    assert order == [("life-0", 1), ("life-0", 2), ("life-0", 3), ("life-0", 4)]


def test_classes_take_turns():
    queue = Queue(batch_count_max=2)
    queue.fill(4)
    queue.fill(4, of=POSE)

    order = []
    while (generation := queue.take()) is not None:
        order.append(f"{generation.feature_class.name}/{generation.sequence}")
        queue.store(generation)
    assert order == ["track/1", "pose/1", "track/2", "pose/2"]


def test_a_store_that_is_away_is_tried_again_for_ever_ever_more_rarely():
    queue = Queue(retry_first_ms=50, retry_max_ms=400)
    queue.put("a")
    queue.core.seal_all()
    pauses, now_ms = [], 0
    for _ in range(40):
        generation = queue.take(now_ms=now_ms)
        queue.core.unavailable(generation, now_ns=now_ms * MS)
        retry_at_ns = queue.core.departures.retry_at_ns(now_ns=now_ms * MS) or 0
        assert queue.core.departures.take_to_send(now_ns=retry_at_ns - 1) is None
        pauses.append(retry_at_ns / MS - now_ms)
        now_ms = -(-retry_at_ns // MS)
    for pause, longest in zip(pauses, [50, 100, 200, 400, 400], strict=False):
        assert longest / 2 <= pause <= longest
    assert len(set(pauses)) == 40, "no jitter"
    assert queue.core.retried == 40

    generation = queue.take(now_ms=now_ms)
    queue.store(generation)
    assert queue.core.departures.retry_at_ns(now_ns=0) is None
    assert (generation.sequence, queue.core.flushed) == (1, 1)


def test_a_flush_does_not_wait_for_the_pause():
    queue = Queue()
    queue.put("a")
    queue.core.seal_all()
    queue.core.unavailable(queue.take(), now_ns=0)
    assert queue.take() is None
    assert len(queue.core.seal_all()) == 1

    assert queue.take() is not None


def test_a_refused_batch_is_given_up_after_a_while_and_holds_up_its_own_class_alone():
    queue = Queue(refusals_max=3, batch_count_max=2)
    queue.fill(4)
    now_ms, letters = 0, []
    for _ in range(3):
        now_ms += 10_000
        generation = queue.take(now_ms=now_ms)
        assert (generation.feature_class.name, generation.sequence) == ("track", 1)
        letters.append(queue.core.refused(generation, reason="WRONGTYPE", now_ns=now_ms * MS))
        queue.core.check_invariants()
        assert len(letters) == 3 or queue.take(now_ms=now_ms) is None
        if len(letters) == 1:
            queue.fill(2, of=POSE)
            pose = queue.take(now_ms=now_ms)
            assert pose.feature_class is POSE
            queue.store(pose)

    letter = DeadLetter(class_name="track", pipe="life-0", sequence=1, count=2, reason="WRONGTYPE")
    assert letters == [None, None, letter]
    assert list(queue.core.dead_letters) == [letter]
    assert (queue.core.dead_lettered, queue.core.retried) == (2, 2)
    assert queue.take(now_ms=now_ms).sequence == 2
    assert queue.value("track:000") is None


def test_what_is_taken_and_comes_to_nothing_waits_again_in_order():
    queue = Queue(batch_count_max=2)
    queue.fill(6)
    generation = queue.take()
    queue.core.returned(generation)
    queue.core.check_invariants()

    assert queue.take().sequence == 1


def test_a_batch_that_expires_while_it_waits_is_counted_and_not_sent():
    queue = Queue(batch_count_max=2)
    queue.put("a", end=100)
    queue.put("b", end=200)
    queue.put("c", end=300)
    queue.core.seal_all()
    generation = queue.take()
    queue.core.unavailable(generation, now_ns=0)
    queue.tick(unix_ms=199)
    assert queue.core.expired == 0
    queue.tick(unix_ms=200)
    assert queue.core.expired == 2
    assert generation.phase is Phase.DONE

    rest = queue.core.departures.take_to_send(now_ns=1 << 60)
    assert rest is not None and rest.sequence == 2
    queue.store(rest)


def test_when_all_of_it_expired_before_it_was_made_there_is_nothing_to_send():
    queue = Queue()
    queue.put("a", end=100)
    queue.core.seal_all()
    generation = queue.core.departures.take_to_encode(now_ns=0)
    assert generation is not None
    queue.core.encoded(generation, made=None, live_count=0)
    queue.core.check_invariants()

    assert queue.core.expired == 1
    assert queue.take() is None


FULL = 60_000 // ROW_BYTES


def test_when_full_the_oldest_of_its_own_class_is_dropped_and_counted():
    pose = FeatureClass(name="pose", when_full=WhenFull.RAISE)
    queue = Queue(batch_count_max=20)
    queue.fill(10, of=pose)
    queue.fill(300)

    assert queue.core.dropped > 0
    assert queue.core.dropped % 20 == 0
    assert queue.value("track:000") is None
    assert queue.value("track:299") == b"v"
    assert queue.value("pose:000", of=pose) == b"v"


def test_what_is_on_its_way_is_not_dropped_and_what_finds_no_room_at_all_is():
    queue = Queue(batch_count_max=1_000)
    queue.fill(30)
    queue.core.seal_all()
    sending = queue.take()
    queue.put("big", b"x" * 59_000)
    assert (sending.phase, queue.core.dropped) == (Phase.SENDING, 1)
    assert queue.value("big") is None


@pytest.mark.parametrize("when_full", [WhenFull.BLOCK, WhenFull.RAISE])
def test_when_full_a_class_may_wait_or_raise_and_loses_nothing(when_full):
    patient = FeatureClass(name="track", when_full=when_full)
    queue = Queue(batch_count_max=1_000, batch_bytes_max=1 << 20)
    queue.fill(30, of=patient)
    while queue.core.room.size_bytes + ROW_BYTES + 2 <= queue.core.room.bytes_max:
        queue.put(f"more:{queue.stamp}", of=patient)
    depth = queue.core.lanes.depth
    if when_full is WhenFull.BLOCK:
        assert not queue.put("one:many", of=patient)
    else:
        with pytest.raises(FeatureQueueFullError, match="track"):
            queue.put("one:many", of=patient)
    assert (queue.core.blocked, queue.core.refused_full)[when_full is WhenFull.RAISE] == 1
    assert (queue.core.lanes.depth, queue.core.dropped) == (depth, 0)

    queue.store(queue.take())  # sealed although not due: nobody waits longer than he must
    assert queue.put("one:many", of=patient)


def test_of_many_at_once_as_many_are_taken_as_have_room():
    patient = FeatureClass(name="track", when_full=WhenFull.BLOCK)
    queue = Queue(batch_count_max=1_000)
    values = {f"track:{number:03}": b"v" for number in range(400)}
    taken = queue.core.put_many(patient, values, stamp=5, writer=7, expires_at_unix_ms=END)
    queue.core.check_invariants()

    assert taken == 60_000 // (ENTRY_OVERHEAD_BYTES + len("track:000") + 1)
    assert queue.core.lanes.depth == taken


def test_a_policy_that_changes_seals_what_was_put_under_the_old_one():
    queue = Queue()
    queue.put("a")
    wider = FeatureClass(name="track", shards=128)
    queue.put("b", of=wider)

    generation = queue.take()
    assert generation.feature_class == TRACK
    assert [each.feature_class.shards for each in queue.core.lanes["track"].queued] == [64, 128]


def test_the_back_off_begins_anew_after_a_success():
    backoff = Backoff(first_ns=100, max_ns=1_000, rng=Random(1))
    for _ in range(100):
        backoff.failed(now_ns=0)
    assert 500 <= backoff.retry_at_ns <= 1_000
    backoff.succeeded()
    assert repr(backoff) == "<Backoff failures=0 retry_at=0>"
    backoff.failed(now_ns=0)
    assert 50 <= backoff.retry_at_ns <= 100


def test_a_generation_is_spread_over_its_shards_in_small_steps():
    rows: dict[str, Row] = {f"track:{number}": (b"%d" % number, 5 << 20, 7, END + number) for number in range(1_000)}
    rows["gone"] = (b"x", 5 << 20, 7, 99)
    rows["forever"] = (b"x", 5 << 20, 7, 0)
    feature_class = FeatureClass(name="track", shards=4)

    def cutting() -> Generator[None, None, None]:
        cuts.extend((yield from cut(rows, feature_class=feature_class, unix_ms=99)))

    cuts: list[ShardCut] = []
    steps = list(cutting())
    assert len(steps) == -(-len(rows) // STEP_COUNT) + 4

    found: dict[str, Entry] = {}
    for each in cuts:
        entries = decode_block(each.payload)
        assert each.marks == b"".join(key_mark(key).to_bytes(4, "big") for key in entries)
        assert {key_mark(key) % 4 for key in entries} == {each.shard}
        assert each.count == len(entries)
        assert each.expires_at_unix_ms == 99 + MS_MAX
        found |= entries
    assert found == {key: Entry(*row) for key, row in rows.items() if key != "gone"}
