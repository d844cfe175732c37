"""Rules of the log and of the shell around the cores, each switched off: some seed must notice.

A mutant patches functions of the code under test while runs last; the product knows nothing of it. `directed` sets knobs
on every seed, so that what it takes to notice happens often.
"""

# ruff: noqa: ARG005 -- what stands in for a function has its arguments

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from consistency_service.adapters.raft_log import disk
from consistency_service.adapters.raft_log.elections import Elections
from consistency_service.adapters.raft_log.journal import Journal
from consistency_service.adapters.raft_log.library import Replica
from consistency_service.adapters.raft_log.quorum import Quorum
from consistency_service.adapters.raft_log.read_index import ReadIndex
from consistency_service.adapters.raft_log.vote import Vote, VoteFile
from consistency_service.adapters.raft_log.voter import Voter
from consistency_service.core.machine import MetadataMachine
from edge_client.protocol.digest import Hasher
from edge_client.protocol.envelope import Verifier
from edge_client.runtime.state import EdgeState
from tests.simulation.clock import MS, S

Patch = pytest.MonkeyPatch
ANY_LOG = frozenset({"acknowledged", "divergence", "fatal", "leader", "once", "start", "vote"})
"""What may come of a log that forgets."""


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One rule off."""

    name: str
    install: Callable[[Patch], None] = field(repr=False)
    breaks: frozenset[str]
    known_seed: int = 0
    """One that catches it, until a change of the product shuffles what seeds do."""
    caught_within: int = 60
    directed: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


def _directed(*faults: str, **knobs: Any) -> dict[str, Any]:
    return {"faults": frozenset(faults), "duration_ns": 8 * S, "fault_every_ns": 400 * MS} | knobs


# ---- durability


def acknowledged_before_durable(patch: Patch) -> None:
    """Whatever is in memory counts as held."""
    patch.setattr(Journal, "durable_through", property(lambda self: self._entries[-1][1] if self._entries else 0))


def vote_not_kept(patch: Patch) -> None:
    """Term and vote live in memory."""

    def write(self: VoteFile, *, term: int, voted_for: str | None, rejoining: bool) -> None:
        old = self.value
        self.value = Vote(
            node_id=old.node_id, number=old.number + 1, term=term, voted_for=voted_for, rejoining=rejoining
        )

    patch.setattr(VoteFile, "write", write)


def torn_record_believed(patch: Patch) -> None:
    """No checksum of a record is looked at."""
    patch.setattr(zlib, "crc32", lambda body, value=0: 0)


def truncation_in_memory_only(patch: Patch) -> None:
    """What contradicted the leader is still in the file."""
    honest = Journal.deleteEntriesFrom

    def delete(self: Journal, entry_from: int) -> None:
        file = self._file
        self._file = _NoTruncation(file)
        honest(self, entry_from)
        self._file = file

    patch.setattr(Journal, "deleteEntriesFrom", delete)


class _NoTruncation:
    def __init__(self, file: Any) -> None:
        self._file = file

    def truncate(self, size: int) -> None:
        """Nothing."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def file_published_unsynced(patch: Patch) -> None:
    """A snapshot, or a journal beside it, is renamed before its bytes are on the disk."""

    honest = disk.write_pieces

    def write_pieces(files: disk.Files, path: Path, *, pieces: Iterable[bytes]) -> int:
        return honest(_NoSync(files), path, pieces=pieces)

    patch.setattr(disk, "write_pieces", write_pieces)


class _NoSync:
    """Files that say they are durable and are not."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def open(self, path: Path, *, empty: bool = False) -> Any:
        return _NoSync(self._inner.open(path, empty=empty))

    def sync(self) -> None:
        """Nothing."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def rename_unsynced(patch: Patch) -> None:
    """The directory is not synced after a file took another's place."""
    patch.setattr(disk, "publish", lambda files, path, *, target: files.rename(path, target=target))


# ---- agreement


def own_disk_taken_for_granted(patch: Patch) -> None:
    """A leader counts what it has not synced itself."""
    honest = Quorum.held_through
    patch.setattr(Quorum, "held_through", lambda self, *, own_through: honest(self, own_through=1 << 60))


def one_follower_is_enough(patch: Patch) -> None:
    """A majority is whoever answered."""
    patch.setattr(Quorum, "_middle", lambda self, values: max(values))


def anybody_gets_the_vote(patch: Patch) -> None:
    """A candidate whose log is behind is elected too."""
    honest = Replica.vote_requested

    def vote_requested(self: Replica, node_id: str, message: Any) -> None:
        up_to_date = type(message)(
            **{name: getattr(message, name) for name in message.__struct_fields__}
            | {"last_index": 1 << 60, "last_term": 1 << 60}
        )
        honest(self, node_id, up_to_date)

    patch.setattr(Replica, "vote_requested", vote_requested)
    patch.setattr(Elections, "would_vote", lambda self, candidate, *, own, now_ns: True)


