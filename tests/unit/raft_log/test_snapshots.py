"""A snapshot is whole or refused, and an older one never takes the place of a newer."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from consistency_service.adapters.raft_log.disk import SystemFiles, sealed
from consistency_service.adapters.raft_log.snapshots import FORMAT, Snapshot, SnapshotStore
from consistency_service.adapters.raft_log.worker import Job
from consistency_service.errors import LogStorageError
from tests.support.forgetful_disk import ForgetfulDisk


def snapshot(index: int, *, state: bytes = b"state" * 300) -> Snapshot:
    return Snapshot(format=FORMAT, previous=(b"p", index - 1, 1), last=(b"l", index, 1), state=state)


def finished(store: SnapshotStore) -> bool | None:
    return store.finish_nowait()


def store_in(directory) -> SnapshotStore:
    return SnapshotStore(directory, files=SystemFiles())


def stored(directory, index: int) -> SnapshotStore:
    store = store_in(directory)
    store.write_nowait(snapshot(index))
    assert finished(store) is True
    return store


def parts(store: SnapshotStore, *, size: int) -> list[tuple[bytes, bool]]:
    transfer = store.open_transfer()
    data = transfer.file.read(1 << 20)
    transfer.close()
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    return [(piece, place == len(pieces) - 1) for place, piece in enumerate(pieces)]


def test_what_was_written_is_read_in_another_life(tmp_path):
    stored(tmp_path, 10)

    assert snapshot(10) == store_in(tmp_path).read()


def test_success_is_told_once(tmp_path):
    store = stored(tmp_path, 10)

    assert store.finish_nowait() is None
    assert not store.writing


def test_every_flipped_or_missing_byte_is_refused(tmp_path):
    store = store_in(tmp_path)
    store.write_nowait(snapshot(10, state=b"s"))
    finished(store)
    path = tmp_path / "snapshot"
    good = path.read_bytes()
    for offset in range(len(good)):
        path.write_bytes(good[:offset] + bytes([good[offset] ^ 1]) + good[offset + 1 :])
        with pytest.raises(LogStorageError, match="snapshot: "):
            store.read()
        path.write_bytes(good[:offset])
        with pytest.raises(LogStorageError, match="snapshot: "):
            store.read()


def test_a_failed_write_is_told_and_counted_and_gives_its_room_back():
    memory = ForgetfulDisk()
    store = SnapshotStore(Path("/virtual"), files=memory)
    store.write_nowait(snapshot(10))
    store.finish_nowait()
    memory.full = True
    store.write_nowait(snapshot(20))

    assert finished(store) is False
    assert store.failure_count == 1
    assert snapshot(10) == store.read()
    assert ["/virtual/snapshot"] == list(memory.names)


def test_a_part_for_which_there_is_no_room_is_refused_and_the_next_transfer_begins_anew(tmp_path):
    source = stored(tmp_path / "a", 10)
    memory = ForgetfulDisk(full=True)
    target = SnapshotStore(Path("/virtual"), files=memory)
    pieces = parts(source, size=1_000)

    assert target.take_part(pieces[0][0], number=0, last=False) is False
    assert [] == list(memory.names)
    memory.full = False
    answers = [target.take_part(data, number=number, last=last) for number, (data, last) in enumerate(pieces)]
    assert snapshot(10) == answers[-1]


def test_parts_in_order_make_the_snapshot_once_installed(tmp_path):
    source, target = stored(tmp_path / "a", 10), store_in(tmp_path / "b")
    answers = [
        target.take_part(data, number=number, last=last) for number, (data, last) in enumerate(parts(source, size=100))
    ]

    assert [True] * (len(answers) - 1) == answers[:-1]
    assert snapshot(10) == answers[-1]
    assert target.read() is None
    target.install()
    assert snapshot(10) == target.read()


@pytest.fixture(autouse=True)
def directories(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()


def test_a_part_out_of_order_or_of_another_snapshot_is_refused(tmp_path):
    source, target = stored(tmp_path / "a", 10), store_in(tmp_path / "b")
    (first, _), (second, _), *_ = parts(source, size=100)

    assert target.take_part(second, number=1, last=False) is False
    assert target.take_part(first, number=0, last=False) is True
    assert target.take_part(second, number=2, last=False) is False
    assert target.take_part(second, number=1, last=True) is False
    assert target.read() is None


def test_an_older_one_being_written_gives_way_to_one_that_arrived(tmp_path):
    source, target = stored(tmp_path / "a", 30), store_in(tmp_path / "b")
    target.write_nowait(snapshot(20))
    for number, (data, last) in enumerate(parts(source, size=1_000)):
        target.take_part(data, number=number, last=last)
    target.install()

    assert finished(target) is False
    assert snapshot(30) == target.read()


class Later:
    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def start(self, work) -> Job:
        self.jobs.append(Job(work))
        return self.jobs[-1]

    def close(self) -> None:
        """Nothing runs by itself."""


def arrived(directory, pieces: list[tuple[bytes, bool]]) -> tuple[SnapshotStore, Later]:
    worker = Later()
    target = SnapshotStore(directory, files=SystemFiles(), worker=worker)
    answers = [target.take_part(data, number=number, last=last) for number, (data, last) in enumerate(pieces)]
    assert answers[-1] is None
    return target, worker


def test_the_last_part_is_answered_when_the_thread_has_read_the_whole(tmp_path):
    target, worker = arrived(tmp_path / "b", parts(stored(tmp_path / "a", 10), size=100))

    assert target.verified_nowait() is None
    worker.jobs.pop().run()
    assert snapshot(10) == target.verified_nowait()
    assert target.verified_nowait() is None


def test_a_damaged_whole_is_refused_once_and_counted(tmp_path):
    pieces = parts(stored(tmp_path / "a", 10), size=100)
    pieces[3] = (bytes(100), False)
    target, worker = arrived(tmp_path / "b", pieces)
    worker.jobs.pop().run()

    assert target.verified_nowait() is False
    assert target.verified_nowait() is None
    assert target.failure_count == 1


def test_a_transfer_that_begins_anew_makes_one_being_read_worthless(tmp_path):
    pieces = parts(stored(tmp_path / "a", 10), size=100)
    target, worker = arrived(tmp_path / "b", pieces)

    assert target.take_part(pieces[0][0], number=0, last=False) is True
    worker.jobs.pop().run()
    assert target.verified_nowait() is None
    assert target.take_part(pieces[1][0], number=1, last=False) is True


def test_a_transfer_ends_where_its_snapshot_does(tmp_path):
    assert stored(tmp_path / "a", 10).open_transfer().last_index == 10
    again = store_in(tmp_path / "a")
    again.read()
    assert again.open_transfer().last_index == 10
    for number, (data, last) in enumerate(parts(stored(tmp_path / "b", 20), size=1_000)):
        again.take_part(data, number=number, last=last)
    again.install()
    assert again.open_transfer().last_index == 20


def test_a_file_of_another_format_is_refused(tmp_path):
    (tmp_path / "snapshot").write_bytes(sealed(msgspec.msgpack.encode(snapshot(10))))

    with pytest.raises(LogStorageError, match="not a snapshot of this release"):
        store_in(tmp_path).read()


def test_a_written_one_is_the_newest_when_its_name_is_durable_and_no_sync_is_the_loops():
    memory, worker = ForgetfulDisk(), Later()
    store = SnapshotStore(Path("/virtual"), files=memory, worker=worker)
    store.write_nowait(snapshot(10))
    worker.jobs.pop().run()

    assert store.finish_nowait() is None
    assert memory.steps[-1] == "rename snapshot"
    assert store.writing
    worker.jobs.pop().run()
    assert store.finish_nowait() is True
    left = memory.after_power_cut(contents="dropped", names="synced")
    assert snapshot(10) == SnapshotStore(Path("/virtual"), files=left).read()
