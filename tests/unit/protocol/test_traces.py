"""What counts as a traceparent, and what a stranger may not smuggle in as one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_client.protocol.traces import TRACEPARENT_CHARS, TraceParent, parse_traceparent, same_trace

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    ("text", "flags"),
    [(GOOD, 1), (f"00-{TRACE}-{SPAN}-00", 0), (f"00-{TRACE}-{SPAN}-03", 1), (f"01-{TRACE}-{SPAN}-01-later", 1)],
)
def test_a_traceparent_is_read_and_written_in_one_way(text, flags):
    parent = parse_traceparent(text)

    assert TraceParent(TRACE, SPAN, flags) == parent
    assert f"00-{TRACE}-{SPAN}-{flags:02x}" == str(parent)


@pytest.mark.parametrize(
    "text",
    [
        *("", "00", GOOD[:-1], GOOD + "0", GOOD + "-x", GOOD.upper(), " " + GOOD, GOOD + "\n"),
        *(f"ff-{TRACE}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01"),
        *(f"00-{TRACE[:-1]}g-{SPAN}-01", f"00-{TRACE[:-1]}\u0661-{SPAN}-01", f"01-{TRACE}-{SPAN}-01-" + "x" * 300),
        *(f"00_{TRACE}_{SPAN}_01", "x" * 100_000),
    ],
)
def test_anything_else_is_none(text):
    assert parse_traceparent(text) is None


@given(
    st.text(max_size=300) | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?", fullmatch=True)
)
def test_what_is_taken_is_always_55_characters_and_read_the_same_again(text):
    parent = parse_traceparent(text)

    if parent is not None:
        assert TRACEPARENT_CHARS == len(str(parent))
        assert parent == parse_traceparent(str(parent))


def test_one_trace_has_many_spans_and_nothing_is_in_no_trace():
    other = f"00-{TRACE}-{'1' * 16}-00"

    assert same_trace(GOOD, other)
    assert not same_trace(GOOD, f"00-{'1' * 32}-{SPAN}-01")
    assert not same_trace("", "")
    assert not same_trace(GOOD, GOOD + "0")
