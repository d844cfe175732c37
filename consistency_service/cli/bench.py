"""`ccs bench …`: what this machine, or a rule of ours, is worth on your own data."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.text import Text

from consistency_service.cli import hit_ratio as rules
from consistency_service.cli.session import Session, command, in_order
from consistency_service.cli.traces import Trace, TraceFormat, read_trace

REQUESTS_MAX: Final = 5_000_000
RULES: Final = 4

app = typer.Typer(
    cls=in_order("hit-ratio"),
    help="Measure on your own data what the parts of an edge are worth. No region is needed.",
    no_args_is_help=True,
)


@command(
    app,
    "hit-ratio",
    remote=False,
    examples=(
        "ccs bench hit-ratio --trace gli.trace.gz --size 1000",
        "ccs bench hit-ratio --trace OLTP.lis.zst --size 1000 --size 5000 --json",
    ),
)
def hit_ratio(
    session: Session,
    trace: Annotated[
        Path,
        typer.Option(
            "--trace",
            metavar="FILE",
            help="What was asked for, in order; plain or packed by gzip, xz or zstd.",
            show_default=False,
        ),
    ],
    sizes: Annotated[
        list[int] | None,
        typer.Option(
            "--size",
            metavar="N",
            min=1,
            help="Room for so many items; may be repeated. [dim]Default: five parts of the different keys[/dim]",
            show_default=False,
        ),
    ] = None,
    trace_format: Annotated[
        TraceFormat,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="`keys`: one key a line; `lirs`: one number a line, `*` marks; `arc`: start, count and two numbers more; "
            "`auto`: as the first line looks.",
        ),
    ] = TraceFormat.AUTO,
    requests: Annotated[
        int, typer.Option("--requests", metavar="N", min=1, max=100_000_000, help="Read no more than so many.")
    ] = REQUESTS_MAX,
) -> int:
    """Replay a trace against the memory tier's eviction, LRU, W-TinyLFU and the optimum, at equal size.

    W-TinyLFU is that of the library theine, if it is installed. Exit code 1: ours is worse than LRU by more than half a
    point, or than W-TinyLFU by more than two where that wins. No store holds both on every trace: learning which of the two
    is right can cost what the store holds, and more; that alone is over half a point of a trace shorter than 200 times the size.
    """
    read = read_trace(trace, trace_format=trace_format, requests_max=requests)
    if read.cut:
        session.screen.note(f"only the first {requests:,} requests of {read.name} are replayed; see --requests")
    chosen = list(dict.fromkeys(sizes or rules.default_sizes(read.keys)))
    with session.screen.count_progress() as progress:
        task = progress.add_task("replaying", total=RULES * len(chosen) * len(read.requests))
        made = [rules.compare(read.requests, size=size, step=lambda n: progress.advance(task, n)) for size in chosen]
    if session.json:
        rows = [{**asdict(ratios), "kept": ratios.kept} for ratios in made]
        session.screen.document(
            {"trace": read.name, "requests": len(read.requests), "keys": read.keys, "cut": read.cut, "sizes": rows}
        )
    else:
        _show(session, read, made)
    return 0 if all(ratios.kept for ratios in made) else 1


def _show(session: Session, read: Trace, made: list[rules.HitRatios]) -> None:
    screen = session.screen
    screen.text(f"{read.name}: {len(read.requests):,} requests, {read.keys:,} different keys; hits in per cent")
    screen.text()
    rows = [
        (
            f"{ratios.size:,}",
            f"{ratios.lru:.1f}",
            Text(f"{ratios.ours:.1f}", style="bold"),
            "-" if ratios.w_tinylfu is None else f"{ratios.w_tinylfu:.1f}",
            f"{ratios.optimum:.1f}",
            Text("kept", style="green") if ratios.kept else Text("broken", style="bold red"),
        )
        for ratios in made
    ]
    screen.table((">SIZE", ">LRU", ">OURS", ">W-TINYLFU", ">OPTIMUM", "BOUND"), rows, empty="no size was asked for")
    if any(ratios.w_tinylfu is None for ratios in made):
        screen.note("W-TinyLFU is compared where theine is installed: pip install theine")
    if any(not ratios.kept and len(read.requests) < rules.CONTENTS_MIN * ratios.size for ratios in made):
        screen.note(
            f"where a trace is shorter than {rules.CONTENTS_MIN} times the size, learning which rule is right can cost that much"
        )
