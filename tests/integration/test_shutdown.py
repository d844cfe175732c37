"""Whoever is told to end leaves in order: nodes hand over and answer what is under way, edges flush and say goodbye."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from consistency_service.testbed.processes import send_signal
from consistency_service.testbed.region_calls import Region
from consistency_service.testbed.topology import key_paths
from edge_client import EdgeClient
from tests.support.bed import MODEL, Bed, eventually, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
EDGE = """
import itertools, signal, sys, time
from edge_client import EdgeClient

stopping = []
with EdgeClient.connect(sys.argv[1], trust=sys.argv[2], local=sys.argv[3], region=sys.argv[4], edge_id="writer") as edge:
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))
    for number in itertools.count(1):
        edge.features.put(f"key-{number % 200}", number)
        if number == 1_000:
            print("writes", flush=True)
        if stopping:
            break
        if number > 1_000:
            time.sleep(0.0005)
    print(number, flush=True)
"""


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with running(tmp_path_factory.mktemp("shutdown")) as bed:
        yield bed


def told(bed: Bed, name: str, *numbers: signal.Signals, pause_s: float = 0.3) -> None:
    identity = bed.testbed.state.process(name).identity
    assert identity is not None
    for number in numbers:
        assert send_signal(identity, number)
        time.sleep(pause_s)


def ended(bed: Bed, name: str, *, within_s: float) -> int:
    """Its exit code."""
    return eventually(lambda: _codes(bed, name), within_s=within_s)[0]


def _codes(bed: Bed, name: str) -> tuple[int] | None:
    process = bed.testbed.state.process(name)
    return None if process.exit_code is None else (process.exit_code,)


def host_of(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port)


class Upload:
    """A call that is under way for as long as we like."""

    def __init__(self, url: str, *, content: bytes = b"half and half") -> None:
        self._content = content
        self._socket = socket.create_connection(host_of(url), timeout=10)
        head = f"POST /v1/artifacts HTTP/1.1\r\nHost: n\r\nContent-Length: {len(content)}\r\n\r\n"
        self._socket.sendall(head.encode() + content[:5])

    def finish(self) -> bytes:
        """The answer, to the end of the connection."""
        self._socket.sendall(self._content[5:])
        answer = b""
        while more := self._socket.recv(4_096):
            answer += more
        return answer

    def close(self) -> None:
        self._socket.close()


@contextmanager
def changes(bed: Bed) -> Iterator[list[int]]:
    """Changes go on; every one of them must be answered, by whichever node. Gives how many were."""
    urls, stopping, done = bed.testbed.state.urls("node-"), threading.Event(), [0]
    failed: list[Exception] = []

    def work() -> None:
        region = Region(urls, timeout_s=10)
        try:
            while not stopping.is_set():
                region.committed(MODEL, versions_kept=50 + done[0] % 10)
                done[0] += 1
        except Exception as error:
            failed.append(error)
        finally:
            region.close()

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    try:
        yield done
    finally:
        stopping.set()
        for worker in workers:
            worker.join()
    assert [] == failed


def test_a_node_that_leads_leaves_in_order_under_load(bed: Bed) -> None:
    leader = bed.region.leader()
    url = bed.testbed.state.process(leader).url or ""
    others = [one for one in bed.testbed.state.urls("node-") if one != url]
    before = {edge_id: bed.edge(edge_id) for edge_id in bed.edge_ids}
    streamed: list[Any] = []

    def follow() -> None:
        try:
            with httpx.stream("GET", f"{url}/v1/events", timeout=20, trust_env=False) as stream:
                streamed.append(stream.status_code)
                streamed.extend(stream.iter_lines())
        except httpx.HTTPError as error:
            streamed.append(error)

    following = threading.Thread(target=follow)
    with changes(bed) as done:
        following.start()
        eventually(lambda: bool(streamed), within_s=10)
        upload, count = Upload(url), done[0]
        began = time.monotonic()
        told(bed, leader, signal.SIGTERM, pause_s=0)
        with httpx.Client(trust_env=False, timeout=2) as http:
            heir = eventually(lambda: _another_leads(http, others, than=leader), within_s=10)
            handed_over_s = time.monotonic() - began
        refused = eventually(lambda: _refuses(url), within_s=5)
        answer = upload.finish()
        code = ended(bed, leader, within_s=10)
        took_s = time.monotonic() - began
        following.join(timeout=5)
        eventually(lambda: done[0] > count + 5, within_s=10)
    time.sleep(0.5)  # the edges' next words

    assert heir != leader and refused
    assert handed_over_s <= 1.0
    assert answer.startswith(b"HTTP/1.1 201 "), answer
    assert (200, False) == (streamed[0], isinstance(streamed[-1], Exception)), streamed[-3:]
    assert (0, True) == (code, took_s <= 5.0), took_s
    for edge_id, was in before.items():
        assert was.not_strong_count == bed.edge(edge_id).not_strong_count, edge_id
    bed.testbed.restart(leader)


def _another_leads(http: httpx.Client, urls: list[str], *, than: str) -> str | None:
    for url in urls:
        with suppress(httpx.HTTPError):
            said = http.get(f"{url}/v1/cluster/self").json()
            if said["leading"] and said["node_id"] != than:
                return str(said["node_id"])
    return None


def _refuses(url: str) -> bool:
    try:
        socket.create_connection(host_of(url), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_ends_a_node_at_once(bed: Bed, second: signal.Signals) -> None:
    follower = next(name for name in ("node-1", "node-2", "node-3") if name != bed.region.leader())
    upload = Upload(bed.testbed.state.process(follower).url or "")
    told(bed, follower, signal.SIGTERM)
    assert _codes(bed, follower) is None  # it waits for the upload
    began = time.monotonic()
    told(bed, follower, second, pause_s=0)
    code = ended(bed, follower, within_s=5)
    upload.close()

    assert (-second, True) == (code, time.monotonic() - began <= 1.0)
    bed.testbed.restart(follower)


def test_an_edge_writes_what_it_holds_and_says_goodbye(bed: Bed, tmp_path: Path) -> None:
    state = bed.testbed.state
    nats, redis = state.process("nats").url or "", state.process("redis-edge").url or ""
    trust = str(key_paths(bed.config.directory)[1])
    script = tmp_path / "edge.py"
    script.write_text(EDGE)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    with subprocess.Popen(
        [sys.executable, str(script), nats, trust, redis, bed.config.region],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        assert "writes\n" == process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        last = json.loads(process.stdout.readline())
        began = time.monotonic()
        assert 0 == process.wait(timeout=10)
        took_s = time.monotonic() - began
    with EdgeClient.connect(nats, trust=trust, local=redis, region=bed.config.region, edge_id="reader") as edge:
        found = {number % 200: edge.features.get(f"key-{number % 200}").value for number in range(last - 199, last + 1)}
    writer = eventually(lambda: _edge(bed, "writer"), within_s=10)

    assert {number % 200: number for number in range(last - 199, last + 1)} == found
    assert (True, False) == (writer["leaving"], writer["live"])
    assert took_s <= 5.0


def _edge(bed: Bed, edge_id: str) -> dict[str, Any] | None:
    return next((edge for edge in bed.region.edges() if edge["edge_id"] == edge_id), None)


def test_a_testbeds_edge_ends_in_order(bed: Bed) -> None:
    told(bed, "edge-1", signal.SIGTERM, pause_s=0)

    assert 0 == ended(bed, "edge-1", within_s=5)
    assert eventually(lambda: (_edge(bed, "edge-1") or {}).get("leaving"), within_s=5)
