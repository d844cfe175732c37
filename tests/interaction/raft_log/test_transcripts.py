"""What voters do and say, as transcripts: read `*.txt` beside this file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interaction.raft_log.transcript import performed

TRANSCRIPTS = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path, request):
    now = performed(path)
    if request.config.getoption("--rewrite", default=False):
        path.write_text(now)

    assert path.read_text() == now


def test_there_are_transcripts():
    assert len(TRANSCRIPTS) >= 8
