"""How the demo looks: a table that lives in a terminal, or plain lines where there is none."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from types import TracebackType
from typing import IO, Final, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from consistency_service.testbed.demo_facts import MS, Facts, RolloutFacts, accuracies
from consistency_service.testbed.demo_promises import NOT_MEASURED, Promise
from consistency_service.testbed.demo_summary import Summary
from consistency_service.testbed.edge_status import EdgeStatus

PLAIN_INTERVAL_S: Final = 2.0
STYLES: Final = {"strong": "bold green", "bounded": "yellow", "fallback": "red"}


class View(ABC):
    """Where the demo tells what happens."""

    def __init__(self) -> None:
        self.begun_s = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.begun_s

    @abstractmethod
    def say(self, text: str) -> None:
        """Something happened."""

    @abstractmethod
    def awaiting(self, text: str) -> None:
        """From now on this is waited for."""

    @abstractmethod
    def show(self, facts: Facts) -> None:
        """The edges as they are now."""

    @abstractmethod
    def conclude(self, summary: Summary) -> None:
        """The end, in words."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None


class PlainView(View):
    """Lines, each with the seconds since the start."""

    def __init__(self, stream: IO[str]) -> None:
        super().__init__()
        self._stream = stream
        self._shown_s = 0.0

    def say(self, text: str) -> None:
        self._stream.write(f"[{self.elapsed_s:6.1f}s] {text}\n")
        self._stream.flush()

    def awaiting(self, text: str) -> None:
        self.say(f"{text} ...")

    def show(self, facts: Facts) -> None:
        if not facts.statuses or self.elapsed_s - self._shown_s < PLAIN_INTERVAL_S:
            return
        self._shown_s = self.elapsed_s
        self.say("; ".join(_plain(edge, status) for edge, status in facts.statuses.items()))
        found = next(reversed(facts.rollouts.values()), None)
        if found is not None and found.seen is not None and not found.seen.ended:
            self.say("; ".join(rollout_text(found).plain.splitlines()))

    def conclude(self, summary: Summary) -> None:
        for one in summary.promises:
            kept = "as promised" if one.held else "NOT as promised"
            act = "all acts" if one.about == "all" else f"act {one.about}"
            self.say(f"{act}: {one.promise}: {one.value} ({one.limit}), {kept}")
        for line in sentences(summary):
            self.say(line)


