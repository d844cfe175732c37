"""What REST adds to a node's telemetry: `GET /metrics`, how long each request took, and where a trace begins.

A stopwatch before the door. It knows requests by the template of their route, so that names of models make no new rows; what
matches no route is `other`. A change begins a trace, or goes on with that of its caller; whatever is done for it, here, on the
leader or at an edge, belongs to it.
"""

from __future__ import annotations

import logging
from collections import Counter
from time import perf_counter
from typing import Final

from fastapi import APIRouter, FastAPI, Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from consistency_service.api.access import needs, routes_of
from consistency_service.api.depends import NodeDep
from consistency_service.core.access import Models, Role
from consistency_service.runtime.telemetry import Telemetry, current_trace, received_trace
from edge_client.protocol.metrics import OTHER
from edge_client.protocol.traces import HEADER

_log = logging.getLogger(__name__)
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
CHANGES: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
TRACE_RESPONSE: Final = "traceresponse"
"""Tells a caller which trace a change belongs to (W3C Trace Context, level 2)."""
metrics_router = APIRouter(tags=["health"])


@metrics_router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"description": "Prometheus text, version 0.0.4", "content": {"text/plain": {}}}},
)
@needs(Role.VIEWER, models=Models.ALL)
async def metrics(node: NodeDep) -> Response:
    """What this node tells Prometheus: docs/reference/metrics.md."""
    body, content_type = node.telemetry.exposition()
    return Response(body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})


class Stopwatch:
    """ASGI middleware outside all others: answers of the guard are measured too."""

    def __init__(self, app: ASGIApp, *, api: FastAPI, telemetry: Telemetry, counters: Counter[str]) -> None:
        self._app = app
        self._telemetry = telemetry
        self._counters = counters
        self._api = api
        self._templates: dict[int, list[tuple[tuple[str, ...], str]]] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route, method = self._route(scope["path"]), scope["method"] if scope["method"] in METHODS else OTHER
        began_s, code, endless = perf_counter(), 0, False

        async def watched_send(message: Message) -> None:
            nonlocal code, endless
            if message["type"] == "http.response.start":
                code = message["status"]
                endless = Headers(raw=message["headers"]).get("content-type", "").startswith("text/event-stream")
            await send(message)

        try:
            if method in CHANGES:
                await self._traced(scope, receive, watched_send, name=f"{method} {route}")
            else:
                await self._app(scope, receive, watched_send)
        finally:
            if not endless:
                self._telemetry.record(
                    "http_request_seconds",
                    perf_counter() - began_s,
                    method=method,
                    route=route,
                    code=str(code) if code else "none",
                )

    async def _traced(self, scope: Scope, receive: Receive, send: Send, *, name: str) -> None:
        parent, hostile = received_trace(Headers(scope=scope), header=HEADER)
        if hostile:
            self._counters["traceparents_ignored"] += 1
        attributes = {"http.request.method": scope["method"], "http.route": name.partition(" ")[2]}
        began_s, code = perf_counter(), 0
        with self._telemetry.span(name, parent=parent, kind="server", **attributes) as span:
            token = current_trace.set(span.traceparent)

            async def noting_send(message: Message) -> None:
                nonlocal code
                if message["type"] == "http.response.start":
                    code = message["status"]
                    span.note(**{"http.response.status_code": message["status"]})
                    if message["status"] >= 500:
                        span.failed(str(message["status"]))
                    MutableHeaders(raw=message["headers"])[TRACE_RESPONSE] = span.traceparent
                await send(message)

            try:
                # A node that passes this on passes its own span on, too.
                headers = [(n, v) for n, v in scope["headers"] if n.lower() != HEADER.encode()]
                headers.append((HEADER.encode(), span.traceparent.encode()))
                await self._app({**scope, "headers": headers}, receive, noting_send)
            finally:
                took_ms = (perf_counter() - began_s) * 1e3
                _log.info("change_answered request=%s code=%s took_ms=%.0f", name, code or "none", took_ms)
                current_trace.reset(token)

    def _route(self, path: str) -> str:
        """The template that this path is one of; of two, the one with fewer names to fill in."""
        if self._templates is None:
            self._templates = _templates_of(self._api)
        words = tuple(path.split("/"))
        for template, name in self._templates.get(len(words), ()):
            if all(want.startswith("{") or want == word for want, word in zip(template, words, strict=True)):
                return name
        return OTHER


def _templates_of(api: FastAPI) -> dict[int, list[tuple[tuple[str, ...], str]]]:
    """Every route by its number of words, the most definite first."""
    found: dict[int, list[tuple[tuple[str, ...], str]]] = {}
    paths = {route.path for route in routes_of(api) if isinstance(route, Route)}
    for path in sorted(paths, key=lambda path: (path.count("{"), path)):
        found.setdefault(path.count("/") + 1, []).append((tuple(path.split("/")), path))
    return found
