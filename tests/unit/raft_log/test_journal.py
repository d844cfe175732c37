"""A journal forgets what was never synced, at most; and knows damage from a torn end."""

from __future__ import annotations

import pytest

from consistency_service.adapters.raft_log.journal import MAGIC, Journal
from consistency_service.errors import LogStorageError

ENTRIES = [(b"one", 1, 0), (b"", 2, 1), (b"three" * 100, 3, 1), (b"four", 4, 2)]


def written(directory, entries=ENTRIES) -> Journal:
    journal = Journal(directory, node_id="n1")
    for entry in entries:
        journal.add(*entry)
    journal.sync()
    return journal


def reopened(directory) -> Journal:
    return Journal(directory, node_id="n1")


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


@pytest.mark.parametrize("missing", [1, 5, 19, 20])
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
        Journal(tmp_path, node_id="n2")


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
    path.write_bytes(path.read_bytes()[:-1] + b"\0")

    with pytest.raises(LogStorageError, match="vote: checksum"):
        reopened(tmp_path)


def test_a_batch_ends_with_the_entry_that_fills_it(tmp_path):
    journal = written(tmp_path)

    assert ENTRIES[:1] == journal.entries_from(1, bytes_max=1)
    assert ENTRIES[1:3] == journal.entries_from(2, bytes_max=10)
    assert [] == journal.entries_from(5, bytes_max=10)
