"""The server: ours to start and stop, patient with nobody for ever."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import ssl

import httpx
import pytest

from consistency_service.api import listening, server
from consistency_service.api.server import serve
from tests.api.served import Served, free_port, serving


async def test_it_serves_until_told_to_stop_and_leaves_signals_alone(served: Served):
    before = signal.getsignal(signal.SIGTERM)
    async with serving(served.app) as url, httpx.AsyncClient() as http:
        assert 200 == (await http.get(f"{url}/livez")).status_code
        assert before == signal.getsignal(signal.SIGTERM)
    with pytest.raises(httpx.ConnectError):
        async with httpx.AsyncClient() as http:
            await http.get(f"{url}/livez")


async def test_an_address_that_is_taken(served: Served):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError):
            await serve(served.app, host="127.0.0.1", port=taken.getsockname()[1], shutdown=asyncio.Event())


async def test_what_is_under_way_is_finished(served: Served):
    await served.model("m", "1.0.0")
    shutdown, port = asyncio.Event(), free_port()
    listening = asyncio.Event()
    task = asyncio.create_task(
        serve(served.app, host="127.0.0.1", port=port, shutdown=shutdown, listening=lambda _: listening.set())
    )
    await listening.wait()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        activation = asyncio.create_task(http.post("/v1/models/m/activations", json={"version": "1.0.0"}))
        await asyncio.sleep(0.1)
        shutdown.set()

        assert 200 == (await activation).status_code
    async with asyncio.timeout(5):
        await task


async def test_whoever_does_not_say_what_they_want_is_sent_away(served: Served, monkeypatch):
    monkeypatch.setattr(server, "HEAD_TIMEOUT_S", 0.2)
    async with serving(served.app) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        silent_reader, silent = await asyncio.open_connection(host, int(port))
        slow_reader, slow = await asyncio.open_connection(host, int(port))
        slow.write(b"GET /livez HT")
        async with asyncio.timeout(5):
            assert b"" == await silent_reader.read()
            assert b"" == await slow_reader.read()
        silent.close()
        slow.close()


async def test_a_long_answer_is_not_taken_for_silence(served: Served, monkeypatch):
    monkeypatch.setattr(server, "HEAD_TIMEOUT_S", 0.05)
    await served.model("m", "1.0.0")
    async with serving(served.app) as url, httpx.AsyncClient(base_url=url) as http:
        for _ in range(2):
            assert 200 == (await http.get("/livez")).status_code
        response = await http.post("/v1/models/m/activations", json={"version": "1.0.0"})

    assert 200 == response.status_code


async def _closed(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(1):
            return await reader.read() == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


@pytest.mark.parametrize("encrypted", [False, True])
async def test_connections_beyond_the_limit_are_closed_at_the_door(served: Served, monkeypatch, tmp_path, encrypted):
    """Also those that never begin a TLS handshake; whoever leaves makes room."""
    monkeypatch.setattr(listening, "SOCKETS_MAX", 5)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if encrypted else None
    async with serving(served.app, tls=tls) as url:
        port = int(url.rpartition(":")[2])
        kept = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
        beyond = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]

        assert all([await _closed(reader) for reader, _ in beyond])
        assert not any(reader.at_eof() for reader, _ in kept)
        assert 20 == served.app.state.counters["connections_refused"]
        kept.pop()[1].close()
        await asyncio.sleep(0.2)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert not await _closed(reader)
        writer.close()


async def test_bytes_that_are_no_request_fill_no_log(served: Served, monkeypatch, caplog):
    monkeypatch.setattr(listening, "COMPLAINTS_BURST", 3)
    caplog.set_level(logging.WARNING, logger="uvicorn.error")
    async with serving(served.app) as url:
        for _ in range(30):
            reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
            writer.write(b"\x00 nonsense\r\n\r\n")
            await reader.read()
            writer.close()

    assert 3 <= sum("Invalid HTTP request" in line for line in caplog.messages) <= 15
    assert served.app.state.counters["complaints_not_logged"] >= 15
