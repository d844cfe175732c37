"""The memory tier's store: what it keeps, what it lets go, what it counts; and that it loses to LRU nowhere by much."""

from __future__ import annotations

import itertools
import threading
import tracemalloc
from array import array
from random import Random

import pytest

from consistency_service.cli.hit_ratio import HitRatios, lru_hits, our_hits, w_tinylfu_hits
from edge_client.core import frequent_rival
from edge_client.core.feature_cache import ENTRY_OVERHEAD_BYTES, NOTES_MAX, FeatureCache
from edge_client.core.frequency_sketch import COUNT_MAX, FrequencySketch
from edge_client.core.frequent_rival import FREQUENT_ENTRIES_MAX, WINDOW_SHARE_MIN, FrequentRival
from edge_client.core.window_balance import WindowBalance


def cache_of(size, **options):
    return FeatureCache(size, overhead_bytes=0, **options)


def test_what_was_put_is_got_until_it_is_popped():
    cache = cache_of(100)
    cache.put("a", "one", size_bytes=10)

    assert "one" == cache.get("a") == cache.peek("a")
    assert "one" == cache.pop("a")
    assert (None, None, None) == (cache.get("a"), cache.peek("a"), cache.pop("a"))
    assert (0, 0, 1) == (len(cache), cache.size_bytes, cache.counters.removed)


def test_the_overhead_counts():
    cache: FeatureCache[str] = FeatureCache(10_000)
    cache.put("a", "one", size_bytes=10)

    assert 10 + ENTRY_OVERHEAD_BYTES == cache.size_bytes
    assert f"<FeatureCache 1 items {10 + ENTRY_OVERHEAD_BYTES}/10000 B window=1 %>" == repr(cache)


def test_a_second_put_replaces_whatever_its_size():
    cache = cache_of(100)
    for size in (10, 60, 5):
        cache.put("a", f"of {size}", size_bytes=size)
        cache.check_invariants()

    assert ("of 5", 5, 2) == (cache.get("a"), cache.size_bytes, cache.counters.replaced)


def test_what_is_larger_than_the_room_is_not_held_and_nor_is_what_it_replaced():
    cache = cache_of(100)
    cache.put("a", "small", size_bytes=10)
    cache.put("a", "large", size_bytes=101)

    assert (None, 0, 1) == (cache.get("a"), len(cache), cache.counters.too_large)


def test_one_large_item_does_not_drive_out_the_many_that_are_asked_for():
    cache = cache_of(100)
    for key in range(10):
        cache.put(key, key, size_bytes=10)
    for key in range(10):
        cache.get(key)
    cache.put("large", "large", size_bytes=95)
    cache.check_invariants()

    assert (list(range(10)), 1) == ([cache.peek(key) for key in range(10)], cache.counters.refused)


def test_who_is_asked_for_again_and_again_gets_in():
    cache = cache_of(10)
    for key in range(10):
        cache.put(key, key, size_bytes=1)
    for _ in range(6):
        if cache.get("new") is None:
            cache.put("new", "new", size_bytes=1)
        cache.put("passing", "passing", size_bytes=1)
        cache.pop("passing")

    assert "new" == cache.peek("new")


def test_items_are_found_by_what_they_are():
    cache = cache_of(100)
    for key in range(10):
        cache.put(key, -key, size_bytes=1)

    assert 3 == cache.pop_where(lambda key, item: key >= 7 and item <= -7)
    assert set(range(7)) == {key for key in range(10) if cache.peek(key) is not None}
    cache.clear()
    assert (0, 0, 10) == (len(cache), cache.size_bytes, cache.counters.removed)


def test_sweeps_look_at_a_few_and_come_round():
    cache = cache_of(100)
    for key in range(10):
        cache.put(key, key, size_bytes=1)
    looked: list[int] = []

    def look(key, _item):
        looked.append(key)
        return False

    for _ in range(4):
        cache.sweep(look, count_max=3)
    assert 10 == len(looked) and set(range(10)) == set(looked)
    assert 3 == cache.sweep(lambda _key, _item: True, count_max=3)


def test_notes_of_reads_are_bounded_and_keep_nothing_alive():
    cache = cache_of(100)
    cache.put("a", "one", size_bytes=1)
    for _ in range(NOTES_MAX + 5):
        cache.get("a")
    cache.check_invariants()
    cache.pop("a")

    assert all(node.item is None for node in cache._notes)
    cache.maintain()
    assert not cache._notes


def test_readers_beside_a_writer_see_the_right_item_or_none():
    cache = cache_of(200, lock=threading.Lock())
    wrong: list[tuple[int]] = []
    done = threading.Event()

    def read(seed):
        keys = Random(seed).choices(range(500), k=4_000)
        while not done.is_set():
            wrong.extend(item for key in keys if (item := cache.get(key)) is not None and item[0] != key)

    def write(seed):
        for key in Random(seed).choices(range(500), k=2_000):
            cache.put(key, (key,), size_bytes=key % 7)
            if key % 50 == 0:
                cache.pop(key)

    readers = [threading.Thread(target=read, args=(seed,)) for seed in range(2)]
    writers = [threading.Thread(target=write, args=(seed,)) for seed in range(2, 4)]
    for thread in (*readers, *writers):
        thread.start()
    for thread in writers:
        thread.join(30)
    done.set()
    for thread in readers:
        thread.join(30)
    cache.check_invariants()

    assert [] == wrong


