"""What lies between processes: a bus that keeps no promise, and a log that keeps exactly one.

The log is linearizable: commands are committed at one instant each and applied everywhere in that order. When, and
whether at all, is chance: a proposal may be late by many leases and come from whoever believed to lead once. The bus
loses, repeats, delays and reorders; its stream holds events until it loses everything (protocol, section 1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from consistency_service.core.commands import AnyCommand
from consistency_service.core.outcomes import Outcome
from edge_client.protocol.messages import Event
from tests.simulation.clock import MS, on_grain

if TYPE_CHECKING:
    from tests.simulation.knobs import Knobs
    from tests.simulation.node import SimNode
    from tests.simulation.process import Process
    from tests.simulation.world import World

STREAM_KEPT = 60


@dataclass(slots=True)
class Entry:
    """One committed entry. A `command` of None is the first entry of a term."""

    command: AnyCommand | None
    token: int
    outcome: Outcome | None


class Log:
    """The replicated sequence of one epoch's cluster, and who is cut off from it."""

    def __init__(self, world: World, *, base: bytes | None) -> None:
        self._world = world
        self.base = base
        self.entries: list[Entry] = []
        self.cannot_propose: set[str] = set()
        self.cannot_learn: set[str] = set()
        self.closed = False

    def __repr__(self) -> str:
        return f"<Log entries={len(self.entries)}>"

    def propose(self, node: SimNode, command: AnyCommand | None, *, token: int) -> None:
        """Offer a command: committed once, at some later instant, or never."""
        world, knobs = self._world, self._world.knobs
        if node.name in self.cannot_propose:
            if world.rng.random() < 0.5 or not knobs.late_proposal_chance:
                return
        elif world.rng.random() < knobs.lost_proposal_chance and command is not None:
            return
        delay_ns = world.drawn_ns(2 * knobs.delay_ns)
        if command is not None and world.rng.random() < knobs.late_proposal_chance:
            delay_ns += world.rng.randrange(knobs.late_ns)
            world.judge.seen["late_proposals"] += 1
        world.at(node.free_at_ns + on_grain(delay_ns), self._commit, command, token, world.truth.assumption)

    def _commit(self, command: AnyCommand | None, token: int, assumption: int = 0) -> None:
        if self.closed:
            return
        world = self._world
        current, before = world.truth.assumption, world.truth.position
        outcome = None if command is None else world.truth.commit(command, now_ns=world.now_ns)
        if assumption != current != world.truth.assumption:
            what = f"{command} was proposed under {assumption}, and deposed {current}"
            world.judge.accuse("deposed", world.now_ns, what)
        if world.rollout_judge is not None and command is not None and outcome is not None:
            world.rollout_judge.committed(command, outcome, changed=world.truth.position != before)
        self.entries.append(Entry(command, token, outcome))
        if world.tracing:
            world.trace("log", "commit", (len(self.entries), command, outcome))
        for node in world.nodes:
            delay_ns = world.drawn_ns(world.knobs.apply_ns)
            world.at(world.now_ns + on_grain(delay_ns), self.show, node, len(self.entries))

    def show(self, node: SimNode, index: int) -> None:
        """The node hears that everything up to `index` is committed."""
        if node.name not in self.cannot_learn and not self.closed and not node.has_applied(self, index):
            node.run(None, node.learn, self, index)


