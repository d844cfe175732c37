"""`python -m ops.bench.restore`: a region is backed up under load, lost, and restored on a bare machine.

How long from the moment at which the first restored node serves until every edge is strong again, what the backup was
missing of what had been acknowledged before it began, and whether nodes of the old region that nobody stopped mix in.
Edges and bus go on running throughout, as they would.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from consistency_service.testbed.edge_status import EdgeStatus, read_status
from consistency_service.testbed.region_calls import Region
from consistency_service.testbed.supervisor import Testbed
from consistency_service.testbed.topology import TestbedConfig
from ops.bench.figures import Figure

LIMIT_S = 10.0
LOAD_S = 5.0
MODEL, OTHER = "restored", "changing"
CCS = (sys.executable, "-m", "consistency_service")


@dataclass
class Load:
    """Callers who change things without pause; every change is numbered, and what was acknowledged is remembered."""

    urls: tuple[str, ...]
    callers: int = 4
    acknowledged: list[int] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Models `changing-N`, one for each caller, change their policy all the time."""
        region = Region(self.urls)
        for number in range(self.callers):
            region.call("POST", "/v1/models", json={"name": f"{OTHER}-{number}"}).raise_for_status()
        region.close()
        self.acknowledged = [0] * self.callers
        self._threads = [threading.Thread(target=self._call, args=(n,), daemon=True) for n in range(self.callers)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self, number: int) -> None:
        region = Region(self.urls, timeout_s=5.0)
        value = 0
        with contextlib.suppress(TimeoutError, httpx.HTTPError):
            while not self._stop.is_set():
                value += 1
                region.committed(f"{OTHER}-{number}", versions_kept=value)
                self.acknowledged[number] = value
        region.close()


def measure(*, edges: int = 5, load_s: float = LOAD_S, say: Callable[[str], None] = lambda _: None) -> list[Figure]:
    """The figures of one run. Raises `AssertionError` if something that must not happen did."""
    with tempfile.TemporaryDirectory() as directory:
        config = TestbedConfig(
            directory=Path(directory) / "bed",
            nodes=3,
            edges=edges,
            models=(MODEL,),
            edge_options={"loader": "bytes", "workload": "read"},
        )
        with Testbed(config, progress=lambda _: None) as bed:
            return _Run(config, bed, say=say).figures(load_s=load_s)


