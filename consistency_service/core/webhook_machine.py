"""Webhooks in the replicated state: who subscribed, what was settled, what is asked for again."""

from __future__ import annotations

from consistency_service.core import commands as c
from consistency_service.core.outcomes import Outcome
from consistency_service.core.refusals import RefusalError
from consistency_service.core.rollout_machine import RolloutMachine
from consistency_service.core.webhooks import (
    DEAD_MAX,
    REASON_CHARS_MAX,
    SECRET_CHARS_MAX,
    URL_CHARS_MAX,
    WEBHOOKS_MAX,
    Missed,
    Webhook,
    transition_of,
)
from edge_client.protocol.models import NAME_PATTERN


class WebhookMachine(RolloutMachine):
    """The handlers of everything that concerns webhooks."""

    def _create_webhook(self, command: c.CreateWebhook) -> Outcome:
        state = self.state
        if NAME_PATTERN.fullmatch(command.webhook_id) is None or command.webhook_id in state.webhooks:
            raise RefusalError("invalid", field="webhook_id")
        if not 0 < len(command.url) <= URL_CHARS_MAX or not 0 < len(command.secret) <= SECRET_CHARS_MAX:
            raise RefusalError("invalid", field="url or secret")
        if len(state.webhooks) >= WEBHOOKS_MAX:
            raise RefusalError("limit_reached", limit="webhooks", value=WEBHOOKS_MAX)
        state.webhooks[command.webhook_id] = Webhook(
            webhook_id=command.webhook_id,
            url=command.url,
            secret=command.secret,
            moves=tuple(dict.fromkeys(command.moves)),
            author=command.author,
            created_at_unix_ms=command.proposed_at_unix_ms,
            delivered_through=state.revision,
        )
        return self._changed("WebhookCreated", command, detail={"webhook_id": command.webhook_id, "url": command.url})

    def _delete_webhook(self, command: c.DeleteWebhook) -> Outcome:
        del self.state.webhooks[self._webhook(command.webhook_id).webhook_id]
        return self._changed("WebhookDeleted", command, detail={"webhook_id": command.webhook_id})

    def _settle_delivery(self, command: c.SettleDelivery) -> Outcome:
        """Told, or given up: the next one follows. What was settled before changes nothing."""
        webhook, state = self._webhook(command.webhook_id), self.state
        name = f"{command.rollout_id}-{command.step}"
        again = next((missed for missed in webhook.again if missed.delivery_id == name), None)
        if again is not None:
            webhook.again.remove(again)
        elif webhook.delivered_through < command.revision <= state.revision:
            webhook.delivered_through = command.revision
        else:
            return Outcome(revision=state.revision)
        if command.delivered:
            webhook.delivered_count += 1
            return Outcome(revision=state.revision)
        webhook.dead.append(
            Missed(
                rollout_id=command.rollout_id,
                step=command.step,
                revision=command.revision,
                attempts=command.attempts,
                reason=command.reason[:REASON_CHARS_MAX],
                at_unix_ms=command.proposed_at_unix_ms,
            )
        )
        if len(webhook.dead) > DEAD_MAX:
            del webhook.dead[0]
            webhook.forgotten_count += 1
        return Outcome(revision=state.revision)

    def _replay_webhook(self, command: c.ReplayWebhook) -> Outcome:
        """What was given up is to be told again, as far as it is still known what it was."""
        webhook = self._webhook(command.webhook_id)
        wanted = [m for m in webhook.dead if not command.delivery_ids or m.delivery_id in command.delivery_ids]
        known = [m for m in wanted if transition_of(self.state.rollouts, m.rollout_id, step=m.step)]
        webhook.dead = [missed for missed in webhook.dead if missed not in wanted]
        webhook.again = sorted([*webhook.again, *known], key=lambda missed: missed.revision)
        beyond = max(0, len(webhook.again) - DEAD_MAX)
        del webhook.again[:beyond]
        webhook.forgotten_count += len(wanted) - len(known) + beyond
        return Outcome(revision=self.state.revision, detail={"replayed": len(known) - beyond})

    def _webhook(self, webhook_id: str) -> Webhook:
        webhook = self.state.webhooks.get(webhook_id)
        if webhook is None:
            raise RefusalError("unknown_webhook", webhook_id=webhook_id)
        return webhook

    def _check_webhooks(self) -> None:
        assert len(self.state.webhooks) <= WEBHOOKS_MAX
        for webhook in self.state.webhooks.values():
            assert len(webhook.dead) <= DEAD_MAX and len(webhook.again) <= DEAD_MAX
            assert webhook.delivered_through <= self.state.revision
            assert webhook.secret not in repr(webhook)
