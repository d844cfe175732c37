"""The plain install is the thin edge, and it stays thin while it is imported."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import edge_client

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DECISION = ROOT / "docs" / "decisions" / "0001-dependencies.md"


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=50)


def test_the_protocol_can_be_imported_for_nothing():
    result = run(
        "import sys, edge_client.protocol\n"
        "heavy = {'asyncio', 'nats', 'redis', 'httpx', 'lz4', 'cachebox', 'opentelemetry'}\n"
        "sys.exit(repr(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )

    assert (0, "") == (result.returncode, result.stderr)


def test_a_missing_extra_is_one_clear_sentence():
    """Typer is made impossible to import, as in a plain install."""
    result = run(
        "import sys\nfor name in ('typer', 'rich', 'pydantic'): sys.modules[name] = None\n"
        "from consistency_service.cli import main\nmain()"
    )

    assert (2, "") == (result.returncode, result.stdout)
    assert re.fullmatch(r"ccs needs \w+: install it with  pip install 'edge-consistency\[service\]'\n", result.stderr)


def test_every_dependency_says_what_we_would_write_without_it():
    text = DECISION.read_text(encoding="utf-8")
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    names = {re.split(r"[<>=!;\[ ]", item, maxsplit=1)[0] for items in lists for item in items} - {PROJECT["name"]}

    assert set() == {name for name in names if f"| `{name}` |" not in text}


def test_versions_agree():
    import consistency_service

    assert {PROJECT["version"]} == {edge_client.__version__, consistency_service.__version__}


def test_the_public_surface_is_the_list():
    assert sorted(edge_client.__all__) == edge_client.__all__
    assert set(edge_client.__all__) <= set(dir(edge_client))
    assert issubclass(edge_client.TooStaleError, edge_client.EdgeError)
