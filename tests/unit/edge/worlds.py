"""A clock that only a test moves, and a region of one node that does what a test tells it, signed with its own key."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_client.protocol.digest import Digest
from edge_client.protocol.envelope import Signer, trust_line
from edge_client.protocol.messages import (
    Beacon,
    ClockReply,
    ClockRequest,
    EdgeReport,
    Event,
    ReportReply,
    Snapshot,
    SnapshotChunk,
    SnapshotRequest,
    decode_edge,
    encode_region,
    encode_snapshot,
)
from edge_client.protocol.models import Assignment, ModelView, Pending, Policy, Terms, Version
from edge_client.protocol.subjects import Subjects
from tests.fakes.bus import Hub, Message

MS = 1_000_000
SERVICE_OFFSET_NS = 7_000_000_000_000
"""The node's clock against the edge's: nothing may depend on it."""


class HandClock:
    """A `Clock` that stands still until a test advances it; `jump` is a suspension."""

    counts_suspension = True

    def __init__(self) -> None:
        self._now_ns = 1_000_000 * MS
        self._slept_ns = 0
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._ids = itertools.count()
        self.slew_ns = 0

    def now_ns(self) -> int:
        return self._now_ns + self.slew_ns

    def monotonic_ns(self) -> int:
        return self._now_ns - self._slept_ns + self.slew_ns

    def raw_ns(self) -> int:
        return self._now_ns - self._slept_ns

    def unix_ms(self) -> int:
        return 1_700_000_000_000 + self._now_ns // MS

    async def sleep_until(self, deadline_ns: int) -> None:
        if deadline_ns > self.now_ns():
            future = asyncio.get_running_loop().create_future()
            heapq.heappush(self._sleepers, (deadline_ns, next(self._ids), future))
            await future

    def jump(self, ms: int) -> None:
        """The machine slept for so long; nothing ran meanwhile."""
        self._now_ns += ms * MS
        self._slept_ns += ms * MS

    async def advance(self, ms: int) -> None:
        """Let time pass, waking sleepers in order; whoever woke has run before the next one wakes."""
        until_ns = self._now_ns + ms * MS
        while self._sleepers and self._sleepers[0][0] - self.slew_ns <= until_ns:
            deadline_ns, _, future = heapq.heappop(self._sleepers)
            self._now_ns = max(self._now_ns, deadline_ns - self.slew_ns)
            if not future.done():
                future.set_result(None)
                await turns()
        self._now_ns = until_ns
        await turns()


async def turns(count: int = 12) -> None:
    """Let everything run that can run without time passing."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what a worker thread does; no time passes for the code under test."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


