"""Rollouts: write one down, order it about, see where it stands and what it would do; and the freeze that stops them all."""

from __future__ import annotations

import asyncio
import secrets
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Path, Query, Request, Response

from consistency_service.api.access import caller_now, needs
from consistency_service.api.depends import AskedDep, Consistency, NodeDep, OverdueSettled, StateDep, UnconditionalDep
from consistency_service.api.forwarding import FORWARDED_HEADER
from consistency_service.api.pages import Cursor, Limit, Page, page_of
from consistency_service.api.problems import ProblemError, documented
from consistency_service.api.rollout_plan import PlanShown, known_places, plan_of
from consistency_service.api.rollout_schemas import (
    FreezeAsked,
    MoveAsked,
    PromotionAsked,
    RolloutAsked,
    Unreadable,
    strategy_schema,
)
from consistency_service.api.rollout_views import FaultShown, FreezeShown, LintShown, RolloutShown, rollout_shown
from consistency_service.core.access import Models, Role
from consistency_service.core.commands import CreateRollout, MoveRollout, SetFreeze
from consistency_service.core.rollout import Move, Rollout
from consistency_service.core.state import State
from consistency_service.core.strategy import Stage, Strategy
from consistency_service.core.strategy_faults import FAULTS_MAX, Fault, strategy_faults
from consistency_service.errors import ArtifactMissingError, NotLeaderError
from consistency_service.runtime.node import Node

UNCERTAIN: Final = ("invalid", "request_id_reused", "no_leader", "unknown_outcome")
MOVED: Final = ("unknown_rollout", "move_refused", "step_mismatch", *UNCERTAIN)
RolloutId = Annotated[str, Path(max_length=128, description="The rollout's id.")]
router = APIRouter(prefix="/v1", tags=["rollouts"], dependencies=[OverdueSettled])


@router.post(
    "/rollouts",
    status_code=201,
    responses=documented(
        "strategy_invalid", "rollout_running", "rollout_exists", "frozen", "limit_reached", *UNCERTAIN
    ),
)
@needs(Role.OPERATOR, models=Models.CHECKED)
async def create_rollout(
    body: RolloutAsked, node: NodeDep, asked: UnconditionalDep, response: Response
) -> RolloutShown:
    """Write a rollout down and, with `start`, begin it. What cannot work is refused with every fault and its place."""
    caller_now().require(body.models)
    if isinstance(body.strategy, Unreadable) or asked.request_id not in node.metadata.state.requests:
        faults = await _faults(body, node)
        if faults:
            raise ProblemError("strategy_invalid", faults=[msgspec.to_builtins(fault) for fault in faults])
    outcome = await node.propose(
        CreateRollout(
            rollout_id=body.rollout_id or _drawn_id(),
            models=body.models,
            strategy=body.strategy.value(),
            start=body.start,
            reason=body.reason,
            request_id=asked.request_id,
            fingerprint=asked.fingerprint(body.model_dump(mode="json")),
            author=asked.author,
            proposed_at_unix_ms=node.clock.unix_ms(),
        )
    )
    rollout = rollout_of(node.metadata.state, str(outcome.detail["rollout_id"]))
    response.headers["Location"] = f"/v1/rollouts/{rollout.rollout_id}"
    return _shown(rollout, response)


