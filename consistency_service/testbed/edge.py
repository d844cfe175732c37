"""An edge of the testbed: an application with an inference loop, told what to do by a file.

    python -m consistency_service.testbed.edge --config FILE.json

One client is used as an application developer would use it, through the blocking `EdgeClient`; several in one process,
as the benchmark of a larger fleet wants them, through `AsyncEdgeClient`. Both run the same `ReadLoop`. What it sees is
written into `status_file` five times a second (`edge_status`), and, if `history_file` is given, into a history
(docs/reference/history.md). A model that does not exist yet is waited for. SIGTERM or SIGINT closes everything in order.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import IO, Any, Final, Literal, Protocol

import msgspec

from consistency_service.adapters.telemetry import application_telemetry
from consistency_service.testbed.edge_session import (
    LOADERS,
    HeldOut,
    Readable,
    ReadLoop,
    SwitchLike,
    boottime_ns,
    digests_of,
)
from consistency_service.testbed.edge_status import Session, status_of, write_status
from consistency_service.testbed.errors import TestbedError
from consistency_service.testbed.recorder import Recorder
from edge_client import AsyncEdgeClient, EdgeClient, EdgeError, EdgeIdTakenError

STATUS_INTERVAL_NS: Final = 200_000_000
FLUSH_INTERVAL_NS: Final = 1_000_000_000
BURST_INTERVAL_NS: Final = 5_000_000_000
WAIT_S: Final = 0.05
EDGES_IN_PROCESS_MAX: Final = 1_000


class EdgeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the configuration file says."""

    edge_id: str
    region: str
    nats: list[str]
    trust: str
    models: list[str]
    status_file: str
    site: str = ""
    labels: dict[str, str] = {}
    local: str | None = None
    """The URL of a Redis; None: memory alone."""
    history_file: str | None = None
    """Where to write a history; `{edge_id}` in it stands for the id of each edge."""
    workload: Literal["classify", "read", "none"] = "read"
    """`classify` uses every reading for one held-out image, and reports what came of it; `none` leaves reading to nobody."""
    held_out: str | None = None
    """The held-out images, for `classify`."""
    manifest: str | None = None
    """A manifest of `digits`: which digest each version must have."""
    read_interval_ms: float = 2.0
    """The pause between two reads. 0 reads as fast as it goes, and takes a whole core."""
    edges_in_process: int = 1
    """Above 1, so many clients in this process, with ids `EDGE_ID-0` and so on."""
    loader: Literal["onnx", "bytes"] = "bytes"
    metrics: str | None = None
    """`host:port` on which an edge that is alone in its process answers scrapes."""
    id_patience_ms: int = 15_000
    """How long to ask again for an edge id that the region still holds for the life before."""

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("models must name at least one")
        if not 1 <= self.edges_in_process <= EDGES_IN_PROCESS_MAX:
            raise ValueError(f"edges_in_process must lie in 1..{EDGES_IN_PROCESS_MAX}")
        if self.workload == "classify" and (self.held_out is None or self.loader != "onnx"):
            raise ValueError('workload "classify" needs held_out, and loader "onnx"')
        if self.read_interval_ms < 0:
            raise ValueError("read_interval_ms must not be below 0")


class PositionLike(Protocol):
    """How far a client has come."""

    @property
    def epoch(self) -> int: ...
    @property
    def revision(self) -> int: ...


class StatusLike(Protocol):
    """What we ask of a client's status."""

    @property
    def lease_remaining_ms(self) -> int: ...
    @property
    def uncertainty_ns(self) -> int | None: ...
    @property
    def switches(self) -> tuple[SwitchLike, ...]: ...
    @property
    def position(self) -> PositionLike: ...


class ClientLike(Protocol):
    """What both clients have in common."""

    def status(self) -> StatusLike: ...


