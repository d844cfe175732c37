"""The whole product in two minutes: a region here, real models, a murder, a bad version found out, and the books afterwards.

Five edge processes classify handwritten digits they have never seen, and tell the region how each went. Act 1: a better
model is activated, and all of them change at one instant; then the leader is killed, and none of them loses `strong`. Act
2: a version that learnt from corrupted labels goes to a fifth of the edges; the analysis notices and takes it back. Act 3:
a good one goes everywhere, and is rolled back afterwards. Everything that was read is recorded and checked. `run` says
at the end what was promised and what was measured, and takes everything down, whatever happens.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from consistency_service.errors import ServiceError
from consistency_service.testbed.demo_facts import served_by
from consistency_service.testbed.demo_play import Play
from consistency_service.testbed.demo_region import RegionCalls
from consistency_service.testbed.demo_rollouts import complete_and_return, fail
from consistency_service.testbed.demo_summary import Summary, summarize
from consistency_service.testbed.demo_swap import kill_leader, swap
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
from consistency_service.testbed.errors import TestbedError
from consistency_service.testbed.history import check, read_files
from consistency_service.testbed.supervisor import Testbed
from consistency_service.testbed.topology import TestbedConfig

DEADLINE_S: Final = 240.0
"""From the start to the end of everything."""
TEARDOWN_S: Final = 15.0
"""Kept for taking everything down, checking and summing up."""
READY_MS: Final = 60_000
READ_INTERVAL_MS: Final = 2.0
INTERRUPTED: Final = 130


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
    something went wrong. Ends within `deadline_s`. With one node nobody is killed; with one edge there is nobody to compare
    a candidate with, so acts 2 and 3 are left out.
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
        names = [f"edge-{number}" for number in range(1, edges + 1)]
        self._play = Play(
            view=view, directory=directory, edges=names, deadline_s=time.monotonic() + deadline_s - TEARDOWN_S
        )
        self._failover = nodes > 1
        self._compares = edges > 1
        self._node_count = nodes
        self._deadline_s = deadline_s
        self._calls: RegionCalls | None = None

    def play(self) -> None:
        """Everything happened. Raises `ServiceError` if something did not, or not in time."""
        play, view = self._play, self._play.view
        play.awaiting("training four digit classifiers")
        digits = make_digits(play.directory / "digits")
        for model in digits.models:
            play.facts.predicted[model.version] = _predictions(model, digits)
            size_kb = model.path.stat().st_size / 1_000
            view.say(f"{MODEL} {model.version}: {100 * model.accuracy:.1f} % right, {size_kb:.0f} kB of ONNX")
        calls = self._start(digits)
        view.say("act 1: running edges change to a better model, and the leader dies")
        swap(play, calls, digits)
        if self._failover:
            kill_leader(play, calls)
        if self._compares:
            fail(play, calls, digits)
            complete_and_return(play, calls, digits)

    def end(self) -> None:
        """Nothing runs any more, and the edges' last words are read."""
        self._play.close()
        self._play.view.awaiting("taking everything down")
        try:
            if self._play.testbed is not None:
                self._play.testbed.stop()
        finally:
            if self._calls is not None:
                self._calls.close()
            self._play.look()

    def summary(self, trouble: str | None) -> Summary:
        """What came of it; the history is checked here."""
        play, facts = self._play, self._play.facts
        paths = sorted(play.history.glob("*.jsonl"))
        if paths:
            play.view.awaiting("checking the history")
            try:
                operations = read_files(paths)
                facts.verdict = check(operations)
                facts.served = served_by(operations)
            except ServiceError as error:
                trouble = trouble or str(error)
        return summarize(
            facts,
            edges=play.edges,
            trouble=trouble,
            duration_s=play.view.elapsed_s,
            duration_s_max=self._deadline_s,
            directory=str(play.directory),
            failover=self._failover,
            rollouts=self._compares,
        )

    def _start(self, digits: Digits) -> RegionCalls:
        play = self._play
        play.awaiting("starting NATS, Redis, nodes and edges")
        play.history.mkdir()
        config = TestbedConfig(
            directory=play.directory / "region",
            nodes=self._node_count,
            edges=len(play.edges),
            models=(MODEL,),
            ready_timeout_ms=max(1, min(READY_MS, int(play.remaining_s() * 1_000))),
            edge_options={
                "workload": "classify",
                "loader": "onnx",
                "held_out": str(digits.held_out),
                "manifest": str(digits.held_out.with_name(MANIFEST)),
                "history_file": str(play.history / "{edge_id}.jsonl"),
                "read_interval_ms": READ_INTERVAL_MS,
            },
        )
        play.testbed = Testbed(config, progress=play.view.say)
        play.testbed.start()
        self._calls = play.region()
        return self._calls


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
