"""Which page is where. Each route looks at the node, makes a value of what it saw, and has it rendered.

A page is read where it is asked for: first this node asks the cluster whether its state is current (at most half a second),
then it shows what it has and says which of the two it was. A visitor of a node that is cut off sees what that node knows.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import APIRouter, FastAPI, Query, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from consistency_service.api.access import Access, caller_now, needs
from consistency_service.api.dashboard.cluster import ClusterLook, cluster_page_of, health_of
from consistency_service.api.dashboard.edges import Asked as EdgesAsked
from consistency_service.api.dashboard.edges import edges_page_of
from consistency_service.api.dashboard.fleet import FleetCount
from consistency_service.api.dashboard.live import LiveLook
from consistency_service.api.dashboard.login import login_routes
from consistency_service.api.dashboard.model import model_page_of
from consistency_service.api.dashboard.overview import overview_of
from consistency_service.api.dashboard.rendering import Renderer
from consistency_service.api.dashboard.rollout import followed, rollout_page_of
from consistency_service.api.dashboard.rollouts import rollouts_page_of
from consistency_service.api.dashboard.timeline import Asked as TimelineAsked
from consistency_service.api.dashboard.timeline import items_of, timeline_page_of
from consistency_service.api.depends import OverdueSettled
from consistency_service.api.features import class_shown, classes_of
from consistency_service.api.problems import on_http_error
from consistency_service.core.access import LADDER, Models, Role
from consistency_service.core.feature_rates import SPAN_MS
from consistency_service.errors import NotLeaderError, UnknownOutcomeError
from consistency_service.runtime.node import Node

CONFIRM_TIMEOUT_MS: Final = 500
TEXT_MAX: Final = 200

Text = Annotated[str, Query(max_length=TEXT_MAX)]
PageNumber = Annotated[int, Query(ge=1, le=1_000_000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class AsOf:
    """What a page was read from."""

    region: str
    node_id: str
    epoch: int
    revision: int
    current: bool
    """Everything acknowledged before the page was asked for is in it."""
    unix_ms: int


class Dashboard:
    """The pages of one node."""

    def __init__(self, app: FastAPI) -> None:
        self.node: Node = app.state.node
        self.fleet = FleetCount(self.node)
        self.cluster = ClusterLook(self.node)
        self.renderer = Renderer(now_unix_ms=self.node.clock.unix_ms)
        self.live = LiveLook(self.node, app.state.peers)

    async def look(self) -> AsOf:
        """Where this node's state stands now, after half a second at most in which the cluster could confirm it."""
        current = True
        try:
            await self.node.metadata.barrier(timeout_ms=CONFIRM_TIMEOUT_MS)
        except (NotLeaderError, UnknownOutcomeError):
            current = False
        state = self.node.metadata.state
        return AsOf(
            region=state.region or self.node.config.region,
            node_id=self.node.config.node_id,
            epoch=state.epoch,
            revision=state.revision,
            current=current,
            unix_ms=self.node.clock.unix_ms(),
        )

    async def answer(self, page: str, as_of: AsOf, *, status: int = 200, **values: Any) -> Response:
        """The page, with what every page says. `values` are not older than `as_of`."""
        frozen = self.node.metadata.state.freeze
        visitor = caller_now().identity
        return await self.renderer.page(
            f"{page}.html",
            status=status,
            as_of=as_of,
            here=page,
            frozen=frozen,
            visitor="" if visitor is None else visitor.name,
            reads_only=visitor is not None and visitor.role not in LADDER[LADDER.index(Role.OPERATOR) :],
            **values,
        )

    async def missing(self, what: str) -> Response:
        """The page that says that there is no such page."""
        return await self.answer("missing", await self.look(), status=404, what=what)