class LiveView(View):
    """A table that is redrawn in place; what happened scrolls by above it."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._spinner = Spinner("dots", style="cyan")
        self._table: RenderableType | None = None
        self._rollout: RenderableType | None = None
        self._over = False
        self._live = Live(console=console, refresh_per_second=10, get_renderable=self._frame)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def say(self, text: str) -> None:
        self._console.print(Text.assemble((f"{self.elapsed_s:5.1f}s ", "dim"), text))

    def awaiting(self, text: str) -> None:
        self._spinner.update(text=Text(f"{text} …"))

    def show(self, facts: Facts) -> None:
        found = next(reversed(facts.rollouts.values()), None)
        self._table = table_of(facts) if facts.statuses else None
        self._rollout = None if found is None or found.seen is None else rollout_text(found)

    def conclude(self, summary: Summary) -> None:
        self._stop()
        self._console.print(promises_table(summary.promises))
        title, style = ("As promised", "green") if summary.ok else ("NOT as promised", "bold red")
        self._console.print(Panel("\n".join(sentences(summary)), title=title, border_style=style, padding=(0, 1)))

    def _frame(self) -> RenderableType:
        parts: list[RenderableType] = [] if self._table is None else [Padding(self._table, (1, 0, 0, 0))]
        if self._rollout is not None:
            parts.append(Padding(self._rollout, (1, 0, 1, 0)))
        return Group(*parts, self._spinner) if not self._over else Group(*parts)

    def _stop(self) -> None:
        self._over = True
        self._live.stop()


def view_of(*, json_output: bool) -> View:
    """A live view if somebody watches; with `json_output` lines on standard error, as the document goes to output."""
    if json_output:
        return PlainView(sys.stderr)
    console = Console()
    return LiveView(console) if console.is_terminal and not console.is_dumb_terminal else PlainView(sys.stdout)


def table_of(facts: Facts) -> Table:
    """A row for each edge, and the spread between them."""
    before, after = facts.versions
    table = Table(
        box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, caption=_caption(facts), caption_justify="left"
    )
    table.add_column("edge", no_wrap=True)
    table.add_column("version", no_wrap=True)
    table.add_column("guarantee", no_wrap=True, min_width=9)
    table.add_column(before, justify="right", no_wrap=True)
    table.add_column(after, justify="right", no_wrap=True)
    table.add_column("switched at", justify="right", no_wrap=True, min_width=15)
    table.add_column("reads/s", justify="right", no_wrap=True)
    table.add_column("strong", justify="right", no_wrap=True, min_width=8)
    for edge, status in facts.statuses.items():
        table.add_row(
            edge,
            Text(status.version or "–", style="bold cyan" if status.version == after else ""),
            Text(_guarantee(status), style=STYLES.get(status.guarantee or "", "dim")),
            _accuracy(status, before),
            _accuracy(status, after),
            _switched(facts, edge),
            f"{status.reads_per_second:,.0f}",
            _worth(facts, edge),
        )
    return table


def promises_table(promises: list[Promise]) -> Table:
    """What was promised, and what was measured."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("act", no_wrap=True)
    table.add_column("promised")
    table.add_column("limit", justify="right", no_wrap=True)
    table.add_column("measured", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    told = ""
    for one in promises:
        mark = Text("✓", style="green") if one.held else Text("✗", style="bold red")
        value = Text(one.value, style="" if one.held else "bold red")
        table.add_row("" if one.about == told else one.about, one.promise, one.limit, value, mark)
        told = one.about
    return table


def rollout_text(found: RolloutFacts) -> Text:
    """Stages, candidate against stable, and the reason, as far as it has come."""
    seen, text = found.seen, Text()
    if seen is None:
        return text
    text.append(f"rollout {found.rollout_id}   ", style="bold")
    failed = seen.last("fail")
    for number, share in enumerate(found.stages):
        reached = seen.active_stage is not None and number <= seen.active_stage
        if failed is not None and number == failed.stage:
            mark, style = "✗", "bold red"
        elif seen.phase == "completed" or (seen.active_stage is not None and number < seen.active_stage):
            mark, style = "✓", "green"
        else:
            mark, style = ("▶", "bold cyan") if reached and failed is None else ("·", "dim")
        text.append(f"{mark} {share}   ", style=style)
    baked = f" {seen.baked_ms / 1e3:.0f} s" if seen.phase == "baking" else ""
    text.append(
        f"{seen.phase}{baked}", style="bold red" if failed else "bold green" if seen.phase == "completed" else ""
    )
    if seen.live is not None and seen.phase == "prefetching":
        text.append(f", {seen.live.ready_count} ready, {seen.live.waiting_count} not yet")
    finding = found.finding
    if finding is not None and finding.value_candidate is not None and finding.value_stable is not None:
        text.append(
            f"\nerror rate: candidate {100 * finding.value_candidate:.1f} % of {finding.samples_candidate:,}, "
            f"stable {100 * finding.value_stable:.1f} % of {finding.samples_stable:,}: {finding.result}"
        )
    if failed is not None:
        text.append(f"\n{failed.reason}", style="red")
    return text


def sentences(summary: Summary) -> list[str]:
    """The outcome for people, beside the promises."""
    lines = []
    if summary.accuracy:
        steps = ", ".join(f"{version}: {100 * share:.1f} %" for version, share in summary.accuracy.items())
        lines.append(f"right on images never seen: {steps}")
    for one in summary.rollouts:
        total, edges = sum(one.classified.values()), list(one.classified)
        who = edges[0] if len(edges) == 1 else f"{len(edges)} edges"
        why = "" if one.phase == "completed" else f" ({one.reason})"
        lines.append(f"{one.version} {one.phase}{why} after {total:,} classifications by {who}")
    if summary.commit_after_ms is not None:
        lines.append(f"{summary.killed} was killed, {summary.leader_after or 'another'} took over")
    reads = ", ".join(f"{count:,} {guarantee}" for guarantee, count in summary.reads.items()) or "none"
    cost = "" if summary.bare_read_ns_p50 is None else f"; a bare read costs {summary.bare_read_ns_p50:.0f} ns"
    lines.append(f"reads: {reads}{cost}")
    lines.append(f"history: {summary.history}")
    lines += [f"problem: {problem}" for problem in summary.problems]
    lines += [
        f"not held: {one.promise}: {one.value} ({one.limit})"
        for one in summary.promises
        if not one.held and not (summary.problems and one.value == NOT_MEASURED)  # then the problems say why
    ]
    verdict = (
        "everything was as promised" if summary.ok else f"not as promised; logs and histories: {summary.directory}"
    )
    lines.append(f"{verdict} ({summary.duration_s:.0f} s)")
    return lines


def _caption(facts: Facts) -> str:
    parts = []
    if facts.changes:
        parts.append("switched at: this edge's computed instant, after the newest change's own")
        if (spread_ms := facts.spread_ms(_newest(facts))) is not None:
            parts.append(f"spread between the edges' instants: {spread_ms:.2f} ms")
    if facts.killed is not None and not facts.rollouts:
        parts.append(f"lost: readings that were not strong, since {facts.killed}, the leader, was killed")
        if facts.commit_after_ms is not None:
            parts.append(f"commits resumed {facts.commit_after_ms:,.0f} ms after the kill")
    return "\n".join(parts)


def _newest(facts: Facts) -> str:
    """The change that was decided last."""
    return max(facts.changes, key=lambda name: facts.changes[name].generation)


def _guarantee(status: EdgeStatus) -> str:
    if status.guarantee is None:
        return "waiting" if status.generation is None else "failing"
    if status.guarantee == "strong":
        return "strong"
    bound = "?" if status.staleness_bound_ms is None else f"{status.staleness_bound_ms} ms"
    return f"{status.guarantee} ≤ {bound}"


def _accuracy(status: EdgeStatus, version: str) -> str:
    share = accuracies([status.versions]).get(version)
    return "" if share is None else f"{100 * share:.1f} %"


def _switched(facts: Facts, edge: str) -> str:
    switch = facts.switch(_newest(facts), edge) if facts.changes else None
    return "" if switch is None else f"+{switch.late_ns / MS:.2f} ± {switch.uncertainty_ns / 2 / MS:.2f} ms"


def _worth(facts: Facts, edge: str) -> Text:
    lost = None if facts.rollouts else facts.not_strong_since_kill(edge)
    if lost is None:
        status = facts.statuses[edge]
        return Text(f"{100 * status.reads.get('strong', 0) / status.read_count:.2f} %" if status.read_count else "")
    return Text(f"{lost:,} lost", style="bold green" if lost == 0 else "bold red")


def _plain(edge: str, status: EdgeStatus) -> str:
    return f"{edge} {status.version or '-'} {_guarantee(status)} {status.reads_per_second:.0f}/s"
