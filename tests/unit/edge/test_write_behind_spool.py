"""What of the write-behind queue waits for the disk, lies there alone, comes back from it, and is forgotten there."""

from __future__ import annotations

import pytest

from edge_client.core.generation import Phase
from edge_client.errors import FeatureQueueFullError
from edge_client.protocol.feature_classes import FeatureClass, WhenFull
from tests.unit.edge.test_write_behind import END, Queue

SPOOLED = FeatureClass(name="track", spool=True, when_full=WhenFull.BLOCK)
PLAIN = FeatureClass(name="pose")


class Spooled(Queue):
    def __init__(self, *, spool_bytes_max: int = 1 << 20, **config: int) -> None:
        super().__init__(spool_bytes_max=spool_bytes_max, **config)

    def commit(self, *, bytes_each: int = 10) -> list[tuple[int, list[str]]]:
        taken = self.core.spool.take(self.core.lanes.values())
        for generation, rows in taken:
            self.core.spooled(generation, size_bytes=bytes_each * len(rows))
        self.core.check_invariants()
        return [(generation.sequence, list(rows)) for generation, rows in taken]


def test_a_batch_waits_until_all_of_it_is_on_disk():
    queue = Spooled()
    queue.fill(2, of=SPOOLED)
    queue.fill(1, of=PLAIN)
    assert queue.commit() == [(1, ["track:000", "track:001"])]
    queue.put("track:001", b"2", of=SPOOLED)
    queue.core.seal_all()
    assert queue.core.spool.urgent(queue.core.lanes.values())
    assert queue.take().feature_class is PLAIN
    assert queue.take() is None

    ((generation, rows),) = queue.core.spool.take(queue.core.lanes.values())
    assert list(rows) == ["track:001"]
    assert queue.take() is None, "under way is not on disk"
    queue.core.spooled(generation, size_bytes=5)
    assert queue.take() is generation
    assert queue.core.spool.size_bytes == 25

    queue.store(generation)
    assert queue.core.spool.take_forgettable() == [("life-0", 1)]
    assert queue.core.spool.size_bytes == 0


def test_what_a_commit_failed_to_bring_is_brought_by_the_next_without_undoing_newer_writes():
    queue = Spooled()
    queue.put("a", b"1", of=SPOOLED)
    queue.put("b", b"1", of=SPOOLED)
    ((generation, rows),) = queue.core.spool.take(queue.core.lanes.values())
    queue.put("a", b"2", of=SPOOLED)
    queue.core.spool.failed(generation, rows)
    assert {key: row[0] for key, row in (generation.unspooled or {}).items()} == {"a": b"2", "b": b"1"}
    assert queue.commit() == [(1, ["a", "b"])]

    queue.core.spool.keep_forgettable([("x", 1)])
    assert not queue.core.spool.idle(queue.core.lanes.values())
    assert queue.core.spool.take_forgettable() == [("x", 1)]


def test_with_memory_half_full_what_is_on_disk_lives_there_alone_and_nothing_is_dropped():
    queue = Spooled(batch_count_max=20)
    for first in range(0, 1_000, 20):
        queue.fill(20, of=SPOOLED, first=first)
        queue.commit()
    waiting = queue.core.lanes["track"].waiting
    assert queue.core.room.size_bytes <= 30_000
    assert len(waiting) == 50
    assert waiting[0].rows is not None
    assert waiting[-2].rows is None, "what is sent last goes first"
    assert (queue.core.dropped, queue.core.blocked, queue.core.lanes.depth) == (0, 0, 1_000)

    sequences = []
    while (generation := queue.take()) is not None:
        sequences.append(generation.sequence)
        queue.store(generation)
    assert sequences == list(range(1, 51))
    assert queue.core.flushed == 1_000


