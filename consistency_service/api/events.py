"""What happens, as it happens: server-sent events, resumable from any position that is still kept.

Picture a reader with a bookmark: the log turns pages, and each subscriber reads on from their own mark when they can. A
slow one holds no copy of anything; one that falls behind what is kept is sent away, and finds 410 when they come back.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Header, Query, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from consistency_service.api.access import Caller, caller_now, needs
from consistency_service.api.depends import NodeDep
from consistency_service.api.problems import ProblemError, documented
from consistency_service.core.access import Models, Role
from consistency_service.runtime.metadata import Metadata
from edge_client.protocol.messages import Event
from edge_client.protocol.position import Position

SUBSCRIBERS_MAX: Final = 200
HEARTBEAT_S: Final = 10.0
STILL_S: Final = 1.0
"""How often a stream looks whether its caller would still be let in."""
BATCH_MAX: Final = 100
_POSITION: Final = re.compile(r"([0-9]{1,18})-([0-9]{1,18})", re.ASCII)
router = APIRouter(prefix="/v1", tags=["events"])


class Subscribers:
    """How many streams are open here."""

    def __init__(self) -> None:
        self.count = 0


@router.get(
    "/events",
    response_class=Response,
    responses={
        **documented("invalid", "events_gone", "not_strong", "too_many_subscribers"),
        200: {"description": "`id: EPOCH-REVISION`, `data:` one event as JSON", "content": {"text/event-stream": {}}},
    },
)
@needs(Role.VIEWER, models=Models.CHECKED)
async def follow_events(
    request: Request,
    node: NodeDep,
    after: Annotated[str | None, Query(description="`EPOCH-REVISION`; none: from now on.")] = None,
    last_event_id: Annotated[str | None, Header(description="Goes before `after`.")] = None,
) -> Response:
    """Every event behind a position, and then those to come. A comment every ten seconds shows that the line is alive.

    Ends when the caller's credentials do. Callers who are limited to some models are told of what concerns those alone.
    """
    state = request.app.state
    metadata = node.metadata
    text = last_event_id or after
    position = position_of(text) if text else metadata.state.position
    if position.epoch > metadata.state.position.epoch:
        raise ProblemError("not_strong", detail=f"this node has not come to epoch {position.epoch} yet; ask another")
    if position.epoch < metadata.state.position.epoch or metadata.events_after(position.revision) is None:
        raise _gone(metadata)
    if state.subscribers.count >= SUBSCRIBERS_MAX:
        raise ProblemError("too_many_subscribers", limit=SUBSCRIBERS_MAX)
    return EventStream(metadata, position=position, subscribers=state.subscribers, closing=state.closing)


def position_of(text: str) -> Position:
    """The position that `EPOCH-REVISION` names. Raises `ProblemError`."""
    match = _POSITION.fullmatch(text.strip())
    if match is None:
        raise ProblemError("invalid", field="after", detail="a position is EPOCH-REVISION, such as 1-42")
    return Position(int(match.group(1)), int(match.group(2)))


def _gone(metadata: Metadata) -> ProblemError:
    position = metadata.state.position
    return ProblemError("events_gone", position=f"{position.epoch}-{position.revision}")


class EventStream(Response):
    """Streams until the caller leaves, the server closes, or the caller has fallen behind what is kept."""

    media_type = "text/event-stream"

    def __init__(
        self, metadata: Metadata, *, position: Position, subscribers: Subscribers, closing: asyncio.Event
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._metadata = metadata
        self._position = position
        self._subscribers = subscribers
        self._closing = closing
        self._caller = caller_now()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._subscribers.count += 1
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await _first_of(
                self._send_events(send), self._closing.wait(), _disconnected(receive), _turned_away(self._caller)
            )
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._subscribers.count -= 1

    async def _send_events(self, send: Send) -> None:
        position = self._position
        await _say(send, f"retry: 1000\n: after {position.epoch}-{position.revision}\n\n".encode())
        while position.epoch == self._metadata.state.epoch:
            events = self._metadata.events_after(position.revision)
            if events is None:
                await _say(send, b": events in between are not kept any more\n\n")
                return
            if events:
                batch = events[:BATCH_MAX]
                if told := [event for event in batch if _concerns(event, self._caller)]:
                    await _say(send, b"".join(map(_encoded, told)))
                position = batch[-1].position
                continue
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._metadata.wait_position(Position(position.epoch, position.revision + 1))
            except TimeoutError:
                await _say(send, b": alive\n\n")


def _encoded(event: Event) -> bytes:
    return b"id: %d-%d\ndata: %s\n\n" % (event.epoch, event.revision, msgspec.json.encode(event))


def _concerns(event: Event, caller: Caller) -> bool:
    """Whether the caller may know of it: they see every model that it names, and it names one."""
    return not caller.limited or caller.sees_all(models_of(event))


def models_of(event: Event) -> set[str]:
    """Every model that an event names."""
    named = {view.name for view in event.models} | set(event.removed)
    one, several = event.detail.get("model"), event.detail.get("models")
    listed = [one, *(several if isinstance(several, list | tuple | dict) else ())]
    return named | {name for name in listed if isinstance(name, str)}


async def _turned_away(caller: Caller) -> None:
    """Returns when the caller would not be let in any more."""
    while caller.still_holds is None or await caller.still_holds():  # noqa: ASYNC110 -- nothing tells of time but time
        await asyncio.sleep(STILL_S)


async def _say(send: Send, text: bytes) -> None:
    await send({"type": "http.response.body", "body": text, "more_body": True})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    raise ClientDisconnect


async def _first_of(*waits: Awaitable[Any]) -> None:
    """Return when the first of them does, or raise what it raised; the others are cancelled."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
