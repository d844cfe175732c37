"""Puts the HTTP side together: routes, the layers around them, and the description of it all."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from consistency_service import __version__
from consistency_service.api import (
    activations,
    artifacts,
    backups,
    events,
    features,
    fleet,
    health,
    members,
    models,
    publishers,
    reads,
    rollouts,
    webhooks,
    whoami,
)
from consistency_service.api.access import Access, AccessLayer, Authentication
from consistency_service.api.dashboard import add_dashboard
from consistency_service.api.description import describe
from consistency_service.api.docs_page import add_docs
from consistency_service.api.forwarding import Forwarding
from consistency_service.api.guard import Bodies, Guard
from consistency_service.api.peers import Peers
from consistency_service.api.problems import documented, on_http_error, on_validation_error
from consistency_service.api.telemetry import Stopwatch, metrics_router
from consistency_service.runtime.node import Node

DESCRIPTION: Final = """
Decides which version of a model is active, for everybody at one instant. Any node takes any call.

- **Changes** take `Idempotency-Key`: asking again with the same key does not do it again. Where a model is changed they
  take `If-Match: "GENERATION"`. `X-CCS-Author` names you in the audit where nobody has to authenticate.
- **Callers** show a bearer token or a client certificate, where the node has an `access` file; `x-ccs-role` says which role
  a call needs.
- **Reads** are linearizable by default; `consistency=local` answers at once with what this node knows. Every answer
  says in `X-CCS-Position` (`EPOCH-REVISION`) how far this node is.
- **Errors** are problem documents (RFC 9457) with a stable `type`, `urn:ccs:problem:CODE`.
- **Lists** take `limit` and `cursor`, and answer `next_cursor`. Times are Unix milliseconds.
"""


def create_api(
    node: Node,
    *,
    peers: Peers | None = None,
    authentication: Authentication | None = None,
    counters: Counter[str] | None = None,
) -> FastAPI:
    """The ASGI application of one node. Without `authentication` everybody may do everything.

    `app.state.closing` ends event streams when it is set; `peers` are closed with the application's lifespan.
    """
    reach = peers or Peers()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        app.state.closing.set()
        await reach.close()

    app = FastAPI(
        title="Consistency service",
        version=__version__,
        description=DESCRIPTION,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
        responses=documented("internal"),
        exception_handlers={RequestValidationError: on_validation_error, HTTPException: on_http_error},
    )
    counters = Counter() if counters is None else counters
    access = Access(node=node, authentication=authentication, counters=counters)
    app.state.access = access
    app.state.node = node
    app.state.peers = reach
    app.state.counters = counters
    app.state.closing = asyncio.Event()
    app.state.policy_lock = asyncio.Lock()
    app.state.subscribers = events.Subscribers()
    app.state.transfers = artifacts.Transfers()
    for module in (
        models,
        activations,
        reads,
        rollouts,
        webhooks,
        features,
        artifacts,
        backups,
        fleet,
        members,
        publishers,
        events,
        health,
        whoami,
    ):
        app.include_router(module.router)
    app.include_router(metrics_router)
    add_docs(app)
    add_dashboard(app)
    app.add_middleware(Forwarding, node=node, peers=reach, counters=counters)
    app.add_middleware(Bodies)
    app.add_middleware(AccessLayer, routes=app, access=access)
    app.add_middleware(Guard, node=node, counters=counters)
    app.add_middleware(Stopwatch, api=app, telemetry=node.telemetry, counters=counters)
    node.measuring.parts["api"] = counters
    describe(app)
    return app
