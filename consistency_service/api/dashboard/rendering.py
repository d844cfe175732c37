"""Values in, HTML out: the templates, the files they name, and the headers that tell a browser what a page may do.

A page loads nothing but the two scripts, the style sheet and the icon of its own node, runs nothing that is written in it,
and is shown in nobody's frame. What it says is told by the moment, so nobody keeps it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response

from consistency_service.api.dashboard import words

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
MEDIA_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
KEPT: Final = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class Static:
    """One file of ours; its address contains its digest, so that it may be kept for ever."""

    content: bytes
    media_type: str
    digest: str


def _static() -> dict[str, Static]:
    files = sorted((Path(__file__).parent / "static").iterdir())
    contents = {file.name: file.read_bytes() for file in files if file.suffix in MEDIA_TYPES}
    return {
        name: Static(content, MEDIA_TYPES[Path(name).suffix], hashlib.sha256(content).hexdigest()[:12])
        for name, content in contents.items()
    }


class Renderer:
    """Makes pages out of values. `now_unix_ms` is what "ago" counts from."""

    def __init__(self, *, now_unix_ms: Callable[[], int]) -> None:
        self.static = _static()
        self._environment = Environment(
            loader=PackageLoader("consistency_service.api.dashboard"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {
            "clip": words.clip,
            "duration": words.duration,
            "ago": lambda unix_ms: words.ago(unix_ms, now_unix_ms=now_unix_ms()),
            "stamp": words.stamp,
            "iso": words.iso,
            "share": words.share,
            "size": words.size,
            "number": words.number,
            "plural": words.plural,
            "by": words.by,
        }
        self._environment.globals["asset"] = lambda name: f"/static/{name}?{self.static[name].digest}"

    async def page(self, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
        """The page, made by a thread: the node has other things to do meanwhile. Values must not change."""
        html = await asyncio.to_thread(self._environment.get_template(template).render, **values)
        return HTMLResponse(html, status_code=status, headers=HEADERS | {"Cache-Control": "no-store"})

    def file(self, name: str) -> Response | None:
        """The static file, or None if there is none of that name."""
        found = self.static.get(name)
        if found is None:
            return None
        return Response(found.content, media_type=found.media_type, headers=HEADERS | {"Cache-Control": KEPT})