# ------------------------------------------------------------------------------------------------------- the sketch


def test_an_estimate_is_never_too_low_and_halving_halves():
    random, sketch = Random(1), FrequencySketch()
    counts = {random.getrandbits(64): random.randint(1, COUNT_MAX) for _ in range(200)}
    for mark, count in counts.items():
        sketch.raise_to(mark, count=count)
    sketch.fit(5_000)

    assert all(sketch.estimate(mark) >= count for mark, count in counts.items())
    exact = [mark for mark, count in counts.items() if sketch.estimate(mark) == count]
    assert len(exact) > 190
    sketch.halve()
    assert all(sketch.estimate(mark) == counts[mark] // 2 for mark in exact)


def test_a_long_wall_is_halved_in_steps():
    sketch = FrequencySketch()
    sketch.fit(100_000)
    mark = (1 << 64) - 12_345
    sketch.raise_to(mark, count=8)
    sketch.halve()

    assert sketch.halving
    for _ in itertools.takewhile(lambda _: sketch.halving, range(100)):
        sketch.go_on()
    assert (4, False) == (sketch.estimate(mark), sketch.halving)
    sketch.halve()
    sketch.halve()
    sketch.fit(200_000)
    assert (1, False) == (sketch.estimate(mark), sketch.halving)


# ------------------------------------------------------------------------------------------------------ the balance


def balance_of(size):
    return WindowBalance(size, frequent=cache_of(size, still=True))


def test_the_window_follows_who_is_right():
    balance = balance_of(1_000)
    for mark in range(100):
        balance.asked(mark, size_bytes=10, answered=False)
    for mark in range(100):
        balance.asked(mark, size_bytes=10, answered=False)
    balance.check_invariants()

    assert 990 == balance.window_bytes
    for mark in range(1_000, 1_200):
        balance.asked(mark, size_bytes=10, answered=True)
    assert 1_000 * WINDOW_SHARE_MIN == balance.window_bytes


def test_the_floor_climbs_while_it_helps_and_goes_back_when_it_does_not():
    """The rival has room for one key, so that a period has twenty requests; first more and more are answered, then fewer."""
    balance, strangers = balance_of(1_000), itertools.count(2)
    shares = []
    for _ in range(2):  # periods begin when something had to leave
        balance.asked(next(strangers), size_bytes=1_000, answered=False)
    for period in range(16):
        for request in range(20):
            answered = request < min(period, 8)
            balance.asked(1 if answered else next(strangers), size_bytes=1_000, answered=answered)
        balance.check_invariants()
        shares.append(balance._floor)

    assert shares[:6] == sorted(shares[:6])
    assert shares[0] < 0.06 and 0.2 < shares[6] <= 0.25
    for _ in range(40):
        balance.asked(next(strangers), size_bytes=1_000, answered=False)
    assert balance._floor < 0.25


def test_the_window_is_held_while_frequency_is_right_and_let_go_when_recency_is():
    """What is asked for again and again is only with the rival that keeps it; then only with LRU."""
    rival = FrequentRival(100, store=cache_of(100, still=True))
    rival.asked(1, size_bytes=10, recent=False, answered=False)
    changed = [rival.asked(1, size_bytes=10, recent=False, answered=False) for _ in range(13)]

    assert (True, [False] * 12 + [True]) == (rival.holds, changed)
    changed = [rival.asked(mark, size_bytes=10, recent=True, answered=False) for mark in range(2, 21)]
    assert (False, [False] * 18 + [True]) == (rival.holds, changed), (
        "half as much again, to change a mind that was changed"
    )
    rival.check_invariants()


def test_the_second_rival_of_a_large_store_is_a_sample_too():
    random, size = Random(3), FREQUENT_ENTRIES_MAX * 10
    store = cache_of(size, still=True)
    rival = FrequentRival(size, store=store)
    for _ in range(size):
        rival.asked(random.getrandbits(64), size_bytes=2, recent=False, answered=False)
    rival.check_invariants()
    store.check_invariants()

    assert FREQUENT_ENTRIES_MAX // 3 < len(store) <= FREQUENT_ENTRIES_MAX


@pytest.mark.parametrize("count", [7_000, 11_000, 13_000])  # just after dicts grew
def test_an_entry_takes_no_more_than_is_counted(count):
    """Beside key, item and the second rival, which is small and the same for all sizes."""
    keys = [f"k{number}" for number in range(3 * count)]
    tracemalloc.start()
    try:
        cache = cache_of(count)
        for key in keys:
            cache.put(key, b"x", size_bytes=1)
        cache.maintain()
        taken_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(cache) == count
    assert taken_bytes < ENTRY_OVERHEAD_BYTES * count + (1 << 19)
    assert taken_bytes > ENTRY_OVERHEAD_BYTES * count * 0.6, "nor is far more counted than it takes"


# ------------------------------------------------------------------------------------------------------- hit ratios


def zipf(random, *, keys, count, shift=0):
    return [shift + key for key in random.choices(range(keys), [1 / (rank + 1) for rank in range(keys)], k=count)]


def traces():
    random = Random(20)
    shifting = [zipf(random, keys=400, count=4_000, shift=150 * phase) for phase in range(10)]
    scans = [[*zipf(random, keys=2_000, count=500), *range(10_000 + 300 * n, 10_300 + 300 * n)] for n in range(60)]
    bursts = [
        [*range(300), *range(1_000 + 100 * n, 1_100 + 100 * n), *range(1_000 + 100 * n, 1_100 + 100 * n)]
        for n in range(180)
    ]
    recent = [max(0, index // 8 - int(random.expovariate(1 / 60))) for index in range(40_000)]
    return {
        "zipf": zipf(random, keys=3_000, count=40_000),
        "loop": list(range(1_000)) * 30,
        "scan": [key for scan in scans for key in scan],
        "shift": [key for phase in shifting for key in phase],
        "recent": recent,
        "bursts": [key for burst in bursts for key in burst],
        "to and fro": [key if there else 499 - key for there in (True, False) * 100 for key in range(500)],
    }


TRACES = {name: array("I", keys) for name, keys in traces().items()}


def ratio(rule, name, size):
    return 100 * rule(TRACES[name], size=size, step=lambda _: None) / len(TRACES[name])


@pytest.mark.parametrize("size", [50, 200, 500])
@pytest.mark.parametrize("name", [name for name in TRACES if name != "to and fro"])
def test_lru_is_nowhere_better_by_more_than_half_a_point(name, size):
    lru, ours = ratio(lru_hits, name, size), ratio(our_hits, name, size)

    assert HitRatios(size=size, lru=lru, ours=ours, w_tinylfu=None, optimum=100).kept, (lru, ours)


@pytest.mark.parametrize("size", [50, 200, 400])
def test_to_and_fro_lru_is_better_by_no_more_than_a_point(size):
    """Where LRU is the optimum and any fixed content as good, each turn makes the window move: more than half a point at 200."""
    assert ratio(our_hits, "to and fro", size) > ratio(lru_hits, "to and fro", size) - 1


def test_a_scan_to_and_fro_without_end_is_not_followed_for_ever(monkeypatch):
    """Each rival is ahead in turn; but for what a change of mind asks for, each turn would cost again."""
    trace = array("I", [key if there else 1_999 - key for there in (True, False) * 60 for key in range(2_000)])

    def behind():
        lru, ours = (100 * rule(trace, size=400, step=lambda _: None) / len(trace) for rule in (lru_hits, our_hits))
        return lru - ours

    patient = behind()
    monkeypatch.setattr(frequent_rival, "_LEAD_GROWTH", 1)
    assert patient < 1 < behind()


@pytest.mark.parametrize(("name", "size", "points"), [("loop", 500, 40), ("scan", 200, 5), ("zipf", 200, 5)])
def test_where_frequency_tells_more_it_is_far_better(name, size, points):
    assert ratio(our_hits, name, size) > ratio(lru_hits, name, size) + points


def test_without_the_balance_the_bound_does_not_hold(monkeypatch):
    """What the two tests above would miss otherwise: a window that stays small loses to LRU where recency tells more."""
    monkeypatch.setattr(WindowBalance, "asked", lambda *_arguments, **_named: None)
    lru, ours = ratio(lru_hits, "recent", 200), ratio(our_hits, "recent", 200)

    assert ours < lru - 2
    assert not HitRatios(size=200, lru=lru, ours=ours, w_tinylfu=None, optimum=100).kept


def test_without_the_second_rival_bursts_hide_that_frequency_is_better(monkeypatch):
    """A loop larger than the room, and after each round news that is read twice: LRU answers the news, and never the loop."""
    ours = ratio(our_hits, "bursts", 200)
    monkeypatch.setattr(frequent_rival, "LEAD_CONTENTS", 1 << 60)
    alone = ratio(our_hits, "bursts", 200)

    assert ours > alone + 10
    assert ours > ratio(lru_hits, "bursts", 200) + 10


def test_no_store_can_keep_both_promises_on_every_trace():
    """Decision 11. Two traces begin alike; what follows is what LRU still holds in one, and what W-TinyLFU still holds in the other.

    A store's content is the same at the parting, and it holds `room` keys: what it answers of both together is no more than that.
    """
    room, keys = 1_000, list(range(2_000))
    back, again = array("I", [*keys, *keys[: room - 1 : -1]]), array("I", [*keys, *keys[:room]])

    def answered(rule):
        return [rule(trace, size=room, step=lambda _: None) for trace in (back, again)]

    assert answered(lru_hits) == [room, 0]
    assert answered(w_tinylfu_hits)[1] > 0.9 * room
    assert sum(answered(our_hits)) <= room
    promised = [room - 0.005 * len(back), 0.9 * room - 0.02 * len(again)]
    assert sum(promised) > 1.8 * room
