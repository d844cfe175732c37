"""No snippet is unchecked: those that cannot be run anywhere are at least such that they could be."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
import tomllib
from dataclasses import fields

import pytest
import yaml

import edge_client
from edge_client import EdgeClient, EdgeConfig
from tests.docs.ccs_lines import INLINE, ccs_lines, fault
from tests.docs.pages import MARKED_LANGUAGES, PAGES, ROOT, RUN_KINDS, Snippet, commands, contains, matches, snippets

ALL = [snippet for page in PAGES for snippet in snippets(page)]
CONNECT_SETTINGS = {item.name for item in fields(EdgeConfig)} | set(inspect.signature(EdgeClient.connect).parameters)


def of(*languages: str) -> list[Snippet]:
    return [snippet for snippet in ALL if snippet.language in languages and snippet.verb != "interrupt"]


def named(snippet: Snippet) -> str:
    return snippet.place


def test_every_snippet_of_tutorial_and_how_tos_says_what_is_to_be_done_with_it():
    """Which marks there are: CONTRIBUTING.md, "Docs"."""
    silent = [
        snippet.place
        for snippet in ALL
        if snippet.page.parent.name in RUN_KINDS
        if snippet.language in MARKED_LANGUAGES and not snippet.verb
    ]

    assert [] == silent


def test_readers_are_told_the_name_of_every_file_that_they_write():
    silent = []
    for snippet in ALL:
        if snippet.verb == "file":
            above = "\n".join(snippet.page.read_text(encoding="utf-8").splitlines()[: snippet.line - 2])
            if snippet.what not in above.rstrip().rpartition("\n\n")[2] + snippet.text.partition("\n")[0]:
                silent.append(snippet.place)

    assert [] == silent


def test_what_is_only_checked_says_why():
    assert [] == [snippet.place for snippet in ALL if snippet.verb == "only checked" and len(snippet.what.split()) < 3]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_mention_of_ccs_could_be_typed(page):
    text = page.read_text(encoding="utf-8")
    mentions = [line for found in INLINE.finditer(text) for line in ccs_lines(found[1])]
    faults = [(line, found) for line in mentions if (found := fault(line, whole=False))]
    for snippet in snippets(page):
        if snippet.language in {"console", "bash", "sh"}:
            lines = commands(snippet.text) if snippet.language == "console" and "$ " in snippet.text else ()
            typed = [call for command in lines for call in ccs_lines(command.text)] or [
                call for line in snippet.text.replace("\\\n", " ").splitlines() for call in ccs_lines(line)
            ]
            faults += [(call, found) for call in typed if (found := fault(call))]

    assert [] == faults


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("ccs model push m 1.0.0 FILE --create", None),
        ("ccs model push m 1.0.0 FILE --creat", "ccs model push: No such option: --creat"),
        ("ccs model shove m", "ccs model has no command 'shove'"),
        ("ccs model push m 1.0.0", "ccs model push needs FILE"),
        ("ccs edges all", "ccs edges: what is 'all'?"),
        ("ccs", None),
    ],
)
def test_the_check_of_ccs_lines_finds_faults(line, found):
    assert found == ((fault(line) or "").split(" Did")[0] or None)


@pytest.mark.parametrize("snippet", of("python"), ids=named)
def test_python_compiles_and_names_what_there_is(snippet):
    tree = ast.parse(textwrap.dedent(snippet.text))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "edge_client":
            assert set() == {alias.name for alias in node.names} - set(edge_client.__all__)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("EdgeClient.connect"):
            assert set() == {keyword.arg for keyword in node.keywords if keyword.arg} - CONNECT_SETTINGS


@pytest.mark.parametrize("snippet", of("yaml", "json", "toml"), ids=named)
def test_data_can_be_parsed(snippet):
    match snippet.language:
        case "yaml":
            list(yaml.safe_load_all(snippet.text))
        case "json":
            json.loads(snippet.text)
        case "toml":
            tomllib.loads(snippet.text)


@pytest.mark.parametrize("snippet", [s for s in ALL if s.verb == "part of"], ids=named)
def test_a_part_of_an_example_is_in_it_word_by_word(snippet):
    example = (ROOT / snippet.what).read_text(encoding="utf-8")
    lines = [line.strip() for line in example.splitlines() if line.strip()]
    pieces = [[line.strip() for line in piece.splitlines() if line.strip()] for piece in snippet.text.split("# …\n")]
    for piece in pieces:
        assert any(lines[start : start + len(piece)] == piece for start in range(len(lines))), "\n".join(piece)


def test_output_is_compared_word_by_word():
    assert matches("a  b\n  c", "a b c")
    assert matches("a … c", "a b\nb c")
    assert matches("a … c", "a c")
    assert matches("v…", "v12")
    assert matches("…", "")
    assert matches("…\na\n…\nb", "a b")
    assert matches("a, …\nb", "a, x\nb")
    assert not matches("a …", "ab")
    assert not matches("a c", "a b c")
    assert contains("strong … 2.0.0", "cam strong m 2.0.0 x")
    assert not contains("strong 2.0.0", "cam strong m 2.0.0 x")
