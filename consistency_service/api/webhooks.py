"""Webhooks: who is told of rollouts, what they missed, and telling them again."""

from __future__ import annotations

import secrets
from typing import Annotated, Final

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, Field

from consistency_service.api.access import needs
from consistency_service.api.depends import NodeDep, StateDep, UnconditionalDep
from consistency_service.api.pages import Cursor, Limit, Page, page_of
from consistency_service.api.problems import ProblemError, documented
from consistency_service.api.schemas import Asked
from consistency_service.core.access import Models, Role
from consistency_service.core.commands import CreateWebhook, DeleteWebhook, ReplayWebhook
from consistency_service.core.rollout import Move
from consistency_service.core.state import State
from consistency_service.core.webhooks import DEAD_MAX, SECRET_CHARS_MAX, URL_CHARS_MAX, Missed, Webhook, untold
from consistency_service.runtime.webhooks import SECRET_PATTERN

UNCERTAIN: Final = ("invalid", "request_id_reused", "no_leader", "unknown_outcome")
URL_PATTERN: Final = r"^https?://[A-Za-z0-9][A-Za-z0-9.-]{0,252}(?::[1-9][0-9]{0,4})?(?:[/?][!-~]*)?$"
"""Without user and password: those would be shown."""
WebhookId = Annotated[str, Path(max_length=128, description="The webhook's id.")]
router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])


class WebhookAsked(Asked):
    """An address that is told of every move of every rollout from now on, or of some moves only."""

    url: Annotated[
        str, Field(max_length=URL_CHARS_MAX, pattern=URL_PATTERN, examples=["https://hooks.example.org/rollouts"])
    ]
    secret: Annotated[
        str,
        Field(
            max_length=SECRET_CHARS_MAX,
            pattern=f"^{SECRET_PATTERN}$",
            description="`whsec_` and the base64 of 24 to 64 random bytes. Signs deliveries; never shown again.",
            json_schema_extra={"writeOnly": True},
        ),
    ]
    events: Annotated[
        list[Annotated[Move, Field(strict=False)]], Field(max_length=len(Move), description="None: all.")
    ] = []


class ReplayAsked(Asked):
    delivery_ids: Annotated[list[str], Field(max_length=DEAD_MAX, description="None: all that were given up.")] = []


class ReplayShown(BaseModel):
    replayed: int
    """How many will be told again; what the region has forgotten is not among them."""


class WebhookShown(BaseModel):
    webhook_id: str
    url: str
    events: list[str]
    author: str
    created_at_unix_ms: int
    delivered_through: int
    delivered_count: int
    pending_count: int
    """Moves that it was not told of yet."""
    dead_count: int
    """Given up, and kept."""
    forgotten_count: int
    """Given up, and not kept."""


class DeliveryShown(BaseModel):
    delivery_id: str
    """`ROLLOUT-STEP`, as in `webhook-id`."""
    rollout_id: str
    step: int
    revision: int
    state: str
    """`dead` (given up), `again` (asked for again) or `pending`."""
    attempts: int
    reason: str
    at_unix_ms: int
    """When it was given up, or when the rollout moved."""


@router.post("", status_code=201, responses=documented("limit_reached", *UNCERTAIN))
@needs(Role.OPERATOR, models=Models.ALL)
async def create_webhook(
    body: WebhookAsked, node: NodeDep, asked: UnconditionalDep, response: Response
) -> WebhookShown:
    """Be told of rollouts from now on."""
    webhook_id = f"w-{secrets.token_hex(5)}"
    outcome = await node.propose(
        CreateWebhook(
            webhook_id=webhook_id,
            url=body.url,
            secret=body.secret,
            moves=tuple(body.events),
            request_id=asked.request_id,
            fingerprint=asked.fingerprint(body.model_dump(mode="json")),
            author=asked.author,
            proposed_at_unix_ms=node.clock.unix_ms(),
        )
    )
    webhook_id = str(outcome.detail["webhook_id"])
    response.headers["Location"] = f"/v1/webhooks/{webhook_id}"
    return _shown(node.metadata.state, _webhook_of(node.metadata.state, webhook_id))


