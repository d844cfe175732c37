"""A region in memory that speaks the REST contract as far as `ccs` uses it, behind httpx's transport port: no sockets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import httpx

from tests.unit.cli.fake_rollouts import FakeRollouts

POLICY = {"staleness_max_ms": None, "fallback_allowed": True, "versions_kept": 10, "prefetch_ms": 30_000}
EFFECTIVE_AT_UNIX_MS = 1_795_319_190_043

Answer = httpx.Response | Exception
Interference = Callable[[httpx.Request], Answer | None]


def problem(status: int, code: str, detail: str, **fields: Any) -> httpx.Response:
    document = {**fields, "type": f"urn:ccs:problem:{code}", "title": code.replace("_", " ").capitalize()}
    return httpx.Response(status, json={**document, "status": status, "detail": detail})


def assignment(version: str) -> dict[str, Any]:
    return {"stable": version, "candidate": None, "share_bp": 0, "salt": "", "cohort": {"sites": [], "labels": {}}}


class FakeRegion:
    """Remembers every call but the probes; `interfere` may answer in its place. The same key does nothing twice."""

    def __init__(self) -> None:
        self.models: dict[str, dict[str, Any]] = {}
        self.artifacts: dict[str, bytes] = {}
        self.edges: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.audit: list[dict[str, Any]] = []
        self.about_rollouts = FakeRollouts()
        self.calls: list[httpx.Request] = []
        self.changes: list[str] = []
        self.interfere: Interference = lambda _request: None
        self._results: dict[str, httpx.Response] = {}

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self.handle)

    @property
    def keys(self) -> list[str]:
        """The idempotency keys that came, in order."""
        return [call.headers["Idempotency-Key"] for call in self.calls if call.method not in ("GET", "HEAD")]

    def add_model(self, name: str, *versions: str) -> None:
        self.models[name] = {
            "name": name,
            "policy": dict(POLICY),
            "generation": len(versions),
            "assignment": assignment(versions[-1]) if versions else None,
            "previous": assignment(versions[-2]) if len(versions) > 1 else None,
            "pending": None,
            "prefetch": None,
            "versions": [self._version(version, digest="sha256:" + "0" * 64) for version in versions],
            "version_count": len(versions),
            "created_at_unix_ms": 0,
        }

    def handle(self, request: httpx.Request) -> httpx.Response:
        answer = self.interfere(request)
        if isinstance(answer, Exception):
            raise answer
        if request.url.path == "/livez":
            return httpx.Response(200, json={"status": "alive"})
        request.read()
        self.calls.append(request)
        if answer is not None:
            return answer
        key = request.headers.get("Idempotency-Key")
        if key is None:
            return self._route(request)
        if key not in self._results:
            self._results[key] = self._route(request)
            self.changes.append(f"{request.method} {request.url.path}")
        stored = self._results[key]
        return httpx.Response(stored.status_code, headers=stored.headers, content=stored.content)

    def _route(self, request: httpx.Request) -> httpx.Response:
        parts = request.url.path.strip("/").split("/")[1:]
        match parts:
            case ["models"]:
                return self._create(request) if request.method == "POST" else _page(list(self.models.values()), request)
            case ["artifacts", *_]:
                return self._artifact(request)
            case ["models", name, *rest] if name in self.models:
                return self._model(request, self.models[name], rest)
            case ["models", name, *_]:
                return problem(404, "unknown_model", f"there is no model {name}", model=name)
            case ["edges"]:
                return _page(self.edges, request)
            case ["audit"]:
                return _page(self.audit, request)
            case ["cluster", "self"]:
                return httpx.Response(200, json={"epoch": 1, "revision": len(self.events)})
            case ["events"]:
                return self._events(request)
        answer = self.about_rollouts.route(request, parts)
        return answer or problem(404, "not_found", "there is nothing at this path")

    def _create(self, request: httpx.Request) -> httpx.Response:
        name = json.loads(request.content)["name"]
        if name in self.models:
            return problem(409, "model_exists", f"there is a model {name} already", model=name)
        self.add_model(name)
        return httpx.Response(201, json=self.models[name])

    def _artifact(self, request: httpx.Request) -> httpx.Response:
        if request.method == "HEAD":
            return httpx.Response(200 if request.url.path.rpartition("/")[2] in self.artifacts else 404)
        digest = "sha256:" + hashlib.sha256(request.content).hexdigest()
        assert request.url.params["digest"] == digest
        self.artifacts[digest] = request.content
        return httpx.Response(201, json={"digest": digest, "size_bytes": len(request.content)})

    def _model(self, request: httpx.Request, model: dict[str, Any], rest: list[str]) -> httpx.Response:
        if (expected := request.headers.get("If-Match")) not in (None, f'"{model["generation"]}"'):
            return problem(412, "generation_mismatch", f"model is at {model['generation']}, not {expected}")
        match (request.method, *rest):
            case ("GET",):
                return httpx.Response(200, json=model)
            case ("DELETE",):
                del self.models[model["name"]]
                return httpx.Response(204)
            case ("PATCH", "policy"):
                model["policy"].update(json.loads(request.content))
                return httpx.Response(200, json=model)
            case ("GET", "versions"):
                return _page(model["versions"][::-1], request)
            case ("POST", "versions"):
                asked = json.loads(request.content)
                version = self._version(asked["version"], digest=asked["digest"], metadata=asked["metadata"])
                model["versions"].append(version)
                return httpx.Response(201, json=version)
            case ("POST", "activations"):
                return self._activate(request, model, json.loads(request.content)["version"])
            case ("POST", "rollback") if model["previous"] is None:
                return problem(409, "nothing_before", "model has no assignment to go back to")
            case ("POST", "rollback"):
                return self._activate(request, model, model["previous"]["stable"])
            case ("GET", "history"):
                generations = [
                    {
                        "generation": number,
                        "assignment": assignment(version["version"]),
                        "version": version["version"],
                        "activation": number,
                        "effective_at_unix_ms": EFFECTIVE_AT_UNIX_MS,
                        "author": "ada",
                    }
                    for number, version in enumerate(model["versions"], start=1)
                ]
                return _page(generations[::-1], request)
            case ("GET", "active"):
                return httpx.Response(
                    200,
                    json={
                        "model": model["name"],
                        "generation": model["generation"],
                        "assignment": model["assignment"],
                        "version": model["assignment"] and model["assignment"]["stable"],
                        "consistency": "lease" if request.url.params["consistency"] == "strong" else "local",
                        "epoch": 1,
                        "revision": 42,
                    },
                )
        return problem(405, "method_not_allowed", "this path does not take this method")

    def _activate(self, request: httpx.Request, model: dict[str, Any], version: str) -> httpx.Response:
        if model["assignment"] == assignment(version):
            return problem(409, "unchanged", f"generation {model['generation']} is just this already")
        model["previous"], model["assignment"] = model["assignment"], assignment(version)
        model["generation"] += 1
        effective = request.url.params["wait"] == "effective"
        answer = {
            "model": model["name"],
            "version": version,
            "generation": model["generation"],
            "activation": 7,
            "effective_at_unix_ms": EFFECTIVE_AT_UNIX_MS,
            "effective": effective,
            "not_ready": {},
        }
        return httpx.Response(200 if effective else 202, json=answer)

    def _version(self, version: str, *, digest: str, metadata: dict[str, str] | None = None) -> dict[str, Any]:
        fixed = {"size_bytes": 1_000, "registered_at_unix_ms": EFFECTIVE_AT_UNIX_MS, "in_use": True}
        return {"version": version, "digest": digest, "metadata": metadata or {}, **fixed}

    def _events(self, request: httpx.Request) -> httpx.Response:
        after = int((request.headers.get("Last-Event-ID") or request.url.params["after"]).partition("-")[2])
        text = "".join(
            f": a comment\nid: 1-{number}\ndata: {json.dumps(event)}\n\n"
            for number, event in enumerate(self.events, start=1)
            if number > after
        )
        return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, text=text)


def _page(items: list[Any], request: httpx.Request) -> httpx.Response:
    start, limit = int(request.url.params.get("cursor", 0)), int(request.url.params["limit"])
    more = str(start + limit) if start + limit < len(items) else None
    return httpx.Response(200, json={"items": items[start : start + limit], "next_cursor": more})
