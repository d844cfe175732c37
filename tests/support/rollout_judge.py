"""Plays orders to a region in any sequence, and judges from outside whether what came of them may have.

The judge keeps its own books by outcomes and assignments alone; it never asks the machine in which phase a rollout is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from consistency_service.core import commands as c
from consistency_service.core.outcomes import Outcome
from consistency_service.core.rollout import CALLERS, STEPS, Move
from consistency_service.core.strategy import Gate, OnFailure, Stage, Strategy
from edge_client.protocol.models import Assignment
from tests.support.region import version
from tests.support.rollouts import RolloutRegion

BAKE_MS = 1_000
SHARES = (100, 1_000, 1_000, 10_000)
STAGES = tuple(
    Stage(share_bp=share, bake_ms=BAKE_MS, gate=Gate.MANUAL if index == 1 else Gate.AUTO)
    for index, share in enumerate(SHARES)
)
ROLLOUTS = {
    "r": ({"m": "2.0.0"}, Strategy(stages=STAGES)),
    "s": ({"m": "3.0.0", "n": "2.0.0"}, Strategy(stages=STAGES, on_failure=OnFailure.PAUSE)),
}
WORDS = (
    *("create", "advance", "advance", "advance", "settle", "settle", "accrue", "accrue", "freeze", "thaw"),
    *("plain", "delete", "prefetch"),
    *CALLERS,
    *STEPS,
)


class Action(NamedTuple):
    """One order. `lag`: how many steps ago it was decided."""

    word: str
    rollout_id: str = "r"
    lag: int = 0
    flag: bool = False


class Book:
    """What the judge knows of one rollout since its start or retry."""

    def __init__(self, *, bases: dict[str, Assignment], befores: dict[str, Assignment | None]) -> None:
        self.bases, self.befores = bases, befores
        self.shares: list[int] = []
        self.given_up = self.to_end = self.completed = False
        self.baked_ms = 0


class Judge:
    """Plays actions; raises `AssertionError` at the first wrong."""

    def __init__(self) -> None:
        self.region = RolloutRegion()
        self.books: dict[str, Book] = {}
        self.holders: dict[str, str] = {}
        self.frozen = False
        self.reached: set[str] = set()
        """Phases that some rollout was in, and codes that some command came to."""

    def play(self, actions: Iterable[Action]) -> None:
        for action in actions:
            self.act(action)

    def act(self, action: Action) -> None:
        region, rollout_id = self.region, action.rollout_id
        models, strategy = ROLLOUTS[rollout_id]
        known = region.state.rollouts.get(rollout_id)
        step = known.step - action.lag if known else 0
        pending = {name for name, model in region.state.models.items() if model.pending}
        decided = {name: model.decided() for name, model in region.state.models.items()}
        match action.word:
            case "create":
                outcome = region.create(rollout_id, models=models, strategy=strategy, start=action.flag)
                if outcome.ok and action.flag:
                    self._begun(rollout_id, decided)
            case "freeze" | "thaw":
                self.frozen = action.word == "freeze"
                outcome = region.freeze(frozen=self.frozen)
            case "settle":
                outcome = region.settle()
                self._settled()
            case "plain":
                outcome = region.activate("3.0.0" if action.flag else "1.0.0")
                assert not (outcome.ok and "m" in self.holders), "somebody else activated a held model"
            case "delete":
                outcome = self._deleted("3.0.0" if action.flag else "1.0.0")
            case "prefetch":
                outcome = region.apply(c.RequestPrefetch(model="m", assignment=None))
                assert not (outcome.ok and "m" in self.holders), "somebody else changed the prefetch of a held model"
            case _ if known is None:
                outcome = region.order(Move.PAUSE, rollout_id)
                assert outcome.code == "unknown_rollout"
            case "advance":
                outcome = region.advance(rollout_id, step=step)
                if outcome.ok:
                    self._activated(rollout_id, pending)
            case "accrue":
                outcome = region.accrue(rollout_id, baked_ms=600 if action.flag else 0, step=step)
                if outcome.ok and action.flag:
                    assert not pending & models.keys(), "it baked before it was effective"
                    self.books[rollout_id].baked_ms += 600
            case word if word in STEPS:
                outcome = region.step(Move(word), rollout_id, step=step)
                self._stepped(action, outcome)
            case word:
                to_end = action.flag and word == Move.PROMOTE
                outcome = region.order(Move(word), rollout_id, to_end=to_end)
                self._ordered(action, outcome, decided)
        if action.lag and action.word in {"advance", "accrue", *STEPS} and known:
            assert not outcome.ok, "an order for a step that has passed was carried out"
        self._look(outcome)

    def _ordered(self, action: Action, outcome: Outcome, decided: dict) -> None:
        if not outcome.ok:
            return
        if action.word in {Move.START, Move.RETRY}:
            self._begun(action.rollout_id, decided)
        book = self.books.get(action.rollout_id)
        if action.word == Move.PROMOTE:
            assert book is not None and not book.given_up, "promoted after an abort"
            assert not self.frozen, "promoted in a freeze"
            book.to_end = action.flag
        if action.word == Move.ABORT and book is not None:
            book.given_up = True

    def _begun(self, rollout_id: str, decided: dict) -> None:
        models, _ = ROLLOUTS[rollout_id]
        assert not self.frozen, "started in a freeze"
        assert not models.keys() & self.holders.keys(), "two rollouts hold one model"
        self.holders |= dict.fromkeys(models, rollout_id)
        self.books[rollout_id] = Book(
            bases={name: decided[name][0] for name in models},
            befores={name: decided[name][1].previous for name in models},
        )

    def _stepped(self, action: Action, outcome: Outcome) -> None:
        if not outcome.ok:
            return
        book = self.books[action.rollout_id]
        assert not book.given_up, "moved on after an abort"
        if action.word == Move.PASS:
            assert book.to_end or book.baked_ms >= BAKE_MS, "passed before it had baked"
        elif outcome.detail["phase"] == "paused":
            book.to_end = False
        else:
            book.given_up = True

    def _activated(self, rollout_id: str, pending: set[str]) -> None:
        """What became pending is the next stage, or the end, or the way back; for all models at once."""
        models, _ = ROLLOUTS[rollout_id]
        book = self.books[rollout_id]
        assert not pending & models.keys(), "activated while an activation was pending"
        steps = set()
        for name, candidate in models.items():
            now = self.region.state.models[name].pending
            assert now is not None
            if now.assignment == book.bases[name]:
                steps.add("back")
            elif now.assignment == Assignment(stable=candidate):
                steps.add("end")
            else:
                assert (now.assignment.stable, now.assignment.candidate) == (book.bases[name].stable, candidate)
                assert now.assignment.salt == rollout_id
                steps.add(str(now.assignment.share_bp))
        (what,) = steps
        if book.given_up:
            assert what == "back", "the candidate was activated after an abort"
            return
        assert not self.frozen, "activated in a freeze"
        coming = [*map(str, SHARES), "end"][len(book.shares)]
        assert what == coming, f"{what} came in place of {coming}"
        book.baked_ms = 0
        book.completed = what == "end"
        if not book.completed:
            book.shares.append(int(what))

    def _settled(self) -> None:
        for name, model in self.region.state.models.items():
            book = self.books.get(model.origin.rollout_id) if model.origin else None
            if book is not None and name in book.bases and model.assignment != book.bases[name]:
                assert model.previous == book.bases[name], "a rollback would not lead before the rollout"
        for holder in set(self.holders.values()):
            book = self.books[holder]
            for name in book.bases:
                if book.given_up and self.region.state.models[name].assignment == book.bases[name]:
                    assert self.region.state.models[name].previous == book.befores[name]

    def _deleted(self, name: str) -> Outcome:
        """Delete a version of `m`, and register it again so that the play can go on."""
        outcome = self.region.apply(c.DeleteVersion(model="m", version=name))
        if outcome.ok and "m" in self.holders:
            book, candidate = self.books[self.holders["m"]], ROLLOUTS[self.holders["m"]][0]["m"]
            before = book.befores["m"]
            needed = {candidate, *book.bases["m"].versions(), *(before.versions() if before else ())}
            assert name not in needed, "a version was deleted that the rollout may have to restore"
        self.region.apply(c.RegisterVersion(model="m", version=version(name)))
        return outcome

    def _look(self, outcome: Outcome) -> None:
        self.reached.add(outcome.code)
        for rollout_id, rollout in self.region.state.rollouts.items():
            self.reached.add(rollout.phase.value)
            if rollout.phase.ended:
                self.holders = {name: holder for name, holder in self.holders.items() if holder != rollout_id}
