"""One etcd on loopback, where it is installed, asked as lean as its HTTP gateway allows."""

from __future__ import annotations

import base64
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import closing

import httpx

from ops.bench.figures import median


def linearizable_get_us(*, calls: int) -> float | None:
    """Median microseconds of a linearizable get of one key; None where there is no etcd."""
    program = shutil.which("etcd")
    if program is None:
        return None
    with tempfile.TemporaryDirectory() as directory:
        client, peer = (f"http://127.0.0.1:{_free_port()}" for _ in range(2))
        process = subprocess.Popen(
            [
                program,
                f"--data-dir={directory}",
                f"--listen-client-urls={client}",
                f"--advertise-client-urls={client}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=default={peer}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            return _measure(client, calls=calls)
        finally:
            process.kill()
            process.wait(10)


def _measure(url: str, *, calls: int) -> float | None:
    key = base64.b64encode(b"bench").decode()
    with httpx.Client(base_url=url, trust_env=False) as http:
        for _ in range(100):
            try:
                if http.post("/v3/kv/put", json={"key": key, "value": key}).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        else:
            return None
        samples = []
        for _ in range(calls):
            began = time.perf_counter_ns()
            http.post("/v3/kv/range", json={"key": key}).raise_for_status()
            samples.append((time.perf_counter_ns() - began) / 1_000)
    return median(samples)


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
