"""On which subject an edge reports: its own, unless the region is of the version before and hears only the one for all."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_client.protocol.messages import ReportReply
from edge_client.protocol.models import NAME_PATTERN
from edge_client.protocol.subjects import Subjects, token_of
from edge_client.runtime.report import SILENCE_NS, Report
from edge_client.runtime.signals import Pulse, Signal
from tests.fakes.bus import Hub
from tests.unit.edge.test_drivers import CONFIG, a_state
from tests.unit.edge.worlds import MS, HandClock

SUBJECTS = Subjects("default")
SHARED, OWN = SUBJECTS.report, SUBJECTS.report_of(CONFIG.edge_id)


class Edge:
    """Reports when told to."""

    def __init__(self, *, credentials: str | None = None) -> None:
        self.clock, self.hub = HandClock(), Hub()
        self.bus = self.hub.edge_bus()
        self.report = Report(
            config=replace(CONFIG, nats_credentials=credentials),
            life_id="l",
            state=a_state(self.clock),
            statuses=tuple,
            bus=self.bus,
            subjects=SUBJECTS,
            inbox="i",
            clock=self.clock,
            wake=Signal(asyncio.get_running_loop()),
            pulse=Pulse(),
        )

    async def speaks_on(self) -> str:
        await self.bus.connect()
        await self.report.send()
        return self.hub.published[-1].subject

    def answered(self, *, own_subject: bool) -> None:
        self.report.replied(
            ReportReply(epoch=1, edge_id=CONFIG.edge_id, life_id="l", accepted=True, own_subject=own_subject)
        )


async def test_where_the_bus_knows_us_only_our_own_subject_is_ever_used():
    edge = Edge(credentials="own.creds")
    for _ in range(4):
        assert OWN == await edge.speaks_on()
        await edge.clock.advance(SILENCE_NS // MS)


async def test_a_region_of_the_version_before_is_spoken_to_where_it_hears():
    edge = Edge()
    for _ in range(4):
        assert SHARED == await edge.speaks_on()
        edge.answered(own_subject=False)
        await edge.clock.advance(1_000)


async def test_once_the_region_hears_our_own_subject_that_is_used_until_it_is_silent():
    """As when the authority moves to a node of the version before, in the middle of an upgrade."""
    edge = Edge()
    assert SHARED == await edge.speaks_on()
    edge.answered(own_subject=True)

    assert OWN == await edge.speaks_on()
    await edge.clock.advance(SILENCE_NS // MS - 1)
    assert OWN == await edge.speaks_on()
    await edge.clock.advance(1)
    assert SHARED == await edge.speaks_on()
    edge.answered(own_subject=False)
    assert SHARED == await edge.speaks_on()
    edge.answered(own_subject=True)
    assert OWN == await edge.speaks_on()


async def test_a_bus_that_refuses_the_subject_for_all_is_spoken_to_on_our_own():
    """Permissions of somebody's own making, with a password in the URL."""
    edge = Edge()
    assert SHARED == await edge.speaks_on()
    await edge.clock.advance(SILENCE_NS // MS)

    assert OWN == await edge.speaks_on()


NAMES = st.from_regex(NAME_PATTERN, fullmatch=True)


@given(NAMES, NAMES)
def test_two_names_have_two_tokens_and_each_is_one_word(one: str, other: str):
    assert (one == other) == (token_of(one) == token_of(other))
    assert 1 <= len(token_of(one)) <= 64 and not set(token_of(one)) & set(".*> \t")


@pytest.mark.parametrize(
    ("name", "token"),
    [
        ("cam-17", "cam-17"),
        ("dock.3.cam", "dockD3Dcam"),
        ("c" * 64, "c" * 64),
        ("c" * 65, "H304ff80f852f3c67ad7cdacb35c02ec4"),
    ],
)
def test_tokens(name: str, token: str):
    assert token == token_of(name)
