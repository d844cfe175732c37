"""Whatever is put, fails, expires, fills up or crashes: nothing is unaccounted for, nothing overtakes, nothing counts twice.

The store here is a model: it remembers batches by number, and of each key the last entry it was given.
"""

from __future__ import annotations

from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edge_client.core.generation import Generation, Row, WriteBehindConfig, newer
from edge_client.core.write_behind import WriteBehind
from edge_client.errors import FeatureQueueFullError
from edge_client.protocol.feature_classes import FeatureClass, WhenFull

KEYS = st.sampled_from([f"k{number}" for number in range(12)])
CLASSES = {
    "drop": FeatureClass(name="drop", when_full=WhenFull.DROP, flush_ms=10),
    "block": FeatureClass(name="block", when_full=WhenFull.BLOCK, flush_ms=50),
    "raise": FeatureClass(name="raise", when_full=WhenFull.RAISE, flush_ms=50, spool=True),
    "spool": FeatureClass(name="spool", when_full=WhenFull.BLOCK, flush_ms=50, spool=True),
}
MS = 1_000_000
CONFIG = WriteBehindConfig(bytes_max=8_000, batch_count_max=5, refusals_max=2, spool_bytes_max=400)
ROW_ON_DISK_BYTES = 20


class WriteBehindMachine(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 1 << 32))
    def begin(self, seed: int) -> None:
        self.rng = Random(seed)
        self.life = 0
        self.now_ms = 1_000
        self.stamp = 0
        self.disk: dict[tuple[str, int], list[tuple[str, dict[str, Row]]]] = {}
        self.done: set[tuple[str, int]] = set()
        self.seen: dict[tuple[str, int], frozenset[str]] = {}
        self.held: dict[tuple[str, str], int] = {}
        self.durable: dict[tuple[str, str], int] = {}
        self.start()

    def start(self) -> None:
        self.life += 1
        self.queue = WriteBehind(edge_id="e", pipe=f"life{self.life}", config=CONFIG, rng=self.rng)
        self.sending: Generation | None = None
        for (pipe, sequence), parts in self.disk.items():
            self.queue.recovered(
                CLASSES[parts[0][0]],
                edge_id="e",
                pipe=pipe,
                sequence=sequence,
                count=sum(len(rows) for _, rows in parts),
                spooled_bytes=sum(len(rows) for _, rows in parts) * ROW_ON_DISK_BYTES,
                expires_at_unix_ms=max(row[3] for _, rows in parts for row in rows.values()),
            )

    @rule(
        name=st.sampled_from(sorted(CLASSES)),
        keys=st.sets(KEYS, min_size=1),
        late=st.integers(0, 3),
        life=st.integers(1, 400),
    )
    def put_many(self, name: str, keys: set[str], late: int, life: int) -> None:
        self.stamp += 1
        values = {key: b"x" * len(key) for key in sorted(keys)}
        stamp = max(1, self.stamp - late)
        before = self.queue.accepted
        try:
            taken = self.queue.put_many(
                CLASSES[name], values, stamp=stamp, writer=1, expires_at_unix_ms=self.now_ms + life
            )
        except FeatureQueueFullError:
            assert name == "raise"
            return
        assert taken == self.queue.accepted - before
        assert taken == len(values) or name in {"block", "spool"}

    @rule(name=st.sampled_from(sorted(CLASSES)), key=KEYS)
    def put(self, name: str, key: str) -> None:
        self.stamp += 1
        row = (None if self.stamp % 5 == 0 else b"one", self.stamp, 1, self.now_ms + 300)
        try:
            taken = self.queue.put(CLASSES[name], key, row)
        except FeatureQueueFullError:
            return
        if taken and self.queue.room.size_bytes < 4_000 and not self.queue.spool.full:
            assert self.queue.find(CLASSES[name], key) == row

    @rule(ms=st.integers(0, 120))
    def tick(self, ms: int) -> None:
        self.now_ms += ms
        self.queue.tick(now_ns=self.now_ms * MS, unix_ms=self.now_ms)

    @rule(works=st.booleans())
    def commit(self, works: bool) -> None:
        taken = self.queue.spool.take(self.queue.lanes.values())
        done = self.queue.spool.take_forgettable()
        if not works:
            for generation, rows in taken:
                self.queue.spool.failed(generation, rows)
            self.queue.spool.keep_forgettable(done)
            return
        for generation, rows in taken:
            number = (generation.pipe, generation.sequence)
            assert number not in self.seen, "a batch grew after it was sent"
            self.disk.setdefault(number, []).append((generation.feature_class.name, dict(rows)))
            self.queue.spooled(generation, size_bytes=len(rows) * ROW_ON_DISK_BYTES)
        for number in done:
            self.disk.pop(number, None)

    @rule(stored=st.sampled_from(["stored", "stored", "stored", "lost answer", "unavailable", "refused", "returned"]))
    def send(self, stored: str) -> None:
        now_ns = self.now_ms * MS
        while (generation := self.queue.departures.take_to_encode(now_ns=now_ns)) is not None:
            rows = generation.rows
            if rows is None:
                rows = {}
                for _, part in self.disk[generation.pipe, generation.sequence]:
                    newer(rows, part)
                self.queue.loaded(generation, count=len(rows), lost_count=0)
            live = {key: row for key, row in rows.items() if row[3] > self.now_ms}
            self.queue.encoded(generation, made=live, live_count=len(live))
        generation = self.queue.departures.take_to_send(now_ns=now_ns)
        if generation is None:
            return
        if stored in {"stored", "lost answer"}:
            self.store(generation)
        if stored == "stored":
            self.queue.stored(generation, counted=0, unix_ms=self.now_ms)
        elif stored == "refused":
            self.queue.refused(generation, reason="because", now_ns=now_ns)
        elif stored == "returned":
            self.queue.returned(generation)
        else:
            self.queue.unavailable(generation, now_ns=now_ns)

    def store(self, generation: Generation) -> None:
        """The marker of the store: a number counts once, and what it stands for does not grow."""
        number = (generation.pipe, generation.sequence)
        keys = frozenset(generation.made)
        if number in self.seen:
            assert keys <= self.seen[number], "a batch grew between two attempts"
            return
        earlier = [sequence for pipe, sequence in self.seen if pipe == generation.pipe]
        assert generation.sequence > max(earlier, default=0), "a batch was overtaken"
        self.seen[number] = keys

    @rule()
    def flush(self) -> None:
        self.queue.seal_all()

    @rule()
    def crash(self) -> None:
        self.start()

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "queue"):
            self.queue.check_invariants()


TestWriteBehind = WriteBehindMachine.TestCase
TestWriteBehind.settings = settings(stateful_step_count=60)
