"""Rules of the house that no linter knows: sizes, docstrings, and what may never be written into the repository."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("edge_client", "consistency_service")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
SOURCES = sorted([*MODULES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "ops").rglob("*.py")])
LINES_MAX = 400
TEST_LINES_MAX = 600  # a test file is a list: it is read an entry at a time

GENERATED = {".git", ".venv", "__pycache__", "build", "dist", ".hypothesis", ".testbed", ".demo", "node_modules"}
TEXT_SUFFIXES = {
    *(".cfg", ".conf", ".css", ".html", ".ini", ".js", ".json", ".md", ".py", ".pyi", ".rst", ".sh", ".svg", ".toml"),
    *(".txt", ".yaml", ".yml", ""),
}

# Put together from parts, so that this file does not contain what it looks for.
REFUSED = {
    "a path of one machine": re.compile(r"(?<![\w.])/(?:work|root|home/\w+|Users)/"),
    "a temporary path": re.compile(r"(?<![\w.])/(?:var/)?" + "tmp" + r"/\w"),
    "a package index": re.compile(
        "|".join((r"pypi\.", r"pythonhosted\.", r"--(?:extra-)?index" + "-url", r"--find" + "-links")), re.IGNORECASE
    ),
    "unfinished work": re.compile(r"\b(?:" + "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX")) + r")\b"),
    "a promise in place of code": re.compile(r"\bin production,? you would\b", re.IGNORECASE),
}


def text_files() -> list[Path]:
    return sorted(
        path
        for path in ROOT.rglob("*")
        if path.is_file() and path.suffix in TEXT_SUFFIXES and not GENERATED.intersection(path.relative_to(ROOT).parts)
        if not any(part.endswith(("_cache", ".egg-info")) for part in path.relative_to(ROOT).parts)
    )


def refusals(text: str) -> list[str]:
    return [
        f"line {number}: {what}: {line.strip()[:120]}"
        for number, line in enumerate(text.splitlines(), start=1)
        for what, pattern in REFUSED.items()
        if pattern.search(line)
    ]


def test_no_module_is_longer_than_anybody_reads():
    long = {
        str(path.relative_to(ROOT)): count
        for path in SOURCES
        if (count := line_count(path)) > (TEST_LINES_MAX if path.is_relative_to(ROOT / "tests") else LINES_MAX)
    }

    assert {} == long


def line_count(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_every_module_opens_with_its_mental_model():
    silent = [
        str(path.relative_to(ROOT))
        for path in SOURCES
        if (text := path.read_text(encoding="utf-8")).strip() and not ast.get_docstring(ast.parse(text))
    ]

    assert [] == silent


def test_every_public_class_and_function_of_the_edge_says_what_it_is_for():
    """The users' surface: what `edge_client` exports, and the public methods of its two clients."""
    silent = [
        f"{path.relative_to(ROOT)}: {owner}.{node.name}"
        for path in (ROOT / "edge_client" / name for name in ("blocking.py", "client.py", "config.py"))
        if path.exists()
        for owner, node in public_definitions(ast.parse(path.read_text(encoding="utf-8")))
        if not ast.get_docstring(node)
    ]

    assert [] == silent


Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def public_definitions(tree: ast.Module) -> list[tuple[str, Definition]]:
    found: list[tuple[str, Definition]] = []
    for node in tree.body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            found.append(("module", node))
            if isinstance(node, ast.ClassDef):
                found.extend(
                    (node.name, item)
                    for item in node.body
                    if isinstance(item, Definition) and not item.name.startswith("_")
                )
    return found


def test_the_repository_names_no_machine_and_no_index():
    found = {
        str(path.relative_to(ROOT)): lines
        for path in text_files()
        if (lines := refusals(path.read_text(encoding="utf-8", errors="replace")))
    }

    assert {} == found


@pytest.mark.parametrize(
    "line",
    [
        "open('/wo" + "rk/main/x')",
        "log = '/tm" + "p/region.log'",
        "--ind" + "ex-url https://example.org/simple",
        "https://py" + "pi.org/project/x",
        "# TO" + "DO: later",
        "In produ" + "ction you would use a lock.",
    ],
)
def test_the_search_finds_what_it_looks_for(line):
    assert 1 == len(refusals(line))


@pytest.mark.parametrize("line", ["GET /v1/models/work/versions", "a/tmp/b", "the working set", "todos"])
def test_the_search_leaves_the_innocent_alone(line):
    assert [] == refusals(line)


def test_constraints_pin_exactly_and_nothing_else():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()

    assert [] == [line for line in lines if line and not re.fullmatch(r"#.*|[\w.-]+==[\w.]+", line)]
    assert not any(line.startswith(("edge-consistency", "edge_consistency", "-e")) for line in lines)
