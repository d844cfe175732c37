"""`python -m tests.simulation.check` says what it found by its exit code, in words, as JSON and as a page."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.simulation.check.__main__ import main

ROOT = Path(__file__).resolve().parents[3]
GOOD: list[dict[str, Any]] = [{"process": "a", "op": "write", "value": 1, "invoked_ns": 0, "returned_ns": 1}]
BAD: list[dict[str, Any]] = [*GOOD, {"process": "b", "op": "read", "result": None, "invoked_ns": 2, "returned_ns": 3}]
HARD: list[dict[str, Any]] = [
    {"process": str(p), "op": "write", "value": p, "invoked_ns": 0, "returned_ns": 9} for p in range(16)
]
HARD.append({"process": "r", "op": "read", "result": 99, "invoked_ns": 10, "returned_ns": 11})


@pytest.fixture
def history(tmp_path):
    def written(lines):
        path = tmp_path / "history.jsonl"
        path.write_text("\n".join(json.dumps(line) for line in lines))
        return str(path)

    return written


@pytest.mark.parametrize(("lines", "code"), [(GOOD, 0), (BAD, 1), ([], 2), ([{}], 2), (HARD, 3)])
def test_exit_codes(history, capsys, lines, code):
    assert code == main([history(lines), "--budget", "0.01"])

    said = capsys.readouterr()
    assert bool(said.err) == (code == 2)
    assert ["linearizable", "NOT linearizable", "", "UNKNOWN"][code] == said.out.split(":")[0]


def test_as_a_process_with_json_and_a_page(history, tmp_path):
    page = tmp_path / "page.html"
    command = [sys.executable, "-m", "tests.simulation.check", history(BAD), "--json", "--timeline", str(page)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50)
    document = json.loads(result.stdout)

    assert (1, "") == (result.returncode, result.stderr)
    assert ("not linearizable", 2) == (document["answer"], document["operation_count"])
    assert ["write 1", "read → nil"] == [operation["what"] for operation in document["violation"]["operations"]]
    assert "<svg" in page.read_text(encoding="utf-8")


def test_what_a_register_holds_at_first(history, capsys):
    path = history([{**BAD[1], "result": 0}])

    assert [1, 0, 2] == [main([path]), main([path, "--initial", "0"]), main([path, "--initial", "{"])]
    assert 2 == main([path, "--model", "append", "--initial", "0"])


def test_a_page_that_cannot_be_written(history, tmp_path, capsys):
    assert 2 == main([history(BAD), "--timeline", str(tmp_path / "absent" / "page.html")])
    assert "cannot write" in capsys.readouterr().err
