"""An app that connects again and again registers its instruments once: providers never forget one."""

from __future__ import annotations

import gc
from typing import Any

from opentelemetry.metrics import NoOpMeterProvider

from edge_client.adapters.otel import OpenTelemetry
from edge_client.core.metrics import EDGE_METRICS


class Measured:
    def __init__(self, value: float) -> None:
        self.value = value

    def sheet(self):
        return {EDGE_METRICS[0].name: [(tuple("x" for _ in EDGE_METRICS[0].labels), self.value)]}


class Meters(NoOpMeterProvider):
    """Keeps every callback, as an SDK does."""

    def __init__(self) -> None:
        super().__init__()
        self.callbacks: list[Any] = []

    def get_meter(self, *args, **kwargs):
        meter: Any = super().get_meter(*args, **kwargs)

        def create(name, callbacks, *_):
            self.callbacks.extend(callbacks)

        meter.create_observable_gauge = meter.create_observable_counter = create
        return meter

    def told(self) -> list[float]:
        return [observation.value for callback in self.callbacks for observation in callback(None)]


def test_the_next_client_of_an_id_has_the_instruments_of_the_one_that_was_closed():
    meters, first, second = Meters(), Measured(1.0), Measured(2.0)
    one = OpenTelemetry(edge_id="cam", measured=first, meter_provider=meters)
    count, told = len(meters.callbacks), meters.told()
    one.close()
    silent = meters.told()
    OpenTelemetry(edge_id="cam", measured=second, meter_provider=meters)

    assert ([1.0], [], [2.0]) == (told, silent, meters.told())
    assert len(EDGE_METRICS) == count == len(meters.callbacks)


def test_one_that_was_never_closed_but_is_gone_leaves_its_instruments_too():
    meters, first, second = Meters(), Measured(1.0), Measured(2.0)
    OpenTelemetry(edge_id="cam", measured=first, meter_provider=meters)
    del first
    gc.collect()
    OpenTelemetry(edge_id="cam", measured=second, meter_provider=meters)

    assert [2.0] == meters.told()
    assert len(EDGE_METRICS) == len(meters.callbacks)


def test_two_that_live_do_not_mix():
    meters, first, second = Meters(), Measured(1.0), Measured(2.0)
    OpenTelemetry(edge_id="cam", measured=first, meter_provider=meters)
    OpenTelemetry(edge_id="cam", measured=second, meter_provider=meters)

    assert [1.0, 2.0] == meters.told()
