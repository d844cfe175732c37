"""What is taken for a traceparent in the head of a message that anybody may have written."""

from __future__ import annotations

import pytest

from edge_client.adapters.nats_inflow import HEAD_BYTES_READ, trace_in
from edge_client.protocol.traces import TRACEPARENT_CHARS_MAX

TRACE = "00-" + "a" * 32 + "-" + "1" * 16 + "-01"


@pytest.mark.parametrize(
    ("head", "trace"),
    [
        (b"", ""),
        (b"NATS/1.0\r\n\r\n", ""),
        (b"NATS/1.0\r\nNats-Msg-Id: 1-1\r\ntraceparent: " + TRACE.encode() + b"\r\n\r\n", TRACE),
        (b"NATS/1.0\r\nTraceparent:" + TRACE.encode() + b"\r\n\r\n", TRACE),
        (b"NATS/1.0\r\ntraceparent: one\r\ntraceparent: two\r\n\r\n", "one"),
        (b"NATS/1.0 traceparent: one\r\n\r\n", ""),
        (b"NATS/1.0\r\nx-traceparent: one\r\n\r\n", ""),
        (b"NATS/1.0\r\ntraceparent: \xff\xfe\r\n\r\n", "\xff\xfe"),
        (b"NATS/1.0\r\ntraceparent", ""),
    ],
)
def test_the_first_line_of_that_name(head, trace):
    assert trace == trace_in(head)


def test_a_head_is_read_no_further_than_it_must_and_a_value_kept_no_longer():
    far = b"NATS/1.0\r\nx: " + b"y" * HEAD_BYTES_READ + b"\r\ntraceparent: " + TRACE.encode() + b"\r\n\r\n"

    assert "" == trace_in(far)
    assert TRACEPARENT_CHARS_MAX + 1 == len(trace_in(b"NATS/1.0\r\ntraceparent: " + b"a" * 100_000))
