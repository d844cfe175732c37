"""The snippets of a page, and what the page says about them.

A snippet is a fenced block. A comment right above it, which no reader sees, says what is to be done with it; CONTRIBUTING
has the list. Output is compared word by word, wherever lines and columns break; `…` stands for anything.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    [*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "ops" / "runbooks").rglob("*.md")]
)
RUN_KINDS = ("tutorial", "how-to")
"""Folders in which every snippet says what is to be done with it; elsewhere snippets are checked and not run."""

MARKED_LANGUAGES = {"console", "python", "bash", "sh", "yaml", "toml", "json", "javascript", "ini", "conf", ""}
MARK = re.compile(r"^<!-- (?P<verb>run|file|shows|part of|only checked|interrupt)(?:: (?P<what>.+?))? -->$")
PREPARE = "<!-- prepare"


@dataclass(frozen=True)
class Snippet:
    """One block, or something to be done that no reader sees."""

    page: Path
    line: int
    language: str
    text: str
    verb: str = ""
    """What its mark says; empty: nothing."""
    what: str = ""

    @property
    def place(self) -> str:
        return f"{os.path.relpath(self.page, ROOT)}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A line after a prompt, and what the page shows below it."""

    text: str
    output: str


def snippets(page: Path) -> list[Snippet]:
    """In the order of the page; hidden preparations and interrupts among them. Raises `ValueError` at a fence without end."""
    return list(_snippets(page, page.read_text(encoding="utf-8").splitlines()))


def _snippets(page: Path, lines: list[str]) -> Iterator[Snippet]:
    number, verb, what = 0, "", ""
    while number < len(lines):
        line, begun = lines[number].strip(), number + 1
        if fence := re.match(r"^(\s*)(`{3,})\s*([\w+-]*)", lines[number]):
            indent, ticks, language = fence.groups()
            body: list[str] = []
            number += 1
            while number < len(lines) and lines[number].strip() != ticks:
                body.append(lines[number].removeprefix(indent))
                number += 1
            if number == len(lines):
                raise ValueError(f"{page.name}:{begun}: a fence without end")
            yield Snippet(page, begun, language, "\n".join(body) + "\n", verb, what)
            verb = what = ""
        elif line == PREPARE:
            end = next(index for index in range(number, len(lines)) if lines[index].strip() == "-->")
            yield Snippet(page, begun, "console", "\n".join(lines[number + 1 : end]) + "\n", "run")
            number = end
        elif mark := MARK.match(line):
            verb, what = mark["verb"], mark["what"] or ""
            if verb == "interrupt":
                yield Snippet(page, begun, "", "", verb, what)
                verb = what = ""
        elif line:
            verb = what = ""
        number += 1


def commands(text: str) -> list[Command]:
    """What a console snippet has after `$ `, a line that ends in a backslash being continued, each with its output."""
    found: list[tuple[list[str], list[str]]] = []
    continued = False
    for line in text.splitlines():
        if continued:
            found[-1][0].append(line)
        elif line.startswith("$ "):
            found.append(([line[2:]], []))
        elif found:
            found[-1][1].append(line)
        elif line.strip():
            raise ValueError(f"output without a command: {line!r}")
        continued = line.endswith("\\") and (continued or line.startswith("$ "))
    return [Command("\n".join(command), "\n".join(output).strip()) for command, output in found]


def matches(expected: str, actual: str) -> bool:
    """Whether the words are the same, `…` and `...` standing for any or none."""
    return re.fullmatch(_pattern(expected), f" {' '.join(actual.split())} ", re.DOTALL) is not None


def contains(expected: str, actual: str) -> bool:
    """Whether the words occur somewhere."""
    return re.search(_pattern(expected), f" {' '.join(actual.split())} ", re.DOTALL) is not None


def _pattern(expected: str) -> str:
    """A word of its own that is `…` is any number of words; within a word it is any text."""
    words = re.sub(r"…(?: …)+", "…", " ".join(expected.replace("...", "…").split()))
    return re.escape(f" {words} ").replace("\\ …\\ ", "(?: | .* )").replace("…", ".*?")
