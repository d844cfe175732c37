"""Calls to addresses that callers of the region named: external checks and webhooks, by httpx.

Whoever may change models may name an address, so what a call can do is kept small: POST over http or https only, no
redirect, no proxy or credentials of the environment, a deadline for the whole of it, a few kilobytes of answer. Link-local
addresses, where clouds keep their instance metadata, are refused by every name that leads there.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Final

import httpx

from consistency_service.errors import WebUnavailableError
from consistency_service.runtime.ports import WebAnswer

CONNECTIONS_MAX: Final = 64


class HttpWebCaller:
    """`WebCaller` on one client with a bounded pool."""

    def __init__(self) -> None:
        self._http = httpx.AsyncClient(
            limits=httpx.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=8, keepalive_expiry=5.0),
            trust_env=False,
            follow_redirects=False,
            headers={"accept-encoding": "identity", "user-agent": "consistency-service"},
        )

    async def post(
        self, url: str, *, body: bytes, headers: dict[str, str], timeout_ms: int, answer_bytes_max: int
    ) -> WebAnswer:
        """The answer. Raises `WebUnavailableError`."""
        try:
            async with asyncio.timeout(timeout_ms / 1_000):
                await _require_harmless(httpx.URL(url))
                request = self._http.build_request("POST", url, content=body, headers=headers, timeout=None)
                answer = await self._http.send(request, stream=True)
                try:
                    return WebAnswer(status=answer.status_code, body=await _beginning(answer, answer_bytes_max))
                finally:
                    await answer.aclose()
        except TimeoutError:
            raise WebUnavailableError(f"no answer within {timeout_ms} ms") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            raise WebUnavailableError(f"{type(error).__name__}: {error}"[:200]) from None

    async def close(self) -> None:
        """Release the connections."""
        await self._http.aclose()


async def _beginning(answer: httpx.Response, bytes_max: int) -> bytes:
    """The body; of one that is longer than `bytes_max`, one byte more than that."""
    chunks = b""
    async for chunk in answer.aiter_raw():
        chunks += chunk[: bytes_max + 1 - len(chunks)]
        if len(chunks) > bytes_max:
            break
    return chunks


async def _require_harmless(url: httpx.URL) -> None:
    """The address is http(s), and no name of it leads to a link-local or multicast one. Raises `WebUnavailableError`."""
    if url.scheme not in {"http", "https"} or not url.host:
        raise WebUnavailableError("only http and https addresses are called")
    port = url.port or (443 if url.scheme == "https" else 80)
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise WebUnavailableError(f"{url.host} is not known") from None
    for _, _, _, _, address in found:
        host = ipaddress.ip_address(str(address[0]).partition("%")[0])
        plain = getattr(host, "ipv4_mapped", None) or host
        if plain.is_link_local or plain.is_multicast or plain.is_unspecified:
            raise WebUnavailableError(f"{url.host} leads to {plain}, which is not called")