def add_dashboard(app: FastAPI) -> None:
    """Serve the pages, and answer people who ask for what is not there with a page, too."""
    dashboard = Dashboard(app)
    app.include_router(_routes(dashboard))
    access: Access = app.state.access
    app.include_router(login_routes(dashboard.renderer, access, region=dashboard.node.config.region))

    async def not_there(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        wants_page = request.method in {"GET", "HEAD"} and "text/html" in request.headers.get("accept", "")
        if error.status_code == 404 and wants_page and not request.url.path.startswith("/v1/"):
            return await dashboard.missing("")
        return await on_http_error(request, error)

    app.add_exception_handler(HTTPException, not_there)


def _routes(dashboard: Dashboard) -> APIRouter:
    router = APIRouter(include_in_schema=False, dependencies=[OverdueSettled])
    node = dashboard.node

    @router.get("/")
    @needs(Role.VIEWER, models=Models.ALL)
    async def overview(request: Request, q: Text = "", page: PageNumber = 1) -> Response:
        tally, answer = await asyncio.gather(dashboard.fleet.tally(), dashboard.cluster.look(request))
        as_of = await dashboard.look()
        health = health_of(node, answer, tally)
        view = overview_of(node.metadata.state, tally, health, query=q, page=page)
        return await dashboard.answer("overview", as_of, view=view)

    @router.get("/models/{name}")
    @needs(Role.VIEWER, models=Models.ALL)
    async def model(name: str, at: Text = "", everything: bool = False) -> Response:
        tally, as_of = await dashboard.fleet.tally(), await dashboard.look()
        state = node.metadata.state
        found = state.models.get(name)
        if found is None:
            return await dashboard.missing(f"model {name[:TEXT_MAX]}")
        view = model_page_of(state, found, tally, at=at, everything=everything)
        return await dashboard.answer("model", as_of, view=view, everything=everything)

    @router.get("/edges")
    @needs(Role.VIEWER, models=Models.ALL)
    async def edges(
        edge: Text = "",
        model: Text = "",
        version: Text = "",
        guarantee: Text = "",
        site: Text = "",
        label: Text = "",
        state: Text = "",
        sort: Text = "edge",
        page: PageNumber = 1,
    ) -> Response:
        tally, as_of = await dashboard.fleet.tally(), await dashboard.look()
        asked = EdgesAsked(
            edge=edge,
            model=model,
            version=version,
            guarantee=guarantee,
            site=site,
            label=label,
            state=state,
            sort=sort,
        )
        models = tuple(sorted(node.metadata.state.models))
        view = await asyncio.to_thread(
            edges_page_of,
            node.fleet.view.edges(),
            asked=asked,
            page=page,
            position=node.metadata.state.position,
            now_ns=node.clock.now_ns(),
        )
        return await dashboard.answer("edges", as_of, view=view, models=models, sites=tally.sites)

    @router.get("/features")
    @needs(Role.VIEWER)
    async def features() -> Response:
        as_of = await dashboard.look()
        edges = node.fleet.view.features.edge_counts(now_ns=node.clock.now_ns())
        rows = [class_shown(node, known, edges=edges) for known in classes_of(node.metadata.state)]
        return await dashboard.answer("features", as_of, rows=rows, span_ms=SPAN_MS)

    @router.get("/cluster")
    @needs(Role.VIEWER)
    async def cluster(request: Request) -> Response:
        tally, answer = await asyncio.gather(dashboard.fleet.tally(), dashboard.cluster.look(request))
        as_of = await dashboard.look()
        return await dashboard.answer("cluster", as_of, view=cluster_page_of(node, answer, tally))

    @router.get("/timeline")
    @needs(Role.VIEWER, models=Models.ALL)
    async def timeline(
        model: Text = "", author: Text = "", kind: Text = "", refused: bool = False, at: Text = "", page: PageNumber = 1
    ) -> Response:
        as_of = await dashboard.look()
        state = node.metadata.state
        asked = TimelineAsked(model=model, author=author, kind=kind, refused=refused, at=at)
        items = await asyncio.to_thread(items_of, tuple(state.audit), node.metadata.events_kept())
        view = timeline_page_of(state, items, asked=asked, page=page)
        return await dashboard.answer("timeline", as_of, view=view, models=tuple(sorted(state.models)))

    @router.get("/rollouts")
    @needs(Role.VIEWER, models=Models.ALL)
    async def rollouts(only: Text = "", page: PageNumber = 1) -> Response:
        as_of = await dashboard.look()
        return await dashboard.answer(
            "rollouts", as_of, view=rollouts_page_of(node.metadata.state, only=only, page=page)
        )

    @router.get("/rollouts/{rollout_id}")
    @needs(Role.VIEWER, models=Models.ALL)
    async def rollout(rollout_id: str) -> Response:
        as_of = await dashboard.look()
        found = node.metadata.state.rollouts.get(rollout_id)
        if found is None:
            return await dashboard.missing(f"rollout {rollout_id[:TEXT_MAX]}")
        live = await dashboard.live.of(found) if followed(found, node.metadata.state) else None
        view = rollout_page_of(found, frozen=node.metadata.state.freeze, live=live)
        return await dashboard.answer("rollout", as_of, view=view)

    @router.get("/static/{name}")
    @needs(None)
    async def static(name: str) -> Response:
        return dashboard.renderer.file(name) or await dashboard.missing("")

    return router
