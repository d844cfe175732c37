"""The demo's calls to the region: any node that answers will do, and a call is repeated until it is answered.

Repeating is safe because every change carries an idempotency key. Every call ends by a deadline; there is no other way to
end without an answer.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from consistency_service.testbed.edge_session import boottime_ns
from consistency_service.testbed.errors import TestbedError
from consistency_service.testbed.history import Operation
from edge_client.protocol.models import Assignment

ATTEMPT_S_MAX: Final = 40.0
PAUSE_S: Final = 0.03
RETRIED: Final = frozenset({502, 503, 504})


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """When an activation was known to be decided, and what it is called."""

    at_ns: int
    generation: int
    activation: int
    """Its revision."""


class TransitionSeen(msgspec.Struct, frozen=True, kw_only=True):
    """One move of a rollout."""

    step: int
    revision: int
    move: str
    phase: str
    stage: int
    reason: str = ""
    evidence: dict[str, Any] = {}


class FindingSeen(msgspec.Struct, frozen=True, kw_only=True):
    """Candidate against stable, so far."""

    result: str
    value_candidate: float | None = None
    value_stable: float | None = None
    low: float | None = None
    high: float | None = None
    samples_candidate: int = 0
    samples_stable: int = 0


class ExposureSeen(msgspec.Struct, frozen=True, kw_only=True):
    """What the edges told the region about the candidate's work."""

    readings: int
    edges: int


class LiveSeen(msgspec.Struct, frozen=True, kw_only=True):
    """What the region sees of the edges."""

    ready_count: int = 0
    waiting_count: int = 0
    switched_count: int = 0
    findings: list[FindingSeen] = []
    exposure: dict[str, ExposureSeen] = {}
    """By model."""


class RolloutSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout as the region tells it; the fields are those of `GET /v1/rollouts/{id}`."""

    rollout_id: str
    phase: str
    stage: int
    active_stage: int | None
    baked_ms: int
    transitions: list[TransitionSeen]
    live: LiveSeen | None = None

    @property
    def ended(self) -> bool:
        return self.phase in {"aborted", "failed", "completed"}

    @property
    def exposed(self) -> int:
        """How many readings of the candidate the region has been told of."""
        return sum(one.readings for one in self.live.exposure.values()) if self.live is not None else 0

    def last(self, move: str) -> TransitionSeen | None:
        """The newest move of this kind."""
        return next((transition for transition in reversed(self.transitions) if transition.move == move), None)


class GenerationSeen(msgspec.Struct, frozen=True, kw_only=True):
    """One generation of a model: which version is for whom, and who decided that."""

    generation: int
    activation: int
    assignment: Assignment
    rollout_id: str = ""


class RegionCalls:
    """Calls the nodes of a testbed. Any thread may call; each call tries the nodes in turn."""

    def __init__(self, urls: dict[str, str], *, remaining_s: Callable[[], float]) -> None:
        self._urls = dict(urls)
        self._remaining_s = remaining_s
        self._http = httpx.Client(trust_env=False, headers={"X-CCS-Author": "demo"})

    def close(self) -> None:
        self._http.close()

    def forget(self, name: str) -> None:
        """This node was killed; do not ask it any more."""
        self._urls = {other: url for other, url in self._urls.items() if other != name}

    def call(
        self,
        method: str,
        path: str,
        *,
        what: str,
        params: dict[str, str] | None = None,
        body: Any = None,
        content: bytes | None = None,
        key: str | None = None,
        accepted: frozenset[int] = frozenset(),
        attempt_s: float = ATTEMPT_S_MAX,
    ) -> Any:
        """The decoded answer. Raises `TestbedError` if it is refused, or not answered within the time that is left."""
        headers = {} if method == "GET" else {"Idempotency-Key": key or str(uuid.uuid4())}
        trouble = "no node is left"
        while (left_s := self._remaining_s()) > 0 and self._urls:
            for url in tuple(self._urls.values()):
                timeout = httpx.Timeout(min(attempt_s, left_s), connect=min(1.0, left_s))
                try:
                    response = self._http.request(
                        method, url + path, params=params, json=body, content=content, headers=headers, timeout=timeout
                    )
                except httpx.TransportError as error:
                    trouble = f"{url}: {type(error).__name__} {error}"
                    continue
                if response.status_code < 400 or response.status_code in accepted:
                    return response.json() if response.content else None
                trouble = f"{url}: {_refusal(response)}"
                if response.status_code not in RETRIED:
                    raise TestbedError(f"{what}: {trouble}")
            time.sleep(PAUSE_S)
        raise TestbedError(f"{what}: no answer in time; last: {trouble}")

    def push(self, model: str, *, version: str, path: Path, digest: str) -> None:
        """The bytes are stored and registered as this version of the model, which exists."""
        self.call("POST", "/v1/models", what=f"create {model}", body={"name": model}, accepted=frozenset({409}))
        self.call(
            "POST", "/v1/artifacts", what=f"upload {path.name}", params={"digest": digest}, content=path.read_bytes()
        )
        self.call(
            "POST",
            f"/v1/models/{model}/versions",
            what=f"register {model} {version}",
            body={"version": version, "digest": digest},
        )

    def activate(self, model: str, *, version: str, on_accepted: Callable[[Accepted], None]) -> Operation:
        """The version is active for everybody; `on_accepted` was told when it was decided. The line for the history."""
        return self._decide(f"/v1/models/{model}/activations", model, {"version": version}, on_accepted)

    def roll_back(self, model: str, *, on_accepted: Callable[[Accepted], None]) -> Operation:
        """What was active before is active again; otherwise as `activate`."""
        return self._decide(f"/v1/models/{model}/rollback", model, None, on_accepted)

    def _decide(self, path: str, model: str, body: Any, on_accepted: Callable[[Accepted], None]) -> Operation:
        key, invoked_ns = str(uuid.uuid4()), boottime_ns()
        answer: Any = None
        for wait in ("accepted", "effective"):
            answer = self.call("POST", path, what=f"{path} (wait={wait})", params={"wait": wait}, body=body, key=key)
            if wait == "accepted":
                on_accepted(
                    Accepted(at_ns=boottime_ns(), generation=answer["generation"], activation=answer["activation"])
                )
        return Operation(
            process="demo",
            op="activate",
            invoked_ns=invoked_ns,
            returned_ns=boottime_ns(),
            model=model,
            generation=answer["generation"],
            version=answer["version"],
            outcome="effective",
        )

    def begin_rollout(self, rollout_id: str, *, model: str, version: str, strategy: Any, reason: str) -> None:
        """The rollout is written down and begun."""
        body = {
            "rollout_id": rollout_id,
            "models": {model: version},
            "strategy": strategy,
            "start": True,
            "reason": reason,
        }
        self.call("POST", "/v1/rollouts", what=f"begin rollout {rollout_id}", body=body)

    def rollout(self, rollout_id: str) -> RolloutSeen:
        """How far it is."""
        answer = self.call("GET", f"/v1/rollouts/{rollout_id}", what=f"look at rollout {rollout_id}")
        return msgspec.convert(answer, RolloutSeen)

    def generations(self, model: str, *, rollout_id: str) -> list[GenerationSeen]:
        """What this rollout has decided so far, oldest first; the last may not be effective yet."""
        answer = self.call("GET", f"/v1/models/{model}/history", what=f"ask for the history of {model}")
        found = msgspec.convert(answer["items"], list[GenerationSeen])
        return [generation for generation in reversed(found) if generation.rollout_id == rollout_id]

    def read_active(self, model: str) -> Operation:
        """A strong read through REST, answered by some node; the line for the history."""
        invoked_ns = boottime_ns()
        answer = self.call("GET", f"/v1/models/{model}/active", what=f"read the active version of {model}")
        return Operation(
            process="demo",
            op="read",
            invoked_ns=invoked_ns,
            returned_ns=boottime_ns(),
            model=model,
            generation=answer["generation"],
            guarantee="strong",
            version=answer["version"],
            bound_ns=0,
            assignment=msgspec.convert(answer["assignment"], Assignment | None),
        )

    def leader(self) -> str:
        """The name of the node that leads."""
        while self._remaining_s() > 0:
            answer = self.call("GET", "/v1/cluster", what="ask who leads")
            if answer["leader_id"] in self._urls:
                return str(answer["leader_id"])
            time.sleep(PAUSE_S)
        raise TestbedError("no node leads")

    def commit_something(self, model: str, *, number: int) -> None:
        """A change was committed: how many versions of the model are kept."""
        self.call(
            "PATCH",
            f"/v1/models/{model}/policy",
            what="commit a change",
            body={"versions_kept": 10 + number},
            attempt_s=1.0,
        )


def _refusal(response: httpx.Response) -> str:
    try:
        problem = response.json()
        return f"{response.status_code} {problem.get('title', '')}: {problem.get('detail', '')}"
    except (ValueError, AttributeError):
        return f"{response.status_code} {response.text[:200]}"
