"""A sheet of paper: lines, boxes and words as SVG that can be read on light and on dark.

Everything is drawn in `currentColor` and in mid tones; the colour itself comes from the page, or, where the file stands alone,
from the system's setting.
"""

from __future__ import annotations

from html import escape
from typing import Final

TONES: Final = {"strong": "#2da44e", "bounded": "#d4902a", "next": "#4a7fd6", "quiet": "#8b949e", "bad": "#d1495b"}
STYLE: Final = (
    "<style>.sheet{color:#1f2328}@media(prefers-color-scheme:dark){.sheet{color:#e6edf3}}"
    ".sheet text{font-family:system-ui,sans-serif}</style>"
)


class Sheet:
    """Coordinates are pixels from the upper left corner."""

    def __init__(self, *, width: int, height: int, title: str) -> None:
        self._width, self._height, self._title = width, height, title
        self._parts: list[str] = []

    def line(
        self, x1: float, y1: float, x2: float, y2: float, *, arrow: bool = False, dashed: bool = False, tone: str = ""
    ) -> None:
        """A straight line, with a head at its second end if it is an arrow."""
        self.path(f"M{x1:g} {y1:g}L{x2:g} {y2:g}", arrow=arrow, dashed=dashed, tone=tone)

    def path(self, d: str, *, arrow: bool = False, dashed: bool = False, tone: str = "", both: bool = False) -> None:
        """Any path, in SVG's own words."""
        colour = TONES.get(tone, "currentColor")
        more = ' stroke-dasharray="4 4"' if dashed else ""
        more += ' marker-end="url(#head)"' if arrow else ""
        more += ' marker-start="url(#head)"' if both else ""
        self._parts.append(f'<path d="{d}" fill="none" stroke="{colour}" stroke-width="1.5"{more}/>')

    def box(self, x: float, y: float, width: float, height: float, *, tone: str = "quiet", text: str = "") -> None:
        """A tinted box with lines of words in its middle, parted by `|`; the first is bold if there are several."""
        self._parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" fill="{TONES[tone]}" '
            f'fill-opacity="0.22" stroke="{TONES[tone]}" stroke-width="1.2"/>'
        )
        words = text.split("|") if text else []
        top = y + height / 2 - (len(words) - 1) * 8 + 4.5
        for number, line in enumerate(words):
            bold = number == 0 and len(words) > 1
            self.text(x + width / 2, top + number * 16, line, anchor="middle", bold=bold, quiet=number > 0)

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        anchor: str = "start",
        bold: bool = False,
        quiet: bool = False,
        size: float = 13,
    ) -> None:
        """Words at a place: `anchor` start, middle or end."""
        more = ' font-weight="600"' if bold else ""
        more += ' fill-opacity="0.75"' if quiet else ""
        self._parts.append(
            f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size - 1.5 * quiet:g}" fill="currentColor"{more}>'
            f"{escape(words)}</text>"
        )

    def dot(self, x: float, y: float, *, tone: str = "") -> None:
        """A point in time."""
        self._parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="3.5" fill="{TONES.get(tone, "currentColor")}"/>')

    def svg(self) -> str:
        """The whole file."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="sheet" viewBox="0 0 {self._width} {self._height}" '
            f'width="{self._width}" height="{self._height}">'
        )
        marker = (
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto-start-reverse"><path d="M0 0L8 4L0 8z" fill="currentColor"/></marker></defs>'
        )
        return "\n".join([head, STYLE, f"<title>{escape(self._title)}</title>", marker, *self._parts, "</svg>"]) + "\n"
