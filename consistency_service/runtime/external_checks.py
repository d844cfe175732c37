"""Asks what others have to say about a stage: each external check every so often, a few at a time, never for long.

An answer is what was said last, and is worth something for the activation it was asked about only. Silence, nonsense and
refusals are inconclusive: they neither pass a stage nor fail it, and the progress deadline ends the wait.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import msgspec

from consistency_service.core.analysis import ExternalAnswer, Result, parse_external
from consistency_service.core.rollout import Phase, Rollout
from consistency_service.core.state import State
from consistency_service.core.strategy import Metric
from consistency_service.errors import WebUnavailableError
from consistency_service.runtime.ports import Clock, WebCaller

MS: Final = 1_000_000
TIMEOUT_MS: Final = 5_000
UNDER_WAY_MAX: Final = 16
ANSWER_BYTES_MAX: Final = 4_096
_Key = tuple[str, int, int]


@dataclass(slots=True)
class _Asked:
    at_ns: int
    answer: ExternalAnswer | None = None
    task: asyncio.Task[None] | None = None


class ExternalChecks:
    """The answers of all running rollouts. `web` None: this node makes no calls, and every check is inconclusive."""

    def __init__(self, *, web: WebCaller | None, clock: Clock) -> None:
        self._web = web
        self._clock = clock
        self._asked: dict[_Key, _Asked] = {}
        self.counters: Counter[str] = Counter()

    def answers(self, rollout: Rollout) -> dict[int, ExternalAnswer]:
        """By index of the check, the newest answer about the active stage."""
        return {
            index: asked.answer
            for (rollout_id, activation, index), asked in self._asked.items()
            if rollout_id == rollout.rollout_id and activation == (rollout.activation or 0) and asked.answer
        }

    def tick(self, rollouts: Iterable[Rollout], *, state: State, group: asyncio.TaskGroup) -> None:
        """Ask what is due; forget what is about stages that are over."""
        now_ns = self._clock.now_ns()
        wanted: set[_Key] = set()
        for rollout in rollouts:
            if rollout.active_stage is None or rollout.phase not in {Phase.PREFETCHING, Phase.BAKING, Phase.WAITING}:
                continue
            for index, check in enumerate(rollout.strategy.checks_of(rollout.active_stage)):
                if check.metric is not Metric.EXTERNAL:
                    continue
                key = (rollout.rollout_id, rollout.activation or 0, index)
                wanted.add(key)
                asked = self._asked.get(key)
                if asked is not None and (
                    (asked.task is not None and not asked.task.done()) or now_ns - asked.at_ns < check.interval_ms * MS
                ):
                    continue
                if self._under_way() >= UNDER_WAY_MAX:
                    self.counters["external_checks_delayed"] += 1
                    continue
                asked = self._asked.setdefault(key, _Asked(at_ns=now_ns))
                asked.at_ns = now_ns
                question = _question(rollout, state=state, index=index)
                asked.task = group.create_task(self._ask(asked, url=check.url, question=question))
        for key in [key for key in self._asked if key not in wanted]:
            asked = self._asked.pop(key)
            if asked.task is not None:
                asked.task.cancel()

    def _under_way(self) -> int:
        return sum(asked.task is not None and not asked.task.done() for asked in self._asked.values())

    async def _ask(self, asked: _Asked, *, url: str, question: bytes) -> None:
        if self._web is None:
            asked.answer = _inconclusive("this node makes no calls")
            return
        try:
            answer = await self._web.post(
                url,
                body=question,
                headers={"content-type": "application/json"},
                timeout_ms=TIMEOUT_MS,
                answer_bytes_max=ANSWER_BYTES_MAX,
            )
        except WebUnavailableError as error:
            self.counters["external_checks_unanswered"] += 1
            asked.answer = _inconclusive(f"the external check did not answer: {error}"[:300])
            return
        self.counters["external_checks_answered"] += 1
        asked.answer = parse_external(answer.status, answer.body)


def _inconclusive(reason: str) -> ExternalAnswer:
    return ExternalAnswer(result=Result.INCONCLUSIVE, reason=reason)


def _question(rollout: Rollout, *, state: State, index: int) -> bytes:
    """What is sent: which rollout, how far, from what to what."""
    return msgspec.json.encode(
        {
            "region": state.region,
            "rollout_id": rollout.rollout_id,
            "step": rollout.step,
            "stage": rollout.active_stage,
            "check": index,
            "models": {
                target.model: {"candidate": target.candidate, "stable": target.base.stable}
                for target in rollout.targets
            },
        }
    )
