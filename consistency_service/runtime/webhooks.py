"""Tells subscribers of rollouts: each transition, in order, signed, until they have it or it is given up.

Runs on every node, works on the authority's only. One delivery at a time for each webhook; what became of it is written down
in the replicated state, so another authority goes on from there. If that note is lost, the delivery is made again: a
receiver goes by `webhook-id`, which is the same each time.

A delivery is signed as Standard Webhooks have it (standardwebhooks.com): `webhook-signature: v1,BASE64` is HMAC-SHA256, under
the bytes that the secret encodes, over `ID.TIMESTAMP.BODY`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import random
import re
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import msgspec

from consistency_service.core.authority import Authority
from consistency_service.core.commands import AnyCommand, SettleDelivery
from consistency_service.core.outcomes import Outcome
from consistency_service.core.webhooks import Delivery, Webhook, next_delivery
from consistency_service.errors import NotLeaderError, UnknownOutcomeError, WebUnavailableError
from consistency_service.runtime.metadata import Metadata
from consistency_service.runtime.ports import Clock, WebCaller
from consistency_service.runtime.waking import wait_set

_log = logging.getLogger(__name__)
MS: Final = 1_000_000
TICK_S: Final = 0.5
TIMEOUT_MS: Final = 10_000
ATTEMPTS_MAX: Final = 8
"""With the waits between them about two minutes; after a failover they are counted anew."""
BACKOFF_MIN_MS: Final = 1_000
BACKOFF_MAX_MS: Final = 60_000
ANSWER_BYTES_MAX: Final = 1_024
UNDER_WAY_MAX: Final = 16
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 -- what every secret begins with
_B64: Final = "[A-Za-z0-9+/]"
SECRET_PATTERN: Final = rf"{SECRET_PREFIX}(?:{_B64}{{4}}){{8,21}}(?:{_B64}{{2}}==|{_B64}{{3}}=)?"


@dataclass(slots=True)
class _Round:
    """How far this life is with one webhook."""

    delivery_id: str = ""
    attempts: int = 0
    due_ns: int = 0
    nothing_at: tuple[int, int] = (-1, -1)
    """Revision and number of replays at which there was nothing to tell."""
    task: asyncio.Task[None] | None = None

    @property
    def under_way(self) -> bool:
        return self.task is not None and not self.task.done()


class WebhookDriver:
    """The carrier of one node. `web` None: it calls nobody."""

    def __init__(
        self,
        *,
        metadata: Metadata,
        authority: Authority,
        clock: Clock,
        rng: random.Random,
        web: WebCaller | None,
        backoff_min_ms: int = BACKOFF_MIN_MS,
    ) -> None:
        self._metadata = metadata
        self._authority = authority
        self._clock = clock
        self._rng = rng
        self._web = web
        self._backoff_min_ms = backoff_min_ms
        self._rounds: dict[str, _Round] = {}
        self._wake = asyncio.Event()
        self.counters: Counter[str] = Counter()
        metadata.on_applied(self._applied)

    async def run(self) -> None:
        """Deliver until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._wake.clear()
                self.tick(group)
                await wait_set(self._wake, timeout_s=TICK_S)

    def tick(self, group: asyncio.TaskGroup) -> None:
        """Begin every delivery that is due."""
        if not self._authority.is_authority or self._web is None:
            self._rounds = {name: one for name, one in self._rounds.items() if one.under_way}
            return
        state, now_ns = self._metadata.state, self._clock.now_ns()
        self._rounds = {n: one for n, one in self._rounds.items() if n in state.webhooks or one.under_way}
        under_way = sum(one.under_way for one in self._rounds.values())
        for webhook in state.webhooks.values():
            one = self._rounds.setdefault(webhook.webhook_id, _Round())
            looked_at = (state.revision, len(webhook.again))
            if one.under_way or now_ns < one.due_ns or one.nothing_at == looked_at:
                continue
            delivery = next_delivery(webhook, state.rollouts)
            if delivery is None:
                one.nothing_at = looked_at
            elif under_way < UNDER_WAY_MAX:
                under_way += 1
                one.task = group.create_task(self._deliver(webhook, delivery, one, self._web), name="webhook")

    async def _deliver(self, webhook: Webhook, delivery: Delivery, one: _Round, web: WebCaller) -> None:
        """One attempt, and what follows from it."""
        if one.delivery_id != delivery.delivery_id:
            one.delivery_id, one.attempts = delivery.delivery_id, 0
        body = body_of(delivery, region=self._metadata.state.region)
        headers = signed(
            body,
            secret=webhook.secret,
            delivery_id=delivery.delivery_id,
            timestamp_s=self._clock.unix_ms() // 1_000,
        )
        try:
            answer = await web.post(
                webhook.url, body=body, headers=headers, timeout_ms=TIMEOUT_MS, answer_bytes_max=ANSWER_BYTES_MAX
            )
            failure = "" if 200 <= answer.status < 300 else f"answered with status {answer.status}"
        except WebUnavailableError as error:
            failure = str(error)
        one.attempts += 1
        self.counters["attempts_failed" if failure else "delivered"] += 1
        if failure and one.attempts < ATTEMPTS_MAX:
            one.due_ns = self._clock.now_ns() + self._backoff_ms(one.attempts) * MS
            return
        if failure:
            self.counters["given_up"] += 1
            _log.warning(
                "webhook_given_up webhook=%s delivery=%s reason=%s", webhook.webhook_id, delivery.delivery_id, failure
            )
        settled = await self._settle(webhook, delivery, attempts=one.attempts, failure=failure)
        if settled or not failure:
            one.delivery_id, one.due_ns = "", 0

    async def _settle(self, webhook: Webhook, delivery: Delivery, *, attempts: int, failure: str) -> bool:
        """Write down what became of it; False if nobody knows whether that was written."""
        try:
            await self._metadata.propose(
                SettleDelivery(
                    webhook_id=webhook.webhook_id,
                    rollout_id=delivery.rollout.rollout_id,
                    step=delivery.transition.step,
                    revision=delivery.transition.revision,
                    delivered=not failure,
                    attempts=attempts,
                    reason=failure,
                    proposed_at_unix_ms=self._clock.unix_ms(),
                )
            )
        except (NotLeaderError, UnknownOutcomeError):
            self.counters["settlements_unanswered"] += 1
            return False
        self._wake.set()
        return True

    def _backoff_ms(self, attempts: int) -> int:
        """Doubling, between half and all of it, so that nobody's subscribers come back in step."""
        longest_ms = min(BACKOFF_MAX_MS, self._backoff_min_ms << (attempts - 1))
        return round(longest_ms * self._rng.uniform(0.5, 1.0))

    def _applied(self, command: AnyCommand, outcome: Outcome) -> None:
        if outcome.ok and hasattr(command, "rollout_id"):
            self._wake.set()


