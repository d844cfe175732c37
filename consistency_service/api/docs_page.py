"""`GET /docs`: the description as one plain page, made here, so that it is there where the internet is not."""

from __future__ import annotations

from html import escape
from typing import Any, Final

from fastapi import FastAPI
from starlette.responses import HTMLResponse, JSONResponse

from consistency_service.api.access import needs
from consistency_service.core.access import Role

_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff; overflow-wrap: anywhere }
code { font: 0.9em ui-monospace, monospace } summary { cursor: pointer; padding: 0.3rem 0 } table { border-collapse: collapse; max-width: 100% }
td, th { text-align: left; vertical-align: top; padding: 0.15rem 1rem 0.15rem 0 } pre { white-space: pre-wrap }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818 } a { color: #8bf } }
"""
_HEADERS: Final = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}


def add_docs(app: FastAPI) -> None:
    """Serve the page at `/docs`, and the description itself at `/openapi.json`."""

    @app.get("/openapi.json", include_in_schema=False)
    @needs(Role.VIEWER, also=(Role.EDGE, Role.NODE))
    async def description() -> JSONResponse:
        return JSONResponse(app.openapi())

    @app.get("/docs", include_in_schema=False)
    @needs(Role.VIEWER)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page_of(app.openapi()), headers=_HEADERS)


def page_of(schema: dict[str, Any]) -> str:
    """The page for an OpenAPI description."""
    info = schema["info"]
    calls = "".join(
        _call(method, path, operation)
        for path, operations in schema["paths"].items()
        for method, operation in operations.items()
    )
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style>"
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><pre>{escape(info['description'].strip())}</pre>"
        f"<p>The same for programs: <a href=/openapi.json>/openapi.json</a>. What is live where: <a href=/>the dashboard</a></p>{calls}</html>"
    )


def _call(method: str, path: str, operation: dict[str, Any]) -> str:
    parameters = "".join(
        f"<tr><td><code>{escape(p['name'])}</code><td>{escape(p['in'])}<td>{escape(p.get('description', ''))}"
        for p in operation.get("parameters", [])
    )
    answers = "".join(
        f"<tr><td>{escape(status)}<td>{escape(', '.join(_codes(answer)) or answer['description'])}"
        for status, answer in sorted(operation["responses"].items())
    )
    return (
        f"<details><summary><code><b>{escape(method.upper())}</b> {escape(path)}</code></summary>"
        f"<p>{escape(operation.get('description', operation.get('summary', '')))}</p>"
        f"<table>{parameters}</table><table>{answers}</table></details>"
    )


def _codes(answer: dict[str, Any]) -> list[str]:
    return sorted(answer.get("content", {}).get("application/problem+json", {}).get("examples", {}))
