"""What all acts of the demo are played with: waiting while the edges are shown, and the record of what was done.

Picture a stage manager: he knows who must be alive, how much time is left, and what is awaited at the moment, so that
whatever goes wrong is said by name.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

from consistency_service.testbed.demo_facts import Facts
from consistency_service.testbed.demo_region import RegionCalls
from consistency_service.testbed.demo_view import View
from consistency_service.testbed.edge_status import read_status
from consistency_service.testbed.errors import TestbedError
from consistency_service.testbed.history import Operation
from consistency_service.testbed.processes import Condition
from consistency_service.testbed.recorder import line_of
from consistency_service.testbed.supervisor import Testbed, logs

POLL_S: Final = 0.1
ALIVE_S: Final = 1.0

T = TypeVar("T")


class Play:
    """One performance in progress: what it has, what was seen, and how much time is left."""

    def __init__(self, *, view: View, directory: Path, edges: list[str], deadline_s: float) -> None:
        """`deadline_s` is an instant of `time.monotonic`, after which nothing is waited for."""
        self.view = view
        self.directory = directory
        self.edges = edges
        self.facts = Facts()
        self.testbed: Testbed | None = None
        self._deadline_s = deadline_s
        self._over = False
        self._awaited = "the demo"
        self._looked_s = 0.0

    def region(self) -> RegionCalls:
        """Calls to the nodes of the testbed, which has started."""
        assert self.testbed is not None
        urls = {process.name: process.url for process in self.testbed.state.processes}
        nodes = {name: url for name, url in urls.items() if url is not None and name.startswith("node-")}
        return RegionCalls(nodes, remaining_s=self.remaining_s)

    @property
    def history(self) -> Path:
        """The directory of what was recorded."""
        return self.directory / "history"

    def close(self) -> None:
        """No call and no waiting goes on."""
        self._over = True

    # ---- waiting

    def watch(self, what: str, duration_s: float) -> None:
        until_s = time.monotonic() + duration_s
        self.until(what, lambda: time.monotonic() >= until_s)

    def background(self, what: str, work: Callable[[], T]) -> T:
        """What `work` returns, while the edges are shown."""
        job = _Job(work)
        self.until(what, lambda: job.done)
        return job.result()

    def until(self, what: str, done: Callable[[], bool]) -> None:
        """`done()`. Raises `TestbedError` that names what was awaited when time is up, or a process ended by itself."""
        self.awaiting(what)
        while True:
            self.look()
            if done():
                return
            self._require_alive()
            if self.remaining_s() <= 0:
                raise TestbedError(f"time is up; awaited: {self._awaited}")
            time.sleep(POLL_S)

    def awaiting(self, what: str) -> None:
        self._awaited = what
        self.view.awaiting(what)

    def remaining_s(self) -> float:
        return 0.0 if self._over else self._deadline_s - time.monotonic()

    # ---- looking

    def look(self) -> None:
        """The facts and the view have what the edges said last."""
        for edge in self.edges:
            status = read_status(self.directory / "region" / "edges" / f"{edge}.json")
            if status is not None:
                self.facts.statuses[edge] = status
        self.view.show(self.facts)

    def all_strong(self, version: str) -> bool:
        found = [self.facts.statuses.get(edge) for edge in self.edges]
        return all(one is not None and one.version == version and one.guarantee == "strong" for one in found)

    def all_made(self, change: str) -> bool:
        """Every edge has read the generation of this change."""
        return all(self.facts.made(change, edge) for edge in self.edges)

    def record(self, operation: Operation) -> None:
        """What the demo itself did is in the history."""
        with (self.history / "demo.jsonl").open("ab") as file:
            file.write(line_of(operation))

    def _require_alive(self) -> None:
        if self.testbed is None or time.monotonic() - self._looked_s < ALIVE_S:
            return
        self._looked_s = time.monotonic()
        for process in self.testbed.state.processes:
            if process.condition is Condition.STOPPED and process.name != self.facts.killed:
                words = " / ".join(logs(self.testbed.directory, process.name, lines=3))
                raise TestbedError(f"{process.name} ended by itself (exit code {process.exit_code}): {words[-500:]}")


class _Job(Generic[T]):
    """Work in a thread that nobody waits for at the end of the process."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._outcome: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="demo-work", daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._outcome[0]

    def _run(self) -> None:
        try:
            self._outcome.append(self._work())
        except BaseException as error:  # raised again where it is waited for
            self._error = error
