"""What the authority sees of a rollout at this moment: looked up where it is this node, asked of its node otherwise.

As `GET /v1/rollouts/ID` answers it, at most once a second for each rollout, however many visitors look. A node of another
release may answer something else; then the page does without, as it does while there is no authority.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

import httpx
import pydantic

from consistency_service.api.forwarding import FORWARDED_HEADER
from consistency_service.api.peers import Peers
from consistency_service.api.rollout_views import LiveShown, RolloutShown, rollout_shown
from consistency_service.core.rollout import RUNNING_MAX, Phase, Rollout
from consistency_service.runtime.node import Node

LOOK_NS: Final = 1_000_000_000
ANSWER_TIMEOUT_MS: Final = 1_000


@dataclass(slots=True)
class _Seen:
    live: LiveShown | None = None
    step: int = -1
    due_ns: int = 0
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)


class LiveLook:
    """What was seen last, of as many rollouts as may run."""

    def __init__(self, node: Node, peers: Peers) -> None:
        self._node = node
        self._peers = peers
        self._seen: dict[str, _Seen] = {}

    async def of(self, rollout: Rollout) -> LiveShown | None:
        """At most a second old, and not older than its newest step; None for a draft, and if the authority does not say."""
        if rollout.phase is Phase.DRAFT:
            return None
        seen = self._seen.pop(rollout.rollout_id, None) or _Seen()
        self._seen[rollout.rollout_id] = seen
        while len(self._seen) > RUNNING_MAX:
            del self._seen[next(iter(self._seen))]
        async with seen.asking:
            if seen.step != rollout.step or self._node.clock.now_ns() >= seen.due_ns:
                seen.step = rollout.step
                seen.live = await self._look(rollout)
                seen.due_ns = self._node.clock.now_ns() + LOOK_NS
            return seen.live

    async def _look(self, rollout: Rollout) -> LiveShown | None:
        url = self._node.leader_url()
        if url is None:
            live = self._node.rollouts.live(rollout)
            return None if live is None else rollout_shown(rollout, live=live).live
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_MS / 1_000):
                answer = await self._peers.http.get(
                    f"{url.rstrip('/')}/v1/rollouts/{quote(rollout.rollout_id, safe='')}",
                    headers={FORWARDED_HEADER: "1"},
                )
            return RolloutShown.model_validate_json(answer.content).live
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, pydantic.ValidationError):
            return None
