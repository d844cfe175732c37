"""A violation as a picture: one page, nothing loaded, readable in light and in dark.

Each process has a lane, each operation a bar from its invocation to its return. Only the order of the events matters to
the judge, so the axis shows that: one step for each event, none for the time between. A bar that fades out had no answer.
Small numbers give an order that explains everything but the red bar.
"""

from __future__ import annotations

from html import escape
from typing import Final

from consistency_service.testbed.linearizability.operations import Operation
from consistency_service.testbed.linearizability.result import Result, Violation
from consistency_service.testbed.linearizability.words import headline, place, sentence, violation_words, words

BARS_MAX: Final = 200

LANE: Final = 46
BAR: Final = 30
LEFT_MIN: Final = 90
CHARACTER: Final = 7.3
"""Width of one at 12 px of a monospaced face, in px, with a little room."""

LEGEND: Final = (
    "A bar reaches from invocation to return; from left to right every event is one step, whatever the time between. "
    "Dashed: no answer by then. Numbers: an order that explains all but the red one."
)

STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5d6878; --page: #fbfcfd; --lane: #e4e8ee; --bar: #d5e3f7;
  --edge: #6f93c6; --bad: #fbd5d3; --badedge: #c8372d; --number: #2d5d9f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e9f0; --soft: #98a4b5; --page: #14181e; --lane: #2a313b;
  --bar: #243a57; --edge: #6d9bd8; --bad: #5a2320; --badedge: #f0716a; --number: #9cc3f7; } }
body { margin: 2rem auto; max-width: 120rem; padding: 0 1.25rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.35rem; margin: 0 0 .25rem; } p { margin: .4rem 0; max-width: 70rem; } .soft { color: var(--soft); }
.verdict { color: var(--badedge); } .picture { overflow-x: auto; margin: 1.25rem 0; }
svg text { font: 12px ui-monospace, "DejaVu Sans Mono", Menlo, monospace; fill: var(--ink); }
svg .process { fill: var(--soft); } svg .number { fill: var(--number); font-weight: 700; font-size: 11px; }
svg .lane { stroke: var(--lane); } svg .bar { fill: var(--bar); stroke: var(--edge); }
svg .open { fill: url(#fade); stroke: var(--edge); stroke-dasharray: 4 3; }
svg .bad { fill: var(--bad); stroke: var(--badedge); stroke-width: 2; }
svg .from { stop-color: var(--bar); } svg .to { stop-color: var(--bar); stop-opacity: 0; }
pre { overflow-x: auto; padding: .9rem 1rem; border: 1px solid var(--lane); border-radius: 6px; font-size: 13px; }
"""


def page(result: Result, *, title: str) -> str:
    """A whole HTML document about the answer, with a picture of the violation if there is one."""
    violation = result.violation
    first = words(result).splitlines()[0]
    body = [f"<h1>{escape(title)}</h1>", f'<p class="{"soft" if result.ok else "verdict"}">{escape(first)}</p>']
    if violation is not None:
        body += [
            f"<p>{escape(_capital(headline(violation)))}.</p>",
            f'<div class="picture">{picture(violation)}</div>',
            f"<p><strong>{escape(_capital(sentence(violation)))}.</strong></p>",
            f'<p class="soft">{LEGEND}</p>',
            f"<pre>{escape(violation_words(violation))}</pre>",
        ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>{''.join(body)}</body></html>\n"
    )


def picture(violation: Violation) -> str:
    """The SVG alone; its colours come from `STYLE`."""
    shown = violation.operations[:BARS_MAX]
    lanes = {process: lane for lane, process in enumerate(dict.fromkeys(operation.process for operation in shown))}
    left = max(LEFT_MIN, 24 + CHARACTER * max(len(process) for process in lanes))
    instants = _instants(shown)
    place_of = _columns(shown, instants, left=left)
    end = place_of[instants[-1]] + 60
    height = LANE * len(lanes) + 12
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{end:.0f}" height="{height}" viewBox="0 0 {end:.0f} {height}" '
        f'role="img"><title>{escape(sentence(violation))}</title><defs><linearGradient id="fade">'
        '<stop class="from" offset="0.5"/><stop class="to" offset="1"/></linearGradient></defs>'
    )
    parts = [opening]
    for process, lane in lanes.items():
        middle = LANE * lane + LANE / 2 + 6
        parts.append(f'<line class="lane" x1="{left - 8:.0f}" y1="{middle}" x2="{end:.0f}" y2="{middle}"/>')
        parts.append(f'<text class="process" x="4" y="{middle + 4}">{escape(process)}</text>')
    numbers = {index: number for number, index in enumerate(violation.order, start=1)}
    for index, operation in enumerate(shown):
        start = place_of[operation.invoked, 0]
        stop = end - 4 if operation.returned is None else place_of[operation.returned, 1]
        top = LANE * lanes[operation.process] + (LANE - BAR) / 2 + 6
        kind = "bad" if index == violation.blocked else "open" if operation.returned is None else "bar"
        number = f'<tspan class="number">{numbers[index]} </tspan>' if index in numbers else ""
        parts.append(
            f"<g><title>{escape(_hint(operation))}</title>"
            f'<rect class="{kind}" x="{start:.0f}" y="{top}" width="{stop - start:.0f}" height="{BAR}" rx="5"/>'
            f'<text x="{start + 8:.0f}" y="{top + BAR / 2 + 4}">{number}{escape(str(operation))}</text></g>'
        )
    return "".join((*parts, "</svg>"))


def _instants(operations: tuple[Operation, ...]) -> list[tuple[int, int]]:
    """All events in order; of one instant, invocations first, as the judge has it."""
    return sorted(
        {(operation.invoked, 0) for operation in operations}
        | {(operation.returned, 1) for operation in operations if operation.returned is not None}
    )


def _columns(
    operations: tuple[Operation, ...], instants: list[tuple[int, int]], *, left: float
) -> dict[tuple[int, int], float]:
    """Where each event is drawn: in order, and so far apart that every bar holds its text."""
    ends: dict[tuple[int, int], list[Operation]] = {}
    busy: dict[str, float] = {}
    for operation in operations:
        if operation.returned is not None:
            ends.setdefault((operation.returned, 1), []).append(operation)
    lost = {(operation.invoked, 0): operation for operation in operations if operation.returned is None}
    begins: dict[tuple[int, int], list[str]] = {}
    for operation in operations:
        begins.setdefault((operation.invoked, 0), []).append(operation.process)
    place_of: dict[tuple[int, int], float] = {}
    at = left
    for instant in instants:
        at += 14
        for operation in ends.get(instant, ()):
            at = max(at, place_of[operation.invoked, 0] + 34 + CHARACTER * len(str(operation)))
        for process in begins.get(instant, ()):
            at = max(at, busy.get(process, 0.0) + 6)
        place_of[instant] = at
        for operation in ends.get(instant, ()):
            busy[operation.process] = at
        if instant in lost:
            busy[lost[instant].process] = at + 34 + CHARACTER * len(str(lost[instant]))
    return place_of


def _hint(operation: Operation) -> str:
    until = "without an answer" if operation.returned is None else f"to {operation.returned}"
    return f"{operation.process}: {operation}; {place(operation)}, from {operation.invoked} {until}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
