"""Rollouts as a region tells them, and as much of the REST contract about them as `ccs` uses."""

from __future__ import annotations

import json
from typing import Any

import httpx

AT = 1_795_333_334_000
COHORT: dict[str, Any] = {"sites": [], "labels": {}}


def assignment(version: str) -> dict[str, Any]:
    return {"stable": version, "candidate": None, "share_bp": 0, "salt": "", "cohort": COHORT}


def target(model: str = "digits", base: str = "1.0.0", candidate: str = "2.0.0") -> dict[str, Any]:
    return {"model": model, "candidate": candidate, "base": assignment(base)}


def stage(share_bp: int, bake_ms: int = 0, gate: str = "auto", **more: Any) -> dict[str, Any]:
    return {"share_bp": share_bp, "bake_ms": bake_ms, "gate": gate, "cohort": None, "analysis": None} | more


def check(metric: str = "error_rate", **more: Any) -> dict[str, Any]:
    fixed = {"quantile": 0.99, "samples_min": 50, "error_probability": 0.05, "url": "", "interval_ms": 10_000}
    return {"metric": metric, "worse_max": None, "bound": None, **fixed, **more}


def finding(result: str, *, model: str = "digits", found: dict[str, Any], **more: Any) -> dict[str, Any]:
    numbers = {"value_candidate": None, "value_stable": None, "difference": None, "low": None, "high": None}
    counts = {"samples_candidate": 0, "samples_stable": 0, "labels": {}}
    named = {"model": model, "metric": found["metric"], "result": result, "reason": "", "check": found}
    return named | numbers | counts | more


def move(step: int, name: str, phase: str, stage: int = 0, *, author: str = "", reason: str = "") -> dict[str, Any]:
    at = AT + 1_500 * step
    where = {"step": step, "revision": 10 + step, "move": name, "phase": phase, "stage": stage}
    return where | {"at_unix_ms": at, "author": author, "reason": reason, "evidence": {}}


def live(**more: Any) -> dict[str, Any]:
    counts = {"ready_count": 0, "waiting_count": 0, "failed_count": 0, "switched_count": 0, "straggler_count": 0}
    named: dict[str, Any] = {"ready": [], "waiting": [], "failed": {}, "stragglers": {}, "findings": [], "exposure": {}}
    return counts | named | {"analysis": None, "analysis_reason": ""} | more


def rollout(phase: str = "draft", **more: Any) -> dict[str, Any]:
    plan = {
        "stages": [stage(100, 30_000), stage(1_000, 30_000), stage(10_000, gate="manual")],
        "cohort": COHORT,
        "prefetch": {"ready_min_bp": 9_500, "deadline_ms": 300_000},
        "stragglers": "proceed",
        "progress_deadline_ms": 1_800_000,
        "on_failure": "abort",
        "analysis": [],
    }
    return {
        "rollout_id": "r-1",
        "targets": [target()],
        "strategy": plan,
        "salt": "r-1",
        "created_at_unix_ms": AT,
        "author": "ada",
        "phase": phase,
        "running": phase not in {"draft", "completed", "aborted", "failed"},
        "stage": 0,
        "stage_count": 3,
        "active_stage": None,
        "step": 0,
        "to_end": False,
        "resume_to": None,
        "ends_as": None,
        "baked_ms": 0,
        "waited_ms": 0,
        "activation": None,
        "moves": [],
        "transitions": [],
        "live": None,
    } | more


class FakeRollouts:
    """Answers under `/v1/rollouts`, `/v1/freeze` and `/v1/webhooks`; each look at a rollout takes its next state."""

    def __init__(self) -> None:
        self.rollouts: dict[str, list[dict[str, Any]]] = {}
        self.faults: list[dict[str, str]] = []
        self.plan: dict[str, Any] = {}
        self.freeze: dict[str, Any] = {"frozen": False, "author": "", "reason": "", "since_unix_ms": None}
        self.webhooks: list[dict[str, Any]] = []
        self.deliveries: list[dict[str, Any]] = []

    def add(self, *states: dict[str, Any]) -> None:
        self.rollouts[states[0]["rollout_id"]] = list(states)

    def route(self, request: httpx.Request, parts: list[str]) -> httpx.Response | None:
        body = json.loads(request.content) if request.content else {}
        match (request.method, *parts):
            case ("GET", "rollouts"):
                model, running = request.url.params.get("model"), request.url.params.get("running")
                found = [states[0] for states in reversed(self.rollouts.values())]
                found = [r for r in found if model in (None, *(t["model"] for t in r["targets"]))]
                return _page([r for r in found if running is None or r["running"]])
            case ("POST", "rollouts", "lint"):
                return httpx.Response(200, json={"faults": self._found(body)})
            case ("POST", "rollouts", "plan"):
                return self._refused(body) or httpx.Response(200, json=self.plan)
            case ("POST", "rollouts"):
                return self._refused(body) or self._create(body)
            case ("GET", "rollouts", name) if name in self.rollouts:
                states = self.rollouts[name]
                return httpx.Response(200, json=states.pop(0) if len(states) > 1 else states[0])
            case ("GET", "rollouts", name):
                return _problem(404, "unknown_rollout", f"there is no rollout {name}")
            case ("POST", "rollouts", name, order):
                made = self.rollouts[name][0]
                done = made | {"transitions": [*made["transitions"], move(9, order, made["phase"], author="ada")]}
                return httpx.Response(200, json=done)
            case (_, "freeze"):
                if request.method == "PUT":
                    self.freeze = {**self.freeze, **body, "author": "ada", "since_unix_ms": AT}
                return httpx.Response(200, json=self.freeze)
            case ("POST", "webhooks"):
                shown = {"webhook_id": "w-1", "url": body["url"], "events": body["events"], "author": "ada"}
                counts = {"delivered_count": 4, "pending_count": 0, "dead_count": 1, "forgotten_count": 0}
                self.webhooks.append(shown | counts)
                return httpx.Response(201, json=shown)
            case ("GET", "webhooks"):
                return _page(self.webhooks)
            case ("GET", "webhooks", _, "deliveries"):
                return _page(self.deliveries)
            case ("POST", "webhooks", _, "replay"):
                return httpx.Response(200, json={"replayed": len(body["delivery_ids"]) or 7})
            case ("DELETE", "webhooks", _):
                return httpx.Response(204)
        return None

    def _found(self, body: dict[str, Any]) -> list[dict[str, str]]:
        return [
            {"place": f"models.{name}", "message": "there is no such model"} for name in body["models"] if name == "*"
        ] + (self.faults)

    def _refused(self, body: dict[str, Any]) -> httpx.Response | None:
        found = self._found(body)
        return _problem(422, "strategy_invalid", "see faults", faults=found) if found else None

    def _create(self, body: dict[str, Any]) -> httpx.Response:
        targets = [target(name, candidate=version) for name, version in body["models"].items()]
        made = rollout("prefetching" if body["start"] else "draft", targets=targets)
        self.rollouts.setdefault("r-1", [made])
        return httpx.Response(201, json=made)


def _page(items: list[Any]) -> httpx.Response:
    return httpx.Response(200, json={"items": items, "next_cursor": None})


def _problem(status: int, code: str, detail: str, **fields: Any) -> httpx.Response:
    document = {"type": f"urn:ccs:problem:{code}", "title": code, "status": status, "detail": detail, **fields}
    return httpx.Response(status, json=document)