class _Run:
    def __init__(self, config: TestbedConfig, bed: Testbed, *, say: Callable[[str], None]) -> None:
        self._config, self._bed, self._say = config, bed, say
        self._directory = config.directory
        self._backup = config.directory / "region.ccsbackup"
        self._urls = bed.state.urls("node-")
        self._names = [f"node-{number}" for number in range(1, config.nodes + 1)]

    def figures(self, *, load_s: float) -> list[Figure]:
        region = Region(self._urls)
        for version in ("1.0.0", "2.0.0"):
            region.push(MODEL, version, version.encode() * 20_000)
        region.activate(MODEL, "1.0.0")
        self._all_strong("1.0.0", within_s=20)
        load = Load(self._urls)
        load.start()
        time.sleep(load_s / 2)
        before = list(load.acknowledged)
        began = time.monotonic()
        self._ccs("backup", "create", str(self._backup), *(part for url in self._urls for part in ("--url", url)))
        backup_s = time.monotonic() - began
        made = json.loads(self._ccs("backup", "verify", str(self._backup), "--json"))
        time.sleep(load_s / 2)
        region.activate(MODEL, "2.0.0")  # what the backup does not know
        self._all_strong("2.0.0", within_s=20)
        load.stop()
        region.close()
        for name in self._names:
            self._bed.kill(name)
        self._say(f"backed up at {made['epoch']}-{made['revision']} in {backup_s:.2f} s, and lost")
        self._lose()
        began = time.monotonic()
        restored = json.loads(
            self._ccs("backup", "restore", str(self._backup), "--config", str(self._settings("node-1")), "--json")
        )
        restore_s = time.monotonic() - began
        serving_s, strong_s = self._serve_and_wait()
        lost = self._lost(before)
        self._say(f"restored as {restored['position']}; strong {strong_s:.2f} s after serving")
        mixed = self._survivors()
        joined_s = self._join()
        return [
            Figure(name="commits per second while the backup was made", value=sum(before) / (load_s / 2), unit="/s"),
            Figure(name="ccs backup create, whole command", value=backup_s, unit="s"),
            Figure(name="ccs backup restore, whole command", value=restore_s, unit="s"),
            Figure(name="first restored node: start to serving", value=serving_s, unit="s"),
            Figure(name="first node serving to all edges strong", value=strong_s, unit="s", limit=LIMIT_S),
            Figure(name="acknowledged before the backup, and not in it", value=lost, unit="", limit=0),
            Figure(name="answers of the old epoch while survivors run", value=mixed, unit="", limit=0),
            Figure(name="two more nodes joined, empty to voting", value=joined_s, unit="s"),
        ]

    # ---- steps

    def _lose(self) -> None:
        """The first machine is bare; the others keep their disks, for somebody to start them by mistake."""
        shutil.rmtree(self._directory / "nodes" / "node-1")
        shutil.rmtree(self._directory / "artifacts")

    def _serve_and_wait(self) -> tuple[float, float]:
        began = time.monotonic()
        self._bed.restart("node-1", wait_ready=False)
        with httpx.Client(trust_env=False, timeout=1.0) as http:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if http.get(self._urls[0] + "/livez").status_code == 200:
                        break
                time.sleep(0.01)
        serving = time.monotonic()
        self._all_strong("1.0.0", within_s=60)
        return serving - began, time.monotonic() - serving

    def _lost(self, before: list[int]) -> int:
        """How many callers' changes are missing that were acknowledged before the backup was asked for."""
        region = Region([self._urls[0]])
        kept = [
            region.call("GET", f"/v1/models/{OTHER}-{n}").json()["policy"]["versions_kept"] for n in range(len(before))
        ]
        region.close()
        return sum(value > found for value, found in zip(before, kept, strict=True) if value)

    def _survivors(self) -> int:
        """Two nodes of the old region, a majority of it, are started by mistake: what edges answer meanwhile."""
        for name in self._names[1:]:
            self._bed.restart(name, wait_ready=False)
        old = Region(self._urls[1:2], timeout_s=20.0)
        old.committed(f"{OTHER}-0", versions_kept=999)  # they decide, in their own history
        old.close()
        epochs = {status.position[0] for status in self._statuses() if status.position}
        wrong, until = 0, time.monotonic() + 3.0
        while time.monotonic() < until:
            for status in self._statuses():
                wrong += status.version != "1.0.0" or status.position is None or status.position[0] not in epochs
            time.sleep(0.1)
        for name in self._names[1:]:
            self._bed.kill(name)
        self._all_strong("1.0.0", within_s=20)
        return wrong

    def _join(self) -> float:
        """The other nodes begin with empty directories, and are added; the region then decides as before."""
        began = time.monotonic()
        for name, url in zip(self._names[1:], self._urls[1:], strict=True):
            shutil.rmtree(self._directory / "nodes" / name)
            settings = self._settings(name)
            settings.write_text("join = true\n" + settings.read_text())
            raft = settings.read_text().partition(f"[peers.{name}]\n")[2].partition('raft = "')[2].partition('"')[0]
            self._bed.restart(name, wait_ready=False)
            self._ccs("cluster", "add", name, "--raft", raft, "--rest", url, "--url", self._urls[0])
        joined_s = time.monotonic() - began
        region = Region(self._urls)
        region.activate(MODEL, "2.0.0")
        self._all_strong("2.0.0", within_s=20)
        region.close()
        return joined_s

    # ---- pieces

    def _settings(self, name: str) -> Path:
        return self._directory / "config" / f"{name}.toml"

    def _statuses(self) -> list[EdgeStatus]:
        files = [self._directory / "edges" / f"edge-{n}.json" for n in range(1, self._config.edges + 1)]
        return [status for file in files if (status := read_status(file)) is not None]

    def _all_strong(self, version: str, *, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while True:
            statuses = self._statuses()
            good = [status for status in statuses if (status.guarantee, status.version) == ("strong", version)]
            if len(good) == self._config.edges:
                return
            told = [(s.guarantee, s.version, s.position, s.last_error) for s in statuses]
            assert time.monotonic() < deadline, f"not all strong with {version} within {within_s} s: {told}"
            time.sleep(0.02)

    def _ccs(self, *arguments: str) -> str:
        done = subprocess.run([*CCS, *arguments], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout


def main() -> int:
    """Exit code 0 if every limit held."""
    figures = measure(say=print)
    print("\n".join(figure.line() for figure in figures))
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
