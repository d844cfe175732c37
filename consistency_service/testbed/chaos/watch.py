"""Looks at what edges say of themselves, a few times a second, and never forgets a bad word."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from consistency_service.testbed.chaos.verdict import Watched
from consistency_service.testbed.edge_session import boottime_ns
from consistency_service.testbed.edge_status import EdgeStatus, read_status

LOOK_S: Final = 0.1
FRESH_NS: Final = 2_000_000_000

Position = tuple[int, int]


class Watch:
    """A thread that looks until `stop`."""

    def __init__(self, directory: Path, *, edges: Sequence[str]) -> None:
        self._paths = {edge: directory / "edges" / f"{edge}.json" for edge in edges}
        self._seen: dict[tuple[str, int], EdgeStatus] = {}
        self._regressions: list[str] = []
        self._looks = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chaos-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> Watched:
        """What was seen."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        wrong = [
            f"{session.edge_id} (process {pid}): {session.wrong_reads} readings; the last: {session.last_wrong}"
            for (_, pid), status in self._seen.items()
            for session in status.sessions
            if session.wrong_reads
        ]
        return Watched(looks=self._looks, lives=len(self._seen), regressions=self._regressions, wrong_reads=wrong)

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S):
            for edge, path in self._paths.items():
                status = read_status(path)
                if status is not None:
                    self._look(edge, status)

    def _look(self, edge: str, status: EdgeStatus) -> None:
        self._looks += 1
        before = self._seen.get((edge, status.pid))
        if before is not None and (status.position or (0, 0)) < (before.position or (0, 0)):
            self._regressions.append(f"{edge} (process {status.pid}) went from {before.position} to {status.position}")
        self._seen[edge, status.pid] = status


def behind(directory: Path, *, edges: Sequence[str], generations: Mapping[str, int], position: Position) -> str:
    """Which edge is not strong at these generations and at least at this position, and why; empty if all are."""
    for edge in edges:
        status = read_status(directory / "edges" / f"{edge}.json")
        if status is None or boottime_ns() - status.at_ns > FRESH_NS:
            return f"{edge} says nothing"
        if (status.position or (0, 0)) < position:
            return f"{edge} is at {status.position}, the region at {position}"
        for session in status.sessions:
            if session.guarantee != "strong" or session.generation != generations[session.model]:
                return (
                    f"{edge} serves {session.model} generation {session.generation} as {session.guarantee}, the region "
                    f"is at {generations[session.model]} ({session.last_error or 'no error'})"
                )
    return ""
