"""A region of real processes for the tests of survival: three nodes, a bus, a local tier, edges that read all the time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from consistency_service.testbed.edge_status import EdgeStatus, read_status
from consistency_service.testbed.region_calls import Region
from consistency_service.testbed.supervisor import Testbed
from consistency_service.testbed.topology import TestbedConfig

MODEL = "m"
T = TypeVar("T")
CONTENT = {"1.0.0": b"one" * 20_000, "2.0.0": b"two" * 20_000, "3.0.0": b"three" * 20_000}


@dataclass
class Bed:
    """A running testbed and what tests do with it."""

    config: TestbedConfig
    testbed: Testbed
    region: Region

    @property
    def edge_ids(self) -> list[str]:
        return [f"edge-{number}" for number in range(1, self.config.edges + 1)]

    def edge(self, edge_id: str) -> EdgeStatus:
        """What the edge said last; waits for its first word."""
        return eventually(lambda: read_status(self.config.directory / "edges" / f"{edge_id}.json"), within_s=20)

    def all_edges(self, condition: Callable[[EdgeStatus], bool], *, within_s: float) -> list[EdgeStatus]:
        """Every edge's status, once all fulfil `condition` at the same look."""

        def look() -> list[EdgeStatus] | None:
            statuses = [self.edge(edge_id) for edge_id in self.edge_ids]
            return statuses if all(condition(status) for status in statuses) else None

        try:
            return eventually(look, within_s=within_s)
        except AssertionError:
            raise AssertionError(f"within {within_s} s: {[self.edge(edge_id) for edge_id in self.edge_ids]}") from None

    def all_strong(self, version: str, *, within_s: float = 20) -> list[EdgeStatus]:
        """Every edge serves `version` strongly."""
        return self.all_edges(lambda s: s.guarantee == "strong" and s.version == version, within_s=within_s)

    def swap(self, version: str) -> dict[str, Any]:
        """Activate it, and see every edge serve it strongly."""
        answer = self.region.activate(MODEL, version)
        self.all_strong(version)
        return answer

    def quiet_for(self, seconds: float) -> None:
        """Every edge goes on reading strongly for so long, without one read that is not."""
        before = {edge_id: self.edge(edge_id) for edge_id in self.edge_ids}
        time.sleep(seconds)
        for edge_id in self.edge_ids:
            now = self.edge(edge_id)
            assert now.not_strong_count == before[edge_id].not_strong_count, (edge_id, now.reads)
            assert now.reads["strong"] > before[edge_id].reads["strong"]

    def nothing_wrong(self) -> None:
        """No edge ever got a reading whose value was not the version it named."""
        assert [self.edge(edge_id).wrong_reads for edge_id in self.edge_ids] == [0] * self.config.edges


@contextmanager
def running(directory: Path, *, nodes: int = 3, edges: int = 2, **options: Any) -> Iterator[Bed]:
    """A region with model `m` in three versions, 1.0.0 active everywhere and strong."""
    config = TestbedConfig(
        directory=directory / "bed",
        nodes=nodes,
        edges=edges,
        models=(MODEL,),
        edge_options={"loader": "bytes", "workload": "read", **options.pop("edge_options", {})},
        **options,
    )
    with Testbed(config, progress=lambda _: None) as testbed:
        region = Region(testbed.state.urls("node-"))
        try:
            for version, content in CONTENT.items():
                region.push(MODEL, version, content)
            bed = Bed(config=config, testbed=testbed, region=region)
            bed.swap("1.0.0")
            yield bed
            bed.nothing_wrong()
        finally:
            region.close()


def eventually(look: Callable[[], T | None], *, within_s: float) -> T:
    """What `look` returns once that is neither None nor False. Raises `AssertionError` after `within_s` seconds."""
    deadline = time.monotonic() + within_s
    while True:
        seen = look()
        if seen is not None and seen is not False:
            return seen
        assert time.monotonic() < deadline, f"not within {within_s} s; last seen: {seen!r}"
        time.sleep(0.05)
