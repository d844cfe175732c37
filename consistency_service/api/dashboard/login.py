"""Log in with a token, and out again: how a browser, which has no place for a token, comes to see the pages."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import parse_qs

from fastapi import APIRouter, Query, Request
from starlette.responses import RedirectResponse, Response

from consistency_service.api.access import Access, needs
from consistency_service.api.dashboard.rendering import Renderer
from consistency_service.api.problems import ProblemError
from consistency_service.api.sessions import LOGIN_PATH, cookie_of, own_path, set_cookie
from consistency_service.core.access import Role, Rule, may

PATH_CHARS_MAX = 2_000
_PAGES = Rule(role=Role.VIEWER)


def login_routes(renderer: Renderer, access: Access, *, region: str) -> APIRouter:
    """`/login` and `/logout`."""
    router = APIRouter(include_in_schema=False)

    async def page(wanted: str, *, trouble: str = "", status: int = 200) -> Response:
        return await renderer.page("login.html", status=status, region=region, wanted=own_path(wanted), trouble=trouble)

    @router.get(LOGIN_PATH)
    @needs(None)
    async def login_page(wanted: Annotated[str, Query(alias="next", max_length=PATH_CHARS_MAX)] = "/") -> Response:
        return RedirectResponse(own_path(wanted), status_code=303) if access.open else await page(wanted)

    @router.post(LOGIN_PATH)
    @needs(None)
    async def log_in(request: Request) -> Response:
        try:
            given = parse_qs((await request.body()).decode("latin-1"), max_num_fields=10)
        except ValueError:  # more fields than the page has
            given = {}
        wanted, token = given.get("next", ["/"])[0], given.get("token", [""])[0].strip()
        if access.open:
            return RedirectResponse(own_path(wanted), status_code=303)
        try:
            if not token or not token.isascii():
                raise ProblemError("unauthenticated")
            identity = await access.known(request.scope, token)
        except ProblemError as error:
            often = error.problem.code == "rate_limited"
            trouble = "Too many attempts; wait a little." if often else "This token is not known, or has expired."
            return await page(wanted, trouble=trouble, status=error.problem.status)
        if not may(identity.role, _PAGES) or identity.models is not None:
            trouble = "The pages tell of every model; this token may not see all of them. Use ccs with it."
            return await page(wanted, trouble=trouble, status=403)
        access.sessions.end(cookie_of(request.headers))
        cookie = set_cookie(access.sessions.begin(token))
        return RedirectResponse(own_path(wanted), status_code=303, headers={"Set-Cookie": cookie})

    @router.post("/logout")
    @needs(None)
    async def log_out(request: Request) -> Response:
        access.sessions.end(cookie_of(request.headers))
        return RedirectResponse(LOGIN_PATH, status_code=303, headers={"Set-Cookie": set_cookie("", max_age_s=0)})

    return router
