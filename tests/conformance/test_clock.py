"""What both sides may rely on of a clock, and that the faulty one errs as it was told and no further."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from consistency_service.adapters import system_clock as service_clock
from edge_client.adapters import system_clock as edge_clock
from edge_client.adapters.system_clock import FaultyClock, SystemClock, open_clock

CLOCKS = {
    "edge": edge_clock.SystemClock,
    "edge-faulty": lambda: edge_clock.FaultyClock(edge_clock.SystemClock()),
    "service": service_clock.SystemClock,
    "service-faulty": lambda: service_clock.FaultyClock(service_clock.SystemClock()),
}


@pytest.fixture(params=CLOCKS)
def clock(request):
    return CLOCKS[request.param]()


def test_readings_are_nanoseconds_that_never_go_back(clock):
    for read in (clock.now_ns, clock.monotonic_ns, clock.raw_ns):
        readings = [read() for _ in range(1_000)]

        assert all(type(reading) is int for reading in readings)
        assert sorted(readings) == readings


def test_all_clocks_advance_alike(clock):
    before = (clock.now_ns(), clock.monotonic_ns(), clock.raw_ns())
    time.sleep(0.05)
    after = (clock.now_ns(), clock.monotonic_ns(), clock.raw_ns())

    for start, end in zip(before, after, strict=True):
        assert 50_000_000 * 0.99 <= end - start < 1_000_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no clock counts suspension")
def test_the_instant_is_boottime_and_counts_suspension(clock):
    low = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    now = clock.now_ns()
    high = time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    assert low <= now <= high
    assert clock.counts_suspension


def test_wall_time_is_in_milliseconds(clock):
    assert abs(clock.unix_ms() - time.time() * 1000) < 1_000


async def test_sleep_until_is_never_early(clock):
    for delay_ns in (-1, 0, 1, 1_000_000, 30_000_000):
        deadline_ns = clock.now_ns() + delay_ns
        await clock.sleep_until(deadline_ns)

        assert deadline_ns <= clock.now_ns() < deadline_ns + 1_000_000_000


def test_the_readings_of_the_hot_path_are_bare_callables():
    clock = SystemClock()

    assert clock.now_ns is clock.now_ns, "a bound method would be made anew on each access"


def write(path: Path, **faults: object) -> None:
    path.write_text(json.dumps(faults), encoding="utf-8")
    os.utime(path, ns=(time.time_ns(), time.time_ns()))
    time.sleep(0.03)  # the file is looked at every 20 ms


def offsets_ns(clock: FaultyClock, *, base: SystemClock) -> tuple[int, int, int]:
    """How far ahead the three readings are, give or take the time between two readings."""
    return (
        clock.now_ns() - base.now_ns(),
        clock.monotonic_ns() - base.monotonic_ns(),
        clock.raw_ns() - base.raw_ns(),
    )


def test_a_suspension_moves_the_instant_alone_and_stays(tmp_path):
    base, path = SystemClock(), tmp_path / "faults.json"
    clock = FaultyClock(base, control_file=path)

    assert all(abs(offset) < 5_000_000 for offset in offsets_ns(clock, base=base))

    write(path, jump_ns=3_000_000_000)
    for _ in range(2):
        now_ns, monotonic_ns, raw_ns = offsets_ns(clock, base=base)

        assert abs(now_ns - 3_000_000_000) < 5_000_000
        assert abs(monotonic_ns) < 5_000_000
        assert abs(raw_ns) < 5_000_000

        time.sleep(0.03)
    path.unlink()
    time.sleep(0.03)

    assert abs(offsets_ns(clock, base=base)[0] - 3_000_000_000) < 5_000_000


def test_a_bad_crystal_moves_all_three_and_drift_is_kept_when_it_heals(tmp_path):
    base, path = SystemClock(), tmp_path / "faults.json"
    clock = FaultyClock(base, control_file=path)
    write(path, rate_ppm=500_000)
    clock.now_ns()
    time.sleep(0.1)
    offsets = offsets_ns(clock, base=base)

    assert all(45_000_000 < offset < 500_000_000 for offset in offsets)

    write(path, rate_ppm=0)
    kept = offsets_ns(clock, base=base)
    time.sleep(0.05)

    assert all(abs(now - then) < 5_000_000 for now, then in zip(offsets_ns(clock, base=base), kept, strict=True))
    assert kept[0] >= offsets[0]


def test_a_slewing_daemon_leaves_the_raw_clock_alone(tmp_path):
    base, path = SystemClock(), tmp_path / "faults.json"
    clock = FaultyClock(base, control_file=path)
    write(path, slew_ppm=-500_000)
    clock.now_ns()
    time.sleep(0.1)
    now_ns, monotonic_ns, raw_ns = offsets_ns(clock, base=base)

    assert now_ns < -45_000_000
    assert monotonic_ns < -45_000_000
    assert abs(raw_ns) < 5_000_000


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"jump_ns": "far"}', '{"jump_ns": null}', '{"jump_ns": 1e999}']
)
def test_a_control_file_without_sense_changes_nothing(tmp_path, content):
    base, path = SystemClock(), tmp_path / "faults.json"
    path.write_text(content, encoding="utf-8")
    clock = FaultyClock(base, offset_ns=10**12, control_file=path)

    assert all(abs(offset - 10**12) < 5_000_000 for offset in offsets_ns(clock, base=base))


async def test_whoever_sleeps_wakes_within_a_second_after_a_suspension(tmp_path):
    path = tmp_path / "faults.json"
    clock = FaultyClock(SystemClock(), control_file=path)
    asyncio.get_running_loop().call_later(0.05, lambda: write(path, jump_ns=3_600_000_000_000))
    started = time.monotonic()
    await clock.sleep_until(clock.now_ns() + 3_600_000_000_000)

    assert time.monotonic() - started < 1.5


def test_only_the_environment_makes_a_clock_err(tmp_path):
    assert isinstance(open_clock({}), SystemClock)
    assert isinstance(open_clock({"CCS_CLOCK_FAULTS": ""}), SystemClock)
    assert isinstance(open_clock({"CCS_CLOCK_FAULTS": str(tmp_path / "faults.json")}), FaultyClock)


def test_a_real_process_can_be_made_to_err(tmp_path):
    path = tmp_path / "faults.json"
    write(path, offset_ns=10**15)
    program = "from edge_client.adapters.system_clock import open_clock; print(open_clock().now_ns())"
    shown = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "CCS_CLOCK_FAULTS": str(path), "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        check=True,
        timeout=20,
    )

    assert 10**15 <= int(shown.stdout) < 10**15 + SystemClock().now_ns()
