"""`ccs cluster` on a region of real processes: it becomes other nodes while it decides, and comes back after a restart."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance.metadata_log_cluster import free_port

CCS = (sys.executable, "-m", "consistency_service")
ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CCS_")}
    return kept | {"PYTHONPATH": str(ROOT), "CCS_AUTHOR": "ada"}


class Bed:
    """A testbed of three nodes, and one node beside it that the testbed knows nothing of."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bed = directory / ".ccs-testbed"
        self.ports = free_port(), free_port()
        self.newcomer: subprocess.Popen[bytes] | None = None

    def ccs(self, *args: str, code: int = 0) -> str:
        done = subprocess.run(
            [*CCS, *args],
            cwd=self.directory,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        assert code == done.returncode, (args, done.stdout, done.stderr)
        return done.stdout

    def voters(self, url: str | None = None) -> list[str]:
        where = ("--url", url) if url else ()
        nodes = json.loads(self.ccs("cluster", "status", "--json", *where))["nodes"]
        return sorted(node["node_id"] for node in nodes)

    def until(self, condition: Callable[[], bool], *, what: str) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain for {what}"
            time.sleep(0.2)

    def start(self) -> None:
        """`node-4`, which waits to be added."""
        (config,) = self.directory.rglob("node-1.toml")
        settings = tomllib.loads(config.read_text())
        certs = Path(settings["raft_ca"]).parent
        if not (certs / "node-4.crt").exists():
            self.ccs("certs", "issue", "node-4", "--directory", str(certs))
        peers = settings.pop("peers") | {"node-4": {"raft": self.raft, "url": self.url}}
        settings |= {
            "node_id": "node-4",
            "join": True,
            "data_dir": str(self.directory / "node-4"),
            "http": f"127.0.0.1:{self.ports[0]}",
            "raft_certificate": str(certs / "node-4.crt"),
            "raft_key": str(certs / "node-4.key"),
        }
        lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
        for name, peer in peers.items():
            lines += [f"[peers.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in peer.items())]
        path = self.directory / "node-4.toml"
        path.write_text("\n".join(lines) + "\n")
        path.chmod(0o600)
        self.newcomer = subprocess.Popen([*CCS, "serve", "--config", str(path)], cwd=self.directory, env=environment())

    def stop(self) -> None:
        if self.newcomer is not None:
            self.newcomer.send_signal(signal.SIGTERM)
            self.newcomer.wait(timeout=20)
            self.newcomer = None

    @property
    def raft(self) -> str:
        return f"127.0.0.1:{self.ports[1]}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"


@pytest.fixture
def bed(tmp_path):
    made = Bed(tmp_path)
    made.ccs("testbed", "up", "--edges", "0")
    yield made
    made.stop()
    made.ccs("testbed", "down")


def test_a_node_is_replaced_and_the_region_goes_on(bed):
    bed.ccs("model", "create", "m")
    bed.start()
    where = ("--raft", bed.raft, "--rest", bed.url)
    replaced = json.loads(bed.ccs("cluster", "replace", "node-3", "node-4", *where, "--json"))
    assert ["node-1", "node-2", "node-4"] == [member["node_id"] for member in replaced["members"] if member["votes"]]
    bed.ccs("cluster", "replace", "node-3", "node-4", *where)
    assert "urn:ccs:problem:member_removed" in bed.ccs(
        "cluster", "add", "node-3", "--raft", "127.0.0.1:1", "--rest", "http://127.0.0.1:2", "--json", code=1
    )

    assert "node-4" == json.loads(bed.ccs("cluster", "transfer", "node-4", "--json"))["heir"]
    bed.until(
        lambda: json.loads(bed.ccs("cluster", "status", "--json"))["leader_id"] == "node-4", what="node-4 to lead"
    )
    assert ["node-1", "node-2", "node-4"] == bed.voters(bed.url)
    bed.ccs("model", "create", "n", "--url", bed.url)
    bed.ccs("testbed", "kill", "node-1")
    bed.ccs("model", "create", "o", "--url", bed.url)
    bed.stop()
    bed.ccs("testbed", "restart", "node-1")
    bed.ccs("testbed", "kill", "node-2")
    bed.ccs("testbed", "restart", "node-2")
    bed.start()
    bed.until(lambda: ["node-1", "node-2", "node-4"] == bed.voters(), what="the members after a restart")
    models = json.loads(bed.ccs("model", "list", "--json", "--url", bed.url))
    assert ["m", "n", "o"] == sorted(model["name"] for model in models["items"])
    (config,) = bed.directory.rglob("node-2.toml")
    bed.ccs("cluster", "recover", "--config", str(config), code=2)
    bed.stop()
    looked = json.loads(bed.ccs("cluster", "recover", "--config", str(bed.directory / "node-4.toml"), "--json"))
    assert (None, {None}) == (looked["moved_to"], {file["damage"] for file in looked["files"]})
