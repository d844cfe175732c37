"""A journal forgets what was never synced, at most; and knows damage from a torn end."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from consistency_service.adapters.raft_log.disk import SystemFiles
from consistency_service.adapters.raft_log.journal import Journal
from consistency_service.adapters.raft_log.records import MAGIC
from consistency_service.adapters.raft_log.worker import Job
from consistency_service.errors import LogStorageError
from tests.support.forgetful_disk import ForgetfulDisk, PowerCut

ENTRIES = [(b"one", 1, 0), (b"", 2, 1), (b"three" * 100, 3, 1), (b"four", 4, 2)]


def reopened(directory, *, node_id: str = "n1") -> Journal:
    return Journal(directory, node_id=node_id, files=SystemFiles())


def written(directory, entries=ENTRIES) -> Journal:
    """Each entry synced by itself."""
    journal = reopened(directory)
    for entry in entries:
        journal.add(*entry)
        journal.sync()
    return journal


def test_what_was_synced_is_there_in_another_life(tmp_path):
    written(tmp_path).close()
    journal = reopened(tmp_path)

    assert ENTRIES == journal[:]
    assert (b"three" * 100, 3, 1) == journal.entry_at(3)
    assert journal.entry_at(0) is journal.entry_at(5) is None
    assert journal.repaired_bytes == 0


def test_what_was_not_synced_is_not_in_the_file(tmp_path):
    journal = written(tmp_path)
    journal.add(b"five", 5, 2)

    assert ENTRIES == reopened(tmp_path)[:]
    journal.sync()
    assert [*ENTRIES, (b"five", 5, 2)] == reopened(tmp_path)[:]


def test_a_cut_end_stays_cut_and_can_be_written_anew(tmp_path):
    journal = written(tmp_path)
    journal.add(b"unsynced", 5, 2)
    journal.deleteEntriesFrom(2)
    journal.add(b"other", 3, 5)
    journal.sync()

    assert [*ENTRIES[:2], (b"other", 3, 5)] == reopened(tmp_path)[:]


def test_a_forgotten_beginning_stays_forgotten_and_the_end_goes_on(tmp_path):
    journal = written(tmp_path)
    journal.deleteEntriesTo(2)
    journal.add(b"five", 5, 2)
    journal.close()

    assert [*ENTRIES[2:], (b"five", 5, 2)] == reopened(tmp_path)[:]


@pytest.mark.parametrize("missing", [1, 5, 30, 39])
def test_a_torn_end_is_cut_off_and_the_rest_kept(tmp_path, missing):
    written(tmp_path).close()
    path = tmp_path / "journal"
    path.write_bytes(path.read_bytes()[:-missing])
    journal = reopened(tmp_path)

    assert ENTRIES[:3] == journal[:]
    assert journal.repaired_bytes > 0
    journal.add(b"again", 4, 3)
    journal.close()
    assert [*ENTRIES[:3], (b"again", 4, 3)] == reopened(tmp_path)[:]


def test_every_flipped_byte_before_the_last_record_is_refused_with_file_and_offset(tmp_path):
    written(tmp_path, [(b"one", 1, 0), (b"two", 2, 1), (b"three", 3, 1)]).close()
    path = tmp_path / "journal"
    good = path.read_bytes()
    last = good.rindex(b"\xc5REC")
    for offset in range(len(MAGIC), last):
        path.write_bytes(good[:offset] + bytes([good[offset] ^ 0x41]) + good[offset + 1 :])
        with pytest.raises(LogStorageError, match=r"journal: offset \d+: damaged"):
            reopened(tmp_path)

    path.write_bytes(good)
    assert len(reopened(tmp_path)) == 3


def test_term_and_vote_survive_and_belong_to_one_node(tmp_path):
    journal = written(tmp_path)
    journal.setCurrentTerm(7, "n3")

    assert (7, "n3") == (reopened(tmp_path).getCurrentTerm(), reopened(tmp_path).getVotedForNodeId())
    with pytest.raises(LogStorageError, match="belongs to node 'n1'"):
        reopened(tmp_path, node_id="n2")


@pytest.mark.parametrize("lost", ["vote", "journal"])
def test_half_of_a_memory_is_refused(tmp_path, lost):
    journal = written(tmp_path)
    journal.setCurrentTerm(1, "n1")
    journal.close()
    (tmp_path / lost).unlink()

    with pytest.raises(LogStorageError, match="missing beside"):
        reopened(tmp_path)


def test_a_damaged_vote_is_refused(tmp_path):
    written(tmp_path).close()
    path = tmp_path / "vote"
    good = path.read_bytes()
    for offset in (0, 4_000, 4_095):
        damaged = bytearray(good)
        damaged[offset] ^= 1
        damaged[4_096 + offset] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(LogStorageError, match="vote: offset 0: neither copy"):
            reopened(tmp_path)


@pytest.mark.parametrize("copy", [0, 1])
def test_one_damaged_copy_of_the_vote_is_repaired_from_the_other(tmp_path, copy):
    journal = written(tmp_path)
    journal.setCurrentTerm(7, "n3")
    journal.close()
    path = tmp_path / "vote"
    good = path.read_bytes()
    damaged = bytearray(good)
    damaged[copy * 4_096 + 3] ^= 1
    path.write_bytes(damaged)

    assert (7, "n3") == (reopened(tmp_path).getCurrentTerm(), reopened(tmp_path).getVotedForNodeId())
    assert good == path.read_bytes()


def test_a_batch_of_which_only_the_end_reached_the_disk_is_a_torn_end(tmp_path):
    """A disk takes pages in any order; nothing of this batch was acknowledged."""
    journal = written(tmp_path, ENTRIES[:2])
    for entry in ENTRIES[2:]:
        journal.add(*entry)
    start = journal._offsets[2]
    journal.close()
    path = tmp_path / "journal"
    data = bytearray(path.read_bytes())
    data[start : start + 50] = bytes(50)
    path.write_bytes(data)

    journal = reopened(tmp_path)
    assert ENTRIES[:2] == journal[:]
    assert journal.repaired_bytes > 0


def test_what_is_on_its_way_to_the_disk_is_not_durable_and_one_sync_covers_what_came_meanwhile(tmp_path):
    worker = Later()
    journal = Journal(tmp_path, node_id="n1", files=SystemFiles(), worker=worker)
    journal.add(*ENTRIES[0])
    journal.begin_sync(inline=False)
    for entry in ENTRIES[1:]:
        journal.add(*entry)
        journal.begin_sync(inline=False)

    assert (0, 1) == (journal.durable_through, len(worker.jobs))
    worker.jobs.pop().run()
    assert journal.finish_nowait()
    assert 1 == journal.durable_through
    journal.begin_sync(inline=False)
    worker.jobs.pop().run()
    assert journal.finish_nowait()
    assert 4 == journal.durable_through
    journal.check_invariants()


class Later:
    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def start(self, work) -> Job:
        self.jobs.append(Job(work))
        return self.jobs[-1]

    def close(self) -> None:
        """Nothing runs by itself."""


def test_without_room_entries_wait_and_are_written_when_there_is_some():
    memory = ForgetfulDisk()
    journal = Journal(Path("/virtual"), node_id="n1", files=memory)
    journal.add(*ENTRIES[0])
    memory.full = True
    journal.sync()

    assert (True, 0, True) == (journal.full, journal.durable_through, journal.waiting)
    journal.add(*ENTRIES[1])
    journal.setCurrentTerm(9, "n3")  # needs no room
    memory.full = False
    journal.sync()
    assert (False, 2) == (journal.full, journal.durable_through)
    again = Journal(Path("/virtual"), node_id="n1", files=memory.after_power_cut(contents="dropped", names="synced"))
    assert ENTRIES[:2] == again[:]
    assert 9 == again.getCurrentTerm()


def test_entries_torn_off_while_the_disk_is_full_leave_nothing_behind_them():
    """What half a write left in the file would otherwise follow upon other entries, whole and in order."""
    memory = ForgetfulDisk()
    journal = Journal(Path("/virtual"), node_id="n1", files=memory)
    for index in (1, 2, 3, 4):
        journal.add(b"old", index, 1)
    memory.full = True
    journal.sync()
    journal.deleteEntriesFrom(1)
    memory.full = False
    journal.add(b"new", 2, 2)
    journal.sync()

    again = Journal(Path("/virtual"), node_id="n1", files=memory.after_power_cut(contents="kept", names="latest"))
    assert [(b"old", 1, 1), (b"new", 2, 2)] == again[:]


def test_a_disk_that_fails_otherwise_is_the_end():
    memory = ForgetfulDisk()
    journal = Journal(Path("/virtual"), node_id="n1", files=memory)
    journal.add(*ENTRIES[0])
    memory.broken = True

    with pytest.raises(OSError, match="input/output") as raised:
        journal.sync()
    assert errno.EIO == raised.value.errno


def test_without_room_for_a_shorter_journal_the_longer_stays():
    memory = ForgetfulDisk()
    journal = Journal(Path("/virtual"), node_id="n1", files=memory)
    for entry in ENTRIES:
        journal.add(*entry)
    journal.sync()
    memory.full = True

    assert journal.replace(ENTRIES[2:]) is False
    assert ENTRIES == journal[:]
    assert "/virtual/journal.new" not in memory.names


def test_a_batch_ends_with_the_entry_that_fills_it(tmp_path):
    journal = written(tmp_path)

    assert ENTRIES[:1] == journal.entries_from(1, bytes_max=1)
    assert ENTRIES[1:3] == journal.entries_from(2, bytes_max=10)
    assert [] == journal.entries_from(5, bytes_max=10)


def trimming(files, *, place: int = 2) -> tuple[Journal, Later]:
    """Four entries are durable, and a thread is to write the file without the first `place` of them."""
    rewriter = Later()
    journal = Journal(Path("/virtual"), node_id="n1", files=files, rewriter=rewriter)
    for entry in ENTRIES:
        journal.add(*entry)
    journal.sync()
    journal.deleteEntriesTo(place)
    return journal, rewriter


def test_while_a_shorter_file_is_written_the_longer_serves_and_then_loses_nothing_that_came():
    memory = ForgetfulDisk()
    journal, rewriter = trimming(memory)
    journal.add(b"five", 5, 2)
    journal.sync()

    assert (True, False, ENTRIES[0], 5) == (journal.trimming, journal.waiting, journal[0], journal.durable_through)
    rewriter.jobs.pop().run()
    journal.add(b"six", 6, 2)
    assert journal.waiting
    journal.sync()
    journal.check_invariants()
    assert (False, 6) == (journal.trimming, journal.durable_through)
    journal.add(b"seven", 7, 2)
    journal.sync()
    journal.check_invariants()
    expected = [*ENTRIES[2:], (b"five", 5, 2), (b"six", 6, 2), (b"seven", 7, 2)]
    left = memory.after_power_cut(contents="dropped", names="synced")
    assert expected == journal[:] == Journal(Path("/virtual"), node_id="n1", files=left)[:]


@pytest.mark.parametrize("contents", ["dropped", "kept", "torn", "holed"])
@pytest.mark.parametrize("names", ["synced", "latest"])
def test_a_power_cut_at_any_step_of_a_trim_takes_nothing_durable(contents, names):
    cut_at = 0
    while True:
        memory = ForgetfulDisk()
        journal, rewriter = trimming(memory)
        journal.add(b"five", 5, 2)
        journal.sync()
        memory.cut_at = len(memory.steps) + cut_at
        try:
            rewriter.jobs.pop().run()
            journal.add(b"six", 6, 2)
            journal.sync()
        except PowerCut:
            left = Journal(Path("/virtual"), node_id="n1", files=memory.after_power_cut(contents=contents, names=names))
            assert [*ENTRIES[2:], (b"five", 5, 2)] == [entry for entry in left[:] if 2 < entry[1] < 6]
            cut_at += 1
        else:
            break

    assert cut_at >= 7


def test_an_end_torn_off_meanwhile_does_not_come_back_with_the_shorter_file():
    memory = ForgetfulDisk()
    journal, rewriter = trimming(memory, place=1)
    journal.deleteEntriesFrom(3)
    rewriter.jobs.pop().run()
    journal.add(b"other", 4, 3)
    journal.sync()

    assert not journal.trimming
    left = memory.after_power_cut(contents="kept", names="latest")
    assert [*ENTRIES[:3], (b"other", 4, 3)] == journal[:] == Journal(Path("/virtual"), node_id="n1", files=left)[:]


def test_an_end_torn_off_while_the_shorter_file_takes_over_is_the_end_that_was_meant():
    memory, worker, rewriter = ForgetfulDisk(), AtOnceWhenWaitedFor(), Later()
    journal = Journal(Path("/virtual"), node_id="n1", files=memory, worker=worker, rewriter=rewriter)
    for entry in ENTRIES:
        journal.add(*entry)
    journal.sync()
    journal.deleteEntriesTo(1)
    rewriter.jobs.pop().run()
    journal.begin_sync(inline=False)

    assert journal.syncing
    journal.deleteEntriesFrom(3)
    assert ENTRIES[1:3] == journal[:]
    journal.check_invariants()


class WaitedFor(Job):
    def wait(self) -> None:
        self.run()


class AtOnceWhenWaitedFor:
    def start(self, work) -> Job:
        return WaitedFor(work)

    def close(self) -> None:
        """Nothing runs by itself."""


@pytest.mark.parametrize("when", ["before", "after"])
def test_without_room_for_the_shorter_file_or_its_end_the_longer_stays_and_goes_on(when):
    memory = ForgetfulDisk()
    journal, rewriter = trimming(memory)
    memory.full = when == "before"
    rewriter.jobs.pop().run()
    memory.full = True
    journal.add(b"five", 5, 2)
    journal.sync()

    assert (False, 1, 4) == (journal.trimming, journal.rewrite_failure_count, journal.durable_through)
    assert "/virtual/journal.new" not in memory.names
    memory.full = False
    journal.sync()
    left = memory.after_power_cut(contents="dropped", names="synced")
    assert [*ENTRIES, (b"five", 5, 2)] == journal[:] == Journal(Path("/virtual"), node_id="n1", files=left)[:]


def test_bytes_are_counted_from_the_first_entry_held(tmp_path):
    journal = written(tmp_path)

    assert (0, 0) == (journal.size_bytes(through=0), journal.size_bytes(through=5))
    whole = journal.size_bytes(through=4)
    assert whole == (tmp_path / "journal").stat().st_size - len(MAGIC)
    first = journal.size_bytes(through=1)
    journal.deleteEntriesTo(1)
    assert whole - first == journal.size_bytes(through=4)
