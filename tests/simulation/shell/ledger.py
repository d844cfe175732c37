"""What nodes did, side by side: nobody may apply, acknowledge, vote or lead otherwise than all the others.

The first to apply an entry makes it history (`judge.Truth`); whoever applies it later, in this life or another, must do the
same. Votes are read off the wire, leadership is looked at after every callback.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from consistency_service.adapters.raft_log import wire
from consistency_service.core.outcomes import Outcome
from consistency_service.runtime.ports import StateMachine

if TYPE_CHECKING:
    from tests.simulation.shell.world import World


class Ledger:
    """All that nodes did, compared: what was applied where, what was acknowledged, who voted for whom and who led."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.commands: dict[int, bytes] = {}
        self.states: dict[int, int] = {}
        self.outcomes: dict[int, Outcome] = {}
        self.applied_through = 0
        self.acknowledged_through = 0
        self.acknowledged_count = 0
        self.votes: dict[tuple[str, int], str] = {}
        self.leaders: dict[int, str] = {}
        self.counts: Counter[str] = Counter()

    def applied(self, name: str, *, index: int, command: bytes, outcome: Outcome, state: StateMachine) -> None:
        """The first node to apply an entry makes it history; all others, and all later lives, must do the same."""
        world = self.world
        if index > self.applied_through:
            self.applied_through = index
            self.commands[index] = command
            self.outcomes[index] = outcome
            world.committed(command, outcome)
            self.states[index] = hash(state.snapshot())
            if world.tracing:
                world.say(f"{name}: first to apply {index}: {outcome.code} r{outcome.revision}")
            return
        if self.commands.get(index) != command:
            self.world.accuse("divergence", f"{name} applies another command at {index} than was applied before")
        elif self.outcomes[index] != outcome:
            self.world.accuse("divergence", f"{name} at {index}: {outcome}, not {self.outcomes[index]}")
        elif index % 8 == 0 and self.states[index] != hash(state.snapshot()):
            self.world.accuse("divergence", f"{name} has another state at {index} than the first to apply it")

    def restored(self, name: str, *, index: int, state: bytes) -> None:
        """A snapshot may stand behind entries that change nothing of the state."""
        known = max((held for held in self.states if held <= index), default=0)
        self.counts["snapshots_restored"] += 1
        self.world.say(f"{name}: state is a snapshot at {index}")
        if index > self.applied_through and known != self.applied_through:
            self.world.accuse("divergence", f"{name} has a snapshot at {index}, and nobody applied that")
        elif known and self.states[known] != hash(state):
            self.world.accuse("divergence", f"{name} restores another state at {index} than was applied there")

    def acknowledged(self, name: str, *, index: int, command: bytes) -> None:
        self.acknowledged_count += 1
        self.acknowledged_through = max(self.acknowledged_through, index)
        if self.commands.get(index) != command:
            self.world.accuse("acknowledged", f"{name} acknowledges {index}, where something else was applied")

    def sent(self, source: str, target: str, message: wire.Message) -> None:
        if isinstance(message, wire.Vote) and message.granted and not message.trial:
            before = self.votes.setdefault((source, message.term), target)
            if before != target:
                what = f"{source} voted for {before} and {target} in term {message.term}"
                self.world.accuse("vote", what)
        if self.world.tracing:
            self.world.say(f"{source} -> {target} {message!r}"[:300])

    def leads(self, name: str, *, term: int) -> None:
        before = self.leaders.setdefault(term, name)
        if before != name:
            self.world.accuse("leader", f"{before} and {name} lead term {term}")
        machine = self.world.machines[name]
        if machine.role != f"leader {term}":
            machine.role = f"leader {term}"
            self.world.judge.seen["leaders"] += 1
            self.world.say(f"{name}: leads term {term}")
