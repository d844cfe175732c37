"""Any node takes any call: what needs the leader is passed on to it, and asked again while there is none.

Asking again is safe, because every change has a request id: the caller's key, or one made here. A call is passed on once
(`X-CCS-Forwarded`): nodes that each believe in the other as leader say so to the first one, which waits and looks again.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from typing import Final

import httpx
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from consistency_service.api.access import caller_now
from consistency_service.api.guard import BODY, POSITION_HEADER, replaying
from consistency_service.api.peers import Peers
from consistency_service.api.problems import TYPE_PREFIX, ProblemError
from consistency_service.errors import NotAuthorityError, NotLeaderError, UnknownOutcomeError
from consistency_service.runtime.node import Node
from edge_client.protocol.position import Position

_log = logging.getLogger(__name__)
LEADERLESS_S: Final = 3.0
RETRY_S: Final = 0.05
DEPOSED_S: Final = 0.5
CATCH_UP_S: Final = 1.0
FORWARDED_HEADER: Final = "X-CCS-Forwarded"
_LOCAL_PATHS: Final = ("/v1/artifacts", "/v1/cluster", "/v1/edges", "/v1/events", "/v1/snapshot", "/v1/whoami")
_LEADERS_PATHS: Final = ("/v1/cluster/members", "/v1/cluster/transfer")
_CHANGES: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_PASSED_ON: Final = frozenset(
    {b"accept", b"content-type", b"idempotency-key", b"if-match", b"traceparent", b"x-ccs-author"}
)
_GIVEN_BACK: Final = frozenset({"allow", "content-type", "etag", "location", "retry-after", "www-authenticate"})


class Forwarding:
    """ASGI middleware behind `Guard`."""

    def __init__(self, app: ASGIApp, *, node: Node, peers: Peers, counters: Counter[str]) -> None:
        self._app = app
        self._node = node
        self._peers = peers
        self._counters = counters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        local = path.startswith(_LOCAL_PATHS) and not path.startswith(_LEADERS_PATHS)
        if scope["type"] != "http" or not path.startswith("/v1/") or local:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        change = scope["method"] in _CHANGES
        if change and "idempotency-key" not in headers:
            key = secrets.token_hex(16).encode()
            scope = {**scope, "headers": [*scope["headers"], (b"idempotency-key", key)]}
        if FORWARDED_HEADER in headers:
            await self._here(scope, receive, send)
        else:
            await self._somewhere(scope, receive, send, change=change)

    async def _here(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Routing writes into the scope: each attempt gets one of its own.
        await self._app(dict(scope), replaying(scope.get(BODY, b""), receive), send)

    async def _somewhere(self, scope: Scope, receive: Receive, send: Send, *, change: bool) -> None:
        """Ask here or at the leader, until somebody answers or there was no leader for `LEADERLESS_S`."""
        now = asyncio.get_running_loop().time
        deadline: float | None = None
        unknown = False
        ask_here = not change
        while True:
            began = now()
            target = self._node.leader_url()
            try:
                if ask_here or target is None:
                    await self._here(scope, receive, send)
                else:
                    response = await self._at(target, scope=scope, change=change)
                    await response(scope, receive, send)
                return
            except (NotLeaderError, NotAuthorityError):
                ask_here = False
            except UnknownOutcomeError:
                unknown = True
            if deadline is None or now() - began > LEADERLESS_S:
                deadline = now() + LEADERLESS_S
            if now() >= deadline:
                self._counters["leaderless"] += 1
                key = Headers(scope=scope).get("idempotency-key")
                raise ProblemError("unknown_outcome", idempotency_key=key) if unknown else ProblemError("no_leader")
            await asyncio.sleep(RETRY_S)

    async def _at(self, target: str, *, scope: Scope, change: bool) -> Response:
        """The leader's answer. Raises `NotLeaderError` if it did nothing, `UnknownOutcomeError` if it may have."""
        base = httpx.URL(target)
        raw_path = base.raw_path.rstrip(b"/") + scope.get("raw_path", scope["path"].encode())
        query = scope.get("query_string", b"")
        request = self._peers.http.build_request(
            scope["method"],
            base.copy_with(raw_path=raw_path + (b"?" + query if query else b"")),
            headers=[
                *((n, v) for n, v in scope["headers"] if n.lower() in _PASSED_ON),
                *caller_now().pass_on,
                (FORWARDED_HEADER.encode(), b"1"),
            ],
            content=scope.get(BODY, b"") or None,
        )
        try:
            answer = await self._send(request, target=target)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout):
            raise NotLeaderError(leader_id=None) from None
        except (httpx.HTTPError, TimeoutError) as error:
            self._counters["forwards_broken"] += 1
            _log.warning("forward_broken target=%s error=%r", target, error)
            if change:
                raise UnknownOutcomeError(f"{target} did not answer") from None
            raise NotLeaderError(leader_id=None) from None
        self._counters["forwarded"] += 1
        _raise_if_it_could_not(answer)
        if change:
            await self._catch_up(answer.headers.get(POSITION_HEADER, ""))
        headers = {n: v for n, v in answer.headers.items() if n in _GIVEN_BACK}
        return Response(answer.content, status_code=answer.status_code, headers=headers)

    async def _send(self, request: httpx.Request, *, target: str) -> httpx.Response:
        """The answer, which may take minutes. Raises `TimeoutError` when another node has been leading for a while."""
        task = asyncio.create_task(self._peers.http.send(request))
        try:
            deposed_s = 0.0
            while deposed_s < DEPOSED_S:
                done, _ = await asyncio.wait({task}, timeout=RETRY_S)
                if done:
                    return task.result()
                deposed_s = deposed_s + RETRY_S if self._node.leader_url() != target else 0.0
            raise TimeoutError(f"{target} does not lead any more")
        finally:
            task.cancel()

    async def _catch_up(self, header: str) -> None:
        """Wait until this node has seen the change too, so that its caller reads here what it has written."""
        epoch, _, revision = header.partition("-")
        if not (epoch.isdigit() and revision.isdigit()):
            return
        try:
            async with asyncio.timeout(CATCH_UP_S):
                await self._node.metadata.wait_position(Position(int(epoch), int(revision)))
        except TimeoutError:
            self._counters["catch_ups_given_up"] += 1


def _raise_if_it_could_not(answer: httpx.Response) -> None:
    if answer.status_code != 503:
        return
    try:
        document = answer.json()
    except ValueError:
        # Not one of our documents: the node is full, and has not looked at the request.
        raise NotLeaderError(leader_id=None) from None
    match document.get("type") if isinstance(document, dict) else None:
        case str(kind) if kind == TYPE_PREFIX + "no_leader":
            raise NotLeaderError(leader_id=None)
        case str(kind) if kind == TYPE_PREFIX + "unknown_outcome":
            raise UnknownOutcomeError("the leader does not know")
