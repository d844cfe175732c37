"""What edges tell again and again is added once, whatever is lost, repeated, late or false."""

from __future__ import annotations

from collections import Counter
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consistency_service.core import observed_totals as module
from consistency_service.core.fleet import Fleet
from consistency_service.core.observed_totals import ObservedTotals
from edge_client.core.observed import Observed
from edge_client.core.reading import Guarantee, Loaded, Reading
from edge_client.protocol.messages import EdgeReport
from edge_client.protocol.models import Version
from edge_client.protocol.observations import OTHER, Observations, bucket_of_value
from edge_client.protocol.position import Position

LOADED = Loaded("value", version=Version(version="1", digest="sha256:0", size_bytes=1))


def sheet(count: int, *, generation: int = 1, model: str = "m", version: str = "1", **more: object) -> Observations:
    return Observations(model=model, version=version, generation=generation, count=count, **more)  # type: ignore[arg-type]


def report(*sheets: Observations, edge: str = "e", life: str = "a") -> EdgeReport:
    return EdgeReport(edge_id=edge, life_id=life, epoch=1, revision=1, observations=sheets)


class Books:
    def __init__(self, **settings: object) -> None:
        self.core = ObservedTotals(**settings)  # type: ignore[arg-type]

    def told(self, *sheets: Observations, edge: str = "e", life: str = "a", now_ns: int = 0) -> None:
        self.core.report_received(report(*sheets, edge=edge, life=life), now_ns=now_ns)
        self.core.check_invariants()

    def count(self, generation: int = 1, *, version: str = "1") -> int | None:
        total = self.core.total("m", version, generation)
        return None if total is None else total.observations.count


@pytest.fixture
def books() -> Books:
    return Books()


def test_a_life_tells_sums_and_a_new_life_begins_at_nothing(books):
    books.told(sheet(3, judged_count=2, failed_count=1, labels={"x": 2}, latencies={5: 1}), now_ns=10)
    books.told(sheet(5, judged_count=2, failed_count=1, labels={"x": 2, "y": 2}, latencies={5: 2}), now_ns=20)
    books.told(sheet(4, scores={7: 1}, score_sum=1.0, score_square_sum=1.0, labels={"x": 1}), life="b", now_ns=30)
    books.told(sheet(1), edge="f", now_ns=40)

    total = books.core.total("m", "1", 1)
    assert total is not None
    assert total.observations == sheet(
        10, judged_count=2, failed_count=1, latencies={5: 2}, scores={7: 1},
        score_sum=1.0, score_square_sum=1.0, labels={"x": 3, "y": 2},
    )  # fmt: skip
    assert (total.edge_count, total.first_at_ns, total.last_at_ns) == (2, 10, 40)
    assert repr(books.core) == "<ObservedTotals lives=3 m@1:g1=10>"
    assert books.core.total("m", "1", 2) is None and not books.core.counters


def test_totals_are_kept_apart_by_version_and_generation(books):
    books.told(sheet(1), sheet(2, version="2"), sheet(3, generation=2), sheet(9, model="n"))

    assert [("1", 1, 1), ("2", 1, 2), ("1", 2, 3)] == [
        (t.observations.version, t.observations.generation, t.observations.count) for t in books.core.totals("m")
    ]


def test_what_is_repeated_or_late_adds_nothing(books):
    for count in (5, 5, 3, 5):
        books.told(sheet(count))

    assert books.count() == 5
    assert books.core.counters == {"observations_shrunk": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"count": 9},
        {"judged_count": 4},
        {"failed_count": 1},
        {"latencies": {5: 7, 6: 2}},
        {"scores": {5: 9}, "score_square_sum": 100.0},
        {"score_square_sum": 90.0},
        {"labels": {"y": 5}},
        {"judged_count": 7, "count": 10},
        {"failed_count": 4, "judged_count": 6, "count": 12},
    ],
    ids=repr,
)
def test_what_says_less_than_before_is_refused_whole(books, change):
    first = sheet(
        10, judged_count=5, failed_count=2, latencies={5: 8}, scores={5: 4, 6: 4},
        score_sum=1.0, score_square_sum=100.0, labels={"x": 5},
    )  # fmt: skip
    books.told(first)
    grown = msgspec.structs.replace(first, count=11)
    books.told(msgspec.structs.replace(grown, **change))

    total = books.core.total("m", "1", 1)
    assert total is not None and total.observations == first
    assert books.core.counters == {"observations_shrunk": 1}
    books.told(grown)
    assert books.count() == 11


