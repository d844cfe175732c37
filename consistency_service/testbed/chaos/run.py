"""One run of chaos, from an empty directory to a verdict. Whatever happens, nothing of it runs afterwards."""

from __future__ import annotations

import contextlib
import functools
import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from consistency_service.testbed.chaos import report as reports
from consistency_service.testbed.chaos.caller import Caller
from consistency_service.testbed.chaos.disks import ARTIFACTS_BYTES, NODE_BYTES, Disks
from consistency_service.testbed.chaos.draw import draw
from consistency_service.testbed.chaos.harvest import Harvest, read_histories
from consistency_service.testbed.chaos.layout import installed_programs, plan_chaos
from consistency_service.testbed.chaos.nemesis import Nemesis
from consistency_service.testbed.chaos.page import page_of
from consistency_service.testbed.chaos.plan import Break, FaultKind, Schedule
from consistency_service.testbed.chaos.verdict import Facts, Watched, judge, went_back
from consistency_service.testbed.chaos.watch import Position, Watch, behind
from consistency_service.testbed.chaos.workload import MODELS, Workload, write_manifest
from consistency_service.testbed.edge_session import boottime_ns
from consistency_service.testbed.errors import TestbedError
from consistency_service.testbed.history import HistoryError, Operation, check
from consistency_service.testbed.supervisor import Testbed
from consistency_service.testbed.topology import TestbedConfig

