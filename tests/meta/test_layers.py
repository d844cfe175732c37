"""The import contracts hold, and each can fail: a copy of the packages with one wrong import is refused for that reason."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("edge_client", "consistency_service")

VIOLATIONS = {
    "edge-layers": ("edge_client/core/errant.py", "import edge_client.runtime.ports"),
    "service-layers": ("consistency_service/core/errant.py", "import consistency_service.runtime.ports"),
    "pure": ("consistency_service/core/errant.py", "import asyncio"),
    "crypto": ("consistency_service/runtime/errant.py", "import cryptography.hazmat"),
    "libraries": ("consistency_service/runtime/errant.py", "import nats"),
    "edge-alone": ("edge_client/adapters/errant.py", "import consistency_service.errors"),
    "shared": ("consistency_service/adapters/errant.py", "import edge_client.errors"),
    "raft": ("consistency_service/adapters/errant.py", "import consistency_service.adapters.raft_log.journal"),
    "public-edge": ("consistency_service/core/errant.py", "import edge_client"),
}
"""A wrong import for each contract of `.importlinter`."""


def lint(root: Path, *, contract: str | None = None, config: str = ".importlinter") -> subprocess.CompletedProcess[str]:
    only = [] if contract is None else ["--contract", contract]
    program = "import sys; from importlinter.cli import lint_imports_command as main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, "--no-logo", "--config", config, *only],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        timeout=50,
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("copy")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".importlinter", root)
    return root


def contracts() -> set[str]:
    lines = (ROOT / ".importlinter").read_text(encoding="utf-8").splitlines()
    return {line.split(":")[2].rstrip("]") for line in lines if line.startswith("[importlinter:contract:")}


def test_every_contract_has_a_violation_here():
    assert contracts() == set(VIOLATIONS)


@pytest.mark.xdist_group("layers")
def test_the_contracts_hold(copy):
    result = lint(copy)

    assert 0 == result.returncode, result.stdout + result.stderr


@pytest.mark.xdist_group("layers")
@pytest.mark.parametrize("contract", VIOLATIONS)
def test_a_wrong_import_breaks(copy, contract):
    name, line = VIOLATIONS[contract]
    errant = copy / name
    errant.write_text(f'"""Where it should not be."""\n\n{line}\n', encoding="utf-8")
    try:
        result = lint(copy, contract=contract)
    finally:
        errant.unlink()

    assert 1 == result.returncode, result.stdout + result.stderr
    assert "errant" in result.stdout


@pytest.mark.xdist_group("layers")
def test_a_module_outside_every_room_breaks_the_build(copy):
    errant = copy / "edge_client" / "errant.py"
    errant.write_text('"""In no room."""\n', encoding="utf-8")
    try:
        result = lint(copy, contract="edge-layers")
    finally:
        errant.unlink()

    assert 1 == result.returncode
    assert "errant" in result.stdout + result.stderr


@pytest.mark.xdist_group("layers")
@pytest.mark.parametrize(("line", "code"), [("import random", 0), ("import edge_client.runtime.ports", 1)])
def test_type_checking_blocks_are_no_back_door(copy, line, code):
    """The contracts do not look into them, so that a core may name `random.Random`; here they do, for all but that."""
    contracts = (ROOT / ".importlinter").read_text(encoding="utf-8")
    strict = contracts.replace("exclude_type_checking_imports = True", "exclude_type_checking_imports = False")
    assert strict != contracts
    (copy / "strict").write_text(strict.replace("    random\n", ""), encoding="utf-8")
    errant = copy / "edge_client" / "core" / "errant.py"
    errant.write_text(f"from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    {line}\n", encoding="utf-8")
    try:
        result = lint(copy, config="strict")
    finally:
        errant.unlink()

    assert code == result.returncode, result.stdout + result.stderr
