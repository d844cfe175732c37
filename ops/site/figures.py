"""The pictures of the explanation, drawn by `python -m ops.site.figures`; a test compares.

One function a picture. Their numbers are the protocol's defaults (a lease of 2 s, a beacon each 100 ms), not to scale where
that would hide what is meant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from consistency_service.core.rollout import TRANSITIONS, Phase
from ops.site.drawing import Sheet

FOLDER: Final = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "figures"


def region() -> str:
    """The parts, and what goes between them."""
    sheet = Sheet(width=760, height=372, title="The parts of a region")
    sheet.box(300, 14, 160, 34, tone="quiet", text="ccs, REST, dashboard")
    sheet.box(200, 90, 360, 62, tone="next", text="3 or 5 nodes|Raft log: models, versions, rollouts, policies, audit")
    sheet.box(626, 96, 124, 50, tone="quiet", text="object store|artifacts by digest")
    sheet.box(200, 200, 360, 46, tone="quiet", text="bus (NATS)|may lose everything that it holds")
    for index, name in enumerate(("camera 1", "camera 2", "robot")):
        sheet.box(200 + index * 126, 300, 108, 54, tone="strong", text=f"{name}|edge_client")
    sheet.box(8, 303, 132, 48, tone="quiet", text="Redis on the box|to start without region")
    sheet.box(626, 303, 124, 48, tone="quiet", text="feature store|regional Redis")
    sheet.line(380, 48, 380, 88, arrow=True)
    sheet.line(560, 121, 624, 121, arrow=True)
    sheet.line(330, 152, 330, 198, arrow=True)
    sheet.line(430, 198, 430, 154, arrow=True)
    sheet.text(322, 180, "events, beacons", anchor="end", quiet=True)
    sheet.text(438, 180, "reports, clock samples", quiet=True)
    for x in (254, 380, 506):
        sheet.path(f"M{x} 246L{x} 298", arrow=True, both=True)
    sheet.path("M198 327L142 327", arrow=True, both=True)
    sheet.path("M560 327L624 327", arrow=True)
    sheet.text(592, 319, "features", anchor="middle", quiet=True)
    sheet.path("M688 146C688 230 620 262 556 298", arrow=True, dashed=True)
    sheet.text(680, 236, "downloads, by nodes", anchor="middle", quiet=True)
    return sheet.svg()


def leases() -> str:
    """Beacons give leases; when they cease, `strong` ends by itself."""
    sheet = Sheet(width=760, height=318, title="Beacons as leases")
    scale, origin = 150.0, 128.0

    def at(seconds: float) -> float:
        return origin + seconds * scale

    sheet.text(14, 54, "authority", bold=True)
    sheet.text(14, 134, "edge A", bold=True)
    sheet.text(14, 224, "edge B", bold=True)
    sheet.line(origin - 12, 49, 744, 49)
    times = (0.0, 0.35, 0.7, 1.05, 1.4)
    for number, t0 in enumerate(times):
        sheet.dot(at(t0), 49, tone="next")
        sheet.path(f"M{at(t0)} 55L{at(t0 + 0.09)} 114", arrow=True, tone="next")
        if number < 2:
            sheet.path(f"M{at(t0)} 55L{at(t0 + 0.12)} 204", arrow=True, tone="next")
    sheet.text(at(0), 34, "reads its clock: t0", quiet=True)
    sheet.text(at(1.4) + 10, 34, "a quorum confirms each, then it is broadcast", quiet=True)
    sheet.box(
        at(0.09),
        116,
        at(3.4) - at(0.09),
        30,
        tone="strong",
        text="strong, until the last t0 + 2 s (by A's sample of that clock)",
    )
    sheet.box(at(3.4), 116, 744 - at(3.4), 30, tone="bounded", text="bounded")
    sheet.box(at(0.12), 206, at(2.35) - at(0.12), 30, tone="strong", text="strong: two beacons came")
    sheet.box(at(2.35), 206, 744 - at(2.35), 30, tone="bounded", text="bounded, with a growing age")
    sheet.line(at(0.6), 166, at(0.6), 196, tone="bad")
    sheet.text(at(0.6) + 8, 186, "B loses the bus", quiet=True)
    sheet.line(at(1.4), 60, at(1.4), 100, dashed=True)
    sheet.text(at(1.4) + 24, 86, "the authority dies: nobody notices for 2 s", quiet=True)
    sheet.path(f"M{at(0.35)} 262L{at(2.35)} 262", arrow=True, both=True)
    sheet.text(at(1.35), 282, "L = 2 s, counted from t0 and not from the arrival", anchor="middle", quiet=True)
    sheet.line(at(2.35), 238, at(2.35), 270, dashed=True)
    sheet.line(at(0.35), 238, at(0.35), 270, dashed=True)
    sheet.text(744, 308, "time →", anchor="end", quiet=True)
    return sheet.svg()


def barrier() -> str:
    """One instant for everybody: why no two readers are right about different generations."""
    sheet = Sheet(width=760, height=336, title="An activation")
    decided, instant, left, right = 190.0, 560.0, 128.0, 744.0
    sheet.text(14, 54, "authority", bold=True)
    sheet.line(left - 12, 49, right, 49)
    sheet.dot(decided, 49, tone="next")
    sheet.dot(instant, 49, tone="next")
    sheet.text(decided, 34, "decides: g+1 from then on", anchor="middle", quiet=True)
    sheet.text(instant, 34, "effective_at: the caller is told", anchor="middle", quiet=True)
    sheet.path(f"M{decided + 6} 64L{instant - 6} 64", arrow=True, both=True)
    sheet.text(
        (decided + instant) / 2, 80, "L + margin: every lease given before ends earlier", anchor="middle", quiet=True
    )
    sheet.line(instant, 56, instant, 304, dashed=True, tone="next")
    sheet.line(decided, 56, decided, 304, dashed=True)
    sheet.text(14, 130, "edge A", bold=True)
    sheet.text(14, 146, "heard of it", quiet=True)
    sheet.box(left, 114, instant - 9 - left, 30, tone="strong", text="strong, g")
    sheet.box(instant - 9, 114, 18, 30, tone="bounded")
    sheet.box(instant + 9, 114, right - instant - 9, 30, tone="strong", text="strong, g+1")
    sheet.text(right, 164, "between: an open switch, some ms", anchor="end", quiet=True)
    sheet.text(14, 206, "edge B", bold=True)
    sheet.text(14, 222, "cut off", quiet=True)
    sheet.line(decided - 26, 168, decided - 26, 188, tone="bad")
    sheet.text(decided + 8, 182, "the decision does not reach it", quiet=True)
    sheet.box(left, 190, 480 - left, 30, tone="strong", text="strong, g: its last beacon is from before")
    sheet.box(480, 190, right - 480, 30, tone="bounded", text="bounded, g, with its age")
    sheet.text(14, 278, "edge C", bold=True)
    sheet.text(14, 294, "late", quiet=True)
    sheet.box(left, 262, 380 - left, 30, tone="strong", text="strong, g")
    sheet.box(380, 262, 60, 30, tone="bounded", text="behind")
    sheet.box(440, 262, instant - 9 - 440, 30, tone="strong", text="strong, g")
    sheet.box(instant - 9, 262, 18, 30, tone="bounded")
    sheet.box(instant + 9, 262, right - instant - 9, 30, tone="strong", text="strong, g+1")
    sheet.text(410, 254, "beacons name a revision that it lacks; it fetches it", anchor="middle", quiet=True)
    sheet.text(right, 326, "time →", anchor="end", quiet=True)
    return sheet.svg()


def switch() -> str:
    """The two bounds on another clock, and what they forbid."""
    sheet = Sheet(width=760, height=330, title="An open switch")
    sheet.line(70, 290, 740, 290, arrow=True)
    sheet.line(70, 290, 70, 20, arrow=True)
    sheet.text(738, 312, "the edge's own clock", anchor="end", quiet=True)
    sheet.text(80, 30, "what the authority's clock may show", quiet=True)
    sheet.path("M110 210L690 24", tone="bounded")
    sheet.path("M110 232L690 56", tone="next")
    sheet.text(606, 36, "hi: the most", anchor="end", quiet=True)
    sheet.text(640, 92, "lo: the least", quiet=True)
    level = 120.0
    stop, go = 110 + (210 - level) * 580 / 186, 110 + (232 - level) * 580 / 176
    sheet.line(70, level, 740, level, dashed=True)
    sheet.text(80, level - 7, "effective_at", quiet=True)
    for x in (stop, go):
        sheet.dot(x, level)
        sheet.line(x, level, x, 288, dashed=True)
    sheet.box(74, 246, stop - 74, 40, tone="strong", text="strong, g")
    sheet.box(stop, 246, go - stop, 40, tone="bounded", text="open")
    sheet.box(go, 246, 734 - go, 40, tone="strong", text="strong, g+1")
    sheet.text(stop - 8, 236, "from here on somebody may have g+1", anchor="end", quiet=True)
    sheet.text(go + 8, 236, "from here on nobody is strong with g", quiet=True)
    return sheet.svg()


def rollout() -> str:
    """The phases of a rollout and the moves between them: a grid, in which a row is a phase, and a mark a move."""
    phases = list(TRANSITIONS)
    sheet = Sheet(width=760, height=64 + 46 * len(phases), title="The phases of a rollout")
    left, top, column, row = 116, 46, 69, 46
    sheet.text(14, 24, "from ↓   to →", quiet=True)
    tones = {
        Phase.COMPLETED: "strong",
        Phase.FAILED: "bad",
        Phase.ABORTED: "bad",
        Phase.ABORTING: "bad",
        Phase.PAUSED: "bounded",
    }
    for index, target in enumerate(phases):
        sheet.text(left + column * index + column / 2, 24, target.value, anchor="middle", bold=True, size=11)
    for line, source in enumerate(phases):
        y = top + row * line
        sheet.text(14, y + 23, source.value, bold=True)
        sheet.line(14, y - 3, 746, y - 3, tone="quiet")
        for index, target in enumerate(phases):
            names = [move.value for move, targets in TRANSITIONS[source].items() if target in targets]
            if names:
                sheet.box(
                    left + column * index + 2, y + 1, column - 4, row - 8, tone=tones.get(target, "next"), text=""
                )
                for number, name in enumerate(names):
                    sheet.text(
                        left + column * index + column / 2,
                        y + 21 - (len(names) - 1) * 6 + number * 12,
                        name,
                        anchor="middle",
                        size=11,
                    )
    return sheet.svg()


FIGURES: Final[Mapping[str, Callable[[], str]]] = {
    "barrier": barrier,
    "leases": leases,
    "region": region,
    "rollout": rollout,
    "switch": switch,
}


def main() -> None:
    """Draw all of them."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, draw in FIGURES.items():
        (FOLDER / f"{name}.svg").write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
