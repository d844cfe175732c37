"""What is printed, and how: tables and sentences for people, JSON for programs, nothing that moves into a pipe.

Results go to stdout; notes, progress and errors go to stderr. Instants are printed in UTC, in the form that `--at` takes.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

PIPE_WIDTH: Final = 10_000
"""Nothing is folded or cut where no window is: a line stays a line for grep."""

_GUARANTEE_STYLES: Final = {"strong": "green", "bounded": "yellow", "fallback": "red"}
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

Cell = str | Text


class Screen:
    """Where a command prints. With `json_output` only documents reach stdout."""

    def __init__(self, *, json_output: bool, color: bool) -> None:
        self.json_output = json_output
        self._out = _console(sys.stdout, color=color)
        self._err = _console(sys.stderr, color=color)

    @property
    def live(self) -> bool:
        """Whether somebody looks: progress may move."""
        return self._err.is_terminal and not self._err.is_dumb_terminal

    def shortened(self, text: str, length: int) -> str:
        """Its beginning where somebody looks, all of it in a pipe."""
        return text[:length] + "…" if self._out.is_terminal and len(text) > length + 1 else text

    # ---- results

    def document(self, value: Any) -> None:
        """One JSON document, indented."""
        print(json.dumps(value, indent=2, ensure_ascii=False))

    def line(self, value: Any) -> None:
        """One JSON document in one line, at once."""
        print(json.dumps(value, ensure_ascii=False, separators=(",", ":")), flush=True)

    def text(self, text: Cell = "") -> None:
        """One line of a result."""
        self._out.print(_cell(text), soft_wrap=True)

    def paragraph(self, text: Cell) -> None:
        """Some lines of a result, wrapped at the width of the window."""
        self._out.print(_cell(text))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Cell]], *, empty: str) -> None:
        """Rows under headings; the columns whose heading begins with `>` are aligned to the right."""
        listed = list(rows)
        if not listed:
            self.note(empty)
            return
        self._print_trimmed(grid(columns, listed))

    def fields(self, pairs: Iterable[tuple[str, Cell]]) -> None:
        """A name and a value a line."""
        self._print_trimmed(pairs_of(pairs))

    def show(self, parts: Iterable[RenderableType]) -> None:
        """Several tables and lines, one below the other."""
        self._print_trimmed(Group(*parts))

    @property
    def moving(self) -> bool:
        """Whether results may move: they go to a terminal, and not as documents."""
        return self._out.is_terminal and not self._out.is_dumb_terminal and not self.json_output

    def live_view(self) -> Live:
        """A result that is drawn anew in place; its last state stays."""
        return Live(console=self._out, auto_refresh=False, vertical_overflow="ellipsis")

    # ---- beside results

    def note(self, text: str) -> None:
        """One line for people, on stderr."""
        self._err.print(Text(clean(text), style="dim"), soft_wrap=True)

    def failure(self, text: str, *, hint: str = "", problem: dict[str, Any]) -> None:
        """What went wrong in one sentence, and what to do; with `json_output` the problem document, on stdout."""
        if self.json_output:
            self.document(problem)
            return
        self._err.print(Text.assemble(("error: ", "bold red"), clean(text)), soft_wrap=True)
        if hint:
            self._err.print(Text.assemble(("hint: ", "bold"), clean(hint)), soft_wrap=True)

    def upload_progress(self) -> Progress:
        """A bar that counts bytes; invisible where nobody looks."""
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            DownloadColumn(binary_units=False),
            TransferSpeedColumn(),
            console=self._err,
            transient=True,
            disable=self.json_output or not self.live,
        )

    def count_progress(self) -> Progress:
        """A bar with the time that is left; invisible where nobody looks."""
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TimeRemainingColumn(),
            console=self._err,
            transient=True,
            disable=self.json_output or not self.live,
        )

    def wait_progress(self) -> Progress:
        """A bar that counts edges; invisible where nobody looks."""
        return Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            console=self._err,
            transient=True,
            disable=self.json_output or not self.live,
        )

    def _print_trimmed(self, part: RenderableType) -> None:
        """Print without the blanks that fill a table up to its width."""
        if self._out.is_terminal:
            self._out.print(part)
            return
        with self._out.capture() as capture:
            self._out.print(part)
        for line in capture.get().splitlines():
            print(line.rstrip())


def grid(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Table:
    """Rows under headings, as `Screen.table` prints them."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in columns:
        right = heading.startswith(">")
        table.add_column(heading.removeprefix(">"), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(cell) for cell in row))
    return table


def pairs_of(pairs: Iterable[tuple[str, Cell]]) -> Table:
    """A name and a value a line, as `Screen.fields` prints them."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(name, _cell(value))
    return table


def clean(text: str) -> str:
    """One line without what could move a cursor or turn text around: names come from outside."""
    text = " ".join(text.split("\n")) if "\n" in text else text
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def instant(unix_ms: int | None) -> str:
    """An instant in UTC, to the millisecond."""
    if unix_ms is None:
        return "-"
    try:
        moment = datetime.fromtimestamp(unix_ms / 1_000, tz=UTC)
    except (OverflowError, ValueError, OSError):
        return f"{unix_ms} ms"
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{unix_ms % 1_000:03d}Z"


def duration(ms: float | None) -> str:
    """A duration in the unit that suits it."""
    if ms is None:
        return "unknown"
    for limit, divisor, unit in ((1_000, 1, "ms"), (120_000, 1_000, "s"), (7_200_000, 60_000, "min")):
        if ms < limit:
            return f"{ms / divisor:.1f} {unit}" if unit == "s" and ms < 10_000 else f"{ms / divisor:.0f} {unit}"
    return f"{ms / 3_600_000:.1f} h"


def size(count_bytes: float) -> str:
    """A number of bytes in the unit that suits it."""
    for unit in ("B", "kB", "MB", "GB"):
        if count_bytes < 1_000:
            return f"{count_bytes:.0f} {unit}" if unit == "B" else f"{count_bytes:.1f} {unit}"
        count_bytes /= 1_000
    return f"{count_bytes:.1f} TB"


def guarantee(name: str) -> Text:
    """The guarantee in its colour."""
    return Text(clean(name), style=_GUARANTEE_STYLES.get(name, ""))


def yes(value: bool) -> str:
    return "yes" if value else "no"


def _cell(value: Cell) -> Text:
    return value if isinstance(value, Text) else Text(clean(value))


def _console(stream: Any, *, color: bool) -> Console:
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(file=stream, width=width, no_color=True if not color else None, highlight=False, emoji=False)
