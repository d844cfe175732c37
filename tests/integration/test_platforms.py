"""What other platforms than Linux get: an edge that never says `strong`, and a node that says why it does not start.

There, Python has no `time.CLOCK_BOOTTIME`. Here it is taken away from a process before anything of ours is imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from consistency_service.testbed.region_calls import Region
from consistency_service.testbed.supervisor import Testbed
from consistency_service.testbed.topology import TestbedConfig

ROOT = Path(__file__).parents[2]
ELSEWHERE = "import time\ndel time.CLOCK_BOOTTIME\n"
EDGE = """
import json, sys
from edge_client import EdgeClient

servers, trust = sys.argv[1:]
with EdgeClient.connect(servers, trust=trust, edge_id="elsewhere", region="testbed") as edge:
    model = edge.model("weights", loader=lambda artifact: artifact.path.read_bytes(), timeout_ms=20_000)
    found = set()
    deadline_s = time.monotonic() + 3
    while time.monotonic() < deadline_s:
        with model.read() as reading:
            found.add((str(reading.guarantee), reading.value.decode(), reading.staleness_bound_ms is not None))
        time.sleep(0.01)
print(json.dumps(sorted(found)))
"""


def run(program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=50,
    )


@pytest.mark.slow
@pytest.mark.timeout(100)
@pytest.mark.parametrize(("before", "strong"), [("import time\n", True), (ELSEWHERE, False)], ids=["here", "elsewhere"])
def test_an_edge_is_strong_on_linux_and_bounded_elsewhere(tmp_path, before, strong):
    content = b"weights of version 1"
    with Testbed(TestbedConfig(directory=tmp_path / "region", nodes=1, edges=0)) as testbed:
        region = Region(testbed.state.urls("node-"))
        region.push("weights", "1.0.0", content)
        region.activate("weights", "1.0.0")
        region.close()
        result = run(before + EDGE, *testbed.state.urls("nats"), str(tmp_path / "region" / "keys" / "region.pub"))

    assert 0 == result.returncode, result.stderr
    found = json.loads(result.stdout)
    assert {content.decode()} == {value for _, value, _ in found}
    guarantees = {guarantee for guarantee, *_ in found}
    assert ("strong" in guarantees) is strong
    if not strong:
        assert {"bounded"} == guarantees
        assert any(known for *_, known in found), "the age is known as soon as the region has been heard"


def test_a_node_elsewhere_says_what_is_missing(tmp_path):
    program = ELSEWHERE + "import sys\nfrom consistency_service.cli import main\nsys.argv[1:] = ['serve']\nmain()"

    result = run(
        program,
        CCS_NODE_ID="n1",
        CCS_DATA_DIR=str(tmp_path / "data"),
        CCS_PEERS="n1 127.0.0.1:1 http://127.0.0.1:2",
        CCS_REGION_KEY=str(tmp_path / "region.key"),
        CCS_LOG="memory",
    )

    assert 2 == result.returncode, result.stderr
    assert "needs Linux" in result.stderr and "CLOCK_BOOTTIME" in result.stderr
    assert "Traceback" not in result.stderr
