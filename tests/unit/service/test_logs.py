"""Log lines: one event and its fields, for people and for machines, never a failure."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from consistency_service.runtime.logs import FIELD_CHARS_MAX, JsonFormatter, TextFormatter, set_up
from consistency_service.runtime.telemetry import current_trace

TRACE_ID, SPAN_ID = "a" * 32, "1" * 16


def record(message: str, *args: object, **more: object) -> logging.LogRecord:
    made = logging.makeLogRecord(
        {"name": "consistency_service.app", "levelno": 20, "levelname": "INFO", "msg": message}
    )
    made.args = args
    made.__dict__.update(more)
    return made


def line(message: str, *args: object, **more: object) -> dict:
    text = JsonFormatter().format(record(message, *args, **more))
    assert "\n" not in text
    fields: dict = json.loads(text)
    return fields


@pytest.fixture
def traced():
    token = current_trace.set(f"00-{TRACE_ID}-{SPAN_ID}-01")
    yield
    current_trace.reset(token)


def test_the_first_word_is_the_event_and_the_rest_are_fields():
    one = line("node_starting node_id=%s took_ms=%d ratio=%.2f", "n1", 12, 0.5)

    assert ("node_starting", "n1", 12, 0.5) == (one["event"], one["node_id"], one["took_ms"], one["ratio"])
    assert ("info", "consistency_service.app") == (one["level"], one["logger"])
    assert one["at"].endswith("Z")
    assert "message" not in one and "trace_id" not in one


@pytest.mark.parametrize(
    ("message", "args", "told"),
    [
        ("A sentence of a library: %s", ("so",), "A sentence of a library: so"),
        ("event_without_fields extra", (), "event_without_fields extra"),
        ("wrong_count a=%s b=%s", ("one",), "wrong_count a=%s b=%s"),
        ("100% of nothing", (), "100% of nothing"),
    ],
)
def test_what_has_another_form_is_told_whole(message, args, told):
    assert ("message", told) == ((one := line(message, *args))["event"], one["message"])


def test_the_trace_is_beside_it(traced):
    assert (TRACE_ID, SPAN_ID) == ((one := line("done"))["trace_id"], one["span_id"])
    assert TextFormatter().format(record("done n=%d", 1)).endswith(f"done n=1 trace_id={TRACE_ID} span_id={SPAN_ID}")


def test_fields_cannot_break_a_line_nor_take_the_place_of_others():
    one = line("refused level=%s reason=%s", "high", 'two\nlines "quoted" \u2028' + "x" * 10_000, extra_one={"a": 1})

    assert ("info", "high") == (one["level"], one["field_level"])
    assert FIELD_CHARS_MAX == len(one["reason"])
    assert "{'a': 1}" == one["extra_one"]


def test_an_error_brings_its_traceback():
    try:
        raise ValueError("so")
    except ValueError:
        made = record("failed")
        made.exc_info = sys.exc_info()
    text = json.loads(JsonFormatter().format(made))["traceback"]

    assert text.endswith("ValueError: so")


def test_text_stays_what_people_know():
    text = TextFormatter().format(record("node_starting node_id=%s", "n1"))

    assert text.endswith("Z INFO consistency_service.app node_starting node_id=n1")


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="log_format"):
        set_up("xml", level="info")
