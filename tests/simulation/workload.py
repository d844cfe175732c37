"""Callers: who changes what, at which node, and when each hears that it is done.

A caller that hears nothing asks again with the same request id, at whatever node believes to have authority, while the
first attempt may still be on its way. `Activation` mirrors `runtime.activations`, step by step.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec

from consistency_service.core import commands as c
from consistency_service.core.outcomes import Outcome
from edge_client.protocol.bucketing import CohortSelector
from edge_client.protocol.drift import Drift
from edge_client.protocol.models import Assignment, Policy, Version
from edge_client.protocol.position import Position
from tests.simulation.clock import S, on_grain
from tests.simulation.judge import Key

if TYPE_CHECKING:
    from tests.simulation.node import SimNode
    from tests.simulation.world import World

ATTEMPTS_MAX = 20
ASKED_MAX = 6
VERSIONS = tuple(f"{major}.0.0" for major in range(1, 6))
PATIENCE_NS = 3 * S


def version(model: str, name: str) -> Version:
    return Version(version=name, digest="sha256:" + (f"{model}{name}".encode().hex() + "0" * 64)[:64], size_bytes=10)


class Request:
    """What one caller asks for, however often, until it is answered."""

    def __init__(self, world: World, command: c.AnyCommand) -> None:
        world.request_count += 1
        self.world = world
        self.request_id = f"q{world.request_count}"
        self.command = msgspec.structs.replace(command, request_id=self.request_id, fingerprint=self.request_id)
        self.asked_count = 0
        self.answered: Outcome | None = None

    def ask(self) -> None:
        """At some node; again after a while if nothing was heard."""
        world = self.world
        if self.answered is not None or self.asked_count >= ASKED_MAX or world.now_ns >= world.work_until_ns:
            return
        self.asked_count += 1
        believers = [n for n in world.nodes if n.alive and n.authority.is_authority]
        nodes = believers if believers and world.rng.random() < 0.9 else [n for n in world.nodes if n.alive]
        if nodes:
            node = world.rng.choice(nodes)
            node.run(node.life, partial_step(self.attempt, node))
        world.at(world.now_ns + on_grain(world.rng.randrange(PATIENCE_NS)), self.ask)

    def attempt(self, node: SimNode, now_ns: int) -> None:
        node.propose(self.command, partial(self._decided, node))

    def _decided(self, node: SimNode, outcome: Outcome, now_ns: int) -> None:
        self.answer(outcome)

    def answer(self, outcome: Outcome) -> None:
        """The caller hears it."""
        self.answered = outcome
        if outcome.ok:
            self.world.acknowledged[self.request_id] = outcome


def partial_step(act, *args):
    """A step with its name kept, for the trace."""
    step = partial(act, *args)
    step.__name__ = act.__name__  # type: ignore[attr-defined]
    return step


class Activation(Request):
    """As `Activations.activate` with `wait_effective`."""

    def attempt(self, node: SimNode, now_ns: int) -> None:
        if node.authority.is_authority:
            self._decide(node, ATTEMPTS_MAX, now_ns)

    def _decide(self, node: SimNode, attempts: int, now_ns: int) -> None:
        instant = node.authority.choose_instant(now_ns=now_ns)
        if instant is None or not attempts:
            return
        command = msgspec.structs.replace(
            self.command,
            clock_id=instant.clock_id,
            assumption=instant.assumption,
            number=instant.number,
            effective_at_ns=instant.effective_at_ns,
            lead_ns=instant.lead_ns,
        )
        node.propose(command, partial(self._outcome, node, attempts))

    def _outcome(self, node: SimNode, attempts: int, outcome: Outcome, now_ns: int) -> None:
        seen = self.world.judge.seen
        seen[f"activation_{outcome.code}"] += 1
        if outcome.code == "number_passed":
            node.after_ns(0, partial_step(self._decide, node, attempts - 1))
        elif outcome.ok:
            self._wait_effective(node, outcome, now_ns)
        elif outcome.code != "not_authority":
            self.answer(outcome)

    def _wait_effective(self, node: SimNode, outcome: Outcome, now_ns: int) -> None:
        pending = node.machine.state.pendings().get(outcome.revision)
        position = Position(node.machine.state.epoch, outcome.revision)
        if pending is not None and pending.clock_id == node.authority.clock_id:
            instant_passed = partial_step(self._instant_passed, node, pending.clock_id, position, outcome)
            node.at_local_ns(pending.effective_at_ns, instant_passed)
        else:
            self._wait_settled(node, position, outcome)

    def _instant_passed(self, node: SimNode, clock_id: str, position: Position, outcome: Outcome, now_ns: int) -> None:
        if clock_id == node.authority.clock_id:
            self._told(node, position, outcome, now_ns)
        else:
            self._wait_settled(node, position, outcome)

    def _wait_settled(self, node: SimNode, position: Position, outcome: Outcome) -> None:
        node.waiting.append(
            (
                lambda: outcome.revision not in node.machine.state.pendings(),
                lambda _: node.after_ns(0, partial_step(self._told, node, position, outcome)),
            )
        )
        node.wake_waiting()

    def _told(self, node: SimNode, position: Position, outcome: Outcome, now_ns: int) -> None:
        world = self.world
        self.answer(outcome)
        if node.machine.state.epoch != position.epoch:
            return
        for model, generation in outcome.detail["generations"].items():
            era = world.truth.era_at(model, position, generation)
            world.judge.told(era, at_ns=world.now_ns, who=node.name)


class Deletion(Request):
    """As `Activations.delete_model`."""

    def _decided(self, node: SimNode, outcome: Outcome, now_ns: int) -> None:
        if not outcome.ok:
            self.answer(outcome)
            return
        self._wait(node, outcome, now_ns)

    def _wait(self, node: SimNode, outcome: Outcome, now_ns: int) -> None:
        terms, authority = node.machine.state.terms, node.authority
        wait_ns = Drift(terms.rho_ppm).faster_ns(terms.lease_ns + terms.margin_ns)
        clock_id = authority.clock_id if authority.clock_is_trusted else None
        node.at_local_ns(now_ns + wait_ns, partial_step(self._waited, node, clock_id, outcome))

    def _waited(self, node: SimNode, clock_id: str | None, outcome: Outcome, now_ns: int) -> None:
        if clock_id == node.authority.clock_id:
            self._told(node, outcome, now_ns)
        else:
            self._wait(node, outcome, now_ns)

    def _told(self, node: SimNode, outcome: Outcome, now_ns: int) -> None:
        self.answer(outcome)
        epoch = node.machine.state.epoch
        assert isinstance(self.command, c.DeleteModel)
        if epoch == self.world.truth.position.epoch:
            era = self.world.truth.era(self.command.model, Key(epoch, outcome.revision, 0))
            self.world.judge.told(era, at_ns=self.world.now_ns, who=node.name)


def bootstrap_commands(world: World) -> list[c.AnyCommand]:
    """A region in its first epoch, with its models and versions."""
    commands: list[c.AnyCommand] = [c.Bootstrap(region="test", region_epoch=1, terms=world.terms)]
    for model in world.models:
        commands += creation_commands(model)
    return commands


def creation_commands(model: str) -> list[c.AnyCommand]:
    registrations = [c.RegisterVersion(model=model, version=version(model, name)) for name in VERSIONS]
    return [c.CreateModel(model=model, policy=Policy()), *registrations]


def drawn_assignment(world: World) -> Assignment:
    rng = world.rng
    stable = rng.choice(VERSIONS)
    if rng.random() < 0.6:
        return Assignment(stable=stable)
    candidate = rng.choice([name for name in VERSIONS if name != stable])
    cohort = rng.choice(
        (CohortSelector(), CohortSelector(sites=("north",)), CohortSelector(sites=("south",), labels={"gpu": "a"}))
    )
    return Assignment(
        stable=stable, candidate=candidate, share_bp=rng.choice((0, 2_500, 5_000, 10_000)), salt="s", cohort=cohort
    )


def activate(world: World) -> None:
    """Somebody wants other versions active."""
    rng = world.rng
    model = rng.choice(world.models)
    models = world.models if len(world.models) > 1 and rng.random() < 0.3 else (model,)
    changes = tuple(c.Change(model=name, assignment=drawn_assignment(world)) for name in models)
    command = c.ActivateGeneration(
        clock_id="",
        assumption=0,
        number=0,
        changes=changes,
        effective_at_ns=0,
        lead_ns=1,
        immediate=rng.random() < 0.15,
    )
    Activation(world, command).ask()


def work(world: World) -> None:
    """One more caller."""
    rng, chance = world.rng, world.rng.random()
    model = rng.choice(world.models)
    if chance < 0.6:
        activate(world)
    elif chance < 0.8:
        policy = Policy(versions_kept=rng.choice((8, 9)), fallback_allowed=rng.random() < 0.8)
        Request(world, c.ChangePolicy(model=model, policy=policy)).ask()
    elif chance < 0.9:
        Request(world, c.RequestPrefetch(model=model, assignment=drawn_assignment(world))).ask()
    elif chance < 0.95:
        if world.truth.machine.state.models.get(model) is None:
            for creation in creation_commands(model):
                Request(world, creation).ask()
    elif chance < 0.97:
        Deletion(world, c.DeleteModel(model=model)).ask()
    else:
        Request(world, c.DeleteVersion(model=model, version=rng.choice(VERSIONS))).ask()
        Request(world, c.RegisterVersion(model=model, version=version(model, rng.choice(VERSIONS)))).ask()