def test_a_sketch_that_was_left_out_says_nothing(books):
    full = sheet(5, latencies={5: 5}, scores={5: 5}, score_sum=5.0, score_square_sum=9.0, labels={"x": 5})
    books.told(full)
    books.told(sheet(7, judged_count=1))
    books.told(msgspec.structs.replace(full, count=8, judged_count=1, latencies={5: 8}))

    total = books.core.total("m", "1", 1)
    assert total is not None
    assert total.observations == msgspec.structs.replace(full, count=8, judged_count=1, latencies={5: 8})
    assert not books.core.counters


def test_what_no_edge_can_have_told_and_what_nobody_knows_is_refused():
    books = Books(known=lambda model, version, generation: (model, version, generation) == ("m", "1", 1))
    books.told(sheet(-1), sheet(1, generation=2), sheet(1, version="2"), sheet(1, model="M"), sheet(2))

    assert books.count() == 2 and books.core.totals("m") == (books.core.total("m", "1", 1),)
    assert books.core.counters == {"observations_invalid": 2, "observations_unknown": 2}


# ---- bounds


def test_the_total_nobody_adds_to_is_forgotten(books, monkeypatch):
    monkeypatch.setattr(module, "TOTALS_MAX", 2)
    books.told(sheet(1))
    books.told(sheet(1, generation=2))
    books.told(sheet(2))
    books.told(sheet(1, generation=3))

    assert [books.count(1), books.count(2), books.count(3)] == [2, None, 1]
    assert books.core.counters == {"observation_totals_forgotten": 1}


def test_nothing_of_a_forgotten_life_is_added_twice(books, monkeypatch):
    books.told(sheet(10))
    monkeypatch.setattr(module, "LIVES_BYTES_MAX", books.core._lives_bytes + 10)
    books.told(sheet(10), edge="f")
    books.told(sheet(12))
    books.told(sheet(15))

    assert books.count() == 23
    assert books.core.counters == {"observation_lives_forgotten": 2, "observations_of_forgotten_lives": 1}
    monkeypatch.setattr(module, "LIVES_FORGOTTEN_MAX", 0)
    books.told(sheet(1), edge="g")
    assert not books.core._forgotten


def test_labels_sheets_and_edges_are_bounded(books, monkeypatch):
    monkeypatch.setattr(module, "TOTAL_LABELS_MAX", 2)
    monkeypatch.setattr(module, "TOTAL_EDGES_MAX", 2)
    monkeypatch.setattr(module, "SHEETS_PER_LIFE_MAX", 2)
    books.told(sheet(9, labels={"a": 1, "b": 2}))
    books.told(sheet(9, labels={"a": 1, "c": 3, "d": 1}), edge="f")
    books.told(sheet(10, labels={"a": 1, "c": 4, "d": 1}), edge="f")
    books.told(sheet(1), edge="g")
    books.told(sheet(1, generation=2), sheet(1, generation=3))

    total = books.core.total("m", "1", 1)
    assert total is not None
    assert (total.observations.labels, total.edge_count) == ({"a": 2, "b": 2, OTHER: 5}, 2)
    assert books.core.counters["observation_labels_beyond_max"] == 3
    assert books.core.counters["observation_edges_beyond_max"] == 1
    assert books.core.counters["observation_sheets_forgotten"] == 1


# ---- properties


