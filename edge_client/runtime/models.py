"""Gets the versions that are needed here verified, loaded and warm, and lets the others go.

What to do next is the plan's decision; this driver does it. Loaders are the application's code: they run in worker
threads, they may raise whatever they like, and what they raise becomes one sentence in the report.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_client.core.fetch_plan import FetchPlan, Job, LetGo
from edge_client.core.reading import Loaded
from edge_client.errors import EdgeError, LoaderError, SignatureRefusedError
from edge_client.protocol.signatures import FAULTS
from edge_client.runtime.artifact import Artifact, Loader, Unload, WarmUp

if TYPE_CHECKING:
    from random import Random

    from edge_client.config import EdgeConfig
    from edge_client.protocol.models import Version
    from edge_client.protocol.signature_policy import SignaturePolicy
    from edge_client.runtime.downloads import Downloads
    from edge_client.runtime.ports import Clock
    from edge_client.runtime.signals import Pulse, Signal
    from edge_client.runtime.state import EdgeState

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Handling:
    """The application's code for one model."""

    loader: Loader
    warm_up: WarmUp | None = None
    unload: Unload | None = None


class Models:
    """One task for the plan, and one for each job that runs."""

    def __init__(
        self,
        *,
        state: EdgeState,
        plan: FetchPlan,
        downloads: Downloads,
        policy: SignaturePolicy,
        clock: Clock,
        wake: Signal,
        pulse: Pulse,
        readiness_changed: Callable[[], None],
    ) -> None:
        self._state = state
        self._plan = plan
        self._downloads = downloads
        self._policy = policy
        self._clock = clock
        self._wake = wake
        self._pulse = pulse
        self._readiness_changed = readiness_changed
        self._handlings: dict[str, Handling] = {}
        self._known_urls: frozenset[str] = frozenset()
        self._untrusted: dict[str, str] = {}
        self.counters: Counter[str] = Counter()

    def register(self, model: str, handling: Handling) -> None:
        """From now on the versions of `model` are got ready by this code."""
        self._handlings[model] = handling
        self._wake.set()

    def reasons(self, model: str) -> dict[str, str]:
        """Digest to one sentence, for what is not ready."""
        return self._plan.reasons(model)

    def untrusted(self, model: str) -> str:
        """Why what is served of it would not be loaded anew; empty: it would."""
        return self._untrusted.get(model, "")

    def publishers_changed(self) -> None:
        """Other publishers are believed than before: judge everything again, and try what was refused."""
        self._plan.try_again(now_ns=self._clock.now_ns())
        self._wake.set()

    def needed(self) -> tuple[str, ...]:
        """Every digest that some registered model needs."""
        return self._plan.digests()

    @property
    def plan_counters(self) -> Counter[str]:
        return self._plan.counters

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as jobs:
            while True:
                await self._look_at_targets()
                while (step := self._plan.next_step(now_ns=self._clock.now_ns())) is not None:
                    if isinstance(step, Job):
                        jobs.create_task(self._do(step), name=f"edge-load-{step.model}")
                    else:
                        self._let_go(step)
                await self._wake.wait(clock=self._clock, deadline_ns=self._plan.next_deadline_ns())

    async def _look_at_targets(self) -> None:
        now_ns = self._clock.now_ns()
        gone: list[LetGo] = []
        for model, targets in self._state.targets().items():
            if model in self._handlings:
                gone.extend(self._plan.targets_changed(model, targets=targets, now_ns=now_ns))
        urls = frozenset(self._state.urls())
        if urls - self._known_urls:
            self._plan.try_again(now_ns=now_ns)
        self._known_urls = urls
        gone.extend(self._distrusted(now_ns=now_ns))
        for step in gone:
            self._let_go(step)
        if self._state.source != "none":
            await self._downloads.keep_only({*self._plan.digests(), *self._state.named_digests()})

    def _distrusted(self, *, now_ns: int) -> list[LetGo]:
        """What is loaded and must not begin to be served any more; what is served stays, and is named."""
        served, gone = self._state.served_digests(), []
        self._untrusted = {}
        for model, version in self._plan.loaded():
            word = self._policy.fault(model, version, revoked=self._state.revoked)
            if word is None:
                continue
            if served.get(model) == version.digest:
                self._untrusted[model] = word
                continue
            reason = str(SignatureRefusedError(word, meaning=FAULTS[word]))
            step = self._plan.distrusted(model, digest=version.digest, reason=reason, now_ns=now_ns)
            if step is not None:
                self.counters["versions_distrusted"] += 1
                _log.warning("version_distrusted model=%s version=%s reason=%s", model, version.version, reason)
                gone.append(step)
        return gone

    def _require_signature(self, model: str, version: Version) -> None:
        """Raises `SignatureRefusedError`, counted, unless the policy lets the version in."""
        word = self._policy.fault(model, version, revoked=self._state.revoked)
        if word is not None:
            self.counters["signatures_refused"] += 1
            raise SignatureRefusedError(word, meaning=FAULTS[word])

    def _let_go(self, step: LetGo) -> None:
        self._state.let_go(step.model, step.digest)
        self._readiness_changed()

    async def _do(self, job: Job) -> None:
        model, version = job.model, job.version
        began_ns = self._clock.now_ns()
        try:
            self._require_signature(model, version)
            path = await self._downloads.obtain(version)
            self._require_signature(model, version)  # keys may have been revoked while it was fetched
            loaded = await self._load(model, version, path=path)
        except Exception as error:
            # Whatever it is, it is this version's failure alone: it is stated, and tried again later.
            reason = str(error) if isinstance(error, (EdgeError, ValueError)) else f"{type(error).__name__}: {error}"
            self.counters["loads_failed"] += 1
            _log.warning("load_failed model=%s version=%s reason=%s", model, version.version, reason[:300])
            self._plan.failed(model, digest=version.digest, reason=reason, now_ns=self._clock.now_ns())
        else:
            took_ms = (self._clock.now_ns() - began_ns) // 1_000_000
            if self._plan.ready(model, digest=version.digest, now_ns=self._clock.now_ns()):
                self._state.loaded(model, loaded)
                _log.info("model_ready model=%s version=%s took_ms=%d", model, version.version, took_ms)
        self._readiness_changed()
        self._pulse.fire()
        self._wake.set()

    async def _load(self, model: str, version: Version, *, path: Path) -> Loaded:
        handling = self._handlings[model]
        artifact = Artifact(
            model=model,
            version=version.version,
            digest=version.digest,
            size_bytes=version.size_bytes,
            metadata=dict(version.metadata),
            path=path,
        )
        value = await _called(handling.loader, artifact, what="loader")
        # Before it is warm, so that it is unloaded also when it does not get warm.
        loaded = Loaded(value, version=version, unload=handling.unload and self._guarded(model, handling.unload))
        if handling.warm_up is not None:
            await _called(handling.warm_up, value, what="warm_up")
        return loaded

    def _guarded(self, model: str, unload: Unload) -> Unload:
        def guarded(value: Any) -> None:
            try:
                unload(value)
            except Exception:
                self.counters["unloads_failed"] += 1
                _log.exception("unload_failed model=%s", model)

        return guarded


async def _called(function: Callable[[Any], Any], argument: Any, *, what: str) -> Any:
    """What the application's function returns. Raises `LoaderError` for anything it raises."""
    try:
        if inspect.iscoroutinefunction(function):
            return await function(argument)
        result = await asyncio.to_thread(function, argument)
        return await result if inspect.isawaitable(result) else result
    except (Exception, SystemExit) as error:
        raise LoaderError(f"{what} raised {type(error).__name__}: {error}") from error


def plan_of(config: EdgeConfig, *, rng: Random) -> FetchPlan:
    """The plan for an edge with these settings."""
    return FetchPlan(
        memory_bytes_max=config.memory_bytes_max,
        download_bytes_max=config.download_bytes_max,
        jobs_max=config.downloads_max,
        prefetch_jitter_ms=config.prefetch_jitter_ms,
        rng=rng,
    )