class Edge:
    """The read loops of one process, and their reports."""

    def __init__(self, settings: EdgeSettings, *, resources: ExitStack) -> None:
        self._settings = settings
        self._resources = resources
        self._held_out = HeldOut(Path(settings.held_out)) if settings.held_out else None
        self._digests = digests_of(Path(settings.manifest)) if settings.manifest else {}
        self._loops: list[tuple[ClientLike, ReadLoop]] = []
        self._histories: dict[str, IO[bytes]] = {}
        self._reported_ns = self._flushed_ns = self._burst_ns = 0
        self.stopping = False
        self.stopped = asyncio.Event()

    def add(self, client: ClientLike, *, edge_id: str, model: str, readable: Readable) -> ReadLoop:
        """A loop over this model, which reports with the others."""
        recorder = None
        if self._settings.history_file is not None:
            write = self._history(self._settings.history_file.replace("{edge_id}", edge_id)).write
            recorder = Recorder(
                process=edge_id, model=model, write=write, site=self._settings.site, labels=self._settings.labels
            )
        loop = ReadLoop(
            edge_id=edge_id,
            model=model,
            readable=readable,
            held_out=self._held_out if self._settings.workload == "classify" else None,
            digests=self._digests,
            recorder=recorder,
        )
        self._loops.append((client, loop))
        return loop

    def look_after(self, *, now_ns: int) -> None:
        """Report, write histories out and measure, whatever is due."""
        if now_ns - self._flushed_ns >= FLUSH_INTERVAL_NS:
            self._flushed_ns = now_ns
            self.flush()
        if now_ns - self._burst_ns >= BURST_INTERVAL_NS and self._settings.workload != "none":
            ready = [loop for _, loop in self._loops[:1] if not loop.waiting]
            for loop in ready:
                loop.burst()
                self._burst_ns = now_ns
        if now_ns - self._reported_ns >= STATUS_INTERVAL_NS:
            self._reported_ns = now_ns
            self.report(now_ns=now_ns)

    def report(self, *, now_ns: int) -> None:
        """The status file says how things are now."""
        sessions: list[Session] = []
        statuses: dict[int, StatusLike] = {}
        for client, loop in self._loops:
            status = statuses.get(id(client)) or statuses.setdefault(id(client), client.status())
            sessions.append(
                loop.report(
                    status.switches,
                    lease_remaining_ms=status.lease_remaining_ms,
                    uncertainty_ns=status.uncertainty_ns,
                    now_ns=now_ns,
                )
            )
        first = next(iter(statuses.values())).position
        words = status_of(os.getpid(), now_ns, sessions, position=(first.epoch, first.revision))
        write_status(Path(self._settings.status_file), words)

    def flush(self) -> None:
        """Every read so far is in the history files."""
        for _, loop in self._loops:
            loop.flush()
        for file in self._histories.values():
            file.flush()

    def stop(self) -> None:
        """Ask the loops to end; callable from a signal handler."""
        self.stopping = True
        self.stopped.set()

    def _history(self, path: str) -> IO[bytes]:
        if path not in self._histories:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            file = Path(path).open("ab")  # noqa: SIM115 - closed with the resources
            self._histories[path] = self._resources.enter_context(file)
        return self._histories[path]


