"""The replicated log beside etcd: three voters each, syncing every commit, on this machine, in turns.

    python -m ops.bench.raft [--rounds 5] [--seconds 4] [--tls] [--directory DIR]

An external client at the leader: commits of 200 bytes and linearizable reads, one and 64 in flight. Needs `etcd` on the
PATH, and grpcio, which is installed beside the project for the time of the run if this Python has none. Where `h2load` is
found it speaks to etcd as well: a client in C, so that nobody says the comparison was won against grpcio.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from consistency_service.adapters import certificates
from consistency_service.testbed import processes
from ops.bench.raft_servers import Cluster, free_port

CALLER: Final = Path(__file__).with_name("raft_caller.py")
LOADS: Final = (("commit", 1), ("commit", 64), ("read", 1), ("read", 64))
TARGETS: Final = {("commit", 1): ("p50", 1.3), ("commit", 64): ("per_s", 1.3), ("read", 1): ("p50", 1.5)}
Found = dict[str, float]


def call(python: str, *argument: object) -> Any:
    done = subprocess.run([python, str(CALLER), *map(str, argument)], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


async def measure(python: str, side: str, port: int, *, seconds: float) -> dict[tuple[str, int], Found]:
    return {
        (verb, in_flight): await asyncio.to_thread(call, python, side, port, verb, seconds, in_flight)
        for verb, in_flight in LOADS
    }


@contextlib.asynccontextmanager
async def our_log(directory: Path, *, tls: bool) -> AsyncIterator[int]:
    """The port of the leader."""
    settings: dict[str, Any] = {}
    if tls:
        now, certs = datetime.now(tz=UTC), directory / "certificates"
        certificates.create_authority(certs, cluster_id="ccs", now=now)
        pairs = {name: certificates.issue(certs, node_id=name, now=now) for name in ("n1", "n2", "n3")}
        settings["tls"] = {
            name: {"ca": str(certs / "ca.crt"), "certificate": str(pair.certificate), "key": str(pair.key)}
            for name, pair in pairs.items()
        }
    cluster = Cluster(directory, proxied=False, **settings)
    try:
        await cluster.open()
        yield cluster.servers[await cluster.leader()].port
    finally:
        await cluster.close()


@contextlib.asynccontextmanager
async def etcd(directory: Path, *, python: str) -> AsyncIterator[int]:
    """The port of the leader."""
    names = ("n1", "n2", "n3")
    peers = {name: f"http://127.0.0.1:{free_port()}" for name in names}
    ports = {name: free_port() for name in names}
    servers = [
        processes.spawn(
            (
                *("etcd", "--name", name, "--data-dir", str(directory / f"etcd-{name}"), "--log-level", "error"),
                *("--listen-peer-urls", peers[name], "--initial-advertise-peer-urls", peers[name]),
                *("--listen-client-urls", f"http://127.0.0.1:{ports[name]}"),
                *("--advertise-client-urls", f"http://127.0.0.1:{ports[name]}"),
                *("--initial-cluster", ",".join(f"{other}={url}" for other, url in peers.items())),
            ),
            env={},
            cwd=str(directory),
            log=directory / f"etcd-{name}.log",
            directory=directory,
        )
        for name in names
    ]
    try:
        deadline = time.monotonic() + 20
        while True:
            for port in ports.values():
                with contextlib.suppress(subprocess.CalledProcessError):
                    if await asyncio.to_thread(call, python, "etcd", port, "leads"):
                        yield port
                        return
            if time.monotonic() > deadline:
                raise SystemExit("etcd did not start:\n" + (directory / "etcd-n1.log").read_text()[-2_000:])
    finally:
        for server in servers:
            server.kill()
            server.wait()


def by_h2load(port: int, *, verb: str, seconds: float, in_flight: int, directory: Path) -> Found:
    """The same load by a client in C."""
    from ops.bench.raft_caller import METHODS

    path, request = METHODS[verb]
    body, log = directory / f"{verb}.body", directory / "h2load.log"
    body.write_bytes(b"\x00" + len(request).to_bytes(4, "big") + request)
    log.unlink(missing_ok=True)
    subprocess.run(
        [
            *("h2load", "-D", f"{seconds}", "--warm-up-time", "1", "-c", "1", "-m", f"{in_flight}", "-d", str(body)),
            *("-H", "content-type: application/grpc", "-H", "te: trailers", "--log-file", str(log)),
            f"http://127.0.0.1:{port}{path}",
        ],
        check=True,
        capture_output=True,
    )
    taken = sorted(int(line.split("\t")[2]) / 1_000 for line in log.read_text().splitlines())
    at = {f"p{share}": taken[int(share / 100 * (len(taken) - 1))] for share in (50, 99)}
    return {"per_s": len(taken) / seconds, **at}


async def main(*, rounds: int, seconds: float, tls: bool, python: str, where: Path | None) -> int:
    found: dict[str, list[dict[tuple[str, int], Found]]] = {"ours": [], "etcd": [], "etcd, h2load": []}
    for number in range(rounds):
        for side in ("ours", "etcd") if number % 2 == 0 else ("etcd", "ours"):
            with tempfile.TemporaryDirectory(dir=where) as temporary:
                directory = Path(temporary)
                if side == "ours":
                    async with our_log(directory, tls=tls) as port:
                        found[side].append(await measure(sys.executable, "log", port, seconds=seconds))
                    continue
                async with etcd(directory, python=python) as port:
                    found[side].append(await measure(python, "etcd", port, seconds=seconds))
                    if shutil.which("h2load") is not None:
                        found["etcd, h2load"].append(
                            {
                                (verb, count): by_h2load(
                                    port, verb=verb, seconds=int(seconds), in_flight=count, directory=directory
                                )
                                for verb, count in LOADS
                            }
                        )
        print(f"round {number + 1} of {rounds} done", file=sys.stderr)
    return table(found)


def table(found: dict[str, list[dict[tuple[str, int], Found]]]) -> int:
    """Prints medians over rounds, and ratios; returns 1 if a target was missed."""
    missed = 0
    medians = {
        (side, load, name): statistics.median(one[load][name] for one in rounds)
        for side, rounds in found.items()
        for load in LOADS
        for name in ("per_s", "p50", "p99")
        if rounds
    }
    print(f"{'median of rounds':24} {'per s':>8} {'p50 ms':>8} {'p99 ms':>8}")
    for load in LOADS:
        for side in [side for side, rounds in found.items() if rounds]:
            per_s, p50, p99 = (medians[side, load, name] for name in ("per_s", "p50", "p99"))
            print(f"{load[0]:6} {load[1]:2} {side:14} {per_s:8.0f} {p50:8.3f} {p99:8.3f}")
        if load in TARGETS:
            name, target = TARGETS[load]
            pairs = zip(found["ours"], found["etcd"], strict=True)
            ratio = statistics.median(ours[load][name] / theirs[load][name] for ours, theirs in pairs)
            held = ratio >= target if name == "per_s" else ratio <= target
            missed += not held
            sign = "≥" if name == "per_s" else "≤"
            print(f"  {name} ours / etcd: {ratio:.2f}, wanted {sign} {target}: {'held' if held else 'MISSED'}")
    return 1 if missed else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--tls", action="store_true", help="our voters speak mutual TLS; etcd's do not")
    parser.add_argument("--grpc-python", help="a Python that has grpcio")
    parser.add_argument("--directory", type=Path, help="on the disk to be measured; a temporary one by default")
    chosen = parser.parse_args()
    if shutil.which("etcd") is None:
        raise SystemExit("no etcd on the PATH; Debian has it as etcd-server")
    with tempfile.TemporaryDirectory() as beside:
        grpc_python = chosen.grpc_python or sys.executable
        if chosen.grpc_python is None and importlib.util.find_spec("grpc") is None:
            venv.create(beside, with_pip=True)
            grpc_python = str(Path(beside) / "bin" / "python")
            subprocess.run([grpc_python, "-m", "pip", "install", "--quiet", "grpcio"], check=True)
        sys.exit(
            asyncio.run(
                main(
                    rounds=chosen.rounds,
                    seconds=chosen.seconds,
                    tls=chosen.tls,
                    python=grpc_python,
                    where=chosen.directory,
                )
            )
        )
