"""One node, put together: what the API calls, and the drivers that run behind it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

from consistency_service import __version__
from consistency_service.config import ServiceConfig
from consistency_service.core.authority import Authority
from consistency_service.core.commands import AnyCommand, Bootstrap
from consistency_service.core.outcomes import Outcome
from consistency_service.errors import (
    MembershipRefusedError,
    NotLeaderError,
    NotStrongError,
    RefusedError,
    UnknownOutcomeError,
)
from consistency_service.runtime.activations import Activations
from consistency_service.runtime.answers import Answers
from consistency_service.runtime.authority import AuthorityDriver
from consistency_service.runtime.clock_guard import ClockGuard
from consistency_service.runtime.feature_windows import FeatureWindowDriver
from consistency_service.runtime.fleet import FleetDriver
from consistency_service.runtime.garbage import Garbage
from consistency_service.runtime.keys import NodeKeys
from consistency_service.runtime.measuring import Measuring
from consistency_service.runtime.metadata import Metadata
from consistency_service.runtime.ports import (
    ArtifactStore,
    Clock,
    EventBus,
    KeyFiles,
    MembershipChange,
    MembershipRefused,
    MetadataLog,
    NotLeader,
    Unknown,
    WebCaller,
)
from consistency_service.runtime.reads import Reads
from consistency_service.runtime.relay import Relay
from consistency_service.runtime.rollouts import RolloutDriver
from consistency_service.runtime.snapshots import Snapshots
from consistency_service.runtime.supervision import Supervisor
from consistency_service.runtime.telemetry import SILENCE, Telemetry
from consistency_service.runtime.webhooks import WebhookDriver
from edge_client.protocol.envelope import Signer
from edge_client.protocol.position import Position
from edge_client.protocol.subjects import NODE_INBOXES, Subjects, token_of

_log = logging.getLogger(__name__)
MS: Final = 1_000_000
BOOTSTRAP_RETRY_S: Final = 0.2
MEMBERSHIP_TIMEOUT_MS: Final = 60_000
"""A newcomer that has not caught up by then goes on, and asking again goes on waiting."""

PeerStatus = Callable[[str], Awaitable[dict[str, Any] | None]]
"""Asks the peer at a base URL for its `self_status`; None when it does not answer in time."""


class Node:
    """Everything of one node but its adapters. Built by `app`; used by `api`. Without `web` it calls nobody's addresses."""

    def __init__(
        self,
        *,
        config: ServiceConfig,
        clock: Clock,
        log: MetadataLog,
        bus: EventBus,
        artifacts: ArtifactStore,
        signer: Signer,
        peer_status: PeerStatus,
        rng: random.Random,
        web: WebCaller | None = None,
        key_files: KeyFiles | None = None,
        telemetry: Telemetry = SILENCE,
    ) -> None:
        self.config = config
        self.clock = clock
        self.bus = bus
        self.artifacts = artifacts
        self._log_port = log
        self._peer_status = peer_status
        self._rng = rng
        self._web = web
        self.keys = NodeKeys(signer=signer, files=key_files, signatures=config.signatures)
        subjects = Subjects(config.region)
        self.telemetry = telemetry
        self.metadata = Metadata(log=log, telemetry=telemetry)
        core = Authority(
            machine=self.metadata.machine,
            node_id=config.node_id,
            clock_id=self._new_clock_id(),
            beacon_interval_ns=config.beacon_interval_ms * MS,
        )
        self.reads = Reads(metadata=self.metadata, authority=core, clock=clock, rng=rng)
        self.authority = AuthorityDriver(
            core=core,
            metadata=self.metadata,
            reads=self.reads,
            bus=bus,
            clock=clock,
            signer=signer,
            subjects=subjects,
            peers_bus_works=self._peers_bus_works,
        )
        self.fleet = FleetDriver(clock=clock, state=lambda: self.metadata.state)
        self.activations = Activations(metadata=self.metadata, authority=core, fleet=self.fleet, clock=clock)
        self.rollouts = RolloutDriver(metadata=self.metadata, authority=core, fleet=self.fleet, clock=clock, web=web)
        self._feature_windows = FeatureWindowDriver(
            metadata=self.metadata, authority=core, fleet=self.fleet, clock=clock
        )
        self._webhooks = WebhookDriver(metadata=self.metadata, authority=core, clock=clock, rng=rng, web=web)
        self._snapshots = Snapshots(metadata=self.metadata, signer=signer)
        self._answers = Answers(
            node_id=config.node_id,
            url=config.peers[config.node_id].url,
            metadata=self.metadata,
            reads=self.reads,
            authority=self.authority,
            fleet=self.fleet,
            snapshots=self._snapshots,
            bus=bus,
            clock=clock,
            signer=signer,
            verifier=self.keys.verifier,
            subjects=subjects,
            inbox=f"{NODE_INBOXES}.{token_of(config.node_id)}.{core.clock_id}",
            bus_knows_edges=config.nats_credentials is not None,
        )
        self._relay = Relay(
            metadata=self.metadata, authority=self.authority, bus=bus, signer=signer, telemetry=telemetry
        )
        self._garbage = Garbage(
            metadata=self.metadata,
            authority=self.authority,
            artifacts=artifacts,
            clock=clock,
            interval_ms=config.garbage_interval_ms,
        )
        self._guard = ClockGuard(
            clock=clock,
            metadata=self.metadata,
            distrusted=self._clock_distrusted,
            trusted=self._clock_trusted,
        )
        self._supervisor = Supervisor()
        self.measuring = Measuring(self, telemetry=telemetry)

    async def run(self) -> None:
        """Take part in the region until cancelled; afterwards the log and the bus are closed."""
        try:
            await self.bus.connect()
            await self._log_port.start(self.metadata)
            await self._supervisor.run(
                {
                    "bootstrap": self._bootstrap,
                    "authority": self.authority.run,
                    "relay": self._relay.run,
                    "answers": self._answers.run,
                    "garbage": self._garbage.run,
                    "rollouts": self.rollouts.run,
                    "webhooks": self._webhooks.run,
                    "feature-windows": self._feature_windows.run,
                    "clock-guard": self._guard.run,
                    "keys": self.keys.run,
                    "measuring": self.measuring.run,
                }
            )
        finally:
            await self._log_port.close()
            await self.bus.close()
            await self.artifacts.close()
            if self._web is not None:
                await self._web.close()

    # ---- for the API

    async def propose(self, command: AnyCommand) -> Outcome:
        """The outcome of an accepted command. Raises `NotLeaderError`, `UnknownOutcomeError`, `RefusedError`."""
        outcome = await self.metadata.propose(command)
        if not outcome.ok:
            raise RefusedError(code=outcome.code, detail=outcome.detail, revision=outcome.revision)
        return outcome

    def leader_url(self) -> str | None:
        """Where the leader's REST is, if another node leads; None if this one does or none is known."""
        leader_id = self.metadata.log.status().leader_id
        if leader_id is None or leader_id == self.config.node_id:
            return None
        return self.urls().get(leader_id)

    def urls(self) -> dict[str, str]:
        """Where the REST of every member of the cluster is, this node's too.

        Who is a member the log says; where the settings have an address as well, it is newer. As long as the log does not
        know, its members are those of the settings.
        """
        named = {node_id: peer.url for node_id, peer in self.config.peers.items()}
        listed = {member.node_id: member.url for member in self.metadata.log.status().members}
        urls = {node_id: named.get(node_id) or url for node_id, url in listed.items()} or named
        return {self.config.node_id: named[self.config.node_id]} | {
            node_id: url for node_id, url in urls.items() if url
        }

    async def change_membership(self, change: MembershipChange) -> None:
        """Raises `NotLeaderError`, `UnknownOutcomeError`, `MembershipRefusedError`."""
        match await self.metadata.log.change_membership(change, timeout_ms=MEMBERSHIP_TIMEOUT_MS):
            case NotLeader(leader_id=leader_id):
                raise NotLeaderError(leader_id=leader_id)
            case Unknown(reason=reason):
                raise UnknownOutcomeError(reason)
            case MembershipRefused(code=code, reason=reason):
                raise MembershipRefusedError(code=code, reason=reason)

    def transfer(self, heir: str | None) -> str:
        """The node that was told to lead. Raises `NotLeaderError`, `MembershipRefusedError`."""
        status = self.metadata.log.status()
        if not status.leading:
            raise NotLeaderError(leader_id=status.leader_id)
        if heir == self.config.node_id:
            return heir
        if heir is not None and heir not in status.voters:
            raise MembershipRefusedError(code="unknown_member", reason=f"there is no voter {heir}")
        if len(status.voters) == 1:
            raise MembershipRefusedError(code="last_voter", reason="there is no other voter")
        named = self.metadata.log.transfer(heir)
        if named is None:
            raise MembershipRefusedError(code="quorum_at_risk", reason="no other voter can be heard")
        return named

    def resign(self) -> None:
        """Let another node lead, before this one leaves."""
        if self.metadata.log.status().leading:
            self.metadata.log.resign()

    async def snapshot_frames(self, *, epoch_min: int, revision_min: int) -> list[bytes]:
        """Signed snapshot chunks at or after a position. Raises `NotStrongError` when this node is behind it."""
        position = self.metadata.state.position
        if not position.epoch or position < Position(epoch_min, revision_min):
            raise NotStrongError(f"this node is at {position}; ask another")
        return self._snapshots.frames(nonce=b"")

    def self_status(self) -> dict[str, Any]:
        """What this node believes of itself; plain JSON values."""
        status = self.metadata.log.status()
        state = self.metadata.state
        return {
            "node_id": self.config.node_id,
            "version": __version__,
            "url": self.config.peers[self.config.node_id].url,
            "region": state.region,
            "leader_id": status.leader_id,
            "leading": status.leading,
            "is_authority": self.authority.core.is_authority,
            "clock_id": self.authority.core.clock_id,
            "term": status.term,
            "commit_index": status.commit_index,
            "applied_index": status.applied_index,
            "voters": list(status.voters),
            "members": [
                {"node_id": member.node_id, "raft": member.raft, "url": member.url, "votes": member.votes}
                for member in status.members
            ],
            "storage_fault": status.storage_fault,
            "standing": status.standing,
            "epoch": state.epoch,
            "revision": state.revision,
            "terms": {
                "lease_ms": state.terms.lease_ms,
                "margin_ms": state.terms.margin_ms,
                "rho_ppm": state.terms.rho_ppm,
            },
            "region_keys": self.keys.shown(),
            "bus_connected": self.bus.connected,
            "bus_fault": self.bus.fault,
            "lease_remaining_ms": self.reads.lease_remaining_ms(),
            "outbox_depth": len(state.outbox),
            "edges_live": sum(v.live(now_ns=self.clock.now_ns()) for v in self.fleet.view.edges()),
            "counters": self.counters(),
        }

    def counters(self) -> dict[str, int]:
        """Every counter of this node, named `part.counter`."""
        parts: dict[str, Counter[str]] = {
            "metadata": self.metadata.counters,
            "authority": self.authority.core.counters,
            "beacons": self.authority.counters,
            "reader": self.reads.reader.counters,
            "relay": self._relay.counters,
            "answers": self._answers.counters,
            "bus": Counter(self.bus.counters),
            "fleet": self.fleet.view.counters,
            "garbage": self._garbage.counters,
            "rollouts": self.rollouts.counters,
            "webhooks": self._webhooks.counters,
            "feature_windows": self._feature_windows.counters,
            "keys": self.keys.counters,
            "measuring": self.measuring.counters,
            "supervisor": self._supervisor.counters,
        }
        counted = {
            f"{part}.{name}": count for part, counter in parts.items() for name, count in sorted(counter.items())
        }
        return counted | {f"machine.{name}": count for name, count in sorted(self.metadata.state.counters.items())}

    @property
    def events_relayed(self) -> int:
        """How many events this node has put on the bus."""
        return self._relay.counters["events_relayed"]

    # ---- drivers of the node itself

    async def _bootstrap(self) -> None:
        """Begin the first epoch, if the log is empty and this node leads. Ends when the region has an epoch."""
        while not self.metadata.state.epoch:
            status = self.metadata.log.status()
            if status.leading and status.term_settled:
                command = Bootstrap(
                    region=self.config.region,
                    region_epoch=1,
                    terms=self.config.terms(),
                    author="bootstrap",
                    proposed_at_unix_ms=self.clock.unix_ms(),
                )
                try:
                    await self.metadata.propose(command)
                except (NotLeaderError, UnknownOutcomeError):
                    self.metadata.counters["bootstraps_unanswered"] += 1
            await asyncio.sleep(BOOTSTRAP_RETRY_S)

    async def _peers_bus_works(self) -> bool:
        """True when another voter says that it is connected to the bus."""
        urls = [url for node_id, url in self.urls().items() if node_id != self.config.node_id]
        answers = await asyncio.gather(*(self._peer_status(url) for url in urls))
        return any(answer is not None and answer.get("bus_connected") is True for answer in answers)

    def _clock_distrusted(self) -> None:
        _log.error("clock_distrusted node_id=%s", self.config.node_id)
        self.reads.clock_distrusted()
        self.authority.clock_distrusted(self._new_clock_id())

    async def _clock_trusted(self) -> None:
        _log.warning("clock_trusted node_id=%s", self.config.node_id)
        clock_id = self.authority.core.clock_id
        await self._answers.clock_renamed(clock_id)
        self.reads.clock_trusted(clock_id=clock_id)
        self.authority.core.clock_trusted(now_ns=self.clock.now_ns())

    def _new_clock_id(self) -> str:
        return self._rng.randbytes(8).hex()