class Bus:
    """Directed links from and to a middle, and the stream that the middle keeps."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.cannot_send: set[str] = set()
        self.cannot_hear: set[str] = set()
        self.sequence = 0
        self.message_id: str | None = None
        self.kept: list[Event] = []

    def send(self, source: Process, target: Process, act: Callable[..., None], *args: Any) -> None:
        """Let `act(*args, now_ns)` happen at `target`: never, once or twice, some time later."""
        if source.name not in self.cannot_send:
            self.carry(target, source.free_at_ns, act, *args)

    def carry(self, target: Process, from_ns: int, act: Callable[..., None], *args: Any) -> None:
        """The way from the middle, or from `from_ns` on, to `target`."""
        for at_ns in self._arrivals(from_ns):
            self._world.at(at_ns, self._arrive, target, act, args)
        if "forged" in self._world.active:
            self._world.forger.sees(target, act, args)

    def ask_clock(self, source: Process, node: SimNode, nonce: bytes) -> None:
        """As `send`; a clock is shown at a glance."""
        if source.name not in self.cannot_send:
            for at_ns in self._arrivals(source.free_at_ns):
                self._world.at(at_ns, self._glance, source, node, nonce)

    def _arrivals(self, from_ns: int) -> tuple[int, ...]:
        """When what is sent at `from_ns` arrives: never, once or twice."""
        world, knobs = self._world, self._world.knobs
        if knobs.loss_chance and world.rng.random() < knobs.loss_chance:
            return ()
        once_ns = from_ns + self._delay_ns(world, knobs)
        if knobs.repeat_chance and world.rng.random() < knobs.repeat_chance:
            return (once_ns, from_ns + self._delay_ns(world, knobs))
        return (once_ns,)

    def _delay_ns(self, world: World, knobs: Knobs) -> int:
        delay_ns = world.drawn_ns(knobs.delay_ns)
        if knobs.late_chance and world.rng.random() < knobs.late_chance:
            delay_ns += world.drawn_ns(knobs.late_ns)
        return on_grain(delay_ns)

    def _arrive(self, target: Process, act: Callable[..., None], args: tuple[Any, ...]) -> None:
        if target.name not in self.cannot_hear:
            target.run(None, act, *args)

    def _glance(self, source: Process, node: SimNode, nonce: bytes) -> None:
        if node.name not in self.cannot_hear:
            node.glance(node.clock_request_received, source, nonce)

    # ---- the stream, as the relay sees it

    def tail(self, node: SimNode) -> None:
        self._ask(node, self._answer_tail, node, node.life)

    def _answer_tail(self, node: SimNode, life: int) -> None:
        self._reply(node, life, node.tail_known, self.sequence, self.message_id)

    def append(self, node: SimNode, event: Event, *, expected: int) -> None:
        self._ask(node, self._append, node, node.life, event, expected)

    def _append(self, node: SimNode, life: int, event: Event, expected: int) -> None:
        if expected != self.sequence:
            self._world.judge.seen["relay_fenced"] += 1
            self._reply(node, life, node.append_refused)
            return
        self.sequence += 1
        self.message_id = event.message_id
        self.kept.append(event)
        del self.kept[:-STREAM_KEPT]
        for edge in self._world.edges:
            self.carry(edge, self._world.now_ns, edge.event_received, event)
        self._reply(node, life, node.appended, event, self.sequence)

    def wipe(self) -> None:
        """Lose everything that is held."""
        self.sequence, self.message_id = 0, None
        self.kept.clear()

    def redeliver(self, edge: Any) -> None:
        """What a consumer gets that comes back: everything that is held, in order."""
        for event in self.kept:
            self.carry(edge, self._world.now_ns, edge.event_received, event)

    def _ask(self, node: SimNode, act: Callable[..., None], *args: Any) -> None:
        world = self._world
        if node.name in self.cannot_send or world.rng.random() < world.knobs.loss_chance / 4:
            return
        delay_ns = world.drawn_ns(min(world.knobs.delay_ns, 20 * MS))
        world.at(node.free_at_ns + on_grain(delay_ns), act, *args)

    def _reply(self, node: SimNode, life: int, act: Callable[..., None], *args: Any) -> None:
        """To the life that asked: its connection ends with it."""
        world = self._world
        if node.name in self.cannot_hear or world.rng.random() < world.knobs.loss_chance / 4:
            return
        delay_ns = world.drawn_ns(min(world.knobs.delay_ns, 20 * MS))
        world.at(world.now_ns + on_grain(delay_ns), node.run, life, act, *args)
