"""Slow work off the event loop: one piece at a time, looked at later, never called back into.

A thread that changed the log's memory would need locks everywhere. So a piece of work gets only bytes and a file, says
nothing, and rings a bell when it is finished; whoever started it looks at the next tick.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Protocol


class Job:
    """Not `done`, or done with `error` set if it raised."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._finished = threading.Event()
        self.error: Exception | None = None

    @property
    def done(self) -> bool:
        return self._finished.is_set()

    def wait(self) -> None:
        self._finished.wait()

    def run(self) -> None:
        try:
            self._work()
        except Exception as error:
            self.error = error
        self._finished.set()


class Worker(Protocol):
    def start(self, work: Callable[[], None]) -> Job:
        """`work` runs once, after everything started before it."""
        ...

    def close(self) -> None:
        """Everything started has run."""
        ...


class ThreadWorker:
    """A thread, made at the first job. `wake` is called on it after each."""

    def __init__(self, *, name: str, wake: Callable[[], None]) -> None:
        self._name = name
        self._wake = wake
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self, work: Callable[[], None]) -> Job:
        job = Job(work)
        self._jobs.put(job)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        return job

    def close(self) -> None:
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run()
            self._wake()


class NoWorker:
    """Everything is done when `start` returns."""

    def start(self, work: Callable[[], None]) -> Job:
        job = Job(work)
        job.run()
        return job

    def close(self) -> None:
        """Nothing is under way."""
