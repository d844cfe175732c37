"""A state machine and its authority, driven by hand: what several tests of the service begin with."""

from __future__ import annotations

from consistency_service.core import commands as c
from consistency_service.core.authority import Authority, Propose, PublishBeacon
from consistency_service.core.machine import MetadataMachine
from consistency_service.core.outcomes import Outcome
from edge_client.protocol.models import Assignment, Policy, Terms, Version

MS = 1_000_000
TERMS = Terms()
SILENCE_NS = 2_100 * MS


def version(name: str, *, filler: str = "0") -> Version:
    """A version whose digest is made of its name."""
    return Version(version=name, digest="sha256:" + (name.encode().hex() + filler * 64)[:64], size_bytes=10)


def bootstrapped() -> MetadataMachine:
    """A machine in its first epoch, with model `m` and versions 1.0.0 to 3.0.0."""
    machine = MetadataMachine()
    machine.apply(c.Bootstrap(region="test", region_epoch=1, terms=TERMS))
    machine.apply(c.CreateModel(model="m", policy=Policy()))
    for name in ("1.0.0", "2.0.0", "3.0.0"):
        machine.apply(c.RegisterVersion(model="m", version=version(name)))
    return machine


def assume(machine: MetadataMachine, *, clock_id: str) -> int:
    """`clock_id` takes over; its assumption."""
    replaces = machine.state.authority.assumption if machine.state.authority else 0
    outcome = machine.apply(c.AssumeAuthority(clock_id=clock_id, node_id=f"node-{clock_id}", replaces=replaces))
    assert outcome.ok
    return outcome.revision


def activation(
    stable: str,
    *,
    clock_id: str,
    assumption: int,
    number: int,
    at_ns: int = 5_000 * MS,
    model: str = "m",
    **more: object,
) -> c.ActivateGeneration:
    """An activation of `stable` for everybody."""
    return c.ActivateGeneration(
        clock_id=clock_id,
        assumption=assumption,
        number=number,
        changes=(c.Change(model=model, assignment=Assignment(stable=stable)),),
        effective_at_ns=at_ns,
        lead_ns=2_006 * MS,
        **more,  # type: ignore[arg-type]
    )


class Driven:
    """A node's machine and authority; its proposals are applied when `commit` is called, or never."""

    def __init__(self, *, machine: MetadataMachine, clock_id: str = "c1") -> None:
        self.machine = machine
        self.core = Authority(machine=machine, node_id=f"node-{clock_id}", clock_id=clock_id)
        self.proposed: list[c.AnyCommand] = []
        self.beacons: list[PublishBeacon] = []
        self.other: list[object] = []

    def take(self, effects: tuple[object, ...]) -> None:
        for effect in effects:
            if isinstance(effect, Propose):
                self.proposed.append(effect.command)
            elif isinstance(effect, PublishBeacon):
                self.beacons.append(effect)
            else:
                self.other.append(effect)
        self.core.check_invariants()
        self.machine.check_invariants()

    def commit(self, *, now_ns: int) -> list[Outcome]:
        """Apply all that is proposed, until nothing more is."""
        outcomes = []
        while self.proposed:
            command = self.proposed.pop(0)
            outcomes.append(self.machine.apply(command))
            self.take(self.core.applied(command, outcomes[-1], now_ns=now_ns))
        return outcomes

    def lead(self, *, term: int = 1, now_ns: int) -> None:
        self.take(self.core.leadership(leading=True, term=term, now_ns=now_ns))
        self.commit(now_ns=now_ns)
