"""The outermost layers: whatever comes in is bounded in size and time, whatever goes wrong inside becomes an answer.

Bodies other than artifacts are read here, whole, before anybody looks at them: so a request can be tried again, or passed
on to another node, without the caller noticing. Changes that a browser sends on behalf of another site are refused: the
dashboard is on this one, and other callers are no browsers. An error after the answer has begun cannot be told any more; the connection
is then cut, so that nobody takes half an answer for a whole one.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from consistency_service.api.problems import Problem, ProblemError, problem_of
from consistency_service.runtime.node import Node

_log = logging.getLogger(__name__)
BODY_BYTES_MAX: Final = 1 << 20
BUFFERED_BYTES_MAX: Final = 128 << 20
BODY_TIMEOUT_S: Final = 30
SEND_TIMEOUT_S: Final = 60
POSITION_HEADER: Final = "X-CCS-Position"
BODY: Final = "ccs.body"
"""Where in the ASGI scope the body is found, behind this layer."""
_UPLOADS: Final = "/v1/artifacts"
_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class Guard:
    """ASGI middleware. Counts what is refused in `counters`."""

    def __init__(self, app: ASGIApp, *, node: Node, counters: Counter[str]) -> None:
        self._app = app
        self._node = node
        self._counters = counters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def guarded_send(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                position = self._node.metadata.state.position
                MutableHeaders(raw=message["headers"])[POSITION_HEADER] = f"{position.epoch}-{position.revision}"
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await send(message)

        try:
            if scope["method"] not in _READS and _from_another_site(Headers(scope=scope)):
                raise ProblemError("cross_site")
            await self._app(scope, receive, guarded_send)
        except ClientDisconnect:
            self._counters["callers_gone"] += 1
        except Exception as error:
            problem = self._problem_of(error, scope=scope)
            if begun:
                self._counters["answers_cut"] += 1
                _log.warning("answer_cut path=%s code=%s error=%r", scope["path"][:200], problem.code, error)
                return
            self._counters[f"refused_{problem.code}"] += 1
            await problem.response()(scope, receive, guarded_send)

    def _problem_of(self, error: Exception, *, scope: Scope) -> Problem:
        problem = problem_of(error)
        if problem is None:
            incident = secrets.token_hex(4)
            _log.exception(
                "request_failed incident=%s method=%s path=%s", incident, scope["method"], scope["path"][:200]
            )
            problem = Problem(code="internal", fields={"incident": incident})
        return problem


class Bodies:
    """ASGI middleware behind `AccessLayer`: nobody's body is held who may not call."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._buffered_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in _READS or scope["path"] == _UPLOADS:
            await self._app(scope, receive, send)
            return
        chunks: list[bytes] = []
        try:
            await self._read(chunks, scope=scope, receive=receive)
            scope[BODY] = b"".join(chunks)
            await self._app(scope, replaying(scope[BODY], receive), send)
        finally:
            self._buffered_bytes -= sum(map(len, chunks))

    async def _read(self, chunks: list[bytes], *, scope: Scope, receive: Receive) -> None:
        """Everything the caller sends, into `chunks`. Raises `ProblemError` beyond the limits."""
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdigit() and int(announced) > BODY_BYTES_MAX:
            raise ProblemError("too_large", limit_bytes=BODY_BYTES_MAX)
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    chunks.append(message.get("body", b""))
                    self._buffered_bytes += len(chunks[-1])
                    if sum(map(len, chunks)) > BODY_BYTES_MAX:
                        raise ProblemError("too_large", limit_bytes=BODY_BYTES_MAX)
                    if self._buffered_bytes > BUFFERED_BYTES_MAX:
                        raise ProblemError("overloaded")
                    more = message.get("more_body", False)
        except TimeoutError:
            raise ProblemError("slow_request", headers={"Connection": "close"}) from None


def _from_another_site(headers: Headers) -> bool:
    """A browser sends this for a page that is not ours. Pages can neither set nor remove these headers (Fetch Metadata).

    Browsers leave `Sec-Fetch-Site` out where the connection is not encrypted and not local; `Origin` comes with every change.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in {"same-origin", "none"}
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower()


def replaying(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives `body` once, and then whatever else there is to hear of the caller."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
