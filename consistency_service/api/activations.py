"""Activate a version for everybody, go back, and see who is ready for it."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request, Response

from consistency_service.api.access import caller_now, needs
from consistency_service.api.depends import AskedDep, ModelName, NodeDep, OverdueSettled, StateDep, Wait, model_of
from consistency_service.api.problems import ProblemError, documented
from consistency_service.api.schemas import ActivationAsked, ActivationShown, ReadinessShown, SemanticVersion
from consistency_service.core.access import Models, Role
from consistency_service.core.commands import Change
from consistency_service.runtime.activations import Activation
from consistency_service.runtime.node import Node
from edge_client.protocol.models import Assignment

COMMON: Final = ("unknown_model", "activation_pending", "unchanged", "generation_mismatch")
UNCERTAIN: Final = ("invalid", "request_id_reused", "no_leader", "unknown_outcome")
ACCEPTED: Final[dict[str, Any]] = {"description": "Decided; the instant is ahead", "model": ActivationShown}
router = APIRouter(prefix="/v1/models/{model}", tags=["activations"])


@router.post(
    "/activations",
    dependencies=[OverdueSettled],
    responses={**documented("unknown_version", *COMMON, *UNCERTAIN), 202: ACCEPTED},
)
@needs(Role.OPERATOR, models=Models.PATH)
async def activate(
    model: ModelName,
    body: ActivationAsked,
    node: NodeDep,
    asked: AskedDep,
    response: Response,
    wait: Wait = "effective",
) -> ActivationShown:
    """Activate a version for everybody, at one instant.

    Waits until the live edges that follow the model are ready, at most the policy's `prefetch_ms` and not with `force`;
    then decides. A second activation of the model waits for the first one to be settled, and is refused then.
    """
    activation = await node.activations.activate(
        changes=(
            Change(
                model=model,
                assignment=Assignment(stable=body.version),
                generation_expected=asked.generation_expected,
            ),
        ),
        author=asked.author,
        request_id=asked.request_id,
        fingerprint=asked.fingerprint(body.model_dump(mode="json")),
        force=body.force,
        immediate=body.immediate,
        wait_effective=wait == "effective",
    )
    return _shown(activation, model=model, node=node, response=response)


@router.post(
    "/rollback",
    dependencies=[OverdueSettled],
    responses={**documented("nothing_before", *COMMON, *UNCERTAIN), 202: ACCEPTED},
)
@needs(Role.OPERATOR, models=Models.PATH)
async def roll_back(
    model: ModelName, request: Request, node: NodeDep, asked: AskedDep, response: Response, wait: Wait = "effective"
) -> ActivationShown:
    """Activate the assignment before the present one, without waiting for readiness: edges keep it for this."""
    if (await request.body()).strip() not in {b"", b"{}", b"null"}:
        raise ProblemError("invalid", field="body", detail="a rollback takes no body")
    if caller_now().limited:
        # What goes back with it. Nothing is awaited until that is settled.
        state = node.metadata.state
        holding = state.rollout_of(model_of(state, model).name)
        caller_now().require(other.name for other in state.changed_with(model))
        caller_now().require([model, *(target.model for target in (holding.targets if holding else ()))])
    activation = await node.activations.rollback(
        model,
        author=asked.author,
        request_id=asked.request_id,
        fingerprint=asked.fingerprint(),
        generation_expected=asked.generation_expected,
        wait_effective=wait == "effective",
    )
    return _shown(activation, model=model, node=node, response=response)


def _shown(activation: Activation, *, model: str, node: Node, response: Response) -> ActivationShown:
    generation = activation.generations[model]
    response.status_code = 200 if activation.effective else 202
    response.headers["ETag"] = f'"{generation}"'
    history = model_of(node.metadata.state, model).history
    version = next((h.assignment.stable for h in reversed(history) if h.activation == activation.revision), "")
    return ActivationShown(
        model=model,
        version=version,
        generation=generation,
        activation=activation.revision,
        effective_at_unix_ms=activation.effective_at_unix_ms,
        effective=activation.effective,
        not_ready=activation.not_ready,
    )


@router.get("/readiness", responses=documented("unknown_model", "unknown_version", "not_strong", "no_leader"))
@needs(Role.VIEWER, models=Models.PATH)
async def readiness(model: ModelName, version: SemanticVersion, node: NodeDep, state: StateDep) -> ReadinessShown:
    """Which live edges that follow the model have a version loaded, and how far the others are."""
    found = node.activations.readiness(model, version)
    return ReadinessShown(
        model=model,
        version=version,
        ready=list(found.ready),
        waiting=list(found.waiting),
        failed=found.failed,
        fetched_bytes=found.fetched_bytes,
        size_bytes=state.models[model].versions[version].size_bytes,
    )
