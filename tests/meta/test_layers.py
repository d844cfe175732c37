"""The import contracts hold, and each can fail: a copy of the packages with one wrong import is refused for that reason."""

from __future__ import annotations

import ast
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


def lint(root: Path, *, contract: str | None = None) -> subprocess.CompletedProcess[str]:
    only = [] if contract is None else ["--contract", contract]
    program = "import sys; from importlinter.cli import lint_imports_command as main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, "--no-logo", "--config", ".importlinter", *only],
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


def type_checking_imports(tree: ast.Module) -> set[str]:
    return {
        name
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}
        for node in ast.walk(block)
        for name in imported_names(node)
    }


def imported_names(node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=str(module)):
            return [module]
        case _:
            return []


def test_type_checking_blocks_are_no_back_door():
    """import-linter does not look into them, so that a core may name the type of its generator; nothing else hides there."""
    found = {
        str(path.relative_to(ROOT)): hidden
        for package in PACKAGES
        for path in (ROOT / package).glob("*/**/*.py")
        if (hidden := hidden_imports(path))
    }

    assert {} == found


def hidden_imports(path: Path) -> list[str]:
    """What the module imports for its types alone, from outside its own room."""
    room = ".".join(path.relative_to(ROOT).parts[:2])
    names = type_checking_imports(ast.parse(path.read_text(encoding="utf-8")))
    return sorted(
        name for name in names if name not in {"random", "collections.abc"} and not f"{name}.".startswith(f"{room}.")
    )


def test_the_back_door_is_watched(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    core = tmp_path / "edge_client" / "core"
    core.mkdir(parents=True)
    (core / "errant.py").write_text("if TYPE_CHECKING:\n    import random\n    from edge_client.runtime import ports\n")

    assert ["edge_client.runtime"] == hidden_imports(core / "errant.py")
