"""What an edge tells of itself: shares of time, lags, and one span for each switch, under the right parent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from edge_client.protocol.messages import Event, encode_region
from edge_client.protocol.traces import TraceParent
from tests.fakes.bus import Message
from tests.unit.edge.test_client import World
from tests.unit.edge.worlds import MS, turns, until

TRACE = "00-" + "a" * 32 + "-" + "1" * 16 + "-01"
NEARER = "00-" + "a" * 32 + "-" + "2" * 16 + "-01"
ANOTHER = "00-" + "b" * 32 + "-" + "3" * 16 + "-01"


@dataclass
class Spans:
    """An `Exporter` that keeps what it is given."""

    made: list[dict[str, Any]] = field(default_factory=list)
    closed: bool = False

    def span(self, name: str, **more: Any) -> None:
        self.made.append({"name": name, **more})

    def close(self) -> None:
        self.closed = True


async def talk(world: World, *, ms: int) -> None:
    """The region's beacons, ten a second, for so long."""
    for _ in range(ms // 100):
        world.region.beacon()
        await world.clock.advance(100)


def value(edge, name: str, *labels: str) -> float | None:
    return dict(edge._telemetry.measuring.sheet().get(name, ())).get(labels)


async def strong(world: World, edge) -> Any:
    model = edge.model("m", loader=world.load)
    for _ in range(50):
        await talk(world, ms=100)
        if world.loads and edge.status().models[0].guarantee == "strong":
            return model
        await until(lambda: True)
    raise AssertionError(edge.status())


@pytest.fixture
async def world():
    made = World()
    await made.region.start()
    made.region.model("m", made.v1, made.v2, stable="1.0.0")
    return made


async def test_availability_is_the_share_of_time_in_which_a_read_would_have_been_strong(world):
    async with world.edge() as edge:
        await strong(world, edge)
        value(edge, "strong_seconds_total", "m")  # from now on it looks once a second
        await talk(world, ms=70_000)
        assert 1.0 == pytest.approx(value(edge, "strong_read_availability_ratio", "m"), abs=1e-9)

        await world.clock.advance(32_000)  # nobody speaks: the lease lasts 2 s of these 32
        assert 0.5 == pytest.approx(value(edge, "strong_read_availability_ratio", "m"), abs=0.03)
        assert 32.0 == pytest.approx(value(edge, "beacon_age_seconds"), abs=0.2)
        assert 30.0 == pytest.approx(value(edge, "staleness_age_seconds", "m"), abs=2.5)
        assert 0.0 == value(edge, "lease_remaining_seconds")

        await talk(world, ms=70_000)  # strong again within some seconds, whenever it next asks for the time
        assert 1.0 == pytest.approx(value(edge, "strong_read_availability_ratio", "m"), abs=1e-9)
        total, followed = value(edge, "strong_seconds_total", "m"), value(edge, "followed_seconds_total", "m")
        assert total is not None and followed is not None
        assert 28.0 <= followed - total <= 40.0


async def test_strong_reads_at_hand_are_not_counted_and_others_are(world):
    async with world.edge() as edge:
        model = await strong(world, edge)
        before = value(edge, "reads_slow_total", "strong")
        for _ in range(1_000):
            model.read()
        await world.clock.advance(200)
        assert before == value(edge, "reads_slow_total", "strong")

        await world.clock.advance(10_000)
        for _ in range(7):
            assert model.read().guarantee == "bounded"
        await world.clock.advance(200)
        assert 7.0 == value(edge, "reads_slow_total", "bounded")


async def test_a_version_that_should_be_served_and_is_not_makes_a_lag(world):
    async with world.edge() as edge:
        await strong(world, edge)
        assert 0.0 == value(edge, "model_version_lag_seconds", "m")
        world.source.down = True
        lost = world.region.version("3.0.0", b"three" * 100)
        del world.region.artifacts[lost.digest]
        world.region.event(world.region.model("m", world.v1, lost, stable="3.0.0", generation=2))
        await talk(world, ms=5_000)

        assert 5.0 == pytest.approx(value(edge, "model_version_lag_seconds", "m"), abs=0.3)
        assert 1.0 == value(edge, "model_serving", "m", "1.0.0", "fallback")
        assert 1.0 == value(edge, "invalidations_total")


async def test_revisions_heard_of_and_not_applied_are_a_lag(world):
    async with world.edge() as edge:
        await strong(world, edge)
        assert 0.0 == value(edge, "position_lag_revisions")
        world.region.silent = True
        world.region.revision += 4
        await talk(world, ms=300)

        assert 4.0 == value(edge, "position_lag_revisions")


async def switched(world: World, edge, *, trace: str, head: str) -> None:
    """An activation of 2.0.0 under this trace, announced under that head, and served."""
    region = world.region
    pending = msgspec.structs.replace(region.pending("2.0.0", generation=2, lead_ms=2_500), trace=trace)
    view = region.model("m", world.v1, world.v2, stable="1.0.0", pending=pending)
    region.revision += 1
    event = Event(
        epoch=region.epoch,
        revision=region.revision,
        name="ActivationScheduled",
        at_unix_ms=0,
        models=(view,),
        trace=trace,
    )
    payload = encode_region(event, signer=region.signer)
    world.hub.publish(Message(subject=region.subjects.event, payload=payload, reply_to=None, trace=head))
    await turns()
    await until(lambda: len(world.loads) == 2)
    await talk(world, ms=4_000)
    assert edge.status().models[0].version == "2.0.0"


@pytest.mark.parametrize(
    ("head", "parent", "ignored"),
    [
        (NEARER, NEARER, 0),
        ("", TRACE, 0),
        (ANOTHER, TRACE, 1),
        ("x" * 257, TRACE, 1),
        ("00-" + "a" * 32, TRACE, 1),
    ],
)
async def test_a_switch_is_one_span_under_what_the_region_signed_or_a_nearer_one_of_that_trace(
    world, head, parent, ignored
):
    spans = Spans()
    async with world.edge() as edge:
        edge._telemetry.exported_by(spans)
        await strong(world, edge)
        await switched(world, edge, trace=TRACE, head=head)
        counters = edge.status().counters

    (span,) = spans.made
    assert "edge switch" == span["name"]
    assert parent == str(span["parent"])
    about = span["attributes"]
    assert ("m", 2, "2.0.0", "strong") == tuple(
        about[f"ccs.{name}"] for name in ("model", "generation", "version", "guarantee")
    )
    assert about["ccs.uncertainty_ms"] >= 0
    assert 2_400 * MS < span["end_unix_ns"] - span["begin_unix_ns"] < 2_700 * MS
    assert (1, ignored) == (counters["switches_traced"], counters.get("traceparents_ignored", 0))
    assert spans.closed


async def test_where_nobody_traces_there_is_no_span(world):
    spans = Spans()
    async with world.edge() as edge:
        edge._telemetry.exported_by(spans)
        await strong(world, edge)
        await switched(world, edge, trace="", head="")

    assert [] == spans.made


async def test_a_second_exporter_takes_the_place_of_the_first_and_a_closed_client_tells_nothing(world):
    first, second = Spans(), Spans()
    async with world.edge() as edge:
        edge._telemetry.exported_by(first)
        edge._telemetry.exported_by(second)
        assert (True, False) == (first.closed, second.closed)
        measuring = edge._telemetry.measuring
        assert measuring.sheet()

    assert {} == measuring.sheet()
    assert TraceParent("a" * 32, "1" * 16) == TraceParent("a" * 32, "1" * 16, 1)