@router.get("", responses=documented("invalid", "not_strong", "no_leader"))
@needs(Role.VIEWER, models=Models.ALL)
async def list_webhooks(state: StateDep, limit: Limit = 100, cursor: Cursor = None) -> Page[WebhookShown]:
    """Every webhook, by id."""
    page, next_cursor = page_of(state.webhooks.values(), key=lambda w: (w.webhook_id,), limit=limit, cursor=cursor)
    return Page(items=[_shown(state, webhook) for webhook in page], next_cursor=next_cursor)


@router.delete("/{webhook_id}", status_code=204, responses=documented("unknown_webhook", *UNCERTAIN))
@needs(Role.OPERATOR, models=Models.ALL)
async def delete_webhook(webhook_id: WebhookId, node: NodeDep, asked: UnconditionalDep) -> None:
    """Tell it nothing any more; a delivery under way is not called back."""
    await node.propose(
        DeleteWebhook(
            webhook_id=webhook_id,
            request_id=asked.request_id,
            fingerprint=asked.fingerprint(),
            author=asked.author,
            proposed_at_unix_ms=node.clock.unix_ms(),
        )
    )


@router.get("/{webhook_id}/deliveries", responses=documented("unknown_webhook", "invalid", "not_strong", "no_leader"))
@needs(Role.VIEWER, models=Models.ALL)
async def list_deliveries(
    webhook_id: WebhookId, state: StateDep, limit: Limit = 100, cursor: Cursor = None
) -> Page[DeliveryShown]:
    """What was given up, what is asked for again, and what is still to be told, by revision."""
    webhook = _webhook_of(state, webhook_id)
    items = [_missed(missed, "dead") for missed in webhook.dead] + [
        _missed(missed, "again") for missed in webhook.again
    ]
    items += [
        DeliveryShown(
            delivery_id=f"{rollout.rollout_id}-{moved.step}",
            rollout_id=rollout.rollout_id,
            step=moved.step,
            revision=moved.revision,
            state="pending",
            attempts=0,
            reason="",
            at_unix_ms=moved.at_unix_ms,
        )
        for rollout in state.rollouts.values()
        for moved in untold(webhook, rollout)
    ]
    page, next_cursor = page_of(
        items, key=lambda item: (item.revision, item.delivery_id, item.state), limit=limit, cursor=cursor
    )
    return Page(items=page, next_cursor=next_cursor)


@router.post("/{webhook_id}/replay", responses=documented("unknown_webhook", *UNCERTAIN))
@needs(Role.OPERATOR, models=Models.ALL)
async def replay(
    webhook_id: WebhookId, node: NodeDep, asked: UnconditionalDep, body: ReplayAsked | None = None
) -> ReplayShown:
    """Tell it again what was given up, before anything new."""
    order = body or ReplayAsked()
    outcome = await node.propose(
        ReplayWebhook(
            webhook_id=webhook_id,
            delivery_ids=tuple(order.delivery_ids),
            request_id=asked.request_id,
            fingerprint=asked.fingerprint(order.model_dump(mode="json")),
            author=asked.author,
            proposed_at_unix_ms=node.clock.unix_ms(),
        )
    )
    return ReplayShown(replayed=int(outcome.detail["replayed"]))


def _webhook_of(state: State, webhook_id: str) -> Webhook:
    webhook = state.webhooks.get(webhook_id)
    if webhook is None:
        raise ProblemError("unknown_webhook", webhook_id=webhook_id)
    return webhook


def _shown(state: State, webhook: Webhook) -> WebhookShown:
    return WebhookShown(
        webhook_id=webhook.webhook_id,
        url=webhook.url,
        events=[move.value for move in webhook.moves],
        author=webhook.author,
        created_at_unix_ms=webhook.created_at_unix_ms,
        delivered_through=webhook.delivered_through,
        delivered_count=webhook.delivered_count,
        pending_count=len(webhook.again) + sum(len(untold(webhook, rollout)) for rollout in state.rollouts.values()),
        dead_count=len(webhook.dead),
        forgotten_count=webhook.forgotten_count,
    )


def _missed(missed: Missed, state: str) -> DeliveryShown:
    named = ("delivery_id", "rollout_id", "step", "revision", "attempts", "reason", "at_unix_ms")
    return DeliveryShown(**{name: getattr(missed, name) for name in named}, state=state)
