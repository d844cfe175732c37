"""When windows move: at once and surely inwards, late and in steps outwards, and never because of noise."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from random import Random

import msgspec
import pytest

from consistency_service.core import feature_windows
from consistency_service.core.feature_rates import NOTHING, FeatureRate
from consistency_service.core.feature_windows import (
    ORDERS_MAX,
    FeatureWindows,
    WindowChange,
    error_rate,
    window_of,
)
from edge_client.protocol.feature_classes import FeatureClass
from tests.support.region import MS

S = 1_000 * MS
BASE = FeatureClass(name="track", window_base_ms=5_000, window_floor_ms=500)


def wrong(failed: int, judged: int = 1_000) -> FeatureRate:
    return FeatureRate(judged_count=judged, failed_count=failed)


class Region:
    """One class whose window is set as soon as that is decided."""

    def __init__(self, feature_class: FeatureClass = BASE) -> None:
        self.core = FeatureWindows()
        self.feature_class = feature_class
        self.now_ns = 0
        self.moves: list[tuple[int, int]] = []
        """Second and window of each change."""

    def look(self, rate: FeatureRate) -> tuple[WindowChange, ...]:
        changes = self.core.look([(self.feature_class, rate)], now_ns=self.now_ns)
        self.core.check_invariants()
        for change in changes:
            self.moves.append((self.now_ns // S, change.window_ms))
            self.feature_class = msgspec.structs.replace(self.feature_class, window_ms=change.window_ms)
        return changes

    def watch(self, seconds: int, rate: FeatureRate | Callable[[], FeatureRate]) -> list[tuple[int, int]]:
        """A look a second; the changes that came of it."""
        before = len(self.moves)
        for _ in range(seconds):
            self.now_ns += S
            self.look(rate() if callable(rate) else rate)
        return self.moves[before:]


@pytest.fixture
def region() -> Region:
    return Region()


@pytest.mark.parametrize(("error", "window_ms"), [(0.0, 5_000), (0.2, 4_000), (0.95, 500), (1.0, 500)])
def test_the_window_is_that_of_the_protocol(error: float, window_ms: int) -> None:
    assert window_of(BASE, error=error) == window_ms


def test_either_share_alone_is_reason_enough_and_the_greater_counts() -> None:
    both = FeatureRate(judged_count=100, failed_count=10, fetched_count=1_000, drift_sum=400.0)
    found = error_rate(both)

    assert found is not None and found.estimate == pytest.approx(0.4)
    assert 0.35 < found.least < 0.4
    assert error_rate(FeatureRate(judged_count=49, failed_count=49, fetched_count=49, drift_sum=49.0)) is None
    few_judged = error_rate(FeatureRate(judged_count=49, failed_count=49, fetched_count=50, drift_sum=5.0))
    assert few_judged is not None and few_judged.estimate == pytest.approx(0.1)


def test_it_tightens_at_once_and_says_by_which_numbers(region: Region) -> None:
    (change,) = region.look(wrong(400))

    assert change == WindowChange(
        class_name="track",
        window_ms=3_000,
        reason="400 of 1000 judged readings wrong in 20 s: 5000 ms to 3000 ms",
    )


def test_drift_tightens_too_and_never_below_the_floor(region: Region) -> None:
    (change,) = region.look(FeatureRate(fetched_count=200, drift_sum=199.0))

    assert change.window_ms == 500
    assert "mean drift 0.995 over 200 fetches" in change.reason


def test_too_few_readings_and_small_differences_move_nothing(region: Region) -> None:
    assert region.watch(60, wrong(49, judged=49)) == []
    assert region.watch(60, wrong(9_000, judged=100_000)) == []
    assert region.watch(60, wrong(10, judged=50)) == [], "a fifth of fifty may be a tenth by chance"


def test_changes_of_one_class_are_apart(region: Region) -> None:
    errors = iter(range(200, 1_000, 20))

    seconds = [second for second, _ in region.watch(30, lambda: wrong(next(errors)))]
    assert len(seconds) > 2
    assert all(later - earlier >= 5 for earlier, later in pairwise(seconds))


def test_it_relaxes_in_steps_after_it_was_better_for_a_while(region: Region) -> None:
    region.look(wrong(900))

    assert region.watch(29, wrong(0)) == []
    moves = region.watch(200, wrong(0))
    assert [window_ms for _, window_ms in moves] == [1_000, 2_000, 4_000, 5_000]
    assert [later - earlier for (earlier, _), (later, _) in pairwise(moves)] == [31, 31, 31]


def test_the_worst_moment_of_the_calm_time_decides(region: Region) -> None:
    region.look(wrong(600))
    region.watch(10, wrong(100))
    region.watch(1, wrong(400))

    assert region.watch(20, wrong(100)) == [(31, 3_000)]


def test_a_moment_that_is_no_better_begins_the_wait_anew(region: Region) -> None:
    region.look(wrong(600))
    region.watch(25, wrong(0))
    region.watch(1, wrong(590))

    assert region.watch(30, wrong(0)) == []
    assert region.watch(1, wrong(0)) != []


def test_silence_proves_nothing(region: Region) -> None:
    region.look(wrong(600))

    assert region.watch(300, NOTHING) == []
    region.watch(25, wrong(0))
    region.watch(1, NOTHING)
    assert region.watch(30, wrong(0)) == []


def test_an_order_that_was_lost_is_given_again(region: Region) -> None:
    lost = region.core.look([(BASE, wrong(400))], now_ns=0)

    assert region.core.look([(BASE, wrong(400))], now_ns=4 * S) == ()
    assert region.core.look([(BASE, wrong(400))], now_ns=5 * S) == lost


def test_another_authority_begins_its_patience_anew(region: Region) -> None:
    region.look(wrong(600))
    region.watch(25, wrong(0))
    region.core.forget()

    assert region.watch(30, wrong(0)) == []
    assert region.watch(1, wrong(0)) != []


def test_one_look_changes_some_classes_and_the_next_the_others() -> None:
    core = FeatureWindows()
    classes = [msgspec.structs.replace(BASE, name=f"c{number}") for number in range(ORDERS_MAX + 3)]
    first = core.look([(one, wrong(500)) for one in classes], now_ns=0)
    second = core.look([(one, wrong(500)) for one in classes], now_ns=S)

    assert len(first) == ORDERS_MAX
    assert [change.class_name for change in second] == [one.name for one in classes[ORDERS_MAX:]]
    core.look([], now_ns=S)
    assert core._classes == {}


def _noisy(rng: Random, *, share: float, per_second: int) -> Callable[[], FeatureRate]:
    """The last twenty seconds of readings that go wrong by chance."""
    seconds: list[int] = []

    def rate() -> FeatureRate:
        seconds.append(sum(rng.random() < share for _ in range(per_second)))
        told = seconds[-20:]
        return FeatureRate(judged_count=per_second * len(told), failed_count=sum(told))

    return rate


@pytest.mark.parametrize("per_second", [3, 10, 100])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.5, 0.8])
def test_noise_never_makes_a_window_flap(share: float, per_second: int) -> None:
    """In half an hour of steady errors it is tightened once or twice, not again and again, and ends about right."""
    for seed in range(3):
        region = Region()
        moves = region.watch(1_800, _noisy(Random(f"{seed} {share} {per_second}"), share=share, per_second=per_second))

        windows = [5_000, *(window_ms for _, window_ms in moves)]
        assert sum(later < earlier for earlier, later in pairwise(windows)) <= 3, moves
        assert region.feature_class.window_now_ms == pytest.approx(5_000 * (1 - share), rel=0.35)


def test_without_its_deviations_noise_does_make_it_flap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_windows, "DEVIATIONS", 0.0)
    monkeypatch.setattr(feature_windows, "CALM_NS", 0)
    region = Region()

    assert len(region.watch(1_800, _noisy(Random(1), share=0.5, per_second=3))) > 50
