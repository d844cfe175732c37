"""Everything that can go wrong, as RFC 9457 problem documents: one table, one place where errors become answers.

A caller's program goes by `type` (`urn:ccs:problem:CODE`), which never changes; `detail` is for people and says what to
do; the remaining members are the fields of the refusal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from consistency_service import errors as e

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:ccs:problem:"
VALIDATION_ERRORS_MAX: Final = 20
RETRY_AFTER_S: Final = "1"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of problem: its status, its title, and what the person who meets it should know."""

    status: int
    title: str
    detail: str
    """With `{field}` for the fields of the refusal."""


KINDS: Final[dict[str, Kind]] = {
    # The request itself
    "malformed": Kind(400, "Not a readable request", "the request body cannot be parsed"),
    "unauthenticated": Kind(401, "Who asks is not known", "show a token (Authorization: Bearer TOKEN) or a client certificate; with ccs: --token-file"),
    "forbidden": Kind(403, "Not allowed", "this needs the role {role}"),
    "rate_limited": Kind(429, "Too many requests", "too many of them came from the same caller; come again after {retry_after_s} s"),
    "cross_site": Kind(403, "Sent by another site", "a page of another site asked for this in the name of the browser's user; use the dashboard of this node, or ccs"),
    "not_found": Kind(404, "No such resource", "there is nothing at this path; see /openapi.json"),
    "method_not_allowed": Kind(405, "Method not allowed", "this path does not take this method; see the Allow header"),
    "slow_request": Kind(408, "Request too slow", "the body did not arrive in time; send it again"),
    "too_large": Kind(413, "Too large", "the body is larger than the limit of {limit_bytes} bytes"),
    "range_not_satisfiable": Kind(416, "No such range", "the artifact has {size_bytes} bytes"),
    "invalid": Kind(422, "Not a valid request", "{field} is not valid"),
    "invalid_member": Kind(422, "Not a member's address", "a member has a node id, host:port for raft and a URL"),
    "request_id_reused": Kind(422, "Idempotency key reused", "this Idempotency-Key was used for another request; use a new one"),
    "strategy_invalid": Kind(422, "Strategy cannot work", "the member faults lists everything that is wrong, each with its place"),
    "signature_refused": Kind(422, "Signature refused", "this region registers only what a publisher it believes signed: {reason}"),
    "digest_mismatch": Kind(422, "Digest mismatch", "the bytes that arrived have the digest {digest}; nothing was stored"),
    # What is not there
    "unknown_model": Kind(404, "Unknown model", "there is no model {model}"),
    "unknown_version": Kind(404, "Unknown version", "model {model} has no version {version}"),
    "unknown_rollout": Kind(404, "Unknown rollout", "there is no rollout {rollout_id}"),
    "unknown_webhook": Kind(404, "Unknown webhook", "there is no webhook {webhook_id}"),
    "unknown_feature_class": Kind(404, "Unknown feature class", "there is no feature class {class_name}"),
    "unknown_member": Kind(404, "Unknown member", "the cluster has no such member"),
    "unknown_artifact": Kind(404, "Unknown artifact", "no artifact is stored under {digest}; upload it first"),
    "events_gone": Kind(410, "Events gone", "events after this position are not kept any more; read the present state, then go on from {position}"),
    # What stands in the way
    "model_exists": Kind(409, "Model exists", "there is a model {model} already"),
    "model_in_use": Kind(409, "Model in use", "{edge_count} live edges follow model {model}; stop them first"),
    "version_conflict": Kind(409, "Version conflict", "version {version} names other bytes, {digest}; versions never change, register a new one"),
    "version_in_use": Kind(409, "Version in use", "model {model} needs version {version}: active, pending, before that, or about to be activated"),
    "activation_pending": Kind(409, "Activation pending", "an activation of {model} is decided and not settled yet; ask again"),
    "unchanged": Kind(409, "Unchanged", "generation {generation} of {model} is just this already"),
    "nothing_before": Kind(409, "Nothing before", "model {model} has no assignment to go back to"),
    "limit_reached": Kind(409, "Limit reached", "there are {value} {limit} already, which is the limit; delete some"),
    "bootstrapped_already": Kind(409, "Bootstrapped already", "the region has a history already, epoch {epoch}"),
    "member_exists": Kind(409, "Member exists", "there is such a member, or one at that address, already"),
    "member_removed": Kind(409, "Member was removed", "the id belonged to a node that was removed; give the node another, and an empty directory"),
    "too_many_members": Kind(409, "Too many members", "remove a member first"),
    "last_voter": Kind(409, "Last voter", "the only member with a vote cannot leave or hand over"),
    "quorum_at_risk": Kind(409, "Quorum at risk", "the voters that can be heard would be no majority any more; start the others first"),
    "change_pending": Kind(409, "Change pending", "another change of members is not settled yet; ask again"),
    "catching_up": Kind(409, "Catching up", "the node is listed without a vote and has not caught up yet; see that it runs, and ask again"),
    "fixed_membership": Kind(409, "Fixed membership", "a region on a log in memory has one node"),
    "rollout_exists": Kind(409, "Rollout exists", "there is a rollout {rollout_id} already"),
    "rollout_running": Kind(409, "Rollout running", "rollout {rollout_id} holds model {model} until it has ended; abort it, or wait"),
    "move_refused": Kind(409, "Move refused", "a rollout that is {phase} has no {move}; it has {allowed}"),
    "frozen": Kind(409, "Frozen", "{author} froze all starts and promotions: {reason}; aborts and rollbacks are possible"),
    "not_baked": Kind(409, "Not baked", "the stage was healthy for {baked_ms} ms of {bake_ms} ms"),
    "step_passed": Kind(409, "Step passed", "the rollout has moved on to step {step}"),
    "nothing_pending": Kind(409, "Nothing pending", "there is no pending activation {activation}"),
    "own_activation": Kind(409, "Own activation", "activation {activation} is settled by its own authority"),
    "assumption_replaced": Kind(409, "Authority moved on", "the authority is assumption {assumption} by now"),
    "generation_mismatch": Kind(412, "Generation mismatch", "model {model} is at generation {generation}, not at the one in If-Match; read it and decide again"),
    "revision_mismatch": Kind(412, "Revision mismatch", "feature class {class_name} was set last at revision {revision}, not at the one in If-Match (0: there is none); read it and decide again"),
    "step_mismatch": Kind(412, "Step mismatch", "rollout {rollout_id} is at step {step}, not at the one in If-Match; read it and decide again"),
    # What cannot be answered just now
    "not_bootstrapped": Kind(503, "Not bootstrapped", "the region has no history yet; ask again in a moment"),
    "not_authority": Kind(503, "Authority changed", "the authority changed meanwhile; ask again with the same Idempotency-Key"),
    "number_passed": Kind(503, "Overtaken", "the decision was overtaken; ask again with the same Idempotency-Key"),
    "no_leader": Kind(503, "No leader", "no node can decide just now; nothing was done, ask again in a moment"),
    "unknown_outcome": Kind(503, "Unknown outcome", "the change may or may not take effect; ask again with the same Idempotency-Key"),
    "not_strong": Kind(503, "No strong answer", "no linearizable answer in time; consistency=local answers with what this node knows"),
    "overloaded": Kind(503, "Overloaded", "this node has as much under way as it may; ask again, or ask another node"),
    "not_ready": Kind(503, "Not ready", "this node cannot answer strongly: {reason}"),
    "too_many_subscribers": Kind(503, "Too many subscribers", "{limit} event streams are open at this node; ask another"),
    "bus_unavailable": Kind(503, "Bus unavailable", "the bus is disconnected or did not answer in time"),
    "store_unavailable": Kind(503, "Artifact store unavailable", "the artifact store failed or did not answer; ask again"),
    "store_full": Kind(507, "Artifact store full", "the artifact store has no room left; nothing was stored"),
    # Our own mistakes and losses
    "artifact_corrupt": Kind(500, "Artifact corrupt", "the bytes stored under {digest} do not match it any more; upload them again"),
    "undecodable": Kind(500, "Internal error", "the command could not be read by this version of the service"),
    "internal": Kind(500, "Internal error", "an error of ours; the log of this node has more under incident {incident}"),
}  # fmt: skip
"""Problem code to kind. What is not here is a conflict: a refusal by a newer state machine."""

