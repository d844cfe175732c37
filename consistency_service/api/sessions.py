"""Browsers: a token shown once becomes a cookie that is worth as much as the token, for half a day at most.

The cookie names a session of this node. The session holds the token itself, in memory alone, and every call with the
cookie is judged as a call with the token: it ends when the token expires or is revoked, when its visitor logs out, and when
the node restarts. Pages of other sites cannot use it (`SameSite=Strict`, and `Guard`), scripts cannot read it (`HttpOnly`),
and browsers send it by TLS alone, or to their own machine (`Secure`).
"""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import Scope

COOKIE: Final = "__Host-ccs_session"
LOGIN_PATH: Final = "/login"
SESSIONS_MAX: Final = 1_000
SESSION_S: Final = 12 * 3_600
_NS_PER_S: Final = 1_000_000_000


class Sessions:
    """Who is logged in at this node. When there are too many, the oldest ends."""

    def __init__(self, *, now_ns: Callable[[], int], counters: Counter[str] | None = None) -> None:
        self._now_ns = now_ns
        self._counters: Counter[str] = Counter() if counters is None else counters
        self._tokens: OrderedDict[bytes, tuple[str, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tokens)

    def __repr__(self) -> str:
        return f"<Sessions {len(self._tokens)}/{SESSIONS_MAX}>"

    def begin(self, token: str) -> str:
        """The value of the cookie."""
        value = secrets.token_urlsafe(32)
        self._tokens[_digest(value)] = (token, self._now_ns() + SESSION_S * _NS_PER_S)
        while len(self._tokens) > SESSIONS_MAX:
            self._tokens.popitem(last=False)
            self._counters["sessions_ended_early"] += 1
        return value

    def token(self, value: str | None) -> str | None:
        """The token that was shown when the session began; None if it has ended, or never was."""
        if value is None:
            return None
        token, ends_at_ns = self._tokens.get(_digest(value), (None, 0))
        if token is not None and self._now_ns() >= ends_at_ns:
            self.end(value)
            return None
        return token

    def end(self, value: str | None) -> None:
        """The cookie is worth nothing any more."""
        if value is not None:
            self._tokens.pop(_digest(value), None)


def cookie_of(headers: Headers) -> str | None:
    """The session that a request names."""
    return cookie_parser(headers.get("cookie", "")).get(COOKIE)


def set_cookie(value: str, *, max_age_s: int = SESSION_S) -> str:
    """The header that gives a browser the cookie, or with `max_age_s=0` takes it away."""
    return f"{COOKIE}={value}; Path=/; Max-Age={max_age_s}; Secure; HttpOnly; SameSite=Strict"


def login_url(scope: Scope) -> str:
    """The login page, which leads back to what was asked for."""
    query = scope.get("query_string", b"").decode("latin-1")
    wanted = scope["path"] + (f"?{query}" if query else "")
    return LOGIN_PATH if wanted == "/" else f"{LOGIN_PATH}?next={quote(wanted[:1_000], safe='/')}"


def own_path(wanted: str) -> str:
    """`wanted` if it is a path of this node, else the first page: nobody is sent elsewhere."""
    own = wanted.startswith("/") and not wanted.startswith("//") and "\\" not in wanted and wanted.isprintable()
    return wanted if own else "/"


def _digest(value: str) -> bytes:
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).digest()