@router.get("/rollouts", responses=documented("invalid", "not_strong", "no_leader"))
@needs(Role.VIEWER, models=Models.CHECKED)
async def list_rollouts(
    state: StateDep,
    model: Annotated[str | None, Query(max_length=128, description="Only those of this model.")] = None,
    running: Annotated[bool | None, Query(description="Only those that hold their models, or only the others.")] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Page[RolloutShown]:
    """Rollouts, newest first."""
    found = [
        rollout
        for rollout in state.rollouts.values()
        if caller_now().sees_all(target.model for target in rollout.targets)
        and (model is None or any(target.model == model for target in rollout.targets))
        and (running is None or rollout.running == running)
    ]
    page, next_cursor = page_of(
        found,
        key=lambda rollout: (rollout.created_at_unix_ms, rollout.rollout_id),
        limit=limit,
        cursor=cursor,
        newest_first=True,
    )
    return Page(items=[rollout_shown(rollout) for rollout in page], next_cursor=next_cursor)


@router.get("/rollouts/strategy-schema", responses=documented("no_leader"))
@needs(Role.VIEWER)
async def show_strategy_schema() -> dict[str, Any]:
    """The JSON schema of a strategy."""
    return strategy_schema()


@router.post("/rollouts/lint", responses=documented("invalid", "no_leader", "store_unavailable"))
@needs(Role.VIEWER, models=Models.CHECKED)
async def lint(body: RolloutAsked, node: NodeDep) -> LintShown:
    """Everything that is wrong with it, by what is decided, stored and heard of edges now; nothing is changed."""
    caller_now().require(body.models)
    faults = await _faults(body, node)
    return LintShown(faults=[FaultShown(**msgspec.to_builtins(fault)) for fault in faults])


@router.post("/rollouts/plan", responses=documented("strategy_invalid", "invalid", "no_leader", "store_unavailable"))
@needs(Role.VIEWER, models=Models.CHECKED)
async def plan(body: RolloutAsked, node: NodeDep) -> PlanShown:
    """Who would get what in each stage, and what would be downloaded, by the edges that are heard now; nothing is changed."""
    caller_now().require(body.models)
    faults = await _faults(body, node)
    if faults:
        raise ProblemError("strategy_invalid", faults=[msgspec.to_builtins(fault) for fault in faults])
    versions = {name: node.metadata.state.models[name].versions[version] for name, version in body.models.items()}
    return await asyncio.to_thread(
        plan_of,
        body.strategy.value(),
        rollout_id=body.rollout_id or _drawn_id(),
        versions=versions,
        views=tuple(node.fleet.view.views()),
        now_ns=node.clock.now_ns(),
        unix_ms=node.clock.unix_ms(),
    )


@router.get("/rollouts/{rollout_id}", responses=documented("unknown_rollout", "not_strong", "no_leader"))
@needs(Role.VIEWER, also=(Role.NODE,), models=Models.CHECKED)
async def show_rollout(
    rollout_id: RolloutId,
    node: NodeDep,
    state: StateDep,
    request: Request,
    response: Response,
    consistency: Consistency = "strong",
) -> RolloutShown:
    """One rollout. Strong answers come from the leader, with what it sees of edges; `ETag` is what `If-Match` takes."""
    rollout = rollout_of(state, rollout_id)
    if consistency == "local":
        return _shown(rollout, response)
    if node.leader_url() is not None and FORWARDED_HEADER not in request.headers:
        raise NotLeaderError(leader_id=None)
    _tag(rollout, response)
    return rollout_shown(rollout, live=node.rollouts.live(rollout))


@router.post(
    "/rollouts/{rollout_id}/start", responses=documented("frozen", "rollout_running", "strategy_invalid", *MOVED)
)
@needs(Role.OPERATOR, models=Models.CHECKED)
async def start(
    rollout_id: RolloutId, node: NodeDep, asked: AskedDep, response: Response, body: MoveAsked | None = None
) -> RolloutShown:
    """Begin what was written down: edges of the first stage get ready."""
    return await _move(Move.START, rollout_id, node, asked, response, body)


@router.post("/rollouts/{rollout_id}/pause", responses=documented(*MOVED))
@needs(Role.OPERATOR, models=Models.CHECKED)
async def pause(
    rollout_id: RolloutId, node: NodeDep, asked: AskedDep, response: Response, body: MoveAsked | None = None
) -> RolloutShown:
    """Hold it where it is: times stop, edges keep what they serve."""
    return await _move(Move.PAUSE, rollout_id, node, asked, response, body)


@router.post("/rollouts/{rollout_id}/resume", responses=documented(*MOVED))
@needs(Role.OPERATOR, models=Models.CHECKED)
async def resume(
    rollout_id: RolloutId, node: NodeDep, asked: AskedDep, response: Response, body: MoveAsked | None = None
) -> RolloutShown:
    """Go on where it was paused."""
    return await _move(Move.RESUME, rollout_id, node, asked, response, body)


@router.post("/rollouts/{rollout_id}/promote", responses=documented("frozen", *MOVED))
@needs(Role.OPERATOR, models=Models.CHECKED)
async def promote(
    rollout_id: RolloutId, node: NodeDep, asked: AskedDep, response: Response, body: PromotionAsked | None = None
) -> RolloutShown:
    """On to the next stage, or with `to_end` through all that are left, whatever bake time, analysis and gate ask for."""
    return await _move(Move.PROMOTE, rollout_id, node, asked, response, body)


@router.post("/rollouts/{rollout_id}/abort", responses=documented(*MOVED))
@needs(Role.OPERATOR, models=Models.CHECKED)
async def abort(
    rollout_id: RolloutId, node: NodeDep, asked: AskedDep, response: Response, body: MoveAsked | None = None
) -> RolloutShown:
    """Back to stable. Answers when that is decided; the return follows, and nothing overtakes it."""
    return await _move(Move.ABORT, rollout_id, node, asked, response, body)


@router.post(
    "/rollouts/{rollout_id}/retry", responses=documented("frozen", "rollout_running", "strategy_invalid", *MOVED)
)
@needs(Role.OPERATOR, models=Models.CHECKED)
async def retry(
    rollout_id: RolloutId, node: NodeDep, asked: AskedDep, response: Response, body: MoveAsked | None = None
) -> RolloutShown:
    """From the first stage again, with the same edges first."""
    return await _move(Move.RETRY, rollout_id, node, asked, response, body)


@router.get("/freeze", responses=documented("not_strong", "no_leader"))
@needs(Role.VIEWER)
async def show_freeze(state: StateDep) -> FreezeShown:
    """Whether starts and promotions are frozen, by whom, why, since when."""
    return _freeze_shown(state)


@router.put("/freeze", responses=documented(*UNCERTAIN))
@needs(Role.OPERATOR, models=Models.ALL)
async def set_freeze(body: FreezeAsked, node: NodeDep, asked: UnconditionalDep) -> FreezeShown:
    """Freeze all starts and promotions, or lift that. Aborts and rollbacks are never stopped."""
    await node.propose(
        SetFreeze(
            frozen=body.frozen,
            reason=body.reason,
            request_id=asked.request_id,
            fingerprint=asked.fingerprint(body.model_dump(mode="json")),
            author=asked.author,
            proposed_at_unix_ms=node.clock.unix_ms(),
        )
    )
    return _freeze_shown(node.metadata.state)


# ---- pieces


def rollout_of(state: State, rollout_id: str) -> Rollout:
    """The rollout, which the caller may have to do with. Raises `ProblemError`."""
    rollout = state.rollouts.get(rollout_id)
    if rollout is None:
        raise ProblemError("unknown_rollout", rollout_id=rollout_id)
    caller_now().require(target.model for target in rollout.targets)
    return rollout


async def _move(
    move: Move, rollout_id: str, node: Node, asked: AskedDep, response: Response, body: MoveAsked | None
) -> RolloutShown:
    order = body or MoveAsked()
    if caller_now().limited:
        rollout_of(node.metadata.state, rollout_id)
    await node.propose(
        MoveRollout(
            rollout_id=rollout_id,
            move=move,
            to_end=isinstance(order, PromotionAsked) and order.to_end,
            step_expected=asked.generation_expected,
            reason=order.reason,
            request_id=asked.request_id,
            fingerprint=asked.fingerprint(order.model_dump(mode="json")),
            author=asked.author,
            proposed_at_unix_ms=node.clock.unix_ms(),
        )
    )
    return _shown(rollout_of(node.metadata.state, rollout_id), response)


async def _faults(body: RolloutAsked, node: Node) -> tuple[Fault, ...]:
    """Everything that is wrong, by what this node knows: it is the leader's, as for every change."""
    state = node.metadata.state
    missing = await _missing(body, node)
    strategy: Any = body.strategy
    if isinstance(strategy, Unreadable):
        readable = Strategy(stages=(Stage(share_bp=10_000),))
        of_models = strategy_faults(readable, models=body.models, state=state, missing_digests=missing)
        return (*of_models, *strategy.faults)[:FAULTS_MAX]
    sites, labels = known_places(node.fleet.view.views(), now_ns=node.clock.now_ns())
    return strategy_faults(
        strategy.value(),
        models=body.models,
        state=state,
        known_sites=sites,
        known_labels=labels,
        missing_digests=missing,
    )


async def _missing(body: RolloutAsked, node: Node) -> frozenset[str]:
    """Digests of candidates whose bytes are not stored. Raises `StoreUnavailableError`."""
    models = node.metadata.state.models
    digests = {
        models[name].versions[version].digest
        for name, version in body.models.items()
        if name in models and version in models[name].versions
    }
    missing = set()
    for digest in sorted(digests):
        try:
            await node.artifacts.size(digest)
        except ArtifactMissingError:
            missing.add(digest)
    return frozenset(missing)


def _drawn_id() -> str:
    return f"r-{secrets.token_hex(5)}"


def _shown(rollout: Rollout, response: Response) -> RolloutShown:
    _tag(rollout, response)
    return rollout_shown(rollout)


def _tag(rollout: Rollout, response: Response) -> None:
    response.headers["ETag"] = f'"{rollout.step}"'


def _freeze_shown(state: State) -> FreezeShown:
    freeze = state.freeze
    return FreezeShown(frozen=False) if freeze is None else FreezeShown(frozen=True, **msgspec.to_builtins(freeze))
