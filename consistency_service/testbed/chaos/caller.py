"""One caller of the REST interface, who notes what was asked and what came of it.

A change is repeated under one idempotency key, at any node, until it is answered or the caller has no more patience. What
is not answered may have happened, unless the region said each time that nothing was done.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import httpx
import msgspec

from consistency_service.testbed.chaos.ledger import Request, Told
from consistency_service.testbed.edge_session import boottime_ns

ATTEMPT_S: Final = 8.0
CONNECT_S: Final = 1.0
PAUSE_S: Final = 0.1
PROBLEM: Final = "urn:ccs:problem:"
NOTHING_DONE: Final = frozenset(
    PROBLEM + code
    for code in ("no_leader", "not_authority", "number_passed", "not_bootstrapped", "overloaded", "not_ready")
)
"""Problems that say: nothing was done, ask again."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a change."""

    told: Told
    status: int | None
    body: dict[str, Any]
    name: str
    invoked_ns: int
    returned_ns: int
    attempts: int


class Caller:
    """One thread's calls."""

    def __init__(
        self, name: str, *, urls: Sequence[str], rng: random.Random, stopping: Callable[[], bool] = lambda: False
    ) -> None:
        self.name = name
        self._urls = list(urls)
        self._rng = rng
        self._stopping = stopping
        self._count = 0
        self._http = httpx.Client(trust_env=False)

    def close(self) -> None:
        self._http.close()

    def change(
        self,
        method: str,
        path: str,
        *,
        patience_s: float,
        body: Any = None,
        params: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask until it is answered, `patience_s` have passed or everything ends."""
        self._count += 1
        name = f"{self.name}#{self._count}"
        headers = {"Idempotency-Key": name, "X-CCS-Author": name}
        invoked_ns = boottime_ns()
        deadline_s = time.monotonic() + patience_s
        uncertain, status, attempts = False, None, 0
        document: dict[str, Any] = {}
        told = Told.UNKNOWN
        while True:
            attempts += 1
            left_s = max(0.2, deadline_s - time.monotonic())
            try:
                response = self._http.request(
                    method,
                    self._rng.choice(self._urls) + path,
                    headers=headers,
                    params=dict(params or {}),
                    json=body,
                    timeout=httpx.Timeout(min(ATTEMPT_S, left_s), connect=min(CONNECT_S, left_s)),
                )
            except (httpx.ConnectError, httpx.ConnectTimeout):
                pass  # it was never sent
            except httpx.TransportError:
                uncertain = True
            else:
                status, document = response.status_code, _document(response)
                if status < 300:
                    told = Told.DONE
                    break
                if status < 500:
                    told = Told.UNKNOWN if uncertain else Told.REFUSED
                    break
                uncertain = uncertain or document.get("type") not in NOTHING_DONE
            if time.monotonic() >= deadline_s or self._stopping():
                told = Told.UNKNOWN if uncertain else Told.REFUSED
                break
            time.sleep(PAUSE_S)
        return Answer(
            told=told,
            status=status,
            body=document,
            name=name,
            invoked_ns=invoked_ns,
            returned_ns=boottime_ns(),
            attempts=attempts,
        )

    def upload(self, digest: str, content: bytes, *, patience_s: float) -> bool:
        """True once these bytes are stored."""
        deadline_s = time.monotonic() + patience_s
        while time.monotonic() < deadline_s and not self._stopping():
            try:
                url = self._rng.choice(self._urls) + "/v1/artifacts"
                answer = self._http.post(url, params={"digest": digest}, content=content, timeout=ATTEMPT_S)
                if answer.status_code < 300:
                    return True
            except httpx.TransportError:
                pass
            time.sleep(PAUSE_S)
        return False

    def ask(self, path: str, *, timeout_s: float, url: str | None = None, **params: Any) -> dict[str, Any] | None:
        """What some node (or the one at `url`) answers now; None if it does not, or with a problem."""
        try:
            answer = self._http.get(
                (url or self._rng.choice(self._urls)) + path,
                params=params,
                timeout=httpx.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s)),
            )
        except httpx.TransportError:
            return None
        return _document(answer) if answer.status_code == httpx.codes.OK else None


def request_of(answer: Answer, *, command: str, model: str, **more: Any) -> Request:
    """The line for the ledger."""
    return Request(
        name=answer.name,
        command=command,
        model=model,
        told=answer.told,
        invoked_ns=answer.invoked_ns,
        returned_ns=answer.returned_ns,
        status=answer.status,
        attempts=answer.attempts,
        **more,
    )


def _document(response: httpx.Response) -> dict[str, Any]:
    try:
        document = response.json()
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
