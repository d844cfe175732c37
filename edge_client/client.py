"""The edge client: the composition root, and what an asyncio application holds.

    async with await AsyncEdgeClient.connect("nats://gateway:4222", trust="region.pub", edge_id="cam-17") as edge:
        detector = edge.model("text-detector", loader=load_onnx)
        await detector.wait_ready(timeout_ms=30_000)
        with detector.read() as m:
            m.value, m.guarantee, m.version, m.staleness_bound_ms

Connecting never fails because somebody is away: it goes on trying, starts from the local tier if it must, and every
reading says what it is worth. The blocking form is in `blocking`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random, SystemRandom
from typing import TYPE_CHECKING, Any, Final

from edge_client.adapters.system_clock import SystemClock, open_clock
from edge_client.config import EdgeConfig
from edge_client.core.status import ClientStatus
from edge_client.errors import ClosedError, ConfigError
from edge_client.protocol.subjects import Subjects
from edge_client.runtime.artifact import Loader, Unload, WarmUp
from edge_client.runtime.clock_guard import ClockGuard
from edge_client.runtime.downloads import Downloads, download_directory
from edge_client.runtime.features import AsyncFeatures
from edge_client.runtime.follow import Follow
from edge_client.runtime.listeners import Listeners
from edge_client.runtime.model import AsyncModel, ClockedModel
from edge_client.runtime.models import Handling, Models, plan_of
from edge_client.runtime.observing import Observing
from edge_client.runtime.report import Report
from edge_client.runtime.restore import Restore
from edge_client.runtime.signals import Pulse, Signal
from edge_client.runtime.standing import Standing
from edge_client.runtime.state import EdgeState, Wakes
from edge_client.runtime.supervision import Supervisor
from edge_client.runtime.telemetry import Telemetry
from edge_client.runtime.tier import Tier
from edge_client.runtime.trust import Trust

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from edge_client.adapters.otel import MeterProvider, TracerProvider
    from edge_client.runtime.features import FeaturePorts
    from edge_client.runtime.ports import ArtifactSource, Bus, Clock, LocalTier

_log = logging.getLogger(__name__)
FAREWELL_S: Final = 0.5


class AsyncEdgeClient:
    """Serves models from memory and follows the region. One event loop owns it; `model.read` is for any thread."""

    def __init__(
        self,
        config: EdgeConfig,
        *,
        bus: Bus,
        source: ArtifactSource,
        tier: LocalTier | None,
        clock: Clock,
        rng: Random,
        directory: Path,
        features: FeaturePorts | None = None,
    ) -> None:
        self._trust = Trust(config=config, clock=clock)
        verifier = self._trust.verifier
        loop = asyncio.get_running_loop()
        subjects = Subjects(config.region)
        life_id = secrets.token_hex(8)
        self.config = config
        self._bus = bus
        self._source = source
        self._clock = clock
        self._tier = Tier(tier)
        self._send, self._targets, self._changes, self._report_now = (Signal(loop) for _ in range(4))
        self._pulse = Pulse()
        wakes = Wakes(send=self._send.set, targets=self._targets.set, changes=self._another_is_served)
        self._observing = Observing(began=self._report_now.set)
        self._state = EdgeState(config=config, clock=clock, rng=rng, wakes=wakes, observe=self._observing.reported)
        plan = plan_of(config, rng=rng)
        self._downloads = Downloads(
            directory=directory,
            bytes_max=config.download_bytes_max,
            source=source,
            tier=self._tier,
            urls=self._state.urls,
            rng=rng,
            clock=clock,
            bytes_per_s_max=config.download_bytes_per_s_max,
            ranking=plan.digests,
            held=plan.held_digests,
        )
        self._models = Models(
            state=self._state,
            plan=plan,
            downloads=self._downloads,
            policy=self._trust.policy,
            clock=clock,
            wake=self._targets,
            pulse=self._pulse,
            readiness_changed=self._report_now.set,
        )
        self._telemetry = Telemetry(config=config, state=self._state, status=self.status, bus=bus, clock=clock)
        self._follow = Follow(
            state=self._state,
            bus=bus,
            clock=clock,
            verifier=verifier,
            subjects=subjects,
            wake=self._send,
            pulse=self._pulse,
            report_replied=lambda reply: self._report.replied(reply),  # noqa: PLW0108 -- made below
            event_heard=self._telemetry.spans.event_heard,
        )
        self._restore = Restore(
            state=self._state,
            tier=self._tier,
            downloads=self._downloads,
            models=self._models,
            clock=clock,
            verifier=verifier,
            pulse=self._pulse,
        )
        self._guard = ClockGuard(state=self._state, clock=clock, wake=self._send)
        self._listeners = Listeners(state=self._state, clock=clock, wake=self._changes)
        self._supervisor = Supervisor(clock=clock)
        self._features: AsyncFeatures | None = None
        if features is not None:
            self._features = AsyncFeatures(
                features,
                config=config,
                life_id=life_id,
                classes=lambda: self._state.feature_classes,
                bus=bus,
                subject=subjects.features,
                clock=clock,
                rng=rng,
                pulse=self._pulse,
            )
        self._standing = Standing(
            config=config,
            bus=bus,
            state=self._state,
            tier=self._tier,
            models=self._models,
            downloads=self._downloads,
            features=self._features,
            parts=(
                self._follow,
                self._models,
                self._downloads,
                self._restore,
                self._trust,
                self._guard,
                self._listeners,
                self._observing,
                self._supervisor,
                self._tier,
                self._telemetry,
            ),
        )
        self._report = self._standing.report = Report(
            config=config,
            life_id=life_id,
            state=self._state,
            statuses=self._standing.models,
            observed=self._observing.sheets,
            features=tuple if self._features is None else self._features.observations,
            bus=bus,
            subjects=subjects,
            inbox=self._follow.inbox,
            clock=clock,
            wake=self._report_now,
            pulse=self._pulse,
        )
        self._resources = AsyncExitStack()
        self._running: asyncio.Task[None] | None = None
        self._closed = False

    # ---- beginning and end

    @classmethod
    async def connect(
        cls,
        servers: str | Sequence[str],
        *,
        trust: str,
        edge_id: str,
        local: str | None = None,
        site: str = "",
        labels: Mapping[str, str] | None = None,
        region: str = "default",
        clock: Clock | None = None,
        **settings: Any,
    ) -> Self:
        """A client that follows the region, whoever is away just now; `settings` are the other fields of `EdgeConfig`.

        Raises `ConfigError`, and `EdgeIdTakenError` when the region says that another living process uses the edge id.
        Waits no longer than a second for the region's word, and five where it refuses: the life before may have crashed
        a moment ago, and then the id is ours once it has been silent for three.
        """
        try:
            config = EdgeConfig(
                servers=(servers,) if isinstance(servers, str) else tuple(servers),
                trust=trust,
                edge_id=edge_id,
                local=local,
                site=site,
                labels=labels or {},
                region=region,
                **settings,
            )
        except TypeError as error:
            raise ConfigError(f"settings: {error}") from None
        return await cls.open(config, clock=clock)

    @classmethod
    async def open(cls, config: EdgeConfig, *, clock: Clock | None = None) -> Self:
        """As `connect`, with all settings in one value."""
        from edge_client.adapters.opened import open_ports

        clock = clock or open_clock()
        client = await cls.over(config, clock=clock, **open_ports(config, clock=clock))
        client.instrument()
        return client

    @classmethod
    async def over(
        cls,
        config: EdgeConfig,
        *,
        bus: Bus,
        source: ArtifactSource,
        tier: LocalTier | None = None,
        clock: Clock | None = None,
        rng: Random | None = None,
        features: FeaturePorts | None = None,
    ) -> Self:
        """A client over these ports, which it closes at its end. `tier` counts only if `config.local` is set."""
        if tier is not None and config.local is None:
            config = replace(config, local="redis://given")
        async with AsyncExitStack() as resources:
            client = cls(
                config,
                bus=bus,
                source=source,
                tier=tier,
                clock=clock or open_clock(),
                rng=rng or SystemRandom(),
                directory=resources.enter_context(download_directory(config.download_dir)),
                features=features,
            )
            client._resources = resources.pop_all()
        await client._start()
        return client

    async def close(self) -> None:
        """Say goodbye to the region, stop everything and let go of the models; readings that are held stay usable."""
        if self._closed:
            return
        self._closed = True
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await self._report.send(leaving=True)
        if self._features is not None:
            await self._shut(self._features.close())
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})
        self._state.close()
        self._observing.close()
        self._telemetry.close()
        self._pulse.fire()
        for closing in (self._bus.close(), self._source.close(), self._tier.close()):
            await self._shut(closing)
        await self._resources.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # ---- models

    def model(
        self, name: str, *, loader: Loader, warm_up: WarmUp | None = None, unload: Unload | None = None
    ) -> AsyncModel:
        """Follow a model from now on: its versions are downloaded, verified, loaded and warmed up by this code.

        `loader` is given an `Artifact` and returns what readings carry as `value`. It and `warm_up` run in a worker
        thread, or on the event loop if they are `async`. `unload` is called with the value once, in whichever thread
        lets go of it last. Raises `ConfigError` for a name that is none or is registered already, and `ClosedError`.
        """
        if self._closed:
            raise ClosedError("the client was closed; connect anew")
        kind = AsyncModel if isinstance(self._clock, SystemClock) else ClockedModel
        model = kind(name, state=self._state, clock=self._clock, pulse=self._pulse, listeners=self._listeners)
        self._state.register(name, show=model.show)
        self._models.register(name, Handling(loader=loader, warm_up=warm_up, unload=unload))
        self._report_now.set()
        return model

    # ---- features

    @property
    def features(self) -> AsyncFeatures:
        """Read and write features. Raises `ConfigError` where there is neither a feature store nor a local Redis."""
        if self._features is None:
            raise ConfigError("features need somewhere to be: set feature_store, or local")
        return self._features

    # ---- answers

    @property
    def edge_id(self) -> str:
        """The id under which this edge is known to the region."""
        return self.config.edge_id

    def status(self) -> ClientStatus:
        """How this edge stands with the region, at this moment."""
        return self._standing.client()

    @property
    def metrics_port(self) -> int | None:
        """The port on which scrapes are answered, where `metrics` is set."""
        return self._telemetry.port

    def instrument(
        self, *, meter_provider: MeterProvider | None = None, tracer_provider: TracerProvider | None = None
    ) -> None:
        """Metrics and switch spans go to these OpenTelemetry providers from now on, and no longer where they went before.

        `connect` has done so with the global ones, which may also be set later. docs/reference/metrics.md names the metrics.
        """
        from edge_client.adapters.otel import instrument

        instrument(
            self._telemetry, edge_id=self.edge_id, meter_provider=meter_provider, tracer_provider=tracer_provider
        )

    # ---- helpers

    async def _start(self) -> None:
        try:
            await self._tier.connect()
            await self._telemetry.open()
            await self._bus.connect()
            await self._follow.subscribe()
            if self._features is not None:
                await self._features.open()
            self._running = asyncio.get_running_loop().create_task(self._run(), name=f"edge {self.config.edge_id}")
            await self._report.wait_accepted()
        except BaseException:
            await self.close()
            raise

    async def _run(self) -> None:
        """The one task that this client owns; its drivers are children of it."""
        await self._supervisor.run(
            {
                "follow": self._follow.run,
                "models": self._models.run,
                "report": self._report.run,
                "restore": self._restore.run,
                "trust": partial(self._trust.run, state=self._state, models=self._models),
                "clock": self._guard.run,
                "listeners": self._listeners.run,
                **self._telemetry.drivers(),
                **({} if self._features is None else self._features.drivers()),
            }
        )

    async def _shut(self, closing: Awaitable[None]) -> None:
        try:
            await closing
        except Exception:
            _log.exception("close_failed")

    def _another_is_served(self) -> None:
        """Listeners and the region want to know at once."""
        self._changes.set()
        self._report_now.set()
        self._telemetry.switched()
