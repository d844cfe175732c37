"""Who wants to be told of rollouts, how far they were told, and what they missed. Values, and what is to be told next.

Picture a newspaper round: each subscriber gets every page in order, and a mark says up to which one. Somebody who does not
open the door for long enough finds a note of what was not delivered, and may ask for it again. The marks are replicated, so
another carrier goes on from them; a page may come twice, never out of order among those that are new, and its number tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from consistency_service.core.rollout import Move, Rollout, Transition

WEBHOOKS_MAX: Final = 32
DEAD_MAX: Final = 100
"""Kept of one webhook; beyond that the oldest are forgotten, and counted."""
URL_CHARS_MAX: Final = 1_000
SECRET_CHARS_MAX: Final = 128
REASON_CHARS_MAX: Final = 300


class Missed(msgspec.Struct, frozen=True, kw_only=True):
    """A transition that a webhook was not told of, in spite of all attempts."""

    rollout_id: str
    step: int
    revision: int
    attempts: int
    reason: str
    at_unix_ms: int

    @property
    def delivery_id(self) -> str:
        return f"{self.rollout_id}-{self.step}"


class Webhook(msgspec.Struct, kw_only=True):
    """One subscription. Mutable, and touched by the machine only; its secret appears in no answer, log or `repr`."""

    webhook_id: str
    url: str
    secret: str
    """What deliveries are signed with: whichever node is the authority needs it."""
    moves: tuple[Move, ...]
    """Those it wants to hear of; none: all."""
    author: str
    created_at_unix_ms: int
    delivered_through: int
    """No transition up to this revision is to be told any more."""
    delivered_count: int = 0
    dead: list[Missed] = []
    """Given up, oldest first."""
    again: list[Missed] = []
    """To be told once more, before anything new."""
    forgotten_count: int = 0
    """Given up and not even kept."""

    def wants(self, transition: Transition) -> bool:
        return not self.moves or transition.move in self.moves

    def __repr__(self) -> str:
        return f"<Webhook {self.webhook_id} through={self.delivered_through} dead={len(self.dead)}>"


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One transition that a webhook is to be told of next."""

    rollout: Rollout
    transition: Transition
    again: bool

    @property
    def delivery_id(self) -> str:
        """The same for every attempt and every replay, so that its receiver knows what it has."""
        return f"{self.rollout.rollout_id}-{self.transition.step}"


def next_delivery(webhook: Webhook, rollouts: Mapping[str, Rollout]) -> Delivery | None:
    """What it is to be told next: what it asked for again, then by revision; None: it knows all there is."""
    for missed in webhook.again:
        found = transition_of(rollouts, missed.rollout_id, step=missed.step)
        if found is not None:
            return Delivery(rollout=rollouts[missed.rollout_id], transition=found, again=True)
    oldest = min(
        (
            (transition.revision, rollout.rollout_id, transition)
            for rollout in rollouts.values()
            for transition in untold(webhook, rollout)
        ),
        key=lambda one: one[:2],
        default=None,
    )
    return None if oldest is None else Delivery(rollout=rollouts[oldest[1]], transition=oldest[2], again=False)


def untold(webhook: Webhook, rollout: Rollout) -> tuple[Transition, ...]:
    """The transitions of a rollout that it was not told of yet, oldest first."""
    found: list[Transition] = []
    for transition in reversed(rollout.transitions):
        if transition.revision <= webhook.delivered_through:
            break
        if webhook.wants(transition):
            found.append(transition)
    return tuple(reversed(found))


def transition_of(rollouts: Mapping[str, Rollout], rollout_id: str, *, step: int) -> Transition | None:
    """None: it was forgotten."""
    rollout = rollouts.get(rollout_id)
    moved = rollout.transitions if rollout else []
    return next((transition for transition in moved if transition.step == step), None)