def test_what_an_earlier_life_left_is_sent_first_under_its_own_number():
    queue = Spooled()
    for sequence in (4, 5):
        queue.core.recovered(
            SPOOLED,
            edge_id="e-before",
            pipe="before-2",
            sequence=sequence,
            count=3,
            spooled_bytes=30,
            expires_at_unix_ms=END,
        )
    queue.put("a", of=SPOOLED)
    queue.commit()
    queue.core.seal_all()

    sent = []
    while (generation := queue.take()) is not None:
        if generation.rows is None:
            queue.core.loaded(generation, count=2, lost_count=generation.sequence == 5)
        sent.append((generation.edge_id, generation.pipe, generation.sequence))
        queue.store(generation)
    assert sent == [("e-before", "before-2", 4), ("e-before", "before-2", 5), ("e", "life-0", 1)]
    assert (queue.core.recovered_count, queue.core.coalesced, queue.core.lost) == (6, 1, 1)
    assert queue.core.spool.take_forgettable() == [("before-2", 4), ("before-2", 5), ("life-0", 1)]


def test_a_batch_that_cannot_be_read_back_is_counted_and_lets_others_go_on():
    queue = Spooled()
    for sequence in (1, 2):
        queue.core.recovered(
            SPOOLED, edge_id="e", pipe="p", sequence=sequence, count=3, spooled_bytes=30, expires_at_unix_ms=END
        )
    generation = queue.core.departures.take_to_encode(now_ns=0)
    assert generation is not None
    queue.core.unreadable(generation)
    queue.core.check_invariants()

    assert (queue.core.lost, generation.phase) == (3, Phase.DONE)
    assert queue.take().sequence == 2


def test_a_full_disk_does_what_the_class_says():
    queue = Spooled(spool_bytes_max=100)
    queue.fill(11, of=SPOOLED)
    queue.commit()
    assert not queue.put("more", of=SPOOLED)
    assert queue.put("pose:1", of=PLAIN), "others are not concerned"
    assert queue.core.spool.full

    raising = FeatureClass(name="track", spool=True, when_full=WhenFull.RAISE)
    with pytest.raises(FeatureQueueFullError):
        queue.put("more", of=raising)

    dropping = FeatureClass(name="track", spool=True, when_full=WhenFull.DROP)
    assert queue.put("more", of=dropping)
    assert queue.core.dropped == 11
    assert queue.core.spool.take_forgettable() == [("life-0", 1)]


def test_what_is_dropped_while_it_is_brought_to_disk_is_forgotten_there():
    queue = Spooled(batch_count_max=2)
    dropping = FeatureClass(name="track", spool=True)
    queue.fill(2, of=dropping)
    ((generation, _),) = queue.core.spool.take(queue.core.lanes.values())
    queue.put("big", b"x" * 59_900, of=dropping)
    assert generation.phase is Phase.DONE
    queue.core.spooled(generation, size_bytes=20)

    assert queue.core.spool.take_forgettable() == [("life-0", 1)]
    assert queue.core.spool.size_bytes == 0


def test_without_a_disk_a_spooled_class_is_queued_in_memory():
    queue = Queue()
    queue.fill(2, of=SPOOLED)
    queue.core.seal_all()
    assert queue.core.spool.idle(queue.core.lanes.values())
    queue.store(queue.take())

    given_up = Spooled()
    given_up.fill(2, of=SPOOLED)
    given_up.core.spool.disable(given_up.core.lanes.values())
    given_up.core.seal_all()
    given_up.fill(2, of=SPOOLED, first=5)
    assert given_up.commit() == []
    given_up.store(given_up.take())


def test_what_would_be_lost_is_what_is_not_on_disk():
    queue = Spooled()
    queue.fill(3, of=PLAIN)
    queue.fill(4, of=SPOOLED)
    assert queue.core.unsafe_count() == 7
    queue.commit()
    queue.put("track:009", of=SPOOLED)
    assert queue.core.unsafe_count() == 4
    queue.commit()
    assert queue.core.unsafe_count() == 3
