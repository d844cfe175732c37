"""`ccs chaos`: hurt a region on purpose, and say whether it kept what it promises."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer
from rich.text import Text

from consistency_service.cli.session import Session
from consistency_service.testbed.topology import EDGES_MAX, NODES_MAX

if TYPE_CHECKING:
    from consistency_service.testbed.chaos.report import ChaosReport

ALL_KINDS: Final = "kill,pause,partition,bus,disk,clock,redis"
PAGE: Final = Path("chaos-report.html")
SEEDS: Final = 2**31


def chaos(
    session: Session,
    minutes: Annotated[
        float, typer.Option("--minutes", "-m", metavar="N", min=0.3, help="How long the region is hurt.")
    ] = 5.0,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            metavar="S",
            help="What is done when, and what is asked for, is drawn from it. [dim]Default: a new one[/dim]",
            show_default=False,
        ),
    ] = None,
    faults: Annotated[
        str, typer.Option("--faults", metavar="KINDS", help="Which kinds of fault, separated by commas.")
    ] = ALL_KINDS,
    nodes: Annotated[
        int, typer.Option("--nodes", metavar="N", min=1, max=NODES_MAX, help="Members of the cluster.")
    ] = 3,
    edges: Annotated[int, typer.Option("--edges", metavar="N", min=1, max=EDGES_MAX, help="Edge processes.")] = 3,
    beyond: Annotated[
        str | None,
        typer.Option(
            "--break",
            metavar="WHAT",
            help="Leave the protocol's assumptions instead, to see that a violation is found: `clock-rate`.",
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(
            "--keep",
            metavar="DIRECTORY",
            help="Keep logs, histories and the ledger here. [dim]Default: only if something was not as promised[/dim]",
            file_okay=False,
            show_default=False,
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE.html",
            help=f"Where the report goes. [dim]Default: report.html in the kept directory, else {PAGE}[/dim]",
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
) -> int:
    """Start a region here, hurt it in every way that it must survive, and judge what everybody saw and was told.

    Faults overlap, heal, and come again, as drawn from the seed. Meanwhile edges and callers read, release and delete.
    Exit code 0 means: no promise was broken, every acknowledged command is there, and all edges converged at the end.
    """
    import secrets

    from consistency_service.testbed.chaos.plan import parse_break, parse_kinds
    from consistency_service.testbed.chaos.run import ChaosConfig, run

    config = ChaosConfig(
        seed=secrets.randbelow(SEEDS) if seed is None else seed,
        minutes=minutes,
        kinds=parse_kinds(faults),
        nodes=nodes,
        edges=edges,
        breaking=parse_break(beyond),
    )
    page = report or (keep / "report.html" if keep else PAGE)
    made = run(config, keep=keep, page=page, say=session.screen.note)
    if session.json:
        session.screen.document(msgspec.to_builtins(made))
    else:
        _show(session, made, page=page)
    return 0 if made.ok else 1


def _show(session: Session, made: ChaosReport, *, page: Path) -> None:
    from consistency_service.testbed.chaos.report import mean

    screen = session.screen
    screen.text()
    rows = [
        (
            Text("kept", style="green") if check.ok else Text(f"broken ×{check.breaches}", style="bold red"),
            check.name,
            check.promise + (": " + check.text if check.ok else ""),
        )
        for check in made.checks
    ]
    screen.table(("", "CHECK", "PROMISE AND FINDING"), rows, empty="nothing was checked")
    for check in made.checks:
        for detail in check.details:
            screen.text(Text(f"  {check.name}: {detail}", style="red"))
    screen.text()
    done = [fault for fault in made.faults if fault.skipped is None]
    told = [sum(counts.get(name, 0) for counts in made.requests.values()) for name in ("done", "unknown", "refused")]
    screen.fields(
        [
            ("seed", str(made.seed)),
            ("faults", f"{len(done)} done, {len(made.faults) - len(done)} skipped"),
            ("commands", f"{told[0]:,} acknowledged, {told[1]:,} of unknown outcome, {told[2]:,} refused"),
            (
                "strong reads",
                f"{100 * mean(made.strong_edges):.1f} % of the time at edges, {100 * mean(made.strong_nodes):.1f} % at nodes",
            ),
            ("report", str(page)),
            *((("kept in", made.directory),) if made.directory else ()),
        ]
    )
    screen.text()
    if made.ok:
        screen.text(Text("every promise was kept", style="bold green"))
        return
    screen.text(Text("not as promised", style="bold red"))
    beyond = f" --break {made.beyond}" if made.beyond else ""
    again = f"ccs chaos --minutes {made.minutes:g} --seed {made.seed} --faults {','.join(made.kinds)}{beyond}"
    screen.text(f"the same programme again: {again} --nodes {made.nodes} --edges {made.edges}")
