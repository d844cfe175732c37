"""Tutorial and how-tos, done as written: every snippet in the order of its page, on real servers, to the end."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, Snippet, commands, contains, matches, snippets
from tests.docs.terminals import Terminal

COMMAND_S = 90
LEAVE_S = 5
DONE = ("run", "file", "shows", "interrupt")
RUN = [page for page in PAGES if any(snippet.verb in DONE for snippet in snippets(page))]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class Reader:
    """Somebody who does what a page says, in a directory that looks like a fresh clone."""

    def __init__(self, place: Path) -> None:
        self.clone = place / "clone"
        self.clone.mkdir()
        for path in ROOT.iterdir():
            if path.name not in {".git", "pyproject.toml", "constraints.txt", "build"} and not path.name.endswith(
                "_cache"
            ):
                (self.clone / path.name).symlink_to(path)
        for name in (
            "pyproject.toml",
            "constraints.txt",
        ):  # older than the environment, so that nothing is installed anew
            (self.clone / name).write_bytes((ROOT / name).read_bytes())
            os.utime(self.clone / name, (0, 0))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CCS_", "COV_", "PYTEST_"))}
        self.env = kept | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONUNBUFFERED": "1",  # as on a terminal
            "COLUMNS": "140",
            "NO_COLOR": "1",
            "HOME": str(place),
        }
        self.terminals: dict[str, Terminal] = {}

    def terminal(self, what: str) -> Terminal:
        """The one that a mark names, or the first; a new one begins where the first one is."""
        name = what.removeprefix("terminal ") if what.startswith("terminal ") else ""
        if name not in self.terminals:
            first = self.terminals.get("")
            cwd = self.clone if first is None else Path(first.run("pwd", within_s=5)[1].strip())
            self.terminals[name] = Terminal(cwd=cwd, env=self.env)
        return self.terminals[name]

    def follow(self, snippet: Snippet) -> None:
        terminal = self.terminal(snippet.what)
        match snippet.verb:
            case "file":
                directory = Path(self.terminal("").run("pwd", within_s=5)[1].strip())
                (directory / snippet.what).write_text(snippet.text, encoding="utf-8")
            case "shows":
                self._shows(terminal, snippet.text, place=snippet.place)
            case "interrupt":
                terminal.interrupt()
            case "run" if snippet.language == "python":
                code, output = terminal.run(f"python - <<'PYTHON'\n{snippet.text}\nPYTHON", within_s=COMMAND_S)
                assert 0 == code, f"{snippet.place}\n{output}"
            case "run":
                self._type(terminal, snippet)

    def _type(self, terminal: Terminal, snippet: Snippet) -> None:
        todo = commands(snippet.text)
        expected_code = int(snippet.what.split()[1]) if snippet.what.startswith("exit ") else 0
        for number, command in enumerate(todo, start=1):
            last = number == len(todo)
            if last and snippet.what.startswith("terminal "):
                terminal.forget()
                terminal.type(command.text)
                self._shows(terminal, command.output, place=snippet.place)
                return
            code, output = terminal.run(command.text, within_s=COMMAND_S)
            deadline = time.monotonic() + COMMAND_S
            while last and snippet.what == "until" and not matches(command.output, output):
                assert time.monotonic() < deadline, f"{snippet.place}: never\n{command.output}\n--- seen\n{output}"
                time.sleep(0.5)
                code, output = terminal.run(command.text, within_s=COMMAND_S)
            assert code == (expected_code if last else 0), (
                f"{snippet.place}: {command.text}\nexit code {code}\n{output}"
            )
            assert not command.output or matches(command.output, output), (
                f"{snippet.place}: {command.text}\n--- shown in the page\n{command.output}\n--- seen\n{output}"
            )

    def _shows(self, terminal: Terminal, expected: str, *, place: str) -> None:
        def shown() -> bool:
            return contains(expected, terminal.new_text())

        terminal.wait(lambda: shown() or terminal.idle(), within_s=COMMAND_S, what=f"{place}: {expected}")
        assert shown(), f"{place}: it ended without\n{expected}\n--- seen\n{terminal.new_text()[-3000:]}"
        terminal.forget()

    def leave(self) -> None:
        """Nothing that the page started is left."""
        with contextlib.suppress(KeyError, TimeoutError, OSError):
            self.terminals[""].run("test -d .testbed && ccs testbed down", within_s=30)
        for terminal in self.terminals.values():
            terminal.close()


@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_can_be_followed_to_its_end(page, tmp_path):
    do(page, tmp_path)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("<!-- run -->\n```console\n$ echo one two\none …\n```", None),
        ("<!-- run -->\n```console\n$ echo one\ntwo\n```", "shown in the page"),
        ("<!-- run -->\n```console\n$ false\n```", "exit code 1"),
        ("<!-- run: exit 1 -->\n```console\n$ true\n```", "exit code 0"),
        ("<!-- run: until -->\n```console\n$ echo -n x >> a; cat a\nxxx\n```", None),
        ("<!-- prepare\n$ false\n-->", "exit code 1"),
        ("<!-- run -->\n```python\nraise SystemExit(3)\n```", "page.md:2"),
        (
            "<!-- file: a.json -->\n```json\n[1]\n```\n<!-- run -->\n```console\n$ cat a.json\n[2]\n```",
            "shown in the page",
        ),
        ("<!-- run: terminal b -->\n```console\n$ echo one; sleep 30\none\n```\n<!-- interrupt: terminal b -->", None),
        ("<!-- run: terminal b -->\n```console\n$ echo one\ntwo\n```", "it ended without"),
        ("<!-- run -->\n```console\n$ setsid sleep 60 > out.txt 2>&1 & sleep 1\n```", "leaves processes behind"),
    ],
)
def test_a_page_that_does_not_hold_is_noticed(text, complaint, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(text + "\n", encoding="utf-8")
    if complaint is None:
        do(page, tmp_path)
        return
    with pytest.raises(AssertionError, match=complaint):
        do(page, tmp_path)


def do(page: Path, place: Path) -> None:
    """Everything on a page. Raises `AssertionError` for what is not as it says."""
    reader = Reader(place)
    try:
        for snippet in snippets(page):
            reader.follow(snippet)
    finally:
        reader.leave()
        left = processes_of(place)
        patience_s = time.monotonic() + LEAVE_S
        while left and time.monotonic() < patience_s:  # whoever was just told to leave takes a moment
            time.sleep(0.1)
            left = processes_of(place)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert [] == left, "the page leaves processes behind"


def processes_of(place: Path) -> list[int]:
    """Whoever runs in or below a directory."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            pid = int(entry.name)
            if (entry / "cwd").readlink().is_relative_to(place):
                found.append(pid)
    return found