def body_of(delivery: Delivery, *, region: str) -> bytes:
    """What a subscriber is told: `type`, `timestamp` and `data`, as JSON; the same bytes each time."""
    rollout, moved = delivery.rollout, delivery.transition
    return msgspec.json.encode(
        {
            "type": f"rollout.{moved.move.value}",
            "timestamp": datetime.fromtimestamp(moved.at_unix_ms / 1_000, tz=UTC),
            "data": {
                "region": region,
                "rollout_id": rollout.rollout_id,
                "models": {t.model: {"candidate": t.candidate, "stable": t.base.stable} for t in rollout.targets},
                "stage_count": len(rollout.strategy.stages),
                **{name: getattr(moved, name) for name in moved.__struct_fields__},
            },
        }
    )


def signed(body: bytes, *, secret: str, delivery_id: str, timestamp_s: int) -> dict[str, str]:
    """The headers of a delivery."""
    content = f"{delivery_id}.{timestamp_s}.".encode() + body
    digest = hmac.new(secret_bytes(secret), content, hashlib.sha256).digest()
    return {
        "content-type": "application/json",
        "webhook-id": delivery_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": "v1," + base64.b64encode(digest).decode(),
    }


def secret_bytes(secret: str) -> bytes:
    """The key that `whsec_BASE64` stands for. Raises `ValueError` for anything else."""
    if re.fullmatch(SECRET_PATTERN, secret) is None:
        raise ValueError(f"a secret is {SECRET_PREFIX} and the base64 of 24 to 64 bytes")
    return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
