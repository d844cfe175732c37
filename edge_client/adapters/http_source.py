"""Artifacts from the region's service nodes by HTTP: one resumable download at a time, raw bytes as they arrive.

What comes back is only bytes; the caller verifies them by digest. So this module cares that a resumed download goes on
exactly where it stopped, that nothing waits for ever, and that every way in which a node can fail is one error, after
which another node is asked.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Final

import httpx

from edge_client.adapters.http_access import HttpAccess
from edge_client.errors import ArtifactUnavailableError
from edge_client.protocol.digest import Digest, InvalidDigestError

REDIRECTS_MAX: Final = 3
"""Redirects are followed within one scheme only: never from https to http, never to anything that is not HTTP."""

_SCHEMES: Final = ("http", "https")
_CONNECTIONS_MAX: Final = 16
_RANGE_START: Final = re.compile(r"bytes (\d{1,19})-")
_RANGE_TOTAL: Final = re.compile(r"bytes \*/(\d{1,19})")


class HttpSource:
    """An `ArtifactSource`. Speaks to service nodes directly, without the environment's proxies.

    `access` says whom to believe for `https`, and holds the token that nodes are shown; one that was refused is read again
    from its file, once. A node that is silent for `read_timeout_ms` is given up.
    """

    def __init__(
        self,
        *,
        connect_timeout_ms: int = 2_000,
        read_timeout_ms: int = 10_000,
        access: HttpAccess | None = None,
    ) -> None:
        self._access = access or HttpAccess()
        timeout = httpx.Timeout(read_timeout_ms / 1000, connect=connect_timeout_ms / 1000)
        self._http = httpx.AsyncClient(
            timeout=timeout,
            limits=httpx.Limits(max_connections=_CONNECTIONS_MAX, max_keepalive_connections=4),
            verify=self._access.context,
            trust_env=False,
            follow_redirects=False,
            headers={"accept": "application/octet-stream", "accept-encoding": "identity"},
        )

    async def fetch(self, *, url: str, digest: str, offset: int) -> AsyncIterator[bytes]:
        """Bytes of the artifact from `offset` on, as they arrive from `{url}/v1/artifacts/{digest}`.

        Raises `ArtifactUnavailableError` when the node refuses, redirects elsewhere, answers for another range, cuts the
        answer short or does not answer in time, and for a URL or a digest that makes no sense.
        """
        assert offset >= 0, offset
        if self._http.is_closed:
            raise ArtifactUnavailableError(f"{url}: the source was closed")
        try:
            target = httpx.URL(f"{url.rstrip('/')}/v1/artifacts/{Digest.parse(digest)}")
            if target.scheme not in _SCHEMES:
                raise ArtifactUnavailableError(f"{url}: only http and https are spoken")
            async with aclosing(self._follow(target, offset=offset)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except InvalidDigestError as error:
            raise ArtifactUnavailableError(str(error)) from error
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as error:
            raise ArtifactUnavailableError(f"{url}: {str(error)[:300] or type(error).__name__}") from error

    async def close(self) -> None:
        """Release the connections; downloads that are under way end with an error."""
        await self._http.aclose()

    async def _follow(self, target: httpx.URL, *, offset: int) -> AsyncGenerator[bytes, None]:
        headers = {"range": f"bytes={offset}-"} if offset else {}
        asked, tried = target, 0
        while tried <= REDIRECTS_MAX:
            # Whoever a node redirects to, a store for instance, is not shown what is meant for nodes.
            shown = self._access.headers(target) if _origin(target) == _origin(asked) else {}
            async with self._http.stream("GET", target, headers=headers | shown) as response:
                tried += 1
                if response.status_code == httpx.codes.UNAUTHORIZED and shown and self._access.renewed():
                    continue
                location = response.headers.get("location")
                if not (response.is_redirect and location):
                    skip = _bytes_to_skip(response, offset=offset)
                    if skip is not None:
                        async for chunk in response.aiter_raw():
                            if len(chunk) > skip:
                                yield chunk[skip:]
                            skip = max(0, skip - len(chunk))
                        if skip:
                            raise ArtifactUnavailableError(f"{target}: the artifact ends before byte {offset}")
                    return
                redirected = target.join(location)
                if redirected.scheme != target.scheme:
                    raise ArtifactUnavailableError(f"{target} redirects to another scheme: {redirected.scheme}")
                target = redirected
        raise ArtifactUnavailableError(f"{target}: more than {REDIRECTS_MAX} redirects")


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _bytes_to_skip(response: httpx.Response, *, offset: int) -> int | None:
    """How much of the body lies before `offset`; None when nothing is left to read. Raises if the body is of no use."""
    if response.headers.get("content-encoding", "identity") != "identity":
        raise ArtifactUnavailableError(f"{response.url}: answered in an encoding that was not asked for")
    content_range = response.headers.get("content-range", "")
    if response.status_code == httpx.codes.OK:
        return offset
    if response.status_code == httpx.codes.PARTIAL_CONTENT and offset:
        start = _RANGE_START.match(content_range)
        if start is None or int(start[1]) != offset:
            raise ArtifactUnavailableError(f"{response.url}: asked from byte {offset}, got {content_range[:60]!r}")
        return 0
    if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
        total = _RANGE_TOTAL.match(content_range)
        if total is not None and int(total[1]) == offset:
            return None
    raise ArtifactUnavailableError(f"{response.url}: answered {response.status_code}")
