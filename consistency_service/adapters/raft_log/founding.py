"""The directory of a node with which a restored cluster begins: one voter, one snapshot, one new history.

One node and no more is founded so. Two that each begin from a file could begin from two different files, or in two
epochs, and their logs would agree on every index and differ in what it means. All others join it with empty directories.
"""

from __future__ import annotations

from typing import Final

from consistency_service.adapters.raft_log import disk, process, records, snapshots, vote
from consistency_service.adapters.raft_log.config import RaftLogConfig
from consistency_service.adapters.raft_log.disk import Files, SystemFiles
from consistency_service.adapters.raft_log.frames import NO_OP
from consistency_service.adapters.raft_log.membership import Member, Members
from consistency_service.adapters.raft_log.recovery import NAMES
from consistency_service.adapters.raft_log.snapshots import FORMAT, Snapshot
from consistency_service.errors import LogStorageError

FIRST_INDEX: Final = 1_000
"""Behind what any empty log holds, so that whoever joins must take the snapshot, and its lineage with it."""
TERM: Final = 1


def found(config: RaftLogConfig, *, state: bytes, lineage: int, files: Files | None = None) -> None:
    """The directory of `config` holds a log that begins with `state`, and a table of members with this node alone.

    Raises `LogStorageError` if it holds a log already, or a node runs on it. Whatever stops it leaves a directory on which
    no node starts, and on which the same call can be made again once its files are removed.
    """
    own, directory = config.node_id, config.data_dir
    files = files or SystemFiles()
    lock = process.take_directory(directory)
    try:
        if any(files.read(directory / name) is not None for name in NAMES):
            raise LogStorageError(
                f"{directory} holds a log already: restore into an empty directory, or remove it first"
            )
        entries = [(NO_OP, FIRST_INDEX, TERM), (NO_OP, FIRST_INDEX + 1, TERM)]
        snapshot = Snapshot(
            format=FORMAT,
            previous=entries[0],
            last=entries[1],
            state=state,
            members=Members({own: Member(config.peers[own], config.urls.get(own, ""), votes=True)}),
            lineage=lineage,
        )
        snapshots.write(snapshot, path=directory / "snapshot.written", files=files)
        disk.publish(files, directory / "snapshot.written", target=directory / "snapshot")
        disk.write_pieces(files, directory / "journal.new", pieces=records.file_pieces(entries))
        disk.publish(files, directory / "journal.new", target=directory / "journal")
        # A journal without a vote is refused at a start, so this comes last.
        vote.create(directory / "vote", vote=vote.first(own, rejoining=False), files=files)
    finally:
        lock.close()
