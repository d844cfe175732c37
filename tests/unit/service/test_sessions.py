"""Sessions of browsers are bounded, and whose session had to go is counted."""

from __future__ import annotations

from collections import Counter

from consistency_service.api import sessions
from consistency_service.api.sessions import Sessions


def test_the_oldest_session_gives_way_and_is_counted(monkeypatch):
    monkeypatch.setattr(sessions, "SESSIONS_MAX", 2)
    counters: Counter[str] = Counter()
    held = Sessions(now_ns=lambda: 0, counters=counters)
    values = [held.begin(token) for token in "abc"]

    assert [None, "b", "c"] == [held.token(value) for value in values]
    assert {"sessions_ended_early": 1} == counters