@dataclass
class Region:
    """One node that holds authority and answers everything, unless `silent`."""

    hub: Hub
    clock: HandClock
    epoch: int = 5
    revision: int = 10
    terms: Terms = field(default_factory=Terms)
    models: dict[str, ModelView] = field(default_factory=dict)
    artifacts: dict[str, bytes] = field(default_factory=dict)
    silent: bool = False
    accepts: bool = True
    clock_id: str = "clock-a"
    reports: list[EdgeReport] = field(default_factory=list)
    snapshot_requests: list[SnapshotRequest] = field(default_factory=list)
    revoked: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        key = Ed25519PrivateKey.generate()
        self.signer = Signer(key)
        self.trust = trust_line(key.public_key())
        self.subjects = Subjects("default")
        self.bus = self.hub.event_bus(self.subjects)

    async def start(self) -> None:
        await self.bus.connect()
        for subject in (self.subjects.clock, self.subjects.clock_of(self.clock_id)):
            self.bus._subscribe(subject, handler=self._clock_request, pending_max=100)
        self.bus._subscribe(self.subjects.snapshot, handler=self._snapshot_request, pending_max=100)
        self.bus._subscribe(self.subjects.report, handler=self._report, pending_max=100)

    # ---- what a test says

    def service_now_ns(self) -> int:
        return self.clock.now_ns() + SERVICE_OFFSET_NS

    async def run(self, ms: int, *, beacons: bool = True) -> None:
        """Let time pass, with a beacon every 100 ms."""
        for _ in range(ms // 20):
            await self.clock.advance(20)
            if beacons and not self.silent and self.clock.raw_ns() // MS % 100 == 0:
                self.beacon()
                await turns()

    def beacon(self) -> None:
        self.say(
            self.subjects.beacon,
            Beacon(
                epoch=self.epoch,
                revision=self.revision,
                clock_id=self.clock_id,
                assumption=1,
                assumed_at_ns=0,
                t0_ns=self.service_now_ns(),
            ),
        )

    def event(self, *views: ModelView, removed: tuple[str, ...] = (), revoked: tuple[str, ...] = ()) -> None:
        """One more revision, in which these models changed."""
        self.revision += 1
        self.revoked += revoked
        for view in views:
            self.models[view.name] = view
        for name in removed:
            del self.models[name]
        self.say(
            self.subjects.event,
            Event(
                epoch=self.epoch,
                revision=self.revision,
                name="Changed",
                at_unix_ms=0,
                models=views,
                removed=removed,
                publishers_revoked=revoked,
            ),
        )

    def say(self, subject: str, message: object) -> None:
        self.hub.publish(
            Message(subject=subject, payload=encode_region(message, signer=self.signer), reply_to=None)  # type: ignore[arg-type]
        )

    def version(self, version: str, content: bytes) -> Version:
        digest = str(Digest.of(content))
        self.artifacts[digest] = content
        return Version(version=version, digest=digest, size_bytes=len(content), metadata={"made": "here"})

    def model(self, name: str, *versions: Version, stable: str, generation: int = 1, **fields: object) -> ModelView:
        view = ModelView(
            name=name,
            policy=fields.pop("policy", Policy()),  # type: ignore[arg-type]
            generation=generation,
            assignment=Assignment(stable=stable),
            versions={version.version: version for version in versions},
            **fields,  # type: ignore[arg-type]
        )
        self.models[name] = view
        return view

    def pending(self, stable: str, *, generation: int, lead_ms: int, immediate: bool = False) -> Pending:
        return Pending(
            revision=self.revision + 1,
            generation=generation,
            assignment=Assignment(stable=stable),
            effective_at_ns=self.service_now_ns() + lead_ms * MS,
            lead_ns=lead_ms * MS,
            clock_id=self.clock_id,
            assumption=1,
            immediate=immediate,
        )

    # ---- what it answers

    def _clock_request(self, message: Message) -> None:
        request = decode_edge(message.payload)
        assert isinstance(request, ClockRequest) and message.reply_to
        if not self.silent:
            self.say(
                message.reply_to,
                ClockReply(
                    epoch=self.epoch,
                    clock_id=self.clock_id,
                    nonce=request.nonce,
                    stamped_at_ns=self.service_now_ns(),
                    node_id="n1",
                    url="http://n1",
                ),
            )

    def _snapshot_request(self, message: Message) -> None:
        request = decode_edge(message.payload)
        assert isinstance(request, SnapshotRequest) and message.reply_to
        self.snapshot_requests.append(request)
        if not self.silent:
            for chunk in self.chunks(nonce=request.nonce):
                self.say(message.reply_to, chunk)

    def chunks(self, *, nonce: bytes, piece_bytes: int = 200) -> list[SnapshotChunk]:
        data = encode_snapshot(
            Snapshot(
                epoch=self.epoch,
                revision=self.revision,
                region="default",
                terms=self.terms,
                models=tuple(self.models.values()),
                publishers_revoked=self.revoked,
            )
        )
        pieces = [data[start : start + piece_bytes] for start in range(0, len(data), piece_bytes)]
        return [
            SnapshotChunk(
                epoch=self.epoch, nonce=nonce, revision=self.revision, index=index, count=len(pieces), data=piece
            )
            for index, piece in enumerate(pieces)
        ]

    def _report(self, message: Message) -> None:
        report = decode_edge(message.payload)
        assert isinstance(report, EdgeReport) and message.reply_to
        self.reports.append(report)
        if not self.silent:
            self.say(
                message.reply_to,
                ReportReply(
                    epoch=self.epoch,
                    edge_id=report.edge_id,
                    life_id=report.life_id,
                    accepted=self.accepts,
                    reason="" if self.accepts else "another life holds it",
                ),
            )
