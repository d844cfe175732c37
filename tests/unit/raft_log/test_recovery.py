"""A damaged directory is reported, moved aside only when somebody vouches for the others, and never half moved."""

from __future__ import annotations

from pathlib import Path

import pytest

from consistency_service.adapters.raft_log.disk import SystemFiles
from consistency_service.adapters.raft_log.journal import Journal
from consistency_service.adapters.raft_log.recovery import inspect, recover
from consistency_service.adapters.raft_log.snapshots import FORMAT, Snapshot, SnapshotStore
from consistency_service.errors import LogStorageError


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Of a node that voted, with twenty entries and a snapshot."""
    journal = Journal(tmp_path, node_id="n1", files=SystemFiles())
    for index in range(1, 21):
        journal.add(b"x", index, 1)
        journal.sync()
    journal.setCurrentTerm(3, "n2")
    journal.close()
    store = SnapshotStore(tmp_path, files=SystemFiles())
    store.write_nowait(Snapshot(format=FORMAT, previous=(b"x", 9, 1), last=(b"x", 10, 1), state=b"s"))
    store.finish_nowait()
    (tmp_path / "lock").touch()
    return tmp_path


def flip(path: Path, *, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_nothing_is_found_and_nothing_moved_where_nothing_is_wrong(directory):
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    recovery = recover(directory, node_id="n1", others_hold_quorum=True)

    assert recovery.moved_to is None
    assert [None, None, None] == [finding.damage for finding in recovery.findings]
    assert before == {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize(
    ("name", "offset", "damage"),
    [("journal", 30, "offset 8: damaged"), ("snapshot", 5, "offset 0: checksum"), ("journal", 0, "offset 0: not a")],
)
def test_damage_is_named_and_left_alone_until_somebody_vouches_for_the_others(directory, name, offset, damage):
    flip(directory / name, offset=offset)
    found = [finding for finding in inspect(directory) if finding.damage is not None]

    assert [directory / name] == [finding.path for finding in found]
    assert damage in str(found[0].damage)
    with pytest.raises(LogStorageError, match="hold a quorum"):
        recover(directory, node_id="n1", others_hold_quorum=False)
    assert (directory / "vote").exists()
    assert (directory / "journal").exists()


def test_what_is_moved_aside_is_kept_and_the_node_knows_that_it_forgot(directory):
    flip(directory / "journal", offset=30)
    journal = (directory / "journal").read_bytes()
    recovery = recover(directory, node_id="n1", others_hold_quorum=True)

    assert directory / "damaged-1" == recovery.moved_to
    assert journal == (directory / "damaged-1" / "journal").read_bytes()
    assert {"journal", "vote", "snapshot"} == {path.name for path in (directory / "damaged-1").iterdir()}
    again = Journal(directory, node_id="n1", files=SystemFiles())
    assert (True, 0) == (again.rejoining, len(again))
    again.rejoined()
    again.close()
    assert not Journal(directory, node_id="n1", files=SystemFiles()).rejoining


def test_a_missing_file_beside_others_is_damage(directory):
    (directory / "journal").unlink()

    assert "missing" in str(inspect(directory)[0].damage)


def test_the_directory_of_a_running_node_is_left_alone(directory):
    import fcntl

    with (directory / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(LogStorageError, match="running node"):
            recover(directory, node_id="n1", others_hold_quorum=True)
