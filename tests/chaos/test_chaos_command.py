"""`ccs chaos`, as a person runs it: a short storm of everything is survived, and a broken assumption is noticed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SEED = 20
KINDS = {"kill", "pause", "partition", "bus", "clock", "redis"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def chaos(*arguments: str, directory: Path) -> tuple[int, dict[str, Any], Path]:
    """Exit code, document and the directory that was kept."""
    kept = directory / "kept"
    ended = subprocess.run(
        [sys.executable, "-m", "consistency_service", "chaos", "--json", "--keep", str(kept), *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert ended.stdout, ended.stderr
    return ended.returncode, json.loads(ended.stdout), kept


def failures(document: dict[str, Any]) -> list[str]:
    return [f"{c['name']}: {line}" for c in document["checks"] if not c["ok"] for line in c["details"] or [c["text"]]]


def test_a_minute_of_everything_is_survived(tmp_path: Path) -> None:
    code, document, kept = chaos("--minutes", "1", "--seed", str(SEED), directory=tmp_path)

    assert (0, []) == (code, failures(document))
    done = {fault["kind"] for fault in document["faults"] if fault["skipped"] is None}
    assert len(done & KINDS) >= 5, done
    assert sum(told.get("done", 0) for told in document["requests"].values()) > 50
    assert {"edge-1", "edge-2", "edge-3", "node-1", "node-2", "node-3"} == {row["reader"] for row in document["rows"]}
    assert "Every promise was kept" in (kept / "report.html").read_text()
    assert (kept / "ledger.jsonl").stat().st_size > 1_000


def test_a_clock_beyond_the_assumption_is_found(tmp_path: Path) -> None:
    code, document, kept = chaos(
        "--minutes", "0.6", "--seed", "3", "--break", "clock-rate", "--edges", "2", directory=tmp_path
    )

    assert code == 1
    assert any(line.startswith("reads: strong_inversion") for line in failures(document)), failures(document)
    assert "Not as promised: reads" in (kept / "report.html").read_text()


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["--faults", "fire"], "partition"),
        (["--break", "raft"], "clock-rate"),
        (["--minutes", "0.4", "--keep", "."], "empty"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(tmp_path: Path, arguments: list[str], word: str) -> None:
    (tmp_path / "something").touch()
    ended = subprocess.run(
        [sys.executable, "-m", "consistency_service", "chaos", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert ended.returncode == 2
    assert word in ended.stderr and "Traceback" not in ended.stderr
