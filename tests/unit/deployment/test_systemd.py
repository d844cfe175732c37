"""ops/systemd: units that systemd understands, that confine what they start, and that say what nodes and edges understand."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from consistency_service.app import SHUTDOWN_S
from consistency_service.config import config_of
from edge_client.client import FAREWELL_S
from edge_client.config import EdgeConfig
from ops.edge.app import settings_of

HERE = Path(__file__).parents[3] / "ops" / "systemd"
NODE, EDGE = HERE / "ccs-node.service", HERE / "ccs-edge@.service"
EXPOSURE_MAX = 2.5
"""Of 10, by `systemd-analyze security`; a unit that confines nothing has 9.6."""
CONFINED = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "CapabilityBoundingSet": "",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
    "RestrictNamespaces": "yes",
    "LockPersonality": "yes",
    "SystemCallArchitectures": "native",
    "UMask": "0077",
}
NODE_FILE = {
    "node_id": "node-1",
    "http": "0.0.0.0:8700",
    "nats": ["tls://nats-1.example.org:4222"],
    "peers": {"node-1": {"raft": "node-1.example.org:8701", "url": "https://node-1.example.org:8700"}},
}


def settings(path: Path) -> dict[str, list[str]]:
    """Every directive with all its values, in order."""
    found: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith(("#", "[")):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def environment(path: Path, *, instance: str = "") -> dict[str, str]:
    words = [word for line in settings(path)["Environment"] for word in shlex.split(line)]
    places = {"%t": "/run", "%S": "/var/lib", "%i": instance}
    return dict(re.sub("%[tSi]", lambda found: places[found[0]], word).split("=", 1) for word in words)


def exposure(path: Path) -> float:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=50)
    return float(re.findall(r"exposure level for .*: ([\d.]+)", result.stdout)[0])


@pytest.fixture
def startable(tmp_path: Path) -> list[Path]:
    """Both units, with a program that exists in the place of ours: systemd asks for that."""
    for unit in (NODE, EDGE):
        text = unit.read_text(encoding="utf-8")
        (tmp_path / unit.name).write_text(re.sub(r"/opt/ccs/bin/\w+", "/bin/true", text), encoding="utf-8")
    return [tmp_path / unit.name for unit in (NODE, EDGE)]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_understands_every_line(startable):
    command = ["systemd-analyze", "verify", "--man=no"]
    result = subprocess.run([*command, *startable], capture_output=True, text=True, timeout=50)

    assert (0, "") == (result.returncode, result.stderr)
    startable[0].write_text(startable[0].read_text().replace("ProtectHome=", "ProtectHouse="))
    assert "ProtectHouse" in subprocess.run([*command, startable[0]], capture_output=True, text=True).stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_little_is_left_to_break_out_with(startable):
    assert all(exposure(unit) <= EXPOSURE_MAX for unit in startable)
    bare = startable[0].with_name("bare.service")
    bare.write_text("[Service]\nExecStart=/bin/true\n")
    assert exposure(bare) > 9


@pytest.mark.parametrize("unit", [NODE, EDGE], ids=lambda path: path.stem)
def test_a_unit_confines_what_it_starts(unit):
    found = settings(unit)

    assert CONFINED == {name: found.get(name, ["missing"])[-1] for name in CONFINED}
    assert "root" not in found["User"]
    assert {"MemoryMax", "TasksMax", "LimitNOFILE"} <= found.keys()
    assert "@system-service" == found["SystemCallFilter"][0]


def test_there_is_time_to_leave():
    assert int(settings(NODE)["TimeoutStopSec"][0]) >= 2 * SHUTDOWN_S
    assert int(settings(EDGE)["TimeoutStopSec"][0]) >= 2 * FAREWELL_S


def test_a_node_understands_what_it_is_told():
    config = config_of(NODE_FILE, environ=environment(NODE), origin="unit")

    handed_over = {line.partition(":")[0] for line in settings(NODE)["LoadCredential"]}
    used = {Path(value).name for value in environment(NODE).values() if value.startswith("/run/ccs/")}
    assert handed_over == used
    assert config.data_dir == Path("/var/lib") / settings(NODE)["StateDirectory"][0]
    assert all(f"CCS_{name}" in environment(NODE) for name in ("HTTP_CERTIFICATE", "ACCESS", "RAFT_KEY"))


def test_an_edge_understands_what_it_is_told():
    told = {"CCS_EDGE_SERVERS": "tls://leaf:4222", **environment(EDGE, instance="cam-17")}

    config = EdgeConfig(**settings_of(told))

    handed_over = {line.partition(":")[0] for line in settings(EDGE)["LoadCredential"]}
    run = f"/run/{settings(EDGE)['RuntimeDirectory'][0].replace('%i', 'cam-17')}"
    used = {value for value in told.values() if value.startswith("/run/") and not value.endswith("status.json")}
    assert {f"{run}/{name}" for name in handed_over} == used
    assert "cam-17" == config.edge_id


@pytest.mark.parametrize("unit", [NODE, EDGE], ids=lambda path: path.stem)
def test_what_was_handed_over_becomes_its_own(unit, tmp_path):
    """Credentials may be readable for a group, where systemd keeps them with access lists; the copies are not."""
    given, run = tmp_path / "given", tmp_path / "run"
    given.mkdir()
    run.mkdir()
    (given / "region.key").write_text("key")
    (given / "region.key").chmod(0o440)
    (line,) = settings(unit)["ExecStartPre"]

    subprocess.run(
        shlex.split(line),
        env={**os.environ, "CREDENTIALS_DIRECTORY": str(given), "RUNTIME_DIRECTORY": str(run)},
        check=True,
        timeout=10,
    )

    assert 0o400 == stat.S_IMODE((run / "region.key").stat().st_mode)
