"""Who asks, and may they? One layer in front of everything that a caller could set in motion.

Each route says beside its path who may call it (`needs`); one that says nothing is closed to everybody. The layer finds the
route, finds out who asks, and turns away whoever may not, before the body is read and before the call is passed on to
another node, where the same layer looks again. What depends on the models in a body or in the state, the route asks
`caller_now` itself: it alone knows them.

A call is passed on with the bearer token it came with. A caller known by certificate cannot be shown to the next node that
way: there this node vouches for them, in `X-CCS-On-Behalf`, which is believed of a node of the region and of nobody else.

Without an `access` file everybody may do everything, as far as the address on which the node listens lets them come.
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from typing import Any, Final, Protocol, TypeVar

import msgspec
from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.responses import RedirectResponse
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from consistency_service.api.problems import ProblemError
from consistency_service.api.server import CERTIFICATE
from consistency_service.api.sessions import LOGIN_PATH, Sessions, cookie_of, login_url
from consistency_service.core.access import Denial, Identity, Models, Role, Rule, Unknown, denial
from consistency_service.core.rate_limits import NS_PER_S, RateLimits
from consistency_service.runtime.node import Node

_log = logging.getLogger(__name__)
ON_BEHALF: Final = "X-CCS-On-Behalf"
ON_BEHALF_CHARS_MAX: Final = 16 * 1024
FAILURES_PER_S: Final = 1
FAILURES_BURST: Final = 30
"""Of wrong credentials from one address."""
LOGGED_PER_S: Final = 5
LOGGED_BURST: Final = 50
_RULE: Final = "__ccs_rule__"
_Endpoint = TypeVar("_Endpoint", bound=Callable[..., Any])


class Authentication(Protocol):
    """Finds out who a caller is. Takes any text and any bytes; raises nothing."""

    async def bearer(self, token: str) -> Identity | Unknown: ...
    async def certificate(self, der: bytes) -> Identity | None: ...


def needs(
    role: Role | None, *, also: tuple[Role, ...] = (), models: Models = Models.NONE
) -> Callable[[_Endpoint], _Endpoint]:
    """Declares who may call a route; stands between the route's own decorator and its function."""

    def declare(endpoint: _Endpoint) -> _Endpoint:
        setattr(endpoint, _RULE, Rule(role=role, also=also, models=models))
        return endpoint

    return declare


