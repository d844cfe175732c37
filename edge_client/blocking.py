"""The blocking form of the edge client, for applications without an event loop.

Picture a clerk in a back room: the asyncio client lives in a daemon thread of its own, and every method here hands it a
note through the hatch and waits for the answer. `read` alone does not: it is the asyncio model's own `read`, taken over
as an attribute, which costs some 15 ns and no more.

A fork leaves the clerk behind. The child must neither serve what its parent knew nor touch its sockets, so it forgets
both, and the first use there starts a client of its own under the edge id `<edge_id>.<pid>`.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from edge_client.blocking_features import Features
from edge_client.client import AsyncEdgeClient
from edge_client.errors import ClosedError
from edge_client.runtime.loop_thread import LoopThread

if TYPE_CHECKING:
    from typing import Self

    from edge_client.adapters.otel import MeterProvider, TracerProvider
    from edge_client.core.reading import Change, Reading
    from edge_client.core.status import ClientStatus
    from edge_client.runtime.artifact import Loader, Unload, WarmUp
    from edge_client.runtime.model import AsyncModel

READY_TIMEOUT_MS: Final = 30_000


Opener = Callable[[str, Path], Coroutine[Any, Any, AsyncEdgeClient]]
"""Opens an asyncio client, given an edge id and a directory that is this process's own."""


class EdgeClient:
    """Serves models from memory and follows the region; every method may be called from any thread, and after a fork.

        with EdgeClient.connect("nats://gateway:4222", trust="region.pub", edge_id="cam-17") as edge:
            detector = edge.model("text-detector", loader=load_onnx)
            with detector.read() as m:
                m.value, m.guarantee, m.version

    In a forked child the first use connects anew, as `<edge_id>.<pid>` and with the same models; where a model was
    waited for, the first `read` there waits as well. Listeners and loaders must not call what waits.
    """

    def __init__(self, opener: Opener, *, edge_id: str) -> None:
        self._opener = opener
        self._first_edge_id = self._edge_id = edge_id
        self._lock = threading.RLock()
        self._closed = False
        self._models: dict[str, Model] = {}
        self._features = Features(self._here)
        self._life: LoopThread[AsyncEdgeClient] | None = None
        self._begin()
        _live.add(self)

    @classmethod
    def connect(
        cls,
        servers: str | Sequence[str],
        *,
        trust: str,
        edge_id: str,
        local: str | None = None,
        site: str = "",
        labels: Mapping[str, str] | None = None,
        region: str = "default",
        **settings: Any,
    ) -> Self:
        """A client that follows the region, whoever is away just now; `settings` are the other fields of `EdgeConfig`.

        Raises what `AsyncEdgeClient.connect` raises, and waits no longer. `download_dir`, `feature_spool` and `metrics` are
        this process's alone; a forked child uses a temporary directory, has no spool, and is scraped nowhere.
        """
        own_pid, own_directory = os.getpid(), settings.pop("download_dir", None)
        own_spool, own_metrics = settings.pop("feature_spool", None), settings.pop("metrics", None)

        def opener(edge_id: str, directory: Path) -> Coroutine[Any, Any, AsyncEdgeClient]:
            own = os.getpid() == own_pid
            kept, spool = (own_directory, own_spool) if own else (None, None)
            return AsyncEdgeClient.connect(
                servers,
                trust=trust,
                edge_id=edge_id,
                local=local,
                site=site,
                labels=labels,
                region=region,
                download_dir=str(directory) if kept is None else kept,
                feature_spool=spool,
                metrics=own_metrics if own else None,
                **settings,
            )

        return cls(opener, edge_id=edge_id)

    def model(
        self,
        name: str,
        *,
        loader: Loader,
        warm_up: WarmUp | None = None,
        unload: Unload | None = None,
        timeout_ms: int = READY_TIMEOUT_MS,
        wait: bool = True,
    ) -> Model:
        """Follow a model from now on, and return when `read` gives a reading; with `wait=False` at once.

        Raises what `read` raises if that takes more than `timeout_ms`; the model is followed all the same, and asking for
        it again with the same functions waits again. Raises `ConfigError` for other functions, and `ClosedError`.
        """
        handling: dict[str, Any] = {"loader": loader, "warm_up": warm_up, "unload": unload}
        life = self._here()
        model = self._models.get(name)
        if model is None or model.handling != handling:
            behind = life.call(lambda: life.client.model(name, **handling))
            model = Model(name, edge=self, behind=behind, handling=handling)
            self._models[name] = model
        model.ready_timeout_ms = timeout_ms if wait else None
        if wait:
            model.wait_ready(timeout_ms=timeout_ms)
        return model

    @property
    def features(self) -> Features:
        """Read and write features. Their first use raises `ConfigError` where there is neither a store nor a local Redis."""
        return self._features

    @property
    def edge_id(self) -> str:
        """The id in this process."""
        return self._edge_id

    def status(self) -> ClientStatus:
        """How this edge stands with the region, at this moment. Raises `ClosedError`."""
        life = self._here()
        return life.call(life.client.status)

    def instrument(
        self, *, meter_provider: MeterProvider | None = None, tracer_provider: TracerProvider | None = None
    ) -> None:
        """Metrics and switch spans go to these OpenTelemetry providers from now on: see `AsyncEdgeClient.instrument`.

        Of this process alone: a forked child begins with the global ones. Raises `ClosedError`.
        """
        life = self._here()
        life.call(lambda: life.client.instrument(meter_provider=meter_provider, tracer_provider=tracer_provider))

    @property
    def metrics_port(self) -> int | None:
        """The port on which scrapes are answered, where `metrics` is set. Raises `ClosedError`."""
        life = self._here()
        return life.call(lambda: life.client.metrics_port)

    def close(self) -> None:
        """Said goodbye and stopped, within four seconds; whoever waits gets `ClosedError`. Again: nothing more happens."""
        with self._lock:
            self._closed = True
            life, self._life = self._life, None
        _live.discard(self)
        for model in list(self._models.values()):
            model.read = _read_closed
        self._features.closed()
        if life is not None:
            life.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<EdgeClient {self._edge_id}{' closed' if self._closed else ''}>"

    def _here(self) -> LoopThread[AsyncEdgeClient]:
        """The life of this process, begun if a fork left us without one."""
        life = self._life
        if life is None:
            with self._lock:
                if self._closed:
                    raise ClosedError("the client was closed; connect anew")
                if self._life is None:
                    self._edge_id = f"{self._first_edge_id}.{os.getpid()}"
                    self._begin()
                life = self._life
                assert life is not None, "begun just now"
        return life

    def _begin(self) -> None:
        life = LoopThread(self._opener, edge_id=self._edge_id)

        def adopt() -> None:
            """All in one step on the loop, so that no listener runs, and waits for us, before we are whole."""
            for model in list(self._models.values()):
                model.adopt(life.client.model(model.name, **model.handling))
            self._life = life

        try:
            life.call(adopt)
        except BaseException:
            life.stop()
            raise
        weakref.finalize(self, life.abandon).atexit = False

    def _forked(self) -> None:
        """Runs in a new child, where no other thread is: forget everything that is the parent's."""
        self._lock = threading.RLock()
        if self._life is not None:
            _inherited.append(self._life)
            self._life = None
        _inherited.append(self._features.forked())
        for model in list(self._models.values()):
            model.forked()


