"""The other nodes of the region, as this one reaches them by HTTP."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Final

import httpx

CONNECTIONS_MAX: Final = 200
STATUS_TIMEOUT_MS: Final = 1_000


class Peers:
    """One HTTP client for all of them; speaks to them directly, without the environment's proxies.

    `tls` says whom to believe, and holds the certificate by which they know this node.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.http = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=1.0, write=10.0, pool=5.0),
            limits=httpx.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=20, keepalive_expiry=3.0),
            verify=True if tls is None else tls,
            trust_env=False,
            follow_redirects=False,
            headers={"accept-encoding": "identity"},
        )

    async def self_status(self, url: str) -> dict[str, Any] | None:
        """What the node at this base URL says of itself; None if it does not say so within a second."""
        try:
            async with asyncio.timeout(STATUS_TIMEOUT_MS / 1_000):
                response = await self.http.get(f"{url.rstrip('/')}/v1/cluster/self")
            answer = response.json() if response.status_code == 200 else None
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError, RecursionError):
            return None
        return answer if isinstance(answer, dict) else None

    async def close(self) -> None:
        """Release the connections."""
        await self.http.aclose()