def run_blocking(edge: Edge, settings: EdgeSettings) -> None:
    """One client, the way an application uses it."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _leave(edge))
    pause_s = settings.read_interval_ms / 1_000
    with _connected(edge, settings) as client:
        loops = []
        for name in settings.models:
            model = client.model(name, loader=LOADERS[settings.loader], wait=False)
            loops.append(edge.add(client, edge_id=settings.edge_id, model=name, readable=model))
        while not edge.stopping:
            if settings.workload != "none":
                for loop in loops:
                    loop.step()
            edge.look_after(now_ns=boottime_ns())
            idle = settings.workload == "none" or all(loop.waiting for loop in loops)
            time.sleep(WAIT_S if idle else pause_s)
        edge.flush()
        edge.report(now_ns=boottime_ns())


async def run_many(edge: Edge, settings: EdgeSettings) -> None:
    """Many clients on one event loop."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _leave, edge)
    async with AsyncExitStack() as resources:
        clients: dict[str, AsyncEdgeClient] = {}

        async def connect(edge_id: str) -> None:
            deadline_ns = boottime_ns() + settings.id_patience_ms * 1_000_000
            while edge_id not in clients:
                try:
                    client = await AsyncEdgeClient.connect(**_connection(settings, edge_id=edge_id))
                    clients[edge_id] = await resources.enter_async_context(client)
                except EdgeIdTakenError:
                    if edge.stopping or boottime_ns() >= deadline_ns:
                        raise
                    await asyncio.sleep(WAIT_S)

        ids = [f"{settings.edge_id}-{number}" for number in range(settings.edges_in_process)]
        try:
            async with asyncio.TaskGroup() as connecting:
                for edge_id in ids:
                    connecting.create_task(connect(edge_id))
        except* EdgeError as group:
            raise next(_leaves(group)) from None
        loops: list[ReadLoop] = []
        for edge_id in ids:
            for name in settings.models:
                model = clients[edge_id].model(name, loader=LOADERS[settings.loader])
                loops.append(edge.add(clients[edge_id], edge_id=edge_id, model=name, readable=model))
        while not edge.stopping:
            if settings.workload != "none":
                for loop in loops:
                    loop.step()
            edge.look_after(now_ns=boottime_ns())
            idle = settings.workload == "none" or all(loop.waiting for loop in loops)
            try:
                async with asyncio.timeout(WAIT_S if idle else settings.read_interval_ms / 1_000):
                    await edge.stopped.wait()
            except TimeoutError:
                pass
        edge.flush()
        edge.report(now_ns=boottime_ns())


def _leave(edge: Edge) -> None:
    """Close everything in order; the next signal ends the process at once."""
    edge.stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


def _connected(edge: Edge, settings: EdgeSettings) -> EdgeClient:
    """A client; after a kill the region may take a while to give the id of the life before up, so that is waited for."""
    deadline_ns = boottime_ns() + settings.id_patience_ms * 1_000_000
    while True:
        try:
            return EdgeClient.connect(**_connection(settings, edge_id=settings.edge_id))
        except EdgeIdTakenError:
            if edge.stopping or boottime_ns() >= deadline_ns:
                raise
        time.sleep(WAIT_S)


def _leaves(group: BaseExceptionGroup[EdgeError]) -> Iterator[EdgeError]:
    for error in group.exceptions:
        yield from _leaves(error) if isinstance(error, BaseExceptionGroup) else (error,)


def _connection(settings: EdgeSettings, *, edge_id: str) -> dict[str, Any]:
    return {
        "servers": settings.nats,
        "trust": settings.trust,
        "edge_id": edge_id,
        "local": settings.local,
        "site": settings.site,
        "labels": settings.labels,
        "region": settings.region,
        **({} if settings.metrics is None or settings.edges_in_process > 1 else {"metrics": settings.metrics}),
    }


def read_settings(path: Path) -> EdgeSettings:
    """The settings in a JSON file. Raises `TestbedError` that names what is wrong."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=EdgeSettings)
    except OSError as error:
        raise TestbedError(f"cannot read {path}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise TestbedError(f"{path}: {error}") from error


def main() -> int:
    """Run an edge until told to stop; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m consistency_service.testbed.edge", description="A testbed's edge.")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE.json")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        settings = read_settings(arguments.config)
        with ExitStack() as resources:
            resources.enter_context(application_telemetry(service_name="testbed-edge", instance_id=settings.edge_id))
            edge = Edge(settings, resources=resources)
            if settings.edges_in_process == 1:
                run_blocking(edge, settings)
            else:
                asyncio.run(run_many(edge, settings))
    except (TestbedError, EdgeError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