def rule_of(endpoint: object) -> Rule | None:
    """What was declared; None if nothing was."""
    return getattr(endpoint, _RULE, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who makes the call that is being answered."""

    identity: Identity | None = None
    """None: nobody had to say who they are."""
    pass_on: tuple[tuple[bytes, bytes], ...] = field(default=(), repr=False)
    """Headers by which the next node knows them, too."""
    still_holds: Callable[[], Awaitable[bool]] | None = field(default=None, repr=False)
    """Whether they would still be let in; None: always."""

    @property
    def name(self) -> str:
        """By which they are written down."""
        return self.identity.name if self.identity else "anonymous"

    @property
    def limited(self) -> bool:
        """To some models."""
        return self.identity is not None and self.identity.models is not None

    def sees(self, model: str) -> bool:
        """Whether they may know of a model."""
        return self.identity is None or self.identity.sees(model)

    def sees_all(self, models: Iterable[str]) -> bool:
        """Whether they may know of something that concerns these models, and at least one."""
        return self.identity is None or self.identity.sees_all(models)

    def require(self, models: Iterable[str]) -> None:
        """Raises `ProblemError` unless they may have to do with all of these models."""
        if not self.sees_all(models):
            assert self.identity is not None
            raise forbidden(self.identity, None, Denial.MODELS)


ANYBODY: Final = Caller()
_caller: ContextVar[Caller] = ContextVar("caller", default=ANYBODY)


def caller_now() -> Caller:
    """Who makes the call that the running task answers."""
    return _caller.get()


def forbidden(identity: Identity, rule: Rule | None, why: Denial) -> ProblemError:
    """The refusal for somebody known."""
    has = f"{identity.name!r} is {identity.role.value}"
    if why is Denial.MODELS:
        limits = ", ".join(f"{prefix}…" for prefix in identity.models or ())
        return ProblemError("forbidden", detail=f"{has} for models {limits} only; this concerns others", role=None)
    if rule is None or rule.role is None:
        return ProblemError("forbidden", detail="nobody is let in here", role=None)
    beside = "".join(f" or {role.value}" for role in rule.also)
    return ProblemError("forbidden", detail=f"{has}; this needs {rule.role.value}{beside}", role=rule.role.value)


class Access:
    """Who is let in at one node. Counts in `counters`; what is refused, `Guard` counts by its code."""

    def __init__(self, *, node: Node, authentication: Authentication | None, counters: Counter[str]) -> None:
        self.sessions = Sessions(now_ns=node.clock.now_ns, counters=counters)
        self._node = node
        self._authentication = authentication
        self._counters = counters
        self._requests = RateLimits(per_s=node.config.requests_per_s, burst=node.config.requests_burst)
        self._failures = RateLimits(per_s=FAILURES_PER_S, burst=FAILURES_BURST)
        self._lines = RateLimits(per_s=LOGGED_PER_S, burst=LOGGED_BURST, keys_max=1)

    @property
    def open(self) -> bool:
        """Nobody has to say who they are."""
        return self._authentication is None

    async def admit(self, scope: Scope, found: Found | None) -> Caller:
        """Who asks for what was found at the path. Raises `ProblemError` if they may not."""
        headers, address = Headers(scope=scope), _address(scope)
        if found is not None and found.rule is not None and found.rule.role is None:
            return ANYBODY
        if self._authentication is None:
            if ON_BEHALF in headers:
                raise self._stranger()
            if not _is_loopback(address):
                self._limit(f"address:{address}")
            return ANYBODY
        der = scope.get("state", {}).get(CERTIFICATE)
        shown = await self._authentication.certificate(der) if der else None
        is_node = shown is not None and shown.role is Role.NODE
        if ON_BEHALF in headers and not (is_node and shown is not None and shown.name in self._node.urls()):
            raise self._stranger()
        caller = await self._caller(self._authentication, scope, headers, shown=shown)
        identity = caller.identity
        assert identity is not None
        if not is_node:  # the first node has counted it already
            self._limit(f"{identity.kind}:{identity.name}")
        why = None if found is None else denial(identity, found.rule, model=found.model)
        if why is not None:
            raise forbidden(identity, found.rule if found is not None else None, why)
        return caller

    async def known(self, scope: Scope, token: str) -> Identity:
        """Whose token it is. Raises `ProblemError`."""
        assert self._authentication is not None
        found = await self._authentication.bearer(token)
        if isinstance(found, Identity):
            return found
        raise self._unauthenticated(found, _address(scope))

    def note(self, error: ProblemError, *, scope: Scope) -> None:
        """A line in the log, as long as there are not too many."""
        if self._lines.take("", now_ns=self._node.clock.now_ns()):
            self._counters["refusals_not_logged"] += 1
            return
        detail = error.problem.detail or error.problem.code
        method, path, address = scope["method"], scope["path"][:200], _address(scope)
        _log.warning("access_refused method=%s path=%r address=%s reason=%r", method, path, address, detail[:300])

    async def _caller(
        self, authentication: Authentication, scope: Scope, headers: Headers, *, shown: Identity | None
    ) -> Caller:
        """By the token, the session, or the certificate, in this order. Raises `ProblemError`."""
        given = headers.getlist("authorization")
        session = None if given else cookie_of(headers)
        token = _bearer(given) if given else self.sessions.token(session)
        if given and token is None:
            raise self._unauthenticated(Unknown.MALFORMED, _address(scope))
        if token is not None:
            identity = await self.known(scope, token)

            async def token_holds() -> bool:
                open_still = session is None or self.sessions.token(session) is not None
                return open_still and await authentication.bearer(token) == identity

            pass_on = ((b"authorization", b"Bearer " + token.encode()),)
            return Caller(identity=identity, pass_on=pass_on, still_holds=token_holds)
        if shown is None:
            self._limit(f"address:{_address(scope)}")
            raise unauthenticated(None)
        if ON_BEHALF in headers:
            return Caller(identity=_vouched_for(headers))
        der = scope["state"][CERTIFICATE]

        async def certificate_holds() -> bool:
            return await authentication.certificate(der) == shown

        return Caller(
            identity=shown, pass_on=((ON_BEHALF.lower().encode(), _vouch(shown)),), still_holds=certificate_holds
        )

    def _unauthenticated(self, why: Unknown, address: str) -> ProblemError:
        """The refusal for somebody whose credentials are of no use; another one for who tries too often."""
        self._counters[f"credentials_{why.value}"] += 1
        wait_ns = self._failures.take(address, now_ns=self._node.clock.now_ns())
        if wait_ns:
            self._counters["credentials_guessed"] += 1
            return _too_often(wait_ns)
        return unauthenticated(why)

    def _stranger(self) -> ProblemError:
        self._counters["on_behalf_of_strangers"] += 1
        return ProblemError("forbidden", detail=f"{ON_BEHALF} is for the nodes of the region", role=Role.NODE.value)

    def _limit(self, key: str) -> None:
        wait_ns = self._requests.take(key, now_ns=self._node.clock.now_ns())
        if forgotten_count := self._requests.forgotten_count + self._failures.forgotten_count:
            self._counters["callers_forgotten"] = forgotten_count
        if wait_ns:
            raise _too_often(wait_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The route of a call: what it declares, and the model in its path."""

    rule: Rule | None
    model: str | None


class AccessLayer:
    """ASGI middleware in front of `Forwarding`."""

    def __init__(self, app: ASGIApp, *, routes: FastAPI, access: Access) -> None:
        self._app = app
        self._owner = routes
        self._routes: tuple[BaseRoute, ...] = ()
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            caller = await self._access.admit(scope, self._found(scope))
        except ProblemError as error:
            self._access.note(error, scope=scope)
            if error.problem.code != "unauthenticated" or not _wants_page(scope):
                raise
            await RedirectResponse(login_url(scope), status_code=303)(scope, receive, send)
            return
        token = _caller.set(caller)
        try:
            await self._app(scope, receive, send)
        except ProblemError as error:
            if error.problem.code == "forbidden":
                self._access.note(error, scope=scope)
            raise
        finally:
            _caller.reset(token)

    def _found(self, scope: Scope) -> Found | None:
        """The first route that takes this path and method, as routing itself finds it."""
        self._routes = self._routes or tuple(routes_of(self._owner))
        for route in self._routes:
            match, found = route.matches(scope)
            if match is Match.FULL:
                return Found(rule=rule_of(found.get("endpoint")), model=found.get("path_params", {}).get("model"))
        return None


def routes_of(app: FastAPI) -> Iterator[BaseRoute]:
    """Every route, in the order of routing. Routers are included without a prefix: their routes know their whole paths."""
    rest = list(app.router.routes)
    while rest:
        route = rest.pop(0)
        included = getattr(route, "original_router", None)
        if included is None:
            yield route
        else:
            rest[:0] = included.routes


def unauthenticated(why: Unknown | None) -> ProblemError:
    """The refusal for somebody who showed nothing, or something of no use."""
    headers = {"WWW-Authenticate": 'Bearer realm="ccs"' + ("" if why is None else ', error="invalid_token"')}
    detail = None if why is None else f"the credentials are of no use: {why.value.replace('_', ' ')}"
    return ProblemError("unauthenticated", detail=detail, headers=headers)


def _too_often(wait_ns: int) -> ProblemError:
    wait_s = str(max(1, -(-wait_ns // NS_PER_S)))
    return ProblemError("rate_limited", headers={"Retry-After": wait_s}, retry_after_s=int(wait_s))


def _bearer(given: list[str]) -> str | None:
    """The token of the one `Authorization` header; None if there are several, or it is something else."""
    if len(given) != 1:
        return None
    scheme, _, token = given[0].partition(" ")
    token = token.strip()
    return token if scheme.lower() == "bearer" and token and token.isascii() else None


def _vouch(identity: Identity) -> bytes:
    return base64.urlsafe_b64encode(msgspec.json.encode(identity))


def _vouched_for(headers: Headers) -> Identity:
    """Whom a node of the region names. Raises `ProblemError`."""
    given = headers.getlist(ON_BEHALF)
    try:
        if len(given) != 1 or len(given[0]) > ON_BEHALF_CHARS_MAX:
            raise ValueError(ON_BEHALF)
        return msgspec.json.decode(base64.b64decode(given[0], altchars=b"-_", validate=True), type=Identity)
    except (ValueError, binascii.Error, msgspec.DecodeError):
        raise ProblemError("malformed", detail=f"{ON_BEHALF} cannot be read") from None


def _address(scope: Scope) -> str:
    """Where the caller is. Of IPv6 the network: one host has as many addresses as it likes."""
    host = str((scope.get("client") or ("", 0))[0])
    try:
        found = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(found, IPv6Address) and found.ipv4_mapped is None and not found.is_loopback:
        return str(IPv6Address(int(found) >> 64 << 64)) + "/64"
    return str(found)


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return not address  # a socket of this machine, which has no address


def _wants_page(scope: Scope) -> bool:
    path = scope["path"]
    wants = "text/html" in Headers(scope=scope).get("accept", "")
    return scope["method"] == "GET" and wants and not path.startswith("/v1/") and path != LOGIN_PATH
