"""The report as one HTML page that needs nothing else: verdict, picture, promises, and everything that was done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from consistency_service.testbed.chaos.availability import STATES
from consistency_service.testbed.chaos.plan import FaultKind
from consistency_service.testbed.chaos.report import ChaosReport, FaultDone, Row, mean

WIDTH: Final = 1_160
LEFT: Final = 110
PLOT: Final = WIDTH - LEFT - 10
LANE: Final = 16
ROW: Final = 18
CHART: Final = 90
CHART_TOP: Final = 30
PIXELS_MIN: Final = 1.2
"""Narrower marks cannot be seen."""

STYLE: Final = """
:root { --ink: #1c2330; --soft: #667085; --line: #e3e7ee; --paper: #fff; --card: #f7f9fc; --good: #157f4b; --bad: #b3261e;
  --strong: #2f9e6b; --bounded: #f2b843; --fallback: #c06bd8; --failed: #d9534f; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 1200px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 34px 0 10px; }
.sub { color: var(--soft); margin: 0 0 18px; }
.verdict { border-radius: 10px; padding: 14px 18px; color: #fff; font-size: 17px; font-weight: 600; }
.verdict.good { background: var(--good); } .verdict.bad { background: var(--bad); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 12px; margin: 16px 0 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 10px 16px; }
.card b { display: block; font-size: 21px; } .card span { color: var(--soft); font-size: 13px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
.promises td:nth-child(2) { width: 44%; } th { text-align: left; color: var(--soft); font-weight: 600; } th, td { padding: 5px 12px 5px 0; vertical-align: top;
  border-bottom: 1px solid var(--line); }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.ok { color: var(--good); font-weight: 600; white-space: nowrap; } .no { color: var(--bad); font-weight: 600; white-space: nowrap; }
.dim, .dim td { color: var(--soft); } code, .mono { font: 13px ui-monospace, Menlo, Consolas, monospace; }
ul.breaches { margin: 4px 0 4px 18px; padding: 0; font: 12.5px ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
svg { width: 100%; height: auto; border: 1px solid var(--line); border-radius: 10px; background: var(--paper); }
svg text { font: 11px system-ui, sans-serif; fill: var(--soft); } svg text.name { fill: var(--ink); }
.legend { display: flex; flex-wrap: wrap; gap: 6px 18px; font-size: 13px; color: var(--soft); margin: 8px 0; }
.legend i { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 6px; vertical-align: -1px; }
details summary { cursor: pointer; color: var(--soft); margin: 6px 0; }
"""
COLOURS: Final = {state: f"var(--{state})" for state in STATES}
KIND_COLOURS: Final = {
    "kill": "#b3261e",
    "pause": "#d97706",
    "partition": "#1d6fd1",
    "bus": "#0f8b8d",
    "disk": "#7a5c3e",
    "clock": "#7c4dd6",
    "redis": "#c2337a",
}
MEANINGS: Final = {
    "strong": "every model strong",
    "bounded": "some model with a stated bound only",
    "fallback": "some model by the version before",
    "failed": "some model without an answer",
}


def page_of(report: ChaosReport) -> str:
    """The whole page."""
    title = f"Chaos, seed {report.seed}"
    body = "\n".join((*_head(report), *_picture(report), *_promises(report), *_requests(report), *_faults(report)))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>\n'
        f"<body>\n{body}\n</body></html>\n"
    )


def _head(report: ChaosReport) -> Iterator[str]:
    done = [fault for fault in report.faults if fault.skipped is None]
    yield f"<h1>Chaos, seed {report.seed}</h1>"
    yield (
        f'<p class="sub">{report.begun_at} · {_minutes(report.minutes)} · {report.nodes} nodes, {report.edges} edges · '
        f"faults: {escape(', '.join(report.kinds))}</p>"
    )
    if report.beyond:
        yield (
            f"<p>This run left the assumptions of the protocol on purpose (<code>--break {escape(report.beyond)}</code>): "
            "a violation is expected, and shows that the judge sees one.</p>"
        )
    broken = [check for check in report.checks if not check.ok]
    if report.ok:
        yield f'<div class="verdict good">Every promise was kept: {len(report.checks)} checks, no violation.</div>'
    else:
        names = escape(", ".join(check.name for check in broken))
        yield f'<div class="verdict bad">Not as promised: {names}.</div>'
    acknowledged = sum(told.get("done", 0) for told in report.requests.values())
    converged = "never" if report.converged_ms is None else f"{report.converged_ms / 1_000:.1f} s"
    yield '<div class="cards">'
    for value, text in (
        (f"{len(done)}", "faults done"),
        (f"{acknowledged:,}", "commands acknowledged"),
        (f"{100 * mean(report.strong_edges):.1f} %", "of the time, edges read every model strongly"),
        (f"{100 * mean(report.strong_nodes):.1f} %", "the same, nodes by REST"),
        (converged, "from the healing to all edges strong at the newest revision"),
    ):
        yield f'<div class="card"><b>{value}</b><span>{text}</span></div>'
    yield "</div>"
    if report.notes:
        yield "".join(f'<p class="dim">{escape(note)}</p>' for note in report.notes)


# ---- the picture


def _picture(report: ChaosReport) -> Iterator[str]:
    kinds = [kind.value for kind in FaultKind if any(f.kind == kind and not f.skipped for f in report.faults)]
    lanes_top = CHART_TOP + CHART + 22
    rows_top = lanes_top + LANE * len(kinds) + 20
    height = rows_top + ROW * len(report.rows) + 34
    yield "<h2>What was done, and what could be read</h2>"
    yield (
        '<div class="legend">'
        + "".join(
            f'<span><i style="background:{COLOURS[state]}"></i>{state}: {MEANINGS[state]}</span>' for state in STATES
        )
        + '<span><i style="border:1px solid var(--line)"></i>nobody read: dead, or standing still</span></div>'
    )
    yield f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="Faults and availability over time">'
    yield from _chart(report, bottom=height - 28)
    for place, kind in enumerate(kinds):
        yield from _lane(report, kind, top=lanes_top + LANE * place)
    for place, row in enumerate(report.rows):
        yield from _row(report, row, top=rows_top + ROW * place)
    yield "</svg>"


def _x(report: ChaosReport, at_ms: float) -> float:
    return round(LEFT + PLOT * min(max(at_ms, 0), report.end_ms) / max(1, report.end_ms), 2)


def _chart(report: ChaosReport, *, bottom: int) -> Iterator[str]:
    top = CHART_TOP
    step_ms = next(
        (step for step in (10_000, 30_000, 60_000, 300_000, 600_000) if report.end_ms / step <= 13), 1_800_000
    )
    for at_ms in range(0, report.end_ms + 1, step_ms):
        x = _x(report, at_ms)
        label = f"{at_ms // 60_000}:{at_ms // 1_000 % 60:02d}"
        yield f'<line x1="{x}" y1="{top}" x2="{x}" y2="{bottom}" stroke="var(--line)"/>'
        yield f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{label}</text>'
    yield f'<text class="name" x="{LEFT}" y="{top - 9}">readers that read every model strongly</text>'
    for share, y in ((1.0, top), (0.5, top + CHART / 2), (0.0, top + CHART)):
        yield f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{100 * share:.0f} %</text>'
        yield f'<line x1="{LEFT}" y1="{y}" x2="{LEFT + PLOT}" y2="{y}" stroke="var(--line)"/>'
    points = _points(report.strong_edges, top=top)
    yield f'<polygon points="{LEFT},{top + CHART} {points} {LEFT + PLOT},{top + CHART}" fill="var(--strong)" opacity="0.22"/>'
    yield f'<polyline points="{points}" fill="none" stroke="var(--strong)" stroke-width="1.6"/>'
    nodes = _points(report.strong_nodes, top=top)
    yield f'<polyline points="{nodes}" fill="none" stroke="#1d6fd1" stroke-width="1.1" stroke-dasharray="3 2"/>'
    yield f'<text x="{LEFT - 44}" y="{top + 26}" text-anchor="end" style="fill:var(--strong)">— edges</text>'
    yield f'<text x="{LEFT - 44}" y="{top + 62}" text-anchor="end" style="fill:#1d6fd1">- - nodes</text>'


def _points(shares: Sequence[float], *, top: int) -> str:
    count = max(1, len(shares))
    return " ".join(
        f"{LEFT + PLOT * (place + 0.5) / count:.1f},{top + CHART * (1 - share):.1f}"
        for place, share in enumerate(shares)
    )


def _lane(report: ChaosReport, kind: str, *, top: int) -> Iterator[str]:
    colour = KIND_COLOURS[kind]
    yield f'<text class="name" x="{LEFT - 8}" y="{top + 11}" text-anchor="end">{kind}</text>'
    yield f'<line x1="{LEFT}" y1="{top + 7}" x2="{LEFT + PLOT}" y2="{top + 7}" stroke="var(--line)" stroke-dasharray="1 3"/>'
    for fault in report.faults:
        if fault.kind == kind and fault.skipped is None:
            x = _x(report, fault.begin_ms)
            width = max(3.0, _x(report, fault.end_ms) - x)
            yield (
                f'<rect x="{x}" y="{top + 1}" width="{width:.2f}" height="{LANE - 4}" rx="2" fill="{colour}" opacity="0.75">'
                f"<title>{escape(_clock(fault.begin_ms))} {escape(_named(fault))}</title></rect>"
            )


def _row(report: ChaosReport, row: Row, *, top: int) -> Iterator[str]:
    yield f'<text class="name" x="{LEFT - 8}" y="{top + 11}" text-anchor="end">{escape(row.reader)}</text>'
    yield f'<rect x="{LEFT}" y="{top}" width="{PLOT}" height="{ROW - 5}" fill="none" stroke="var(--line)"/>'
    for begin, end, state in _drawn(report, row):
        yield (
            f'<rect x="{begin:.2f}" y="{top}" width="{end - begin:.2f}" height="{ROW - 5}" fill="{COLOURS[state]}">'
            f"<title>{escape(row.reader)}: {state}</title></rect>"
        )


def _drawn(report: ChaosReport, row: Row) -> Iterator[tuple[float, float, str]]:
    """What can be seen of the spans: of what is too narrow to be drawn beside each other, the worst."""
    held: tuple[float, float, str] | None = None
    for begin_ms, end_ms, state in row.spans:
        begin, end = _x(report, begin_ms), _x(report, end_ms)
        if held is not None and begin - held[1] < PIXELS_MIN and (state == held[2] or end - held[0] < PIXELS_MIN):
            held = (held[0], max(end, held[1]), max(state, held[2], key=STATES.index))
            continue
        if held is not None:
            yield held[0], max(held[1], held[0] + 0.4), held[2]
        held = (begin, end, state)
    if held is not None:
        yield held[0], max(held[1], held[0] + 0.4), held[2]


# ---- the tables


def _promises(report: ChaosReport) -> Iterator[str]:
    yield '<h2>What was promised, and whether it was kept</h2><table class="promises">'
    yield "<tr><th></th><th>promise</th><th>found</th></tr>"
    for check in report.checks:
        mark = '<td class="ok">kept</td>' if check.ok else f'<td class="no">broken ×{check.breaches}</td>'
        breaches = "".join(f"<li>{escape(line)}</li>" for line in check.details)
        found = escape(check.text) + (f'<ul class="breaches">{breaches}</ul>' if breaches else "")
        yield f"<tr>{mark}<td>{escape(check.promise)}</td><td>{found}</td></tr>"
    yield "</table>"


def _requests(report: ChaosReport) -> Iterator[str]:
    yield "<h2>What was asked by REST</h2>"
    yield (
        '<table><tr><th>command</th><th class="n">acknowledged</th><th class="n">unknown outcome</th>'
        '<th class="n">refused, or nothing done</th></tr>'
    )
    for command, told in report.requests.items():
        cells = "".join(f'<td class="n">{told.get(name, 0):,}</td>' for name in ("done", "unknown", "refused"))
        yield f"<tr><td><code>{escape(command)}</code></td>{cells}</tr>"
    yield "</table>"


def _faults(report: ChaosReport) -> Iterator[str]:
    done = sum(fault.skipped is None for fault in report.faults)
    yield f"<h2>What was done</h2><details{' open' if done <= 60 else ''}><summary>{done} faults, "
    yield f"{len(report.faults) - done} skipped</summary>"
    yield '<table><tr><th class="n">at</th><th>kind</th><th>what</th><th class="n">lasted</th></tr>'
    for fault in report.faults:
        seconds = "" if fault.skipped else f"{(fault.end_ms - fault.begin_ms) / 1_000:.1f} s"
        what = escape(_named(fault)) + (f" — skipped: {escape(fault.skipped)}" if fault.skipped else "")
        dim = ' class="dim"' if fault.skipped else ""
        yield (
            f'<tr{dim}><td class="n">{_clock(fault.begin_ms)}</td><td>{fault.kind}</td><td>{what}</td>'
            f'<td class="n">{seconds}</td></tr>'
        )
    yield "</table></details>"


def _minutes(minutes: float) -> str:
    return f"{minutes:g} minute{'' if minutes == 1 else 's'}"


def _named(fault: FaultDone) -> str:
    return f"{fault.words} ({fault.target})" if "leader" in fault.words and fault.target else fault.words


def _clock(at_ms: int) -> str:
    return f"{at_ms // 60_000}:{at_ms // 1_000 % 60:02d}.{at_ms // 100 % 10}"
