"""The first state of a new epoch, made of a backup: the one step of a restore that decides anything (protocol, section 7).

Picture a ship's log, copied while under way, from which another ship shall sail on. What was done stays done. What was
merely ordered for an hour by a clock that went down with the ship has no hour any more: it is struck out, and whoever
ordered it may order it again; unless a later page was written as if it had been done, then it counts as done. Whatever
was in motion is stopped until somebody has looked, because nobody knows how far the old ship got after the copy was made.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from consistency_service.core import commands as c
from consistency_service.core.machine import AUDIT_MAX, MetadataMachine
from consistency_service.core.rollout import TRANSITIONS, Move, Phase
from consistency_service.core.state import AuditEntry, ModelState, State, decode_state

EVENT: Final = "RegionRestored"
REASON: Final = "the region was restored from a backup of"


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """A state that a region can begin with, and what became of what was under way in the backup."""

    state: State
    dropped: dict[int, tuple[str, ...]]
    """Activations that never were, by revision, with their models: their request ids are free again."""
    settled: dict[int, tuple[str, ...]]
    """Activations that count as effective, because a rollout made them or started from them."""
    paused: tuple[str, ...]
    """Rollouts that go on when somebody resumes them."""


def new_epoch(*, backup_epoch: int, at_unix_ms: int, epoch_min: int = 0) -> int:
    """The epoch of a restore: greater than the backup's, and than that of any restore before it by a clock of this time.

    At least `epoch_min`, which a person gives who knows of a greater one.
    """
    return max(backup_epoch + 1, at_unix_ms // 1_000, epoch_min)


def restored(payload: bytes, *, epoch: int, author: str, at_unix_ms: int) -> Restored:
    """What a region begins with in `epoch`, from the state in a backup. Raises `ValueError` if that is none, or the epoch
    is not greater than the backup's.

    Revisions go on from the backup's, because activations are named by them; the position `(epoch, revision)` is greater
    than any of an older epoch. Everything that belongs to the clock of a process is gone.
    """
    machine = _Restoring()
    machine.state = decode_state(payload)
    machine.check_invariants()
    if not 0 < machine.state.epoch < epoch:
        raise ValueError(f"epoch {epoch} is not greater than the backup's, {machine.state.epoch}")
    return machine.begin(epoch=epoch, author=author, at_unix_ms=at_unix_ms)


class _Restoring(MetadataMachine):
    """The state machine, for as long as it takes to put its book in order."""

    def begin(self, *, epoch: int, author: str, at_unix_ms: int) -> Restored:
        state, was = self.state, self.state.position
        reason = f"{REASON} {was.epoch}-{was.revision}"
        state.epoch = epoch
        state.authority = None
        state.last_number = 0
        state.outbox = []
        state.published_through = 0
        settled, dropped = self._settle_what_was_built_on(), self._drop_the_rest()
        self._free_requests(dropped.keys())
        paused = self._pause_rollouts(reason=reason, author=author, at_unix_ms=at_unix_ms)
        detail = {
            "restored_from": f"{was.epoch}-{was.revision}",
            "dropped": {str(revision): list(models) for revision, models in dropped.items()},
            "settled": {str(revision): list(models) for revision, models in settled.items()},
            "paused": list(paused),
        }
        self._changed(EVENT, c.Command(author=author, proposed_at_unix_ms=at_unix_ms), detail=detail)
        self._write_audit(dropped, author=author, at_unix_ms=at_unix_ms, region=state.region)
        self.check_invariants()
        assert not state.pendings(), "something of a dead clock is left"
        return Restored(state=state, dropped=dropped, settled=settled, paused=paused)

    def _settle_what_was_built_on(self) -> dict[int, tuple[str, ...]]:
        """A rollout has moved on by its activation, or was started from one: that is past, or the rollout would tell of a
        stage that never was.
        """
        found = self._pending()
        settled = {revision: models for revision, models in found.items() if any(map(self._is_built_on, models))}
        for model in (model for models in settled.values() for model in models):
            pending, origin = model.pending, model.pending_origin
            assert pending is not None and origin is not None
            model.previous, model.previous_generation = origin.previous, origin.previous_generation
            model.assignment, model.origin = pending.assignment, origin
            model.generation = pending.generation
            self._nothing_pending(model)
        return _names(settled)

    def _is_built_on(self, model: ModelState) -> bool:
        assert model.pending is not None
        made = (entry.rollout_id for entry in model.history if entry.activation == model.pending.revision)
        return self.state.rollout_of(model.name) is not None or any(made)

    def _drop_the_rest(self) -> dict[int, tuple[str, ...]]:
        dropped = self._pending()
        for revision, models in dropped.items():
            for model in models:
                model.history = [entry for entry in model.history if entry.activation != revision]
                self._nothing_pending(model)
        return _names(dropped)

    def _nothing_pending(self, model: ModelState) -> None:
        pending = model.pending
        if pending is not None and model.prefetch == pending.assignment and self.state.rollout_of(model.name) is None:
            model.prefetch = None
        model.pending = model.pending_origin = None

    def _pending(self) -> dict[int, tuple[ModelState, ...]]:
        found: dict[int, tuple[ModelState, ...]] = {}
        for model in self.state.models.values():
            if model.pending is not None:
                found[model.pending.revision] = (*found.get(model.pending.revision, ()), model)
        return found

    def _free_requests(self, dropped: Collection[int]) -> None:
        """Who asks again under the same id must not be told that what was struck out is effective."""
        self.state.requests = {
            request_id: result
            for request_id, result in self.state.requests.items()
            if not (result.outcome.ok and result.outcome.revision in dropped)
        }

    def _pause_rollouts(self, *, reason: str, author: str, at_unix_ms: int) -> tuple[str, ...]:
        """Those that would go on by themselves. One that is on its way back to stable goes on: that is the safe way."""
        paused = []
        for rollout in self.state.rollouts.values():
            if rollout.running and Move.PAUSE in TRANSITIONS[rollout.phase]:
                command = c.MoveRollout(
                    rollout_id=rollout.rollout_id,
                    move=Move.PAUSE,
                    reason=reason,
                    author=author,
                    proposed_at_unix_ms=at_unix_ms,
                )
                self._move(rollout, Move.PAUSE, Phase.PAUSED, command=command)
                paused.append(rollout.rollout_id)
        return tuple(paused)

    def _write_audit(self, dropped: dict[int, tuple[str, ...]], *, author: str, at_unix_ms: int, region: str) -> None:
        """The audit goes on, with the restore and each order that it struck out."""
        told = [("RestoreRegion", region, "ok")]
        told += [("ActivateGeneration", ",".join(models), "dropped_by_restore") for models in dropped.values()]
        for command, subject, code in told:
            self.state.audit.append(
                AuditEntry(
                    revision=self.state.revision,
                    at_unix_ms=at_unix_ms,
                    author=author,
                    command=command,
                    subject=subject,
                    code=code,
                )
            )
        del self.state.audit[:-AUDIT_MAX]


def _names(found: dict[int, tuple[ModelState, ...]]) -> dict[int, tuple[str, ...]]:
    return {revision: tuple(model.name for model in models) for revision, models in found.items()}
