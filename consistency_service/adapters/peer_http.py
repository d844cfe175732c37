"""Asks other nodes what they believe of themselves, by their REST API."""

from __future__ import annotations

from typing import Any, Final

import httpx

ANSWER_BYTES_MAX: Final = 64 * 1024


class PeerHttp:
    """A small HTTP client for node-to-node questions. Answers are hints; nothing that must be true hangs on them."""

    def __init__(self, *, timeout_ms: int = 500) -> None:
        self._client = httpx.AsyncClient(timeout=timeout_ms / 1_000, follow_redirects=False, trust_env=False)

    async def status(self, url: str) -> dict[str, Any] | None:
        """The `self_status` of the node at `url`; None when it does not answer in time, or answers nonsense."""
        try:
            response = await self._client.get(f"{url}/v1/cluster/self")
            if response.status_code != 200 or len(response.content) > ANSWER_BYTES_MAX:
                return None
            answer = response.json()
        except (httpx.HTTPError, ValueError):
            return None
        return answer if isinstance(answer, dict) else None

    async def close(self) -> None:
        await self._client.aclose()