def an_edge(rng: Random, *, reports: int) -> list[tuple[Observations, ...]]:
    """What one life tells, one report after the other, from the edge's own tally."""
    tally, told = Observed(), []
    for _ in range(reports):
        for _ in range(rng.randrange(8)):
            generation = rng.randrange(1, 4)
            reading = Reading(
                LOADED, model="m", generation=generation, guarantee=Guarantee.STRONG, staleness_bound_ms=0,
                position=Position(1, generation), observe=tally.reported,
            )  # fmt: skip
            reading.report(
                rng.choice((True, False, None)), rng.choice((None, 1.5, 20)), rng.choice((None, 0.25, -2)),
                rng.choice((None, "cat", "dog")),
            )  # fmt: skip
        told.append(tally.sheets())
    return told


def counted(totals: ObservedTotals) -> dict[int, Observations]:
    return {total.observations.generation: total.observations for total in totals.totals("m")}


def merged(sheets: list[Observations]) -> dict[int, Observations]:
    """The slow way: adds whole sheets, each life's last one once."""
    sums: dict[int, Observations] = {}
    for one in sheets:
        held = sums.get(one.generation, sheet(0, generation=one.generation))
        sums[one.generation] = sheet(
            held.count + one.count,
            generation=one.generation,
            judged_count=held.judged_count + one.judged_count,
            failed_count=held.failed_count + one.failed_count,
            latencies=dict(Counter(held.latencies) + Counter(one.latencies)),
            scores=dict(Counter(held.scores) + Counter(one.scores)),
            score_sum=held.score_sum + one.score_sum,
            score_square_sum=held.score_square_sum + one.score_square_sum,
            labels=dict(Counter(held.labels) + Counter(one.labels)),
        )
    return sums


@settings(derandomize=True, max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**9), edges=st.integers(1, 4), reports=st.integers(1, 5))
def test_whatever_is_lost_repeated_or_disordered_the_last_word_of_each_life_counts_once(seed, edges, reports):
    """Values are such that sums of floats are exact, so that equality may be asked for."""
    rng = Random(seed)
    lives = {(f"e{n // 2}", f"l{n}"): an_edge(rng, reports=reports) for n in range(edges)}
    arrivals = [(life, told) for life, all_told in lives.items() for told in all_told if rng.random() < 0.7]
    arrivals += rng.sample(arrivals, len(arrivals) // 2)
    rng.shuffle(arrivals)
    arrivals += [(life, all_told[-1]) for life, all_told in lives.items()]
    books = Books()
    for (edge, life), told in arrivals:
        books.told(*told, edge=edge, life=life)

    last_words = [one for all_told in lives.values() for one in all_told[-1]]
    assert counted(books.core) == merged(last_words)
    assert set(books.core.counters) <= {"observations_shrunk"}
    again = dict(counted(books.core))
    for (edge, life), all_told in lives.items():
        books.told(*all_told[-1], edge=edge, life=life)
    assert counted(books.core) == again


def test_the_work_for_a_report_does_not_grow_with_the_fleet(books, monkeypatch):
    """Counted in sheets decoded: one for each sheet told, however many edges there are."""
    decoded: list[int] = []
    real = module._decoder

    class Counting:
        def decode(self, payload: bytes) -> Observations:
            decoded.append(1)
            return real.decode(payload)

    monkeypatch.setattr(module, "_decoder", Counting())
    for number in range(300):
        books.told(sheet(1, latencies={bucket_of_value(3.0): 1}), edge=f"e{number}")
    assert decoded == []
    books.told(sheet(2), edge="e7")
    assert decoded == [1] and books.count() == 301


def test_the_fleet_adds_up_what_it_accepts_and_keeps_no_sheets() -> None:
    fleet = Fleet(known=lambda *key: key[2] < 9)
    assert fleet.report_received(report(sheet(3)), unix_ms=0, now_ns=5)
    assert not fleet.report_received(report(sheet(3), life="impostor"), unix_ms=0, now_ns=6)
    assert fleet.report_received(report(sheet(1), sheet(1, generation=9), edge="f"), unix_ms=0, now_ns=7)
    fleet.check_invariants()

    total = fleet.observed.total("m", "1", 1)
    assert total is not None and (total.observations.count, total.edge_count) == (4, 2)
    assert [view.report.observations for view in fleet.edges()] == [(), ()]
    assert fleet.counters["observations_unknown"] == 1
