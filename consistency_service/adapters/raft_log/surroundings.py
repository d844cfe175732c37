"""What a log finds around itself: a directory, a disk, threads, sockets and chance.

One value, so that a simulation can put the real log into a world of its own: with a disk that forgets, a network in
memory, workers without threads, and chance from a seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random, SystemRandom
from typing import Final, Protocol

from consistency_service.adapters.raft_log.config import RaftLogConfig
from consistency_service.adapters.raft_log.disk import Files, SystemFiles
from consistency_service.adapters.raft_log.process import take_directory
from consistency_service.adapters.raft_log.transport import PeerTransport
from consistency_service.adapters.raft_log.worker import ThreadWorker, Worker


class Claim(Protocol):
    """A directory that is ours until closed."""

    def close(self) -> None: ...


class MakeWorker(Protocol):
    def __call__(self, *, name: str, wake: Callable[[], None]) -> Worker: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    claim: Callable[[Path], Claim]
    """Raises `LogStorageError` when the directory is taken."""

    files: Callable[[RaftLogConfig], Files]
    worker: MakeWorker
    transport: type[PeerTransport]
    random: Random = field(default_factory=SystemRandom)


def _system_files(config: RaftLogConfig) -> Files:
    return SystemFiles(durable=config.durability == "fsync")


SYSTEM: Final = Surroundings(
    claim=take_directory, files=_system_files, worker=ThreadWorker, transport=PeerTransport, random=SystemRandom()
)
"""The operating system's own."""