_HTTP_CODES: Final = {400: "malformed", 404: "not_found", 405: "method_not_allowed", 413: "too_large", 422: "invalid"}


class ProblemError(e.ServiceError):
    """A request cannot be answered as asked. `code` is one of `KINDS`; `fields` go into the document."""

    def __init__(
        self, code: str, *, detail: str | None = None, headers: Mapping[str, str] | None = None, **fields: Any
    ) -> None:
        super().__init__(f"{code}: {detail or fields}")
        self.problem = Problem(code=code, detail=detail, fields=fields, headers=dict(headers or {}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One problem document."""

    code: str
    detail: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def status(self) -> int:
        return _kind(self.code).status

    def document(self) -> dict[str, Any]:
        """Its members; fields never replace the standard ones."""
        kind = _kind(self.code)
        standard = {
            "type": TYPE_PREFIX + self.code,
            "title": kind.title,
            "status": kind.status,
            "detail": self.detail or kind.detail.format_map(_Fields(self.fields)),
        }
        return {**self.fields, **standard}

    def response(self) -> Response:
        headers = dict(self.headers)
        if self.status == 503:
            headers.setdefault("Retry-After", RETRY_AFTER_S)
        content = json.dumps(self.document(), default=str, ensure_ascii=False, allow_nan=False)
        # What callers sent may contain halves of characters, which no UTF-8 can tell them of.
        encoded = content.encode("utf-8", "replace")
        return Response(encoded, status_code=self.status, headers=headers, media_type=MEDIA_TYPE)


class _Fields(dict[str, Any]):
    """Fields within a sentence: a list is told as people tell one."""

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        return (", ".join(map(str, value)) or "none") if isinstance(value, list | tuple) else value

    def __missing__(self, name: str) -> str:
        return f"(unknown {name})"


def _kind(code: str) -> Kind:
    return KINDS.get(code) or Kind(409, code.replace("_", " ").capitalize(), "the region refused it: " + code)


def problem_of(error: Exception) -> Problem | None:
    """The problem that an error of ours is; None for an error that nobody foresaw."""
    match error:
        case ProblemError():
            return error.problem
        case e.RefusedError():
            return Problem(code=error.code, fields=error.detail)
        case e.MembershipRefusedError():
            return Problem(code=error.code, detail=str(error))
        case e.UnknownModelError():
            return Problem(code="unknown_model", fields={"model": error.model})
        case e.NotLeaderError() | e.NotAuthorityError():
            return Problem(code="no_leader")
        case e.SignatureRefusedError():
            return Problem(code="signature_refused", fields={"reason": error.word})
        case e.ArtifactError():
            return _artifact_problem(error)
    for kind, code in _SENTENCES.items():
        if isinstance(error, kind):
            return Problem(code=code, detail=str(error) or None)
    return None


_SENTENCES: Final[dict[type[e.ServiceError], str]] = {
    e.NotStrongError: "not_strong",
    e.UnknownOutcomeError: "unknown_outcome",
    e.BusUnavailableError: "bus_unavailable",
}
_ARTIFACT_CODES: Final[dict[type[e.ArtifactError], str]] = {
    e.ArtifactTooLargeError: "too_large",
    e.DigestMismatchError: "digest_mismatch",
    e.ArtifactMissingError: "unknown_artifact",
    e.ArtifactCorruptError: "artifact_corrupt",
    e.StoreFullError: "store_full",
    e.StoreUnavailableError: "store_unavailable",
}


def _artifact_problem(error: e.ArtifactError) -> Problem:
    code = _ARTIFACT_CODES.get(type(error), "store_unavailable")
    return Problem(code=code, detail=str(error), fields={} if error.digest is None else {"digest": error.digest})


async def on_validation_error(_request: Request, error: Exception) -> Response:
    """422 with at most 20 of the mistakes; what was sent is not repeated."""
    assert isinstance(error, RequestValidationError)
    mistakes = [
        {"field": ".".join(str(part) for part in item["loc"])[:200], "message": str(item["msg"])[:300]}
        for item in error.errors()[:VALIDATION_ERRORS_MAX]
    ]
    detail = "; ".join(f"{mistake['field']}: {mistake['message']}" for mistake in mistakes[:3])
    return Problem(code="invalid", detail=detail, fields={"errors": mistakes}).response()


async def on_http_error(request: Request, error: Exception) -> Response:
    """What routing and parsing refuse: no such path, no such method, a body that is no JSON."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_allowed(request))
    return Problem(code=_HTTP_CODES.get(error.status_code, "malformed"), headers=headers).response()


def _allowed(request: Request) -> list[str]:
    """Every method that some route takes at this path; routing itself names the first route's alone."""
    known = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
    routes = [route for route in request.app.router.routes if hasattr(route, "matches")]
    scopes = {method: {**request.scope, "method": method} for method in known}
    return [method for method in known if any(route.matches(scopes[method])[0] == Match.FULL for route in routes)]


def documented(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that can end in these problems, with an example each."""
    by_status: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        kind = KINDS[code]
        entry = by_status.setdefault(
            kind.status,
            {"description": kind.title, "content": {MEDIA_TYPE: {"schema": {"$ref": SCHEMA_REF}, "examples": {}}}},
        )
        entry["content"][MEDIA_TYPE]["examples"][code] = {
            "value": {"type": TYPE_PREFIX + code, "title": kind.title, "status": kind.status, "detail": kind.detail}
        }
    return by_status


SCHEMA_REF: Final = "#/components/schemas/Problem"
SCHEMA: Final[dict[str, Any]] = {
    "title": "Problem",
    "description": "RFC 9457. `type` is stable; further members are the fields of the refusal.",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "enum": [TYPE_PREFIX + code for code in sorted(KINDS)]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
    "additionalProperties": True,
}
