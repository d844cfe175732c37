"""The log is replaced when it is long or heavy, and what a follower needs of it stays, within bounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from consistency_service.adapters.raft_log import RaftLogConfig
from consistency_service.adapters.raft_log.journal import Journal
from consistency_service.adapters.raft_log.retention import NEEDED_BYTES_RATIO, NEEDED_ENTRIES_RATIO, Retention
from tests.support.forgetful_disk import ForgetfulDisk

ENTRIES = 10
BYTES = 10_000
RECORD_BYTES = 1_000


def retention(*, count: int, record_bytes: int = 100) -> Retention:
    """Over a journal of this many entries, the first of them 100."""
    config = RaftLogConfig(
        node_id="n1",
        listen="127.0.0.1:1",
        peers={"n1": "127.0.0.1:1"},
        data_dir=Path("/virtual"),
        compaction_min_entries=ENTRIES,
        compaction_min_bytes=BYTES,
        command_bytes_max=BYTES,
    )
    journal = Journal(config.data_dir, node_id="n1", files=ForgetfulDisk())
    for index in range(100, 100 + count):
        journal.add(bytes(record_bytes - 36), index, 1)
    return Retention(config, journal=journal)


@pytest.mark.parametrize(("applied_index", "due"), [(109, False), (110, True), (150, True)])
def test_due_when_more_than_so_many_entries_are_applied(applied_index, due):
    assert due is retention(count=100).due(applied_index=applied_index, needed=None)


@pytest.mark.parametrize(("record_bytes", "due"), [(1_000, False), (1_250, False), (1_251, True), (9_000, True)])
def test_due_when_they_have_more_than_so_many_bytes(record_bytes, due):
    """Of eight, so that their number alone is no reason."""
    assert due is retention(count=8, record_bytes=record_bytes).due(applied_index=107, needed=None)


@pytest.mark.parametrize(("needed", "due"), [(100, False), (108, False), (109, True), (140, True), (None, True)])
def test_not_due_for_entries_that_are_needed(needed, due):
    assert due is retention(count=50).due(applied_index=149, needed=needed)


@pytest.mark.parametrize(("needed", "first"), [(None, 130), (150, 130), (130, 130), (129, 129), (100, 100)])
def test_what_is_needed_stays(needed, first):
    kept = retention(count=50)

    assert first == kept.first_kept(130, needed=needed)
    assert kept.given_up_count == 0


@pytest.mark.parametrize(
    ("count", "record_bytes", "grown"),
    [
        (NEEDED_ENTRIES_RATIO * ENTRIES, 36, False),
        (NEEDED_ENTRIES_RATIO * ENTRIES + 1, 36, True),
        (NEEDED_BYTES_RATIO * BYTES // RECORD_BYTES, RECORD_BYTES, False),
        (NEEDED_BYTES_RATIO * BYTES // RECORD_BYTES + 1, RECORD_BYTES, True),
    ],
)
def test_a_log_grown_too_long_or_too_heavy_goes_all_the_same_and_that_is_counted(count, record_bytes, grown):
    kept = retention(count=count, record_bytes=record_bytes)

    assert grown is kept.due(applied_index=99 + count, needed=100)
    assert (130 if grown else 100) == kept.first_kept(130, needed=100)
    assert (1 if grown else 0) == kept.given_up_count
