"""The demo keeps its word, and knows when it did not: real processes, from the command to the exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from consistency_service.testbed.history import check, read_files

CLASSIFYING = "edges classify images"


@contextmanager
def demo(directory: Path, *arguments: str, code: str | None = None) -> Iterator[subprocess.Popen[str]]:
    """`ccs demo --json` with its lines on standard error, killed at the end if it still runs."""
    command = (
        ["-c", code] if code else ["-m", "consistency_service", "demo", "--json", "-d", str(directory), *arguments]
    )
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_line(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if text in line:
            return
    raise AssertionError("".join(said))


def pids(directory: Path) -> dict[str, int]:
    (path,) = directory.glob("run-*/region/state.json")
    return {p["name"]: p["identity"]["pid"] for p in json.loads(path.read_text())["processes"] if p["identity"]}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.timeout(270)
@pytest.mark.slow
def test_three_acts_keep_every_promise_within_four_minutes(tmp_path):
    with demo(tmp_path) as process:
        out, lines = process.communicate(timeout=260)
    summary = json.loads(out)

    assert (0, []) == (process.returncode, summary["problems"]), lines
    assert 20 == len(summary["promises"]) and all(promise["held"] for promise in summary["promises"])
    assert summary["duration_s"] < 240
    edges = [f"edge-{number}" for number in range(1, 6)]
    assert edges == [edge["edge_id"] for edge in summary["edges"]]
    assert all(edge["version"] == "2.0.0" and edge["not_strong_since_kill"] == 0 for edge in summary["edges"])

    # Act 1: a better model at one instant, and a dead leader.
    assert summary["accuracy"]["1.0.0"] < 0.9 and summary["accuracy"]["2.0.0"] > 0.97
    assert summary["spread_ms"] < 50 and 1_500 < summary["swap_ms"] < 4_000
    assert summary["commit_after_ms"] < 5_000

    # Act 2: a bad version on a fifth of the edges, found out and taken back.
    bad, good = summary["rollouts"]
    assert ("3.0.0", "failed", ["edge-2"]) == (bad["version"], bad["phase"], bad["cohort"])
    assert summary["accuracy"]["3.0.0"] < 0.85 and "error rate" in bad["reason"]
    assert ["edge-2"] == list(bad["classified"]) and bad["exposed"] == bad["classified"]["edge-2"] > 50
    assert bad["noticed_ms"] < bad["returned_ms"] < 15_000

    # Act 3: a good one for everybody, and back again.
    assert ("4.0.0", "completed", ["edge-5"]) == (good["version"], good["phase"], good["cohort"])
    assert edges == sorted(good["classified"])
    assert 1_500 < summary["rollback_ms"] < 4_000

    operations = read_files(tmp_path.glob("run-*/history/*.jsonl"))
    verdict = check(operations)
    assert verdict.ok and 8 == verdict.process_count and 8 == verdict.activation_count
    assert sum(summary["reads"].values()) <= verdict.read_count  # and what the demo itself read through REST

    # The same history with 3.0.0 assigned to nobody would not pass.
    lie = [
        replace(one, assignment=replace(one.assignment, share_bp=0))
        if one.op == "activate" and one.assignment is not None and one.assignment.candidate == "3.0.0"
        else one
        for one in operations
    ]
    assert "version_wrong" in check(lie).violation_count


@pytest.mark.timeout(90)
@pytest.mark.slow
def test_an_edge_that_dies_is_no_success(tmp_path):
    with demo(tmp_path, "--edges", "2", "--nodes", "1") as process:
        wait_line(process, CLASSIFYING)
        running = pids(tmp_path)
        os.kill(running["edge-2"], signal.SIGKILL)
        out, lines = process.communicate(timeout=60)

    assert 1 == process.returncode, lines
    assert "edge-2 ended by itself" in json.loads(out)["problems"][0]
    assert {} == {name: pid for name, pid in running.items() if alive(pid)}


@pytest.mark.timeout(90)
@pytest.mark.slow
def test_told_to_terminate_it_takes_everything_down(tmp_path):
    with demo(tmp_path, "--edges", "1", "--nodes", "1") as process:
        wait_line(process, CLASSIFYING)
        running = pids(tmp_path)
        process.send_signal(signal.SIGTERM)
        out, lines = process.communicate(timeout=30)

    assert 130 == process.returncode, lines
    assert ["interrupted"] == json.loads(out)["problems"]
    assert {} == {name: pid for name, pid in running.items() if alive(pid)}


@pytest.mark.timeout(90)
@pytest.mark.slow
def test_it_ends_in_time_and_says_what_it_was_waiting_for(tmp_path):
    code = (
        "import sys; from pathlib import Path; from consistency_service.testbed.demo import run; "
        f"sys.exit(run(directory=Path({str(tmp_path)!r}), edges=1, nodes=1, json_output=True, deadline_s=33.0))"
    )
    begun_s = time.monotonic()
    with demo(tmp_path, code=code) as process:
        out, lines = process.communicate(timeout=60)

    assert 1 == process.returncode, lines
    problem = json.loads(out)["problems"][0]
    assert "time is up; awaited: " in problem or "not ready in time" in problem  # the latter on a slow machine
    assert time.monotonic() - begun_s < 38
