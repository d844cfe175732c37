"""What is reported of readings is counted once, under the right sheet, whatever it is; nothing grows without end."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
from enum import StrEnum
from pathlib import Path
from random import Random

import numpy as np
import pytest

from edge_client.core.observed import SHEETS_KEPT, Observed
from edge_client.core.reading import Guarantee, Loaded, Reading
from edge_client.protocol.models import Version
from edge_client.protocol.observations import (
    LABELS_MAX,
    OTHER,
    VALUE_MAX,
    Observations,
    bucket_of_value,
    observations_fault,
    quantile,
)
from edge_client.protocol.position import Position
from edge_client.runtime.observing import Observing

ROOT = Path(__file__).resolve().parents[3]
LOADED = Loaded("value", version=Version(version="1.0.0", digest="sha256:0", size_bytes=1))


class Tally:
    def __init__(self) -> None:
        self.core = Observed()

    def reading(self, generation: int = 1, *, model: str = "m", revision: int | None = None) -> Reading:
        return Reading(
            LOADED,
            model=model,
            generation=generation,
            guarantee=Guarantee.STRONG,
            staleness_bound_ms=0,
            position=Position(1, generation if revision is None else revision),
            observe=self.core.reported,
        )

    def sheet(self) -> Observations:
        (sheet,) = self.sheets()
        return sheet

    def sheets(self) -> tuple[Observations, ...]:
        self.core.check_invariants()
        sheets = self.core.sheets()
        assert [] == [fault for sheet in sheets if (fault := observations_fault(sheet))]
        return sheets


@pytest.fixture
def tally() -> Tally:
    return Tally()


def test_what_is_said_is_added_up(tally):
    reading = tally.reading()
    reading.report()
    reading.report(ok=True, latency_ms=10, score=0.5, label="cat")
    reading.report(False, 20.0, 0.25, "dog")
    reading.report(label="cat", score=-1)

    assert tally.sheet() == Observations(
        model="m",
        version="1.0.0",
        generation=1,
        count=4,
        judged_count=2,
        failed_count=1,
        latencies={bucket_of_value(10): 1, bucket_of_value(20): 1},
        scores={bucket_of_value(0.5): 1, bucket_of_value(0.25): 1, bucket_of_value(-1): 1},
        score_sum=-0.25,
        score_square_sum=1.3125,
        labels={"cat": 2, "dog": 1},
    )
    assert repr(tally.core) == "<Observed m@1.0.0:g1=4>"
    assert not tally.core.counters


def test_a_reading_of_no_client_may_be_reported_too():
    Reading(
        LOADED, model="m", generation=1, guarantee=Guarantee.STRONG, staleness_bound_ms=0, position=Position(1, 1)
    ).report(ok=True)


class Colour(StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"ok": np.bool_(False)}, {"judged_count": 1, "failed_count": 1}),
        ({"latency_ms": np.float32(2)}, {"latencies": {bucket_of_value(2): 1}}),
        ({"score": np.array([3])[0]}, {"score_sum": 3.0}),
        ({"label": np.str_("cat")}, {"labels": {"cat": 1}}),
        ({"label": Colour.RED}, {"labels": {"red": 1}}),
        ({"latency_ms": 0}, {"latencies": {0: 1}}),
    ],
)
def test_what_libraries_return_is_as_good(tally, said, expected):
    tally.reading().report(**said)

    sheet = tally.sheet()
    assert expected == {name: getattr(sheet, name) for name in expected}
    assert all(type(label) is str for label in sheet.labels)


@pytest.mark.parametrize(
    ("said", "counted"),
    [
        ({"latency_ms": math.nan}, "latencies_senseless"),
        ({"latency_ms": math.inf}, "latencies_senseless"),
        ({"latency_ms": 10**400}, "latencies_senseless"),
        ({"latency_ms": -0.001}, "latencies_senseless"),
        ({"score": math.nan}, "scores_senseless"),
        ({"score": -math.inf}, "scores_senseless"),
        ({"label": "x" * 65}, "labels_senseless"),
        ({"label": "\ud800"}, "labels_senseless"),
    ],
)
def test_what_makes_no_sense_is_counted_and_the_reading_too(tally, said, counted):
    tally.reading().report(ok=True, **said)

    sheet = tally.sheet()
    assert {counted: 1} == tally.core.counters
    assert (sheet.count, sheet.latencies, sheet.scores) == (1, {}, {})
    assert sheet.labels == ({OTHER: 1} if "label" in said else {})


def test_what_is_huge_is_cut(tally):
    tally.reading().report(latency_ms=1e300, score=-1e300)

    sheet = tally.sheet()
    assert quantile(sheet.latencies, 0.5) == pytest.approx(VALUE_MAX, rel=0.05)
    assert (sheet.score_sum, sheet.score_square_sum) == (-VALUE_MAX, VALUE_MAX**2)
    assert tally.core.counters == {"scores_cut": 1}


@pytest.mark.parametrize(
    "said",
    [
        {"ok": 1},
        {"ok": "yes"},
        {"latency_ms": "12"},
        {"latency_ms": True},
        {"score": ()},
        {"score": np.zeros(2)},
        {"label": 7},
        {"label": b"cat"},
    ],
    ids=repr,
)
def test_the_wrong_type_is_a_mistake_of_the_caller_and_counts_nothing(tally, said):
    (name,) = said
    with pytest.raises(TypeError, match=name):
        tally.reading().report(**said)

    assert tally.sheets() == ()


def test_labels_beyond_the_limit_are_counted_together(tally):
    for number in range(LABELS_MAX + 3):
        tally.reading().report(label=f"label-{number}")
    tally.reading().report(label="label-0")

    labels = tally.sheet().labels
    assert (len(labels), labels[OTHER], labels["label-0"]) == (LABELS_MAX + 1, 3, 2)
    assert tally.core.counters == {"labels_beyond_max": 3}


def test_the_newest_sheets_of_each_model_are_kept(tally):
    other = tally.reading(model="other")
    readings = [tally.reading(generation) for generation in range(1, SHEETS_KEPT + 2)]
    for reading in (other, *readings, readings[0], other):
        reading.report()

    assert [("m", 2), ("m", 3), ("m", 4), ("m", 5)] == [
        (s.model, s.generation) for s in tally.sheets() if s.model == "m"
    ]
    assert tally.core.counters == {"outcome_sheets_put_away": 1, "outcomes_of_old_generations": 1}


def test_generations_that_begin_anew_are_the_newest_all_the_same(tally):
    """A model deleted and created again counts from 1: what is new is told by the position."""
    for generation in (7, 8, 9, 10):
        tally.reading(generation).report()
    tally.reading(1, revision=50).report()

    assert [8, 9, 10, 1] == [sheet.generation for sheet in tally.sheets()]


def test_after_the_end_it_is_counted_as_too_late(tally):
    tally.reading().report()
    tally.core.closed()
    tally.reading().report()
    tally.reading(2).report()
    with pytest.raises(TypeError):
        tally.reading().report(label=1)

    assert tally.sheet().count == 1
    assert tally.core.counters == {"outcomes_after_close": 2}


@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_said_the_sheets_are_such_as_are_believed(tally, seed):
    rng = Random(seed)
    odd = [math.nan, math.inf, -1.0, 0.0, 1e-9, 1e308, -1e308, 5, None]
    for _ in range(2_000):
        tally.reading(rng.randrange(1, 9)).report(
            rng.choice((True, False, None)),
            rng.choice(odd),
            rng.choice(odd),
            rng.choice(["", "\udfff", "é" * 64, "x" * 99, str(rng.randrange(200)), None]),
        )
    tally.sheets()


# ---- from many threads, and after a fork


def test_threads_lose_nothing_and_a_new_sheet_is_told_of():
    told: list[int] = []
    observing = Observing(began=lambda: told.append(1))
    reading = Tally().reading()
    object.__setattr__(reading, "_observe", observing.reported)
    seen: list[int] = []

    def work() -> None:
        for number in range(2_000):
            reading.report(ok=number % 4 > 0, latency_ms=1.0, label="x")
            if number % 500 == 0:
                seen.extend(sheet.count for sheet in observing.sheets())

    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval_s)

    (sheet,) = observing.sheets()
    assert (sheet.count, sheet.failed_count, sheet.labels, sum(sheet.latencies.values())) == (
        8_000, 2_000, {"x": 8_000}, 8_000,
    )  # fmt: skip
    assert told == [1] and seen and not observing.counters
    observing.close()
    reading.report()
    assert observing.counters == {"outcomes_after_close": 1} and observing.sheets() == (sheet,)


def test_a_finalizer_that_reports_does_not_wait_for_itself():
    """It may run in the middle of a report, in the same thread."""
    observing = Observing(began=lambda: None)
    reading = Tally().reading()
    object.__setattr__(reading, "_observe", observing.reported)

    class Number:
        def __float__(self) -> float:
            reading.report(ok=True)
            return 1.0

    reading.report(score=Number())  # type: ignore[arg-type]
    assert [sheet.count for sheet in observing.sheets()] == [2]


def test_a_child_reports_for_nobody_and_does_not_hang_on_a_lock_of_its_parent():
    program = """
import os, threading, time
from tests.unit.edge.test_observed import Observing, Tally
observing = Observing(began=lambda: None)
reading = Tally().reading()
object.__setattr__(reading, "_observe", observing.reported)
reading.report()
held, over = threading.Event(), threading.Event()
def hold():
    with observing._lock:
        held.set()
        over.wait()
threading.Thread(target=hold, daemon=True).start()
held.wait()
pid = os.fork()
if pid == 0:
    reading.report()
    ok = observing.counters == {"outcomes_after_close": 1} and observing.sheets()[0].count == 1
    os._exit(0 if ok else 1)
deadline = time.monotonic() + 20
while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
    time.sleep(0.01)
over.set()
reading.report()
assert ended[0] and os.waitstatus_to_exitcode(ended[1]) == 0, ended
assert observing.sheets()[0].count == 2
print("done")
"""
    shown = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=50
    )

    assert (0, "done\n", "") == (shown.returncode, shown.stdout, shown.stderr)
