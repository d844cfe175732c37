"""What came of readings reaches the region within seconds, whatever is lost, and never makes a report too long."""

from __future__ import annotations

import asyncio

import pytest

from edge_client.core.status import ModelStatus
from edge_client.protocol.messages import EDGE_FRAME_BYTES_MAX, EdgeReport, decode_edge
from edge_client.protocol.models import Assignment
from edge_client.protocol.observations import Observations, observations_fault
from edge_client.protocol.subjects import Subjects
from edge_client.runtime.report import ALL_OBSERVATIONS_NS, OBSERVATION_REPORTS, Report
from edge_client.runtime.signals import Pulse, Signal
from tests.fakes.bus import Hub
from tests.unit.edge.test_client import World
from tests.unit.edge.test_drivers import CONFIG, a_state
from tests.unit.edge.worlds import MS, HandClock, turns

LATENCIES = dict.fromkeys(range(800), 1)
LABELS = {f"{number:064d}": 12 for number in range(64)}


class Mouth:
    """Sends reports about these sheets."""

    def __init__(self, *sheets: Observations, models: int = 0) -> None:
        self.sheets = sheets
        self.clock, self.hub = HandClock(), Hub()
        self.bus = self.hub.edge_bus()
        statuses = tuple(
            ModelStatus(name=f"m{n}", failed={f"sha256:{k:064x}": "x" * 300 for k in range(4)}) for n in range(models)
        )
        self.report = Report(
            config=CONFIG,
            life_id="l",
            state=a_state(self.clock),
            statuses=lambda: statuses,
            observed=lambda: self.sheets,
            bus=self.bus,
            subjects=Subjects("default"),
            inbox="i",
            clock=self.clock,
            wake=Signal(asyncio.get_running_loop()),
            pulse=Pulse(),
        )

    async def told(self, *, leaving: bool = False) -> EdgeReport:
        await self.bus.connect()
        await self.report.send(leaving=leaving)
        payload = self.hub.published[-1].payload
        assert len(payload) <= EDGE_FRAME_BYTES_MAX
        message = decode_edge(payload)
        assert isinstance(message, EdgeReport)
        return message


def sheet(generation: int, *, model: str = "m", count: int = 1, **more: object) -> Observations:
    return Observations(model=model, version="1.0.0", generation=generation, count=count, **more)  # type: ignore[arg-type]


def full(generation: int, *, model: str = "m") -> Observations:
    made = sheet(
        generation, model=model, count=800, judged_count=9, failed_count=1, latencies=LATENCIES, labels=LABELS,
        scores=LATENCIES, score_sum=800.0, score_square_sum=800.0,
    )  # fmt: skip
    assert observations_fault(made) is None
    return made


async def test_a_sheet_is_told_again_until_it_can_hardly_have_been_missed_and_all_from_time_to_time():
    mouth = Mouth(sheet(1))
    assert [len((await mouth.told()).observations) for _ in range(OBSERVATION_REPORTS + 1)] == [
        *[1] * OBSERVATION_REPORTS,
        0,
    ]
    mouth.sheets = (sheet(1), sheet(2))
    assert (await mouth.told()).observations == (sheet(2),)
    mouth.sheets = (sheet(1, count=2), sheet(2))
    assert (await mouth.told()).observations == mouth.sheets
    for _ in range(OBSERVATION_REPORTS):
        await mouth.told()
    assert (await mouth.told()).observations == ()
    await mouth.clock.advance(ALL_OBSERVATIONS_NS // MS)
    assert (await mouth.told()).observations == mouth.sheets
    assert (await mouth.told()).observations == ()
    assert (await mouth.told(leaving=True)).observations == mouth.sheets


@pytest.mark.parametrize(
    ("models", "generations", "told_count", "bare", "counted"),
    [
        (1, 4, 4, False, {}),
        (3, 4, 3, False, {"observations_untold": 9}),
        (20, 1, 20, True, {"sketches_untold": 20}),
        (20, 2, 20, True, {"observations_untold": 20, "sketches_untold": 20}),
        (1_500, 1, 0, False, {"observations_untold": 1_500}),
    ],
)
async def test_old_generations_go_first_then_sketches(models, generations, told_count, bare, counted):
    mouth = Mouth(*(full(g, model=f"model-{m}") for g in range(1, generations + 1) for m in range(models)))
    told = (await mouth.told()).observations

    assert len(told) == told_count
    for one in told:
        expected = full(one.generation, model=one.model)
        if bare:
            expected = sheet(one.generation, model=one.model, count=800, judged_count=9, failed_count=1)
        assert one == expected
    newest = [one.generation for one in told if generations > 1 and told_count < models * generations]
    assert set(newest) <= {generations}
    assert counted == {name: n for name, n in mouth.report.counters.items() if n and name != "reports_sent"}


async def test_too_many_models_leave_no_room_for_observations():
    mouth = Mouth(sheet(1), models=100)
    told = await mouth.told()

    assert (len(told.models), told.observations) == (50, ())
    assert mouth.report.counters["reports_truncated"] == 1
    assert mouth.report.counters["observations_untold"] == 1


# ---- the whole edge


async def test_a_new_generation_is_heard_of_within_a_second_though_reports_are_rare():
    world = World()
    await world.region.start()
    world.region.model("det", world.v1, stable="1.0.0")
    async with world.edge(report_interval_ms=2_000) as edge:
        model = edge.model("det", loader=world.load)
        await world.strong(edge)
        held = model.read()
        for generation, version in ((1, "1.0.0"), (2, "2.0.0")):
            if generation == 2:
                world.region.event(
                    world.region.model(
                        "det", world.v1, world.v2, stable="2.0.0", generation=2, previous=Assignment(stable="1.0.0")
                    )
                )
                await world.strong(edge, "2.0.0")
            await world.region.run(2_200)  # reports are a while away now
            heard_count = len(world.region.reports)
            await asyncio.to_thread(model.read().report, True, 3.0, 0.5, "cat")
            await turns()
            await world.region.run(200)
            said = [o for report in world.region.reports[heard_count:] for o in report.observations]
            assert (said[-1].version, said[-1].generation, said[-1].count) == (version, generation, 1)
            assert said[-1].labels == {"cat": 1}
        with model.read() as m:
            m.report(ok=False)
        held.report(ok=False)
    assert world.region.reports[-1].leaving
    assert {(1, 2, 1), (2, 2, 1)} == {
        (o.generation, o.count, o.failed_count) for o in world.region.reports[-1].observations
    }
    held.report(ok=True)
    assert edge.status().counters["outcomes_after_close"] == 1
