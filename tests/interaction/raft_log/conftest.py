"""`pytest tests/interaction/raft_log --rewrite` writes what happens now into the transcripts, to be reviewed as a diff."""

from __future__ import annotations


def pytest_addoption(parser):
    parser.addoption("--rewrite", action="store_true", help="rewrite the transcripts of tests/interaction/raft_log")