def read_without_asking_around(patch: Patch) -> None:
    """Whoever believes that it leads answers at once."""
    patch.setattr(Voter, "heard_through", property(lambda self: 1 << 60))


def read_before_it_applied(patch: Patch) -> None:
    """A read does not wait until its place is applied here."""
    honest = ReadIndex.step

    def step(self: ReadIndex, *, now_ns: int) -> None:
        honest(self, now_ns=now_ns)
        while self._applying:
            index, number = self._applying.popleft()
            self._resolve(number, index)

    patch.setattr(ReadIndex, "step", step)


def request_ids_dropped_with_a_snapshot(patch: Patch) -> None:
    honest = MetadataMachine.restore

    def restore(self: MetadataMachine, payload: bytes) -> None:
        honest(self, payload)
        self.state.requests.clear()

    patch.setattr(MetadataMachine, "restore", restore)


# ---- the edge


class _Whatever:
    """Equal to every digest."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True


def digest_not_verified(patch: Patch) -> None:
    patch.setattr(Hasher, "digest", lambda self: _Whatever())


def signature_not_verified(patch: Patch) -> None:
    patch.setattr(Verifier, "open", lambda self, frame, *, bytes_max: frame[73:])


def restored_is_strong(patch: Patch) -> None:
    """What the local tier kept is as good as a lease."""
    honest = EdgeState.restored

    def restored(self: EdgeState, words: Any, *, kept_unix_ms: int | None, now_ns: int) -> bool:
        done = honest(self, words, kept_unix_ms=kept_unix_ms, now_ns=now_ns)
        if done:
            self._reader._lease_until_ns = now_ns + 5 * S
            self._show_all(now_ns=now_ns)
        return done

    patch.setattr(EdgeState, "restored", restored)


MUTANTS = (
    Mutant(
        name="acknowledged before durable",
        known_seed=9,
        install=acknowledged_before_durable,
        breaks=ANY_LOG,
        directed=_directed("blackout", "disk_slow", sync_inline_max_us=0),
    ),
    Mutant(
        name="own disk taken for granted",
        known_seed=7,
        install=own_disk_taken_for_granted,
        breaks=ANY_LOG,
        directed=_directed("blackout", "disk_slow", sync_inline_max_us=0),
    ),
    Mutant(
        name="vote not kept",
        known_seed=32,
        install=vote_not_kept,
        breaks=ANY_LOG,
        directed=_directed("blackout", "disk_slow", sync_inline_max_us=0),
    ),
    Mutant(
        name="torn record believed",
        install=torn_record_believed,
        breaks=ANY_LOG,
        directed=_directed("power", contents="zeroed", fault_every_ns=200 * MS),
    ),
    Mutant(
        name="truncation in memory only",
        known_seed=10,
        install=truncation_in_memory_only,
        breaks=ANY_LOG,
        directed=_directed("partition", "kill", "power", "pause"),
    ),
    Mutant(
        name="file published unsynced",
        install=file_published_unsynced,
        breaks=ANY_LOG,
        directed=_directed("power", compaction_min_entries=10),
    ),
    Mutant(
        name="rename unsynced",
        install=rename_unsynced,
        breaks=ANY_LOG,
        directed=_directed("power", "blackout", compaction_min_entries=10),
    ),
    Mutant(
        name="one follower is enough",
        known_seed=1,
        install=one_follower_is_enough,
        breaks=ANY_LOG | {"barrier"},
        directed=_directed("partition", "kill", "pause", nodes=5),
    ),
    Mutant(
        name="anybody gets the vote",
        install=anybody_gets_the_vote,
        breaks=ANY_LOG,
        directed=_directed("partition", "kill", "pause"),
    ),
    Mutant(
        name="read without asking around",
        known_seed=11,
        install=read_without_asking_around,
        breaks=frozenset({"barrier", "active", "inversion"}),
        directed=_directed("pause", "partition", "hiccup", work_every_ns=50 * MS),
    ),
    Mutant(
        name="read before it applied",
        known_seed=1,
        install=read_before_it_applied,
        breaks=frozenset({"barrier", "active", "inversion"}),
        directed=_directed("pause", "partition", "slow_network", work_every_ns=50 * MS),
    ),
    Mutant(
        name="request ids dropped with a snapshot",
        install=request_ids_dropped_with_a_snapshot,
        breaks=frozenset({"divergence", "once", "acknowledged"}),
        directed=_directed("power", "kill", compaction_min_entries=10),
    ),
    Mutant(
        name="digest not verified",
        install=digest_not_verified,
        breaks=frozenset({"digest"}),
        directed=_directed("artifacts"),
    ),
    Mutant(
        name="signature not verified",
        install=signature_not_verified,
        breaks=frozenset({"history", "active", "inversion", "bound", "uncaught"}),
        directed=_directed("forgery"),
    ),
    Mutant(
        name="restored is strong",
        known_seed=1,
        install=restored_is_strong,
        breaks=frozenset({"active", "inversion"}),
        directed=_directed("edge_restart", "bus_down", "bus_partition", work_every_ns=100 * MS),
    ),
)
