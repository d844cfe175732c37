"""What is wrong with a node's directory, and how the node comes back when it cannot be trusted.

A voter that lost its log must not come back as if it were new: it may be the one disk, of two, that had an entry which
was acknowledged, and its vote may have been given. So it comes back as an *amnesiac*. It knows that it forgot, durably;
it neither votes nor stands, and leaders do not count it. The other voters must be a majority by themselves, elect or keep
a leader without it, and that leader, asked by the amnesiac, appends an entry *for it* and names it once a majority that the
amnesiac is no part of holds it. Once the amnesiac holds that entry, it is a voter again, by itself. Why that is enough, with
the entry e of term T, made after the memory was lost, and the majority Q that holds it:

- *Its entries.* Whatever was committed with its help before is in the log below e: the leader of T had it when it was
  elected or wrote it itself. A leader of a later term that it helped would hold e, see next, so was not there before e.
- *Its votes.* The amnesiac may have voted in a term T' > T that nobody in Q has heard of, for a candidate X that still
  counts that vote, or will when it arrives. It will do X no good. X asked before e was made and so does not hold e, and
  any majority with the amnesiac and X in it has a third member in Q. That one does not vote for X: not before it took e
  in term T, for it would have left T; not after, for its log ends later than X's. So no leader of a later term, by
  forgotten votes or not, is without e (the argument of the Raft paper, 5.4.3, with Q for the majority that stored an
  entry), and that the amnesiac votes again in T' decides nothing that was decided before. In T itself it refuses everybody:
  who stands in T has no entry of T.

An entry that was there already would not do: X might hold it. Nor would counting who else is of which term: it waits for
every voter, and a crashed one would keep the amnesiac out. Successive tables of members change nothing: a majority of
one meets a majority of the next, and neither meeting is the amnesiac, for Q is without it.

If the others are no majority by themselves, no entry will be named and the node waits for ever, harmlessly. What is
then lost can only be replaced from copies of the disks.
"""

from __future__ import annotations

import fcntl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from consistency_service.adapters.raft_log import disk, records, snapshots, vote
from consistency_service.adapters.raft_log.config import RaftLogConfig
from consistency_service.adapters.raft_log.disk import Files, SystemFiles
from consistency_service.adapters.raft_log.journal import REMEDY
from consistency_service.errors import LogStorageError

NAMES: Final = ("journal", "vote", "snapshot")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One file of a node's directory. `damage` names the offset and the reason; None: it can be read."""

    path: Path
    size_bytes: int | None
    """None: there is no such file."""
    damage: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    findings: tuple[Finding, ...]
    moved_to: Path | None
    """Where the files of the node are now; None: nothing was moved."""


def inspect(data_dir: Path) -> tuple[Finding, ...]:
    """Reads every file and changes none. Raises `LogStorageError` if a node is running on the directory."""
    with _Alone(data_dir):
        return _inspect(data_dir)


def recover(data_dir: Path, *, node_id: str, others_hold_quorum: bool) -> Recovery:
    """The directory is that of an amnesiac if it was damaged, and untouched if it was not.

    All files of the node, damaged or not, are moved aside, kept for whoever wants to look, because a log without its
    vote is worth nothing. Raises `LogStorageError` if a node is running on the directory, or if there is damage and the
    caller does not vouch that a majority of the cluster's voters, this one not counted, is intact.
    """
    with _Alone(data_dir):
        findings = _inspect(data_dir)
        if all(finding.damage is None for finding in findings):
            return Recovery(findings=findings, moved_to=None)
        if not others_hold_quorum:
            damage = "; ".join(f"{finding.path}: {finding.damage}" for finding in findings if finding.damage)
            raise LogStorageError(
                f"{damage}. Say that the other voters hold a quorum to go on: this node then forgets what it has and "
                "votes again after it caught up with them. If they hold none, restore copies of the disks instead"
            )
        files = SystemFiles()
        moved_to = _free_name(data_dir)
        moved_to.mkdir()
        files.sync_directory(data_dir)
        for name in NAMES:
            if (data := files.read(data_dir / name)) is not None:
                disk.write_file(files, moved_to / name, data=data)
        files.sync_directory(moved_to)
        # Without journal, and with the old vote or the new one, a start is refused or that of an amnesiac.
        files.unlink(data_dir / "journal")
        files.unlink(data_dir / "snapshot")
        files.sync_directory(data_dir)
        forget(data_dir, node_id=node_id, files=files)
        return Recovery(findings=findings, moved_to=moved_to)


def begin(config: RaftLogConfig, *, files: Files) -> None:
    """An empty directory of a node that is to join belongs to one that knows that it has no memory."""
    if config.join and all(files.read(config.data_dir / name) is None for name in NAMES):
        forget(config.data_dir, node_id=config.node_id, files=files)


def forget(data_dir: Path, *, node_id: str, files: Files) -> None:
    """An empty directory belongs, durably, to a node that knows that it lost its memory."""
    vote.create(data_dir / "vote", vote=vote.first(node_id, rejoining=True), files=files)


def _inspect(data_dir: Path) -> tuple[Finding, ...]:
    files = SystemFiles()
    contents = {name: files.read(data_dir / name) for name in NAMES}
    findings = []
    for name, data in contents.items():
        damage = None
        try:
            if data is not None:
                _check(name, data, path=data_dir / name)
            elif name != "snapshot" and any(other is not None for other in contents.values()):
                damage = "missing beside the others"
        except (records.DamageError, LogStorageError) as error:
            damage = str(error).removeprefix(f"{data_dir / name}: ").removesuffix(f"; {REMEDY}")
        size_bytes = None if data is None else len(data)
        findings.append(Finding(path=data_dir / name, size_bytes=size_bytes, damage=damage))
    return tuple(findings)


def _check(name: str, data: bytes, *, path: Path) -> None:
    match name:
        case "journal":
            records.decode_file(data)
        case "vote":
            vote.newest(data, path=path, remedy=REMEDY)
        case "snapshot":
            snapshots.decode(data, path=path)


def _free_name(data_dir: Path) -> Path:
    number = 1
    while (path := data_dir / f"damaged-{number}").exists():
        number += 1
    return path


class _Alone:
    """No node runs on the directory while the context lasts."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir

    def __enter__(self) -> None:
        try:
            self._lock = (self._data_dir / "lock").open("ab")
        except OSError as error:
            raise LogStorageError(f"{self._data_dir} is no node's directory: {error}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise LogStorageError(f"{self._data_dir} is used by a running node; stop it first") from error

    def __exit__(self, *_: object) -> None:
        self._lock.close()
