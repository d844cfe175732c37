"""The edge's door for scrapers: one path, bounded in connections, bytes and time, whoever knocks."""

from __future__ import annotations

import asyncio
import shutil
import subprocess

import pytest

from edge_client.errors import ConfigError
from edge_client.protocol.metrics import CONTENT_TYPE
from edge_client.runtime import metrics_port
from edge_client.runtime.metrics_port import CONNECTIONS_MAX, HEAD_BYTES_MAX, MetricsPort

TEXT = "# HELP a What.\n# TYPE a gauge\na 1\n"


@pytest.fixture
async def port(monkeypatch):
    monkeypatch.setattr(metrics_port, "HEAD_TIMEOUT_S", 0.3)
    one = MetricsPort("127.0.0.1:0", text=lambda: TEXT)
    await one.open()
    yield one
    one.close()


async def answer(port: MetricsPort, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port.port)
    writer.write(request)
    try:
        async with asyncio.timeout(5):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize("path", [b"/metrics", b"/metrics?name[]=a"])
async def test_a_scrape_is_answered_and_the_connection_closed(port, path):
    head, _, body = (await answer(port, b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert f"Content-Type: {CONTENT_TYPE}".encode() in head and b"Connection: close" in head
    assert TEXT.encode() == body
    if shutil.which("promtool"):
        assert 0 == subprocess.run(["promtool", "check", "metrics"], input=body, timeout=20).returncode


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /metrics/../secret HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 9\r\n\r\n", b"405"),
        (b"\x00\xff\r\n\r\n", b"404"),
    ],
)
async def test_nothing_else_is_behind_it(port, request_bytes, status):
    assert status == (await answer(port, request_bytes)).split(b" ")[1]
    assert 0 == port.counters["metrics_scrapes"]


async def test_head_without_end_and_silence_are_cut(port):
    assert b"" == await answer(port, b"GET /metrics HTTP/1.1\r\nX: " + b"a" * (4 * HEAD_BYTES_MAX))
    assert b"" == await answer(port, b"GET /metrics HTTP/1.1\r\n")

    assert 2 == port.counters["metrics_requests_broken"]


async def test_who_holds_the_door_open_does_not_keep_the_next_scrape_out_for_long(port):
    held = [await asyncio.open_connection("127.0.0.1", port.port) for _ in range(CONNECTIONS_MAX + 4)]
    await asyncio.sleep(0.05)
    assert 4 == port.counters["metrics_connections_refused"]
    await asyncio.sleep(0.5)

    assert (await answer(port, b"GET /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200")
    for _, writer in held:
        writer.close()


async def test_a_taken_address_is_said_in_words(port):
    with pytest.raises(ConfigError, match=f"metrics: cannot listen on 127.0.0.1:{port.port}"):
        await MetricsPort(f"127.0.0.1:{port.port}", text=str).open()
