"""`python -m ops.bench.rolling`: every bus server and every node is replaced, one after the other, under load.

A region of three nodes and a NATS cluster of three (streams with three replicas), all processes of this machine. Callers
release, roll back and delete; readers at edges and nodes read all the time; everything is recorded, and judged as
`ccs chaos` judges. Bus servers are told to end (SIGTERM) and come back when they are gone; nodes are drained first
(`ccs cluster drain`), then told to end, and the next one follows when its drain says that it may.

A strong read is *available* at an instant if one that is invoked then is answered within `PATIENCE_MS`: so an open switch
of a few milliseconds, which a strong read waits for, is none of what is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from consistency_service.testbed import supervisor
from consistency_service.testbed.chaos import run as chaos
from consistency_service.testbed.chaos.availability import Stretch, stretches_of
from consistency_service.testbed.chaos.caller import Caller
from consistency_service.testbed.chaos.disks import Disks
from consistency_service.testbed.chaos.layout import installed_programs
from consistency_service.testbed.chaos.nemesis import Deed
from consistency_service.testbed.chaos.plan import Action, Fault, FaultKind
from consistency_service.testbed.chaos.report import ChaosReport
from consistency_service.testbed.edge_session import boottime_ns
from consistency_service.testbed.history import Operation
from consistency_service.testbed.processes import Condition, send_signal, wait_condition
from consistency_service.testbed.topology import (
    PlannedFile,
    ProcessSpec,
    Programs,
    Ready,
    ReadyKind,
    TestbedConfig,
    Topology,
    plan_region,
)
from ops.bench.figures import Figure

BUSES = ("nats-1", "nats-2", "nats-3")
SHARE_MIN = 99.9
PATIENCE_MS = 100
CALM_S = 8.0
HEALTHY_S = 60.0
STOP_MS = 20_000
CCS = (sys.executable, "-m", "consistency_service")


def plan_clustered(config: TestbedConfig, ports: Iterator[int], *, programs: Programs) -> Topology:
    """The usual region on a cluster of three bus servers, which everybody knows, each beginning with another."""
    usual = plan_region(config, ports, programs=programs)
    places = {name: (next(ports), next(ports), next(ports)) for name in BUSES}
    routes = [f"nats-route://127.0.0.1:{route}" for _, route, _ in places.values()]
    buses, files = [], []
    for name, (client, route, monitor) in places.items():
        path = str(config.directory / "config" / f"{name}.conf")
        settings = {
            "server_name": name,
            "listen": f"127.0.0.1:{client}",
            "http": f"127.0.0.1:{monitor}",
            "max_payload": 1 << 20,
            "jetstream": {"store_dir": str(config.directory / name), "max_file_store": 1 << 30, "sync_interval": "1s"},
            "cluster": {"name": "rolling", "listen": f"127.0.0.1:{route}", "routes": routes},
        }
        files.append(PlannedFile(path=path, text=json.dumps(settings, indent=2)))
        buses.append(
            ProcessSpec(
                name=name,
                argv=(programs.nats_server, "--config", path),
                env={},
                cwd=str(config.directory),
                ready=Ready(kind=ReadyKind.PORT, target=str(client)),
                ports=(client, route, monitor),
                url=f"nats://127.0.0.1:{client}",
            )
        )
    urls = [bus.url or "" for bus in buses]
    before = next(spec.url or "" for spec in usual.processes if spec.name == "nats")
    for number, file in enumerate(file for file in usual.files if not file.path.endswith("nats.conf")):
        turned = urls[number % 3 :] + urls[: number % 3]
        files.append(replace(file, text=file.text.replace(f'"{before}"', ", ".join(f'"{url}"' for url in turned))))
    others = [
        replace(spec, depends_on=tuple(d for d in spec.depends_on if d != "nats") + BUSES * ("nats" in spec.depends_on))
        for spec in usual.processes
        if spec.name != "nats"
    ]
    directories = (*usual.directories, *(str(config.directory / name) for name in BUSES))
    return replace(usual, processes=(*buses, *others), files=tuple(files), directories=directories)


class Replacer:
    """Stands where the nemesis stands in a run of chaos: replaces one process after the other, and writes that down."""

    def __init__(self, directory: Path, *, nodes: Sequence[str], say: Callable[[str], None]) -> None:
        self.deeds: list[Deed] = []
        self.unexpected: list[str] = []
        self.ends: dict[str, list[int]] = {}
        self._directory = directory
        self._nodes = nodes
        self._say = say

    def perform(self, *, until_ms: int, started_s: float, interrupted: Callable[[], bool]) -> None:
        """Everything was replaced once, and `until_ms` have passed since `started_s`."""
        time.sleep(CALM_S / 2)
        for name in (*BUSES, *self._nodes):
            if interrupted():
                return
            if name in self._nodes:
                self._drain(name)
            self._replace(name)
            time.sleep(CALM_S / 4)
        time.sleep(max(CALM_S / 2, until_ms / 1_000 - (time.monotonic() - started_s)))

    def heal(self) -> None:
        """Nothing is broken."""

    def close(self) -> None:
        """Nothing is held."""

    def _drain(self, name: str) -> None:
        urls = [part for node in self._nodes for part in ("--url", self._process(node).url or "")]
        done = subprocess.run(
            [*CCS, "cluster", "drain", name, *urls], capture_output=True, text=True, timeout=120, check=False
        )
        self._say(f"{name} is drained{': ' if done.stderr else ''}{' / '.join(done.stderr.split(chr(10))).strip(' /')}")
        if done.returncode:
            self.unexpected.append(f"{name} could not be drained: {done.stderr.strip()[-500:]}")

    def _replace(self, name: str) -> None:
        fault = Fault(
            number=len(self.deeds) + 1,
            kind=FaultKind.BUS if name in BUSES else FaultKind.KILL,
            action=Action.KILL,
            target=name,
            begin_ms=0,
            end_ms=0,
            words=f"{name} is replaced",
        )
        deed = Deed(fault=fault, target=name, begun_ns=boottime_ns())
        identity = self._process(name).identity
        assert identity is not None
        send_signal(identity, signal.SIGTERM)
        if not wait_condition(identity, frozenset({Condition.STOPPED}), timeout_ms=STOP_MS):
            self.unexpected.append(f"{name} did not end within {STOP_MS / 1_000:.0f} s of SIGTERM")
            supervisor.kill(self._directory, name)
        self.ends.setdefault(name, []).append(boottime_ns())
        time.sleep(0.3)  # the keeper looks
        supervisor.restart(self._directory, name)
        if name in BUSES:
            self._await_healthy(name)
        deed.ended_ns = boottime_ns()
        self.deeds.append(deed)
        self._say(f"{name} was replaced, in {(deed.ended_ns - deed.begun_ns) / 1e9:.1f} s")

    def _await_healthy(self, name: str) -> None:
        """Its streams have caught up: until then the next one must not go."""
        url = f"http://127.0.0.1:{self._process(name).ports[2]}/healthz"
        deadline = time.monotonic() + HEALTHY_S
        with httpx.Client(trust_env=False, timeout=2.0) as http:
            while time.monotonic() < deadline:
                with contextlib.suppress(httpx.TransportError):
                    if http.get(url).status_code == 200:
                        return
                time.sleep(0.2)
        self.unexpected.append(f"{name} was not healthy within {HEALTHY_S:.0f} s")

    def _process(self, name: str) -> Any:
        return supervisor.status(self._directory).process(name)


class Rolling(chaos.Chaos):
    """A run of chaos whose only fault is maintenance."""

    availability: dict[str, float]

    def _nemesis_for(self, caller: Caller) -> Any:
        return Replacer(self._region, nodes=self._nodes, say=self._say)

    def _plan(self) -> Any:
        return functools.partial(plan_clustered, programs=installed_programs())

    def _testbed_config(self) -> TestbedConfig:
        config = super()._testbed_config()
        return replace(config, node_options={**config.node_options, "stream_replicas": 3})

    def _operations(self) -> list[Operation]:
        operations = super()._operations()
        begin_ns, end_ns = self._outcome.begun_ns, self._outcome.end_ns
        self.availability = {
            "edges, a strong read within 100 ms": 100 * edges_available(operations, begin_ns, end_ns),
            "edges, read() at once": 100 * edges_available(operations, begin_ns, end_ns, patience_ms=0),
            "nodes, REST at any of them": 100 * nodes_available(operations, begin_ns, end_ns),
        }
        return operations


def edges_available(
    operations: Sequence[Operation], begin_ns: int, end_ns: int, *, patience_ms: int = PATIENCE_MS
) -> float:
    """The share of the time, over all edges and models, at which a strong read would be answered in time."""
    missing, rows = 0.0, 0
    for (process, _), stretches in stretches_of(operations).items():
        if not process.startswith("edge-"):
            continue
        rows += 1
        inside = [s for s in stretches if s.end_ns > begin_ns and s.begin_ns < end_ns]
        for begin, end in gaps([s for s in inside if s.state == "strong"], begin_ns, end_ns):
            missing += max(0, end - begin - patience_ms * 1_000_000)
    return 1 - missing / (rows * (end_ns - begin_ns)) if rows else 0.0


def nodes_available(operations: Sequence[Operation], begin_ns: int, end_ns: int) -> float:
    """The share of the time at which some node answered strongly within `PATIENCE_MS`, for the worst model."""
    by_model: dict[str, list[Stretch]] = {}
    asked_ns = 0
    for (process, model), stretches in stretches_of(operations).items():
        if process.startswith("rest-"):
            by_model.setdefault(model, []).extend(s for s in stretches if s.state == "strong")
            asked_ns = max(asked_ns, stretches[-1].end_ns)
    end_ns = min(end_ns, asked_ns)  # callers stop before the run ends
    shares = []
    for strong in by_model.values():
        # A run of equal answers ends with the first other one: what is between two runs is a failure, or a pause of a reader.
        lost = sum(max(0, end - begin - PATIENCE_MS * 1_000_000) for begin, end in gaps(strong, begin_ns, end_ns))
        shares.append(1 - lost / (end_ns - begin_ns))
    return min(shares, default=0.0)


def gaps(stretches: Sequence[Stretch], begin_ns: int, end_ns: int) -> Iterator[tuple[int, int]]:
    """Where, between two instants, none of these is."""
    reached = begin_ns
    for stretch in sorted(stretches, key=lambda s: s.begin_ns):
        if stretch.begin_ns > reached:
            yield reached, min(stretch.begin_ns, end_ns)
        reached = max(reached, stretch.end_ns)
        if reached >= end_ns:
            return
    if reached < end_ns:
        yield reached, end_ns


def measure(
    *, minutes: float = 2.0, edges: int = 3, keep: Path | None = None, say: Callable[[str], None] = print
) -> tuple[list[Figure], ChaosReport]:
    """The figures of one run, and what the judge found."""
    home = keep or Path(tempfile.mkdtemp(prefix="ccs-rolling-"))
    home.mkdir(parents=True, exist_ok=True)
    config = chaos.ChaosConfig(seed=1, minutes=minutes, kinds=frozenset({FaultKind.KILL}), edges=edges)
    rolling = Rolling(config, home=home, disks=Disks(), say=say)
    try:
        made = rolling.play()
    finally:
        if keep is None:
            shutil.rmtree(home, ignore_errors=True)
    acknowledged = sum(counts.get("done", 0) for counts in made.requests.values())
    figures = [
        Figure(name="duration", value=made.end_ms / 1_000, unit="s"),
        Figure(name="processes replaced", value=len(made.faults), unit=""),
        Figure(name="commands acknowledged", value=acknowledged, unit=""),
        Figure(name="promises broken (reads, commands, positions, …)", value=_broken(made), unit="", limit=0),
    ]
    for name, share in rolling.availability.items():
        limit = None if "at once" in name else 100 - SHARE_MIN
        figures.append(Figure(name=f"not available: {name}", value=100 - share, unit="%", limit=limit))
    return figures, made


def _broken(made: ChaosReport) -> int:
    return sum(check.breaches for check in made.checks)


def main() -> int:
    """Exit code 0 if every limit held."""
    parser = argparse.ArgumentParser(prog="python -m ops.bench.rolling", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="at least; more if replacing takes longer")
    parser.add_argument("--edges", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="keep logs and histories in this empty directory")
    arguments = parser.parse_args()
    figures, made = measure(minutes=arguments.minutes, edges=arguments.edges, keep=arguments.keep)
    for check in made.checks:
        print(f"  {'kept' if check.ok else 'BROKEN':<8}{check.name}: {check.text}")
        for detail in check.details:
            print(f"          {detail}")
    print("\n".join(figure.line() for figure in figures))
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