class Model:
    """What `EdgeClient.model` returns. Call `read` on the model: a copy of the attribute does not survive a fork."""

    __slots__ = ("__weakref__", "_behind", "_edge", "_listeners", "handling", "name", "read", "ready_timeout_ms")

    read: Callable[[], Reading]
    """What is served now, and what it is worth: `AsyncModel.read` itself. Never waits, but once after a fork."""

    def __init__(self, name: str, *, edge: EdgeClient, behind: AsyncModel, handling: dict[str, Any]) -> None:
        self.name = name
        self.handling = handling
        self.ready_timeout_ms: int | None = None
        self._edge = edge
        self._listeners: dict[object, tuple[Callable[[Change], object], Callable[[], None]]] = {}
        self._behind: AsyncModel = behind
        self.read = behind.read

    def read_strong(self, *, timeout_ms: int) -> Reading:
        """A strong reading, as soon as there is one. Raises `NotStrongError` after `timeout_ms`, and `ClosedError`."""
        life = self._edge._here()  # noqa: SLF001
        return life.wait(self._behind.read_strong(timeout_ms=timeout_ms))

    def wait_ready(self, *, timeout_ms: int = READY_TIMEOUT_MS) -> None:
        """Return once `read` gives a reading. Raises what `read` raises when it does not within `timeout_ms`."""
        life = self._edge._here()  # noqa: SLF001
        life.wait(self._behind.wait_ready(timeout_ms=timeout_ms))

    def on_change(self, listener: Callable[[Change], object]) -> Callable[[], None]:
        """Call `listener` with a `Change` whenever another version is served; returns how to stop it.

        It is called in the client's own thread, which does nothing else meanwhile: hand on what takes long, and wait
        for nothing of this client in it.
        """
        life, token = self._edge._here(), object()  # noqa: SLF001
        life.call(lambda: self._listen(token, listener))
        return partial(self._unlisten, token)

    def adopt(self, behind: AsyncModel) -> None:
        """Serve from this model from now on. For the client alone, on its loop."""
        self._behind = behind
        for token, (listener, _) in list(self._listeners.items()):
            self._listen(token, listener)
        self.read = behind.read

    def forked(self) -> None:
        """Serve nothing of the parent's. For the client alone."""
        if self.read is not _read_closed:
            _inherited.append(self._behind)
            self.read = self._read_forked

    def _read_forked(self) -> Reading:
        edge = self._edge
        edge._here()  # noqa: SLF001
        if self.ready_timeout_ms is not None:
            self.wait_ready(timeout_ms=self.ready_timeout_ms)
        return self._behind.read()

    def _listen(self, token: object, listener: Callable[[Change], object]) -> None:
        self._listeners[token] = (listener, self._behind.on_change(listener))

    def _unlisten(self, token: object) -> None:
        life = self._edge._here()  # noqa: SLF001
        _, stop = self._listeners.pop(token, (None, None))
        if stop is not None:
            life.call(stop)

    def __repr__(self) -> str:
        return f"<Model {self.name} of {self._edge!r}>"


def _read_closed() -> NoReturn:
    raise ClosedError("the client was closed; connect anew")


def _close_all() -> None:
    for edge in list(_live):
        edge.close()


def _forked() -> None:
    for edge in list(_live):
        edge._forked()  # noqa: SLF001


_live: weakref.WeakSet[EdgeClient] = weakref.WeakSet()
_inherited: list[object] = []
"""A parent's loops, sockets and models, kept from the garbage collector: closing them here would reach into the parent."""

os.register_at_fork(after_in_child=_forked)
atexit.register(_close_all)
