"""A release engineer's few calls to a running region, for measurements and tests."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Sequence
from typing import Any

import httpx


class Region:
    """REST calls to whichever node answers; each change is repeated under one idempotency key until it is answered."""

    def __init__(self, urls: Sequence[str], *, timeout_s: float = 30.0) -> None:
        self._urls = list(urls)
        self._timeout_s = timeout_s
        self._http = httpx.Client(timeout=timeout_s, trust_env=False)

    def call(self, method: str, path: str, **more: Any) -> httpx.Response:
        """The first answer that is not 503. Raises `TimeoutError`."""
        headers = {"Idempotency-Key": uuid.uuid4().hex, "X-CCS-Author": "testbed"} | more.pop("headers", {})
        deadline = time.monotonic() + self._timeout_s
        while time.monotonic() < deadline:
            for url in list(self._urls):
                try:
                    response = self._http.request(method, url + path, headers=headers, **more)
                except httpx.TransportError:
                    self._urls.append(self._urls.pop(0))
                    continue
                if response.status_code != 503:
                    return response
            time.sleep(0.01)
        raise TimeoutError(f"{method} {path} was not answered within {self._timeout_s} s")

    def push(self, model: str, version: str, content: bytes) -> None:
        """Create the model if it is missing, store `content`, register it as `version`."""
        created = self.call("POST", "/v1/models", json={"name": model})
        if created.status_code != 409:
            created.raise_for_status()
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        self.call("POST", f"/v1/artifacts?digest={digest}", content=content).raise_for_status()
        self.call(
            "POST", f"/v1/models/{model}/versions", json={"version": version, "digest": digest}
        ).raise_for_status()

    def activate(self, model: str, version: str, *, wait: str = "effective") -> dict[str, Any]:
        """Activate for everybody; the answer."""
        response = self.call("POST", f"/v1/models/{model}/activations?wait={wait}", json={"version": version})
        response.raise_for_status()
        return dict(response.json())

    def edges(self) -> list[dict[str, Any]]:
        """Every edge that some node has heard."""
        return list(self.call("GET", "/v1/edges?limit=1000").json()["items"])

    def leader(self) -> str:
        """The id of the node that leads, once one does."""
        while True:
            answer = self.call("GET", "/v1/cluster/self").json()
            if answer["leader_id"]:
                return str(answer["leader_id"])
            time.sleep(0.02)

    def committed(self, model: str, *, versions_kept: int) -> None:
        """Some change was committed: how many versions of the model are kept."""
        self.call("PATCH", f"/v1/models/{model}/policy", json={"versions_kept": versions_kept}).raise_for_status()

    def close(self) -> None:
        self._http.close()