READY_MS: Final = 120_000
STRONG_S: Final = 60.0
CONVERGE_MS_MAX: Final = 40_000
"""From the moment at which everything is healed; callers end what they have under way within this too."""
BOOKS_S: Final = 60.0
POLL_S: Final = 0.1
READ_INTERVAL_MS: Final = 4.0
ID_PATIENCE_MS: Final = 120_000
"""An edge that is killed and paused while the bus is away may wait for its id longer than usual."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosConfig:
    """What is run. Raises `TestbedError` for what cannot be."""

    seed: int
    minutes: float
    kinds: frozenset[FaultKind]
    nodes: int = 3
    edges: int = 3
    breaking: Break | None = None

    def __post_init__(self) -> None:
        if not 0.3 <= self.minutes <= 24 * 60:
            raise TestbedError("--minutes takes 0.3 to 1440")
        if self.edges < 1:
            raise TestbedError("chaos needs at least one edge")


def run(config: ChaosConfig, *, keep: Path | None, page: Path, say: Say) -> reports.ChaosReport:
    """Hurt a region for a while and judge it; the page is written to `page`.

    Everything (logs, histories, ledger) stays in `keep`; without one, in a temporary directory if something was not as
    promised, and nowhere otherwise. Raises `TestbedError` if the region could not even be started.
    """
    home = _home(keep)
    disks = Disks()
    try:
        with _terminable():
            made = Chaos(config, home=home, disks=disks, say=say).play()
    except KeyboardInterrupt:
        disks.unmount()
        if keep is None:
            shutil.rmtree(home, ignore_errors=True)
        raise
    disks.unmount()
    kept = keep is not None or not made.ok
    made = msgspec.structs.replace(made, directory=str(home) if kept else None)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(page_of(made), encoding="utf-8")
    if not kept:
        shutil.rmtree(home, ignore_errors=True)
    return made


@dataclass(slots=True)
class _Outcome:
    """What is known when everything is down."""

    begun_at: str = ""
    begun_ns: int = 0
    end_ns: int = 0
    converged_ms: int | None = None
    not_converged: str = ""
    watched: Watched = field(default_factory=Watched)
    books: Any = None
    trouble: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Chaos:
    def __init__(self, config: ChaosConfig, *, home: Path, disks: Disks, say: Say) -> None:
        self._config = config
        self._home = home
        self._say_plain = say
        self._started_s = time.monotonic()
        self._nodes = [f"node-{number}" for number in range(1, config.nodes + 1)]
        self._edges = [f"edge-{number}" for number in range(1, config.edges + 1)]
        self._schedule: Schedule = draw(
            config.seed,
            duration_ms=int(config.minutes * 60_000),
            kinds=config.kinds,
            nodes=self._nodes,
            edges=self._edges,
            breaking=config.breaking,
        )
        self._region = home / "region"
        self._disks = disks
        self._outcome = _Outcome()
        self._nemesis: Nemesis | None = None
        self._workload: Workload | None = None

    def play(self) -> reports.ChaosReport:
        """Everything, and its report."""
        self._mount()
        write_manifest(self._home / "manifest.json", seed=self._config.seed)
        (self._home / "history").mkdir()
        testbed = Testbed(self._testbed_config(), plan=self._plan(), progress=self._say)
        self._say(f"starting {self._config.nodes} nodes, {self._config.edges} edges, bus, tier and the network between")
        with testbed, contextlib.ExitStack() as resources:
            self._in_region(testbed, resources)
        return self._judge()

    # ---- acts

    def _mount(self) -> None:
        if FaultKind.DISK not in self._config.kinds or self._config.breaking is not None:
            return
        disks = [(name, self._region / "nodes" / name, NODE_BYTES) for name in self._nodes]
        trouble = self._disks.mount([*disks, ("artifacts", self._region / "artifacts", ARTIFACTS_BYTES)])
        if trouble is not None:
            self._outcome.notes.append(f"disk faults are left out: {trouble}")
            self._say(self._outcome.notes[-1])

    def _in_region(self, testbed: Testbed, resources: contextlib.ExitStack) -> None:
        outcome, config = self._outcome, self._config
        state = testbed.state
        urls = {process.name: process.url or "" for process in state.processes if process.name in self._nodes}
        caller = Caller("judge", urls=list(urls.values()), rng=random.Random(0))
        resources.callback(caller.close)
        workload = self._workload = Workload(
            seed=config.seed, urls=urls, directory=self._home / "history", force=config.breaking is not None
        )
        resources.callback(workload.close)
        workload.set_up()
        self._await_strong(caller)
        watch = Watch(self._region, edges=self._edges)
        harvest = Harvest(caller)
        nemesis = self._nemesis = self._nemesis_for(caller)
        resources.callback(nemesis.close)
        self._say(f"all edges strong; {len(self._schedule.faults)} faults in {config.minutes:g} minutes from here")
        outcome.begun_at = datetime.now(tz=UTC).strftime("%Y-%m-%d %H:%M UTC")
        outcome.begun_ns, self._started_s = boottime_ns(), time.monotonic()
        watch.start()
        harvest.start()
        resources.callback(harvest.stop)
        resources.callback(watch.stop)
        workload.start()
        nemesis.perform(
            until_ms=self._schedule.duration_ms,
            started_s=self._started_s,
            interrupted=lambda: bool(workload.errors),
        )
        self._say("everything heals, and nobody changes anything any more")
        nemesis.heal()
        healed_s = time.monotonic()
        workload.stop()
        self._converge(caller, healed_s=healed_s)
        outcome.end_ns = boottime_ns()
        outcome.trouble += workload.errors
        try:
            outcome.books = harvest.finish(within_s=BOOKS_S)
        except TestbedError as error:
            outcome.trouble.append(str(error))
        outcome.watched = watch.stop()

    def _nemesis_for(self, caller: Caller) -> Nemesis:
        return Nemesis(
            self._schedule,
            directory=self._region,
            disks=self._disks,
            leader=functools.partial(_leader, caller),
            say=self._say,
        )

    def _await_strong(self, caller: Caller) -> None:
        deadline_s = time.monotonic() + STRONG_S
        while (late := self._behind(caller)) != "":
            if time.monotonic() >= deadline_s:
                raise TestbedError(
                    f"the region was not healthy within {STRONG_S:.0f} s, before anything was done: {late}"
                )
            time.sleep(POLL_S)

    def _converge(self, caller: Caller, *, healed_s: float) -> None:
        outcome = self._outcome
        while (late := self._behind(caller)) != "":
            if (time.monotonic() - healed_s) * 1_000 > CONVERGE_MS_MAX:
                outcome.not_converged = late
                self._say(f"not converged: {late}")
                return
            time.sleep(POLL_S)
        outcome.converged_ms = int((time.monotonic() - healed_s) * 1_000)
        self._say(f"converged after {outcome.converged_ms / 1_000:.1f} s")

    def _behind(self, caller: Caller) -> str:
        """Who is not where the region is; empty if all are."""
        generations: dict[str, int] = {}
        position: Position = (0, 0)
        for model in MODELS:
            answer = caller.ask(f"/v1/models/{model}/active", timeout_s=3.0)
            if answer is None:
                return f"no node answers a strong read of {model}"
            generations[model] = int(answer["generation"])
            position = max(position, (int(answer["epoch"]), int(answer["revision"])))
        return behind(self._region, edges=self._edges, generations=generations, position=position)

    # ---- judgement

    def _judge(self) -> reports.ChaosReport:
        assert self._workload is not None and self._nemesis is not None
        outcome, config = self._outcome, self._config
        self._say("judging")
        operations = self._operations()
        verdict = None
        try:
            verdict = check(operations)
        except HistoryError as error:
            outcome.trouble.append(str(error))
        requests = self._workload.notes.requests
        ledger = b"".join(msgspec.json.encode(request) + b"\n" for request in requests)
        (self._home / "ledger.jsonl").write_bytes(ledger)
        checks = judge(
            Facts(
                requests=requests,
                books=outcome.books,
                history=verdict,
                watched=outcome.watched,
                went_back=went_back(operations, ends=self._nemesis.ends),
                converged_ms=outcome.converged_ms,
                converge_ms_max=CONVERGE_MS_MAX,
                not_converged=outcome.not_converged,
                unexpected=self._nemesis.unexpected,
                trouble=outcome.trouble,
            )
        )
        rows, edges, nodes = reports.rows_of(operations, begun_ns=outcome.begun_ns, end_ns=outcome.end_ns)
        return reports.ChaosReport(
            ok=all(one.ok for one in checks),
            seed=config.seed,
            minutes=config.minutes,
            kinds=sorted(config.kinds),
            beyond=None if config.breaking is None else config.breaking.value,
            nodes=config.nodes,
            edges=config.edges,
            begun_at=outcome.begun_at,
            checks=checks,
            converged_ms=outcome.converged_ms,
            requests=reports.requests_by_command(requests),
            faults=reports.faults_done(self._nemesis.deeds, begun_ns=outcome.begun_ns, end_ns=outcome.end_ns),
            rows=rows,
            strong_edges=edges,
            strong_nodes=nodes,
            end_ms=(outcome.end_ns - outcome.begun_ns) // 10**6,
            notes=outcome.notes,
        )

    def _operations(self) -> list[Operation]:
        """The whole history; a line may be torn only where somebody was killed."""
        outcome = self._outcome
        assert self._nemesis is not None
        try:
            operations, torn = read_histories(sorted((self._home / "history").glob("*.jsonl")))
        except (HistoryError, OSError) as error:
            outcome.trouble.append(str(error))
            return []
        kills = [deed.target for deed in self._nemesis.deeds if deed.skipped is None and deed.fault.action == "kill"]
        for process, count in torn.items():
            if count > kills.count(process):
                outcome.trouble.append(f"{process} has {count} torn lines and was killed {kills.count(process)} times")
        return operations

    # ---- pieces

    def _testbed_config(self) -> TestbedConfig:
        return TestbedConfig(
            directory=self._region,
            nodes=self._config.nodes,
            edges=self._config.edges,
            models=MODELS,
            region="chaos",
            ready_timeout_ms=READY_MS,
            node_options={"compaction_entries": 500},
            edge_options={
                "workload": "read",
                "loader": "bytes",
                "read_interval_ms": READ_INTERVAL_MS,
                "id_patience_ms": ID_PATIENCE_MS,
                "manifest": str(self._home / "manifest.json"),
                "history_file": str(self._home / "history" / "{edge_id}.jsonl"),
            },
        )

    def _plan(self) -> Any:
        return functools.partial(plan_chaos, programs=installed_programs(), clocks=self._schedule.clocks)

    def _say(self, text: str) -> None:
        elapsed_s = int(time.monotonic() - self._started_s)
        self._say_plain(f"{elapsed_s // 60:3d}:{elapsed_s % 60:02d}  {text}")


def _leader(caller: Caller) -> str | None:
    answer = caller.ask("/v1/cluster/self", timeout_s=1.0)
    return None if answer is None else answer.get("leader_id")


def _home(keep: Path | None) -> Path:
    try:
        if keep is None:
            return Path(tempfile.mkdtemp(prefix="ccs-chaos-"))
        keep.mkdir(parents=True, exist_ok=True)
        if any(keep.iterdir()):
            raise TestbedError(f"{keep} is not empty; name another directory")
        return keep.absolute()
    except OSError as error:
        raise TestbedError(f"cannot make a directory for the run: {error}") from error


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Being told to terminate is like Ctrl-C: everything is taken down."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
