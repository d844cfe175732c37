"""All voters killed at once, at any moment and inside snapshots; a hundred times: `python -m ops.bench.raft_kill`."""

from __future__ import annotations

import asyncio

import pytest

from ops.bench import raft_kill


@pytest.mark.timeout(120)
def test_what_was_acknowledged_outlives_the_kill_of_every_voter(tmp_path, capsys):
    faults = asyncio.run(raft_kill.main(rounds=len(raft_kill.KINDS), seed=1, directory=tmp_path))

    assert [] == faults
    printed = capsys.readouterr().out
    assert "'compaction, file there': 1" in printed
    assert "'transfer, file there': 1" in printed
