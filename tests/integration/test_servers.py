"""The levers that the tests of the real processes pull: each does what it says."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from consistency_service.testbed.binaries import find_redis_server
from tests.support.servers import RedisServer, Server, start_nats, start_redis


def greeted(server: Server) -> bool:
    with socket.create_connection(("127.0.0.1", server.port), timeout=0.3) as connection:
        connection.sendall(b"PING\r\n")
        try:
            return connection.recv(4096) != b""
        except TimeoutError:
            return False


@pytest.mark.parametrize("kind", ["redis", "nats"])
def test_a_server_lives_and_dies_as_told(kind: str, tmp_path: Path) -> None:
    with start_redis(tmp_path) if kind == "redis" else start_nats(tmp_path) as server:
        first_pid = server.pid
        assert greeted(server)
        server.pause()
        assert not greeted(server)
        server.resume()
        assert greeted(server)
        server.restart()
        assert server.pid != first_pid
        server.kill()
        assert not server.running
        with pytest.raises(ConnectionRefusedError):
            greeted(server)
        server.start()
        server.pause()
        last_pid = server.pid
    with pytest.raises(ProcessLookupError):
        os.kill(last_pid, 0)


def test_wiped_storage_is_gone(tmp_path: Path) -> None:
    with start_nats(tmp_path) as server:
        assert server.store_dir.is_dir()
        server.kill()
        server.wipe_storage()
        assert not server.store_dir.exists()
        server.start()
        assert greeted(server)


def test_without_jetstream_nothing_is_stored(tmp_path: Path) -> None:
    with start_nats(tmp_path, jetstream=False) as server:
        assert greeted(server)
        assert not server.store_dir.exists()


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    assert find_redis_server().is_file()
    with pytest.raises(RuntimeError, match="nonsense"):
        RedisServer(port=1, directory=tmp_path, maxmemory="nonsense").start()
