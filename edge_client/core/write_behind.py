"""What is put now and stored later: bounded, coalesced, in order, each batch counted once however often it is sent.

Picture a letter box that is emptied in sacks. A letter to the same address replaces the one still in the box; a full sack
is sealed and numbered; sacks of one class leave one after the other, and the next only when the last has arrived. What
this module does not know: how sacks are packed, sent, or laid on disk, and what time it is.

Why a dictionary per batch and not one per shard: a `put` is then one store into one dictionary, a batch is sealed by
putting the dictionary aside, and the spreading over shards happens once, in the driver, in steps.

`put`, `put_many` and `find` are the hot path and take no time: the driver tells the time with `tick`. Nothing here is
thread-safe but `find`; the driver holds a lock around everything else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final

from edge_client.core.departures import Departures
from edge_client.core.generation import (
    ENTRY_OVERHEAD_BYTES,
    FOREVER_MS,
    DeadLetter,
    Generation,
    Phase,
    Row,
    WriteBehindConfig,
    as_entry,
)
from edge_client.core.lane import Lane, Lanes
from edge_client.core.retry import Backoff
from edge_client.core.room import Room
from edge_client.core.spool_account import SpoolAccount
from edge_client.errors import FeatureQueueFullError
from edge_client.protocol.feature_classes import FeatureClass, WhenFull
from edge_client.protocol.features import Entry

if TYPE_CHECKING:
    from random import Random

MS: Final = 1_000_000
DEAD_LETTERS_MAX: Final = 64
COUNTERS: Final = (
    *("accepted", "coalesced", "flushed", "counted", "dropped", "expired", "dead_lettered", "lost", "blocked"),
    *("refused_full", "recovered_count", "batches", "retried"),
)
REFUSED_FIRST_NS: Final = 100 * MS
REFUSED_MAX_NS: Final = 10_000 * MS


class WriteBehind:
    """The queue of one life of one edge. Bounded by `bytes_max`; at the bound each class does as its `when_full` says."""

    def __init__(self, *, edge_id: str, pipe: str, config: WriteBehindConfig, rng: Random) -> None:
        self._edge_id = edge_id
        self._pipe = pipe
        self._config = config
        self._rng = rng
        self._batch_count_max = config.batch_count_max
        self._batch_bytes_max = min(config.batch_bytes_max, config.bytes_max // 8)
        self.room = Room(bytes_max=config.bytes_max - 2 * self._batch_bytes_max)
        self.lanes = Lanes()
        self.departures = Departures(
            lanes=self.lanes.values(), first_ns=config.retry_first_ms * MS, max_ns=config.retry_max_ms * MS, rng=rng
        )
        self.spool = SpoolAccount(bytes_max=config.spool_bytes_max)
        self.eager = False
        """Set by `put` when the driver should look: a generation was opened or sealed. The driver clears it."""
        self.dead_letters: deque[DeadLetter] = deque(maxlen=DEAD_LETTERS_MAX)
        self.accepted = self.coalesced = self.dropped = self.blocked = self.refused_full = self.expired = self.lost = 0
        self.recovered_count = self.flushed = self.counted = self.batches = self.retried = self.dead_lettered = 0

    def put(self, feature_class: FeatureClass, key: str, row: Row) -> bool:
        """Queue one write. False, and nothing changed: no room, and the class says to wait for it.

        Raises `FeatureQueueFullError` where the class says so.
        """
        lane = self.lanes.get(feature_class.name)
        if lane is None or lane.feature_class is not feature_class:
            lane = self._lane_of(feature_class)
        value, stamp, _, expires_at = row
        size = ENTRY_OVERHEAD_BYTES + len(key) + (len(value) if value else 0)
        room = self.room
        if room.size_bytes + size > room.bytes_max or (feature_class.spool and self.spool.full):
            if not self._make_room(lane, size):
                return False
            if room.lacks(size):
                self.accepted += 1
                self.dropped += 1
                return True
        self.accepted += 1
        generation = lane.open
        if generation is None:
            generation = self._opened(lane)
        if stamp < lane.newest_stamp:
            held = lane.find(key)
            if held is not None and (held[1], held[2]) > (stamp, row[2]):
                self.coalesced += 1
                return True
        else:
            lane.newest_stamp = stamp
        rows = generation.rows
        assert rows is not None
        held = rows.get(key)
        if held is not None:
            self.coalesced += 1
            # As `row_bytes`, without the call.
            size -= ENTRY_OVERHEAD_BYTES + len(key) + (len(held[0]) if held[0] else 0)
        rows[key] = row
        generation.size_bytes += size
        room.size_bytes += size
        if (expires_at or FOREVER_MS) > generation.expires_at_unix_ms:  # noqa: PLR1730 -- half the price of max()
            generation.expires_at_unix_ms = expires_at or FOREVER_MS
        if generation.unspooled is not None:
            generation.unspooled[key] = row
        if generation.size_bytes >= self._batch_bytes_max or len(rows) >= self._batch_count_max:
            self._seal(lane)
        return True

    def put_many(
        self,
        feature_class: FeatureClass,
        values: Mapping[str, bytes],
        *,
        stamp: int,
        writer: int,
        expires_at_unix_ms: int,
    ) -> int:
        """Queue writes that share all but key and value; how many were taken, in the order of `values`.

        Fewer than all only if there is no room and the class says to wait for it. Raises as `put`. What is already queued
        costs a lookup per key; what is new goes in at the speed of `dict.update`.
        """
        lane = self.lanes.get(feature_class.name)
        if lane is None or lane.feature_class is not feature_class:
            lane = self._lane_of(feature_class)
        count = len(values)
        rows = None if lane.open is None else lane.open.rows
        size = ENTRY_OVERHEAD_BYTES * count + sum(map(len, values)) + sum(map(len, values.values()))
        if (
            stamp < lane.newest_stamp
            or size > self._batch_bytes_max
            or self.room.lacks(size)
            or (feature_class.spool and self.spool.full)
            or (rows is not None and not rows.keys().isdisjoint(values))
            or not count
        ):
            for taken, (key, value) in enumerate(values.items()):
                if not self.put(feature_class, key, (value, stamp, writer, expires_at_unix_ms)):
                    return taken
            return count
        lane.newest_stamp = stamp
        generation = lane.open if lane.open is not None else self._opened(lane)
        rows = generation.rows
        assert rows is not None
        made = zip(values.values(), repeat(stamp), repeat(writer), repeat(expires_at_unix_ms))
        rows.update(zip(values, made, strict=True))
        if generation.unspooled is not None:
            generation.unspooled.update(zip(values, map(rows.__getitem__, values), strict=True))
        self.accepted += count
        generation.size_bytes += size
        self.room.size_bytes += size
        generation.expires_at_unix_ms = max(generation.expires_at_unix_ms, expires_at_unix_ms or FOREVER_MS)
        if generation.size_bytes >= self._batch_bytes_max or len(rows) >= self._batch_count_max:
            self._seal(lane)
        return count

    def find(self, feature_class: FeatureClass, key: str) -> Entry | None:
        """The newest of our own writes of a key, while it is queued or kept; it may have expired. Takes no lock."""
        lane = self.lanes.get(feature_class.name)
        row = None if lane is None else lane.find(key)
        return None if row is None else as_entry(row)

    def tick(self, *, now_ns: int, unix_ms: int) -> None:
        """Seal what is due, and let go of what expired while it waited."""
        for lane in self.lanes.values():
            generation = lane.open
            if generation is not None and generation.rows:
                if generation.opened_at_ns is None:
                    generation.opened_at_ns = now_ns
                if not lane.waiting and now_ns >= generation.opened_at_ns + lane.feature_class.flush_ms * MS:
                    self._seal(lane)
            for waiting in [each for each in lane.waiting if each.phase in {Phase.SEALED, Phase.READY}]:
                if waiting.opened_at_ns is None:
                    waiting.opened_at_ns = now_ns
                if waiting.expires_at_unix_ms <= unix_ms:
                    self.expired += waiting.count
                    self._give_up(lane, waiting)
            self.room.expire(lane, unix_ms=unix_ms)

    def next_deadline_ns(self) -> int | None:
        """When `tick` should be called next; None: not before the next `put`."""
        return self.lanes.due_at_ns()

    def seal_all(self) -> tuple[Generation, ...]:
        """Seal what is open, due or not; all that waits now, in order per class. Tries again at once."""
        self.departures.backoff.hurry()
        for lane in self.lanes.values():
            lane.backoff.hurry()
            self._seal(lane)
        return tuple(generation for lane in self.lanes.values() for generation in lane.waiting)

    def encoded(self, generation: Generation, *, made: Any, live_count: int) -> None:
        """Its batch is `made` of `live_count` entries, the rest having expired; it may be sent."""
        if generation.phase is not Phase.ENCODING:
            return  # it was given up meanwhile
        self.expired += generation.count - live_count
        generation.count = live_count
        if live_count == 0:
            self._give_up(self._lane(generation), generation)
            return
        generation.made = made
        self.departures.ready(generation, first=False)

    def returned(self, generation: Generation) -> None:
        """It was taken, and nothing came of it: it waits as before, and what was ready behind it waits too."""
        if generation.phase in {Phase.ENCODING, Phase.SENDING}:
            self.departures.left(generation)
            self.departures.held_up(self._lane(generation))

    def stored(self, generation: Generation, *, counted: int, unix_ms: int) -> None:
        """The store has its batch, and counted so many of its entries now."""
        lane = self._lane(generation)
        self.departures.backoff.succeeded()
        lane.backoff.succeeded()
        self.batches += 1
        self.flushed += generation.count
        self.counted += counted
        self._leave(lane, generation)
        if generation.rows and generation.expires_at_unix_ms > unix_ms:
            self.room.keep(lane, generation)
        else:
            self.room.clear(lane, generation)
        self.room.lacks(self._batch_bytes_max)

    def unavailable(self, generation: Generation, *, now_ns: int) -> None:
        """The store did not answer, or asked for patience: the same batch is sent again later, for as long as it takes."""
        self.retried += 1
        self.departures.ready(generation, first=True)
        self.departures.backoff.failed(now_ns=now_ns)

    def refused(self, generation: Generation, *, reason: str, now_ns: int) -> DeadLetter | None:
        """The store will not have it. Tried again a few times, then given up: that is returned. Other classes go on."""
        lane = self._lane(generation)
        self.departures.backoff.succeeded()
        generation.refusals += 1
        if generation.refusals < self._config.refusals_max:
            self.retried += 1
            lane.backoff.failed(now_ns=now_ns)
            self.returned(generation)
            return None
        letter = generation.dead_letter(reason)
        self.dead_letters.append(letter)
        self.dead_lettered += generation.count
        lane.backoff.succeeded()
        self._give_up(lane, generation)
        return letter

    def recovered(
        self,
        feature_class: FeatureClass,
        *,
        edge_id: str,
        pipe: str,
        sequence: int,
        count: int,
        spooled_bytes: int,
        expires_at_unix_ms: int,
    ) -> None:
        """An earlier life left this batch on disk. Call oldest first, before the first `put`."""
        lane = self.lanes.get(feature_class.name) or self._lane_of(feature_class)
        generation = Generation(feature_class, edge_id=edge_id, pipe=pipe, sequence=sequence)
        generation.phase, generation.rows, generation.count = Phase.SEALED, None, count
        generation.spooled_bytes, generation.expires_at_unix_ms = spooled_bytes, expires_at_unix_ms
        self.spool.size_bytes += spooled_bytes
        self.recovered_count += count
        lane.waiting.append(generation)
        self.eager = True

    def spooled(self, generation: Generation, *, size_bytes: int) -> None:
        """What `spool.take` gave of it is on disk; if memory is short, it is there alone from now on."""
        self.spool.committed(generation, size_bytes=size_bytes)
        self.room.relieve(self.lanes.values())

    def loaded(self, generation: Generation, *, count: int, lost_count: int) -> None:
        """Its rows were read from disk: `count` keys; parts with `lost_count` entries were damaged."""
        lost_count = min(lost_count, generation.count - count)
        self.lost += lost_count
        self.coalesced += generation.count - count - lost_count
        generation.count = count

    def unreadable(self, generation: Generation) -> None:
        """What lay on disk of it cannot be read: counted as lost."""
        self.lost += generation.count
        self._give_up(self._lane(generation), generation)

    def counters(self) -> dict[str, int]:
        """What became of everything so far, in entries; `batches` and `retried` in batches."""
        return {name: getattr(self, name) for name in COUNTERS}

    def unsafe_count(self) -> int:
        """How many queued entries are not on disk: what is lost if all ends now."""
        return self.lanes.unsafe_count()

    def check_invariants(self) -> None:
        """Raise if this is in a state that must not exist."""
        self.departures.check_invariants()
        self.room.check_invariants(self.lanes.values())
        ends = (self.coalesced, self.flushed, self.dropped, self.expired, self.dead_lettered, self.lost)
        assert self.accepted + self.recovered_count == sum(ends) + self.lanes.depth, "an entry is unaccounted for"
        on_disk = 0
        for lane in self.lanes.values():
            assert lane.open is None or (lane.open.phase is Phase.OPEN and lane.open.rows is not None)
            own = [each.sequence for each in lane.waiting if each.pipe == lane.pipe]
            assert own == sorted(set(own)), "batches of a pipe out of order"
            assert all(each.rows is not None or each.durable for each in lane.waiting)
            on_disk += sum(each.spooled_bytes for each in lane.queued)
        assert self.spool.size_bytes == on_disk

    def __repr__(self) -> str:
        return f"<WriteBehind {self.lanes.depth} queued, {self.room.size_bytes}B in memory, {self.spool.size_bytes}B on disk>"

    def _lane_of(self, feature_class: FeatureClass) -> Lane:
        """The lane of a class that is new, or whose policy changed: what is open keeps the policy under which it opened."""
        lane = self.lanes.get(feature_class.name)
        if lane is None:
            backoff = Backoff(first_ns=REFUSED_FIRST_NS, max_ns=REFUSED_MAX_NS, rng=self._rng)
            lane = Lane(feature_class, pipe=f"{self._pipe}-{len(self.lanes)}", backoff=backoff)
            self.lanes[feature_class.name] = lane
        elif lane.feature_class != feature_class:
            self._seal(lane)
        lane.feature_class = feature_class
        return lane

    def _lane(self, generation: Generation) -> Lane:
        return self.lanes[generation.feature_class.name]

    def _opened(self, lane: Lane) -> Generation:
        lane.sequence += 1
        generation = Generation(lane.feature_class, edge_id=self._edge_id, pipe=lane.pipe, sequence=lane.sequence)
        if lane.feature_class.spool and self.spool.enabled:
            generation.unspooled = {}
        lane.open = generation
        lane.show()
        self.eager = True
        return generation

    def _seal(self, lane: Lane) -> None:
        generation = lane.open
        if generation is None or not generation.rows:
            return
        generation.phase = Phase.SEALED
        generation.count = len(generation.rows)
        lane.waiting.append(generation)
        lane.open = None
        self.eager = True

    def _leave(self, lane: Lane, generation: Generation) -> None:
        """It waits no longer."""
        self.departures.left(generation)
        if generation is lane.open:
            lane.open = None
        else:
            lane.waiting.remove(generation)
        generation.phase = Phase.DONE
        generation.unspooled = None
        self.eager = True
        self.spool.forget(generation)

    def _give_up(self, lane: Lane, generation: Generation) -> None:
        self._leave(lane, generation)
        self.room.clear(lane, generation)

    def _make_room(self, lane: Lane, size: int) -> bool:
        """Whether the class lets its caller go on. Kept generations give way first, then what the class says."""
        when_full = lane.feature_class.when_full
        self.room.relieve(self.lanes.values())
        while (short := self.room.lacks(size)) or (lane.feature_class.spool and self.spool.full):
            if when_full is not WhenFull.DROP and not lane.waiting:
                self._seal(lane)  # what is open holds the room: it need not wait for its time
            if when_full is WhenFull.BLOCK:
                self.blocked += 1
                return False
            if when_full is WhenFull.RAISE:
                self.refused_full += 1
                raise FeatureQueueFullError(
                    f"feature class {lane.feature_class.name}: {self.room.size_bytes} bytes are queued; flush, or write less"
                )
            waiting = (each for each in lane.waiting if each.phase is Phase.SEALED and (each.rows or not short))
            oldest = next(waiting, lane.open)
            if oldest is None:
                break
            self.dropped += oldest.count or len(oldest.rows or ())
            self._give_up(lane, oldest)
        return True
