"""The whole product in a minute: a region here, a real model, a better one, a murder, and the books afterwards.

Five edge processes classify handwritten digits they have never seen. While they run, a better model is activated, and
all of them change at one instant; then the leader is killed, and none of them loses `strong`. Everything that was read is
recorded and checked. `run` says at the end what was not as promised, and takes everything down, whatever happens.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import msgspec

from consistency_service.errors import ServiceError
from consistency_service.testbed.demo_facts import Facts, Summary, summarize
from consistency_service.testbed.demo_region import Accepted, RegionCalls
from consistency_service.testbed.demo_view import View, view_of
from consistency_service.testbed.digits import (
    MANIFEST,
    MODEL,
    DigitModel,
    Digits,
    classify,
    load_held_out,
    load_onnx,
    make_digits,
)
from consistency_service.testbed.edge_session import boottime_ns
from consistency_service.testbed.edge_status import read_status
from consistency_service.testbed.errors import TestbedError
from consistency_service.testbed.history import Operation, check, read_files
from consistency_service.testbed.processes import Condition
from consistency_service.testbed.recorder import line_of
from consistency_service.testbed.supervisor import Testbed, logs
from consistency_service.testbed.topology import TestbedConfig

DEADLINE_S: Final = 120.0
"""From the start to the end of everything."""
TEARDOWN_S: Final = 15.0
"""Kept for taking everything down, checking and summing up."""
WATCH_S: Final = 5.0
"""How long the edges work with each version before the next thing happens."""
AFTERMATH_S: Final = 6.0
"""How long is watched after the leader was killed: three leases."""
READY_MS: Final = 60_000
READ_INTERVAL_MS: Final = 2.0
POLL_S: Final = 0.1
INTERRUPTED: Final = 130

T = TypeVar("T")


def run(
    *,
    directory: Path | None = None,
    edges: int = 5,
    nodes: int = 3,
    json_output: bool = False,
    deadline_s: float = DEADLINE_S,
) -> int:
    """Show it, and return the exit code: 0 only if everything was as promised, 130 after Ctrl-C.

    Works in a new directory inside `directory`, which stays; without one in a temporary directory, which goes unless
    something went wrong. Ends within `deadline_s`; with one node nobody is killed.
    """
    with _terminable(), view_of(json_output=json_output) as view:
        home = _home(directory)
        demo = Demo(view=view, directory=home, edges=edges, nodes=nodes, deadline_s=deadline_s)
        trouble: str | None = None
        interrupted = False
        try:
            demo.play()
        except ServiceError as error:
            trouble = str(error)
        except KeyboardInterrupt:
            trouble, interrupted = "interrupted", True
        finally:
            demo.end()
        summary = demo.summary(trouble)
        if interrupted:
            view.say("interrupted; everything was taken down")
        else:
            view.conclude(summary)
    if json_output:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(summary), indent=2).decode() + "\n")
    if directory is None and (summary.ok or interrupted):
        shutil.rmtree(home, ignore_errors=True)
    return INTERRUPTED if interrupted else 0 if summary.ok else 1


class Demo:
    """One performance. `play`, then `end` in any case, then `summary`."""

    def __init__(self, *, view: View, directory: Path, edges: int, nodes: int, deadline_s: float) -> None:
        self._view = view
        self._directory = directory
        self._edges = [f"edge-{number}" for number in range(1, edges + 1)]
        self._node_count = nodes
        self._deadline_s = time.monotonic() + deadline_s - TEARDOWN_S
        self._ended = False
        self._awaited = "the demo"
        self._testbed: Testbed | None = None
        self._calls: RegionCalls | None = None
        self._looked_s = 0.0
        self._facts = Facts(versions=("", ""))

    def play(self) -> None:
        """Everything happened. Raises `ServiceError` if something did not, or not in time."""
        view, facts = self._view, self._facts
        self._await("training two digit classifiers")
        digits = make_digits(self._directory / "digits")
        weak, strong = digits.weak, digits.strong
        facts.versions = (weak.version, strong.version)
        facts.predicted = {model.version: _predictions(model, digits) for model in (weak, strong)}
        for model in (weak, strong):
            size_kb = model.path.stat().st_size / 1_000
            view.say(f"{MODEL} {model.version}: {100 * model.accuracy:.1f} % right, {size_kb:.0f} kB of ONNX")
        calls = self._start(digits)

        self._swap(calls, weak, first=True)
        self._until("all edges to serve it strongly", lambda: self._all_strong(weak.version))
        self._watch("edges classify images they have never seen", WATCH_S)

        self._swap(calls, strong, first=False)
        self._until("all edges to make the switch", lambda: self._all_strong(strong.version) and self._all_switched())
        view.say(f"all {len(self._edges)} edges serve {strong.version}; spread {facts.spread_ms() or 0:.2f} ms")
        self._watch("edges classify with the better model", WATCH_S)

        if self._node_count > 1:
            self._kill_leader(calls)

    def end(self) -> None:
        """Nothing runs any more, and the edges' last words are read."""
        self._ended = True
        self._view.awaiting("taking everything down")
        try:
            if self._testbed is not None:
                self._testbed.stop()
        finally:
            if self._calls is not None:
                self._calls.close()
            self._look()

    def summary(self, trouble: str | None) -> Summary:
        """What came of it; the history is checked here."""
        facts = self._facts
        paths = sorted((self._directory / "history").glob("*.jsonl"))
        if paths:
            self._view.awaiting("checking the history")
            try:
                facts.verdict = check(read_files(paths))
            except ServiceError as error:
                trouble = trouble or str(error)
        return summarize(
            facts,
            edges=self._edges,
            trouble=trouble,
            duration_s=self._view.elapsed_s,
            directory=str(self._directory),
            failover=self._node_count > 1,
        )

    # ---- scenes

    def _start(self, digits: Digits) -> RegionCalls:
        self._await("starting NATS, Redis, nodes and edges")
        history = self._directory / "history"
        history.mkdir()
        config = TestbedConfig(
            directory=self._directory / "region",
            nodes=self._node_count,
            edges=len(self._edges),
            models=(MODEL,),
            ready_timeout_ms=max(1, min(READY_MS, int(self._remaining_s() * 1_000))),
            edge_options={
                "workload": "classify",
                "loader": "onnx",
                "held_out": str(digits.held_out),
                "manifest": str(digits.held_out.with_name(MANIFEST)),
                "history_file": str(history / "{edge_id}.jsonl"),
                "read_interval_ms": READ_INTERVAL_MS,
            },
        )
        self._testbed = Testbed(config, progress=self._view.say)
        state = self._testbed.start()
        urls = {process.name: process.url for process in state.processes if process.name.startswith("node-")}
        self._calls = RegionCalls(
            {name: url for name, url in urls.items() if url is not None}, remaining_s=self._remaining_s
        )
        return self._calls

    def _swap(self, calls: RegionCalls, model: DigitModel, *, first: bool) -> None:
        """The version is active, and its caller was told."""
        facts, view = self._facts, self._view
        begun_ns = boottime_ns()

        def accepted(decided: Accepted) -> None:
            view.say(
                f"activation of {model.version} decided as generation {decided.generation}; all change at one instant"
            )
            if not first:
                facts.accepted = decided

        def work() -> None:
            calls.push(MODEL, version=model.version, path=model.path, digest=model.digest)
            operation = calls.activate(MODEL, version=model.version, on_accepted=accepted)
            self._record(operation)
            self._record(calls.read_active(MODEL))
            if not first:
                facts.told_ns = operation.returned_ns

        self._background(f"activating {MODEL} {model.version}", work)
        view.say(
            f"{model.version} is active; pushed, prefetched and activated in {(boottime_ns() - begun_ns) / 1e9:.1f} s"
        )

    def _kill_leader(self, calls: RegionCalls) -> None:
        """The leader is dead, and a change was committed without it; its aftermath was watched."""
        facts, view = self._facts, self._view
        leader = self._background("asking who leads", calls.leader)
        assert self._testbed is not None
        self._until("all edges to be strong", lambda: self._all_strong(facts.versions[1]))
        facts.statuses_at_kill = dict(facts.statuses)
        killed_s = time.monotonic()
        calls.forget(leader)
        self._testbed.kill(leader)
        facts.killed = leader
        view.say(f"killed {leader}, the leader (SIGKILL)")

        def work() -> None:
            calls.commit_something(MODEL, number=1)
            facts.commit_after_ms = (time.monotonic() - killed_s) * 1_000
            facts.leader_after = calls.leader()
            view.say(
                f"{facts.leader_after} leads; a change was committed {facts.commit_after_ms:,.0f} ms after the kill"
            )
            self._record(calls.read_active(MODEL))

        self._background("a change to be committed without it", work)
        self._watch("no edge loses strong", max(0.0, AFTERMATH_S - (time.monotonic() - killed_s)))

    # ---- waiting

    def _watch(self, what: str, duration_s: float) -> None:
        until_s = time.monotonic() + duration_s
        self._until(what, lambda: time.monotonic() >= until_s)

    def _background(self, what: str, work: Callable[[], T]) -> T:
        """What `work` returns, while the edges are shown."""
        job = _Job(work)
        self._until(what, lambda: job.done)
        return job.result()

    def _until(self, what: str, done: Callable[[], bool]) -> None:
        """`done()`. Raises `TestbedError` that names what was awaited when time is up, or a process ended by itself."""
        self._await(what)
        while True:
            self._look()
            if done():
                return
            self._require_alive()
            if self._remaining_s() <= 0:
                raise TestbedError(f"time is up; awaited: {self._awaited}")
            time.sleep(POLL_S)

    def _await(self, what: str) -> None:
        self._awaited = what
        self._view.awaiting(what)

    def _remaining_s(self) -> float:
        return 0.0 if self._ended else self._deadline_s - time.monotonic()

    # ---- looking

    def _look(self) -> None:
        """The facts and the view have what the edges said last."""
        for edge in self._edges:
            status = read_status(self._directory / "region" / "edges" / f"{edge}.json")
            if status is not None:
                self._facts.statuses[edge] = status
        self._view.show(self._facts)

    def _all_strong(self, version: str) -> bool:
        found = [self._facts.statuses.get(edge) for edge in self._edges]
        return all(one is not None and one.version == version and one.guarantee == "strong" for one in found)

    def _all_switched(self) -> bool:
        return all(map(self._facts.switched, self._edges))

    def _require_alive(self) -> None:
        if self._testbed is None or self._calls is None or time.monotonic() - self._looked_s < 1.0:
            return
        self._looked_s = time.monotonic()
        for process in self._testbed.state.processes:
            if process.condition is Condition.STOPPED and process.name != self._facts.killed:
                words = " / ".join(logs(self._testbed.directory, process.name, lines=3))
                raise TestbedError(f"{process.name} ended by itself (exit code {process.exit_code}): {words[-500:]}")

    def _record(self, operation: Operation) -> None:
        with (self._directory / "history" / "demo.jsonl").open("ab") as file:
            file.write(line_of(operation))


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


def _home(directory: Path | None) -> Path:
    try:
        if directory is None:
            return Path(tempfile.mkdtemp(prefix="ccs-demo-"))
        directory.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="run-", dir=directory)).absolute()
    except OSError as error:
        raise TestbedError(f"cannot make a directory for the demo: {error}") from error


def _predictions(model: DigitModel, digits: Digits) -> list[bool]:
    """Whether the model is right about each held-out image, asked one at a time as the edges do."""
    images, labels = load_held_out(digits.held_out)
    session = load_onnx(model.path)
    return [bool(classify(session, images[i : i + 1])[0] == labels[i]) for i in range(len(labels))]


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Being told to terminate, or losing the terminal, is like Ctrl-C: everything is taken down."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
