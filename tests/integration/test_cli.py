"""`ccs` as a program, on a real region that it started itself: what scripts and people at a terminal get."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from consistency_service.adapters import region_key
from tests.support.ccs import CCS, environment, on_terminal, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with a testbed of three nodes in it."""
    directory = tmp_path_factory.mktemp("cli")
    started = run("testbed", "up", "--edges", "0", cwd=directory)
    assert 0 == started.returncode, started.stderr
    yield directory
    run("testbed", "down", cwd=directory)


@pytest.fixture
def ccs(place):
    """Every process runs when the test begins; gives a function that runs `ccs` beside the testbed."""
    for process in json.loads(run("testbed", "status", "--json", cwd=place).stdout)["processes"]:
        if process["condition"] == "stopped":
            assert 0 == run("testbed", "restart", process["name"], cwd=place).returncode
    return lambda *args: run(*args, cwd=place)


@pytest.fixture
def artifact(tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(os.urandom(3_000_000))
    return str(path)


def test_a_model_goes_live_and_back_and_is_deleted(ccs, artifact):
    pushed = ccs("model", "push", "tour", "1.0.0", artifact, "--create", "--activate", "--json")
    assert 0 == pushed.returncode, pushed.stderr
    assert json.loads(pushed.stdout)["activation"]["effective"]
    Path(artifact).write_bytes(os.urandom(100))
    assert 0 == ccs("model", "push", "tour", "1.1.0", artifact, "--metadata", "commit=4f2").returncode

    refused = ccs("model", "push", "tour", "1.0.0", artifact)
    assert (1, True) == (refused.returncode, refused.stderr.startswith("error: version 1.0.0 names other bytes"))

    activated = ccs("model", "activate", "tour", "1.1.0")
    assert re.fullmatch(r"tour 1\.1\.0 is active for everybody since \S+Z \(generation 2\)\n", activated.stdout)
    assert 1 == ccs("model", "activate", "tour", "1.1.0").returncode, "unchanged"
    assert "tour 1.1.0  (generation 2, strong" in ccs("model", "active", "tour").stdout
    assert "tour 1.0.0 is active" in ccs("rollback", "tour").stdout

    history = json.loads(ccs("model", "history", "tour", "--json").stdout)["items"]
    assert [("1.0.0", "ada"), ("1.1.0", "ada"), ("1.0.0", "ada")] == [(h["version"], h["author"]) for h in history]
    then = json.loads(ccs("model", "history", "tour", "--json", "--at", str(history[1]["effective_at_unix_ms"])).stdout)
    assert ["1.1.0"] == [item["version"] for item in then["items"]]

    assert 1 == ccs("model", "delete", "tour", "--version", "1.1.0").returncode, "it is the one before"
    assert 0 == ccs("model", "delete", "tour").returncode
    assert 1 == ccs("model", "show", "tour").returncode
    outcomes = [line.split()[-1] for line in ccs("audit").stdout.splitlines()[1:]]
    assert {"ok", "version_conflict", "unchanged", "version_in_use"} <= set(outcomes)


def test_the_same_key_does_nothing_twice(ccs):
    assert 0 == ccs("model", "create", "once", "--idempotency-key", "first").returncode
    assert 0 == ccs("model", "create", "once", "--idempotency-key", "first").returncode

    other = ccs("model", "create", "twice", "--idempotency-key", "first", "--json")

    assert (1, "urn:ccs:problem:request_id_reused") == (other.returncode, json.loads(other.stdout)["type"])


def test_events_go_on_at_another_node_when_the_leader_dies(ccs, place):
    cluster = json.loads(ccs("cluster", "status", "--json").stdout)
    position = f"{cluster['epoch']}-{cluster['revision']}"
    command = [*CCS, "events", "--follow", "--json", "--after", position]
    following = subprocess.Popen(command, cwd=place, env=environment(), stdout=subprocess.PIPE, text=True)
    assert following.stdout is not None
    names: list[str] = []
    try:
        assert 0 == ccs("model", "create", "before-a-death").returncode
        names.append(json.loads(following.stdout.readline())["name"])
        assert 0 == ccs("testbed", "kill", cluster["leader_id"]).returncode
        assert 0 == ccs("model", "create", "after-a-death").returncode
        while names.count("ModelCreated") < 2:
            names.append(json.loads(following.stdout.readline())["name"])
        following.send_signal(signal.SIGINT)
        assert 130 == following.wait(timeout=10)
    finally:
        following.kill()
        following.communicate()

    assert ["ModelCreated", "AuthorityAssumed", "ModelCreated"] == names


def test_a_paused_leader_costs_seconds_only(ccs):
    leader = json.loads(ccs("cluster", "status", "--json").stdout)["leader_id"]
    assert 0 == ccs("testbed", "pause", leader).returncode
    try:
        began = time.monotonic()
        done = ccs("model", "create", "meanwhile")
        took_s = time.monotonic() - began
    finally:
        assert 0 == ccs("testbed", "resume", leader).returncode

    assert (0, True) == (done.returncode, took_s < 8), (took_s, done.stderr)


def test_nobody_there_ends_with_3_at_once(tmp_path):
    began = time.monotonic()
    done = run("--url", "http://127.0.0.1:1", "edges", cwd=tmp_path)

    assert 3 == done.returncode
    assert "error: no node answered within" in done.stderr and "hint: " in done.stderr
    assert time.monotonic() - began < 6


@pytest.mark.parametrize("width", [80, 100])
def test_nothing_is_wider_than_the_terminal(ccs, place, artifact, width):
    name = f"wide-{width}"
    code, pushed = on_terminal(
        "model", "push", name, "1.0.0", artifact, "--create", "--activate", cwd=place, width=width
    )
    assert 0 == code, pushed
    assert "edges ready" in pushed, "progress moves while somebody looks"
    assert f"{name} 1.0.0 is active for everybody since" in pushed

    for args in (("cluster", "status"), ("model", "list"), ("model", "versions", name), ("testbed", "status")):
        code, shown = on_terminal(*args, cwd=place, width=width)
        lines = [line.rstrip() for line in shown.splitlines()]
        assert (0, []) == (code, [line for line in lines if len(line) > width])
        assert not [line for line in lines if re.fullmatch(r" +\S{1,8}", line)], f"folded:\n{shown}"


def test_a_configuration_that_makes_no_sense_is_one_sentence(tmp_path):
    config = tmp_path / "node.toml"
    config.write_text('node_id = "n1"\nno_such_setting = 1\n')

    done = run("serve", "--config", str(config), cwd=tmp_path)

    assert 2 == done.returncode
    assert re.fullmatch(r"error: \S+node\.toml: unknown setting no_such_setting\n", done.stderr)


def test_an_address_that_is_taken_is_one_sentence(tmp_path):
    region_key.generate(tmp_path / "region.key", tmp_path / "region.pub")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        http = f"127.0.0.1:{taken.getsockname()[1]}"
        settings = {"node_id": "n1", "http": http, "log": "memory", "data_dir": "data", "region_key": "region.key"}
        peer = f'[peers.n1]\nraft = "127.0.0.1:1"\nurl = "http://{http}"\n'
        text = "".join(f'{name} = "{value}"\n' for name, value in settings.items())
        (tmp_path / "node.toml").write_text(text + peer)

        done = run("serve", "--config", "node.toml", "--log-level", "error", cwd=tmp_path)

    assert (2, True) == (done.returncode, done.stderr.startswith(f"error: node n1 cannot run (http {http}")), (
        done.stderr
    )
    assert "Traceback" not in done.stderr


def test_the_testbed_can_be_hurt_and_says_so(ccs):
    killed = ccs("testbed", "kill", "node-2")
    assert (0, "node-2 is dead; start it again with: ccs testbed restart node-2\n") == (
        killed.returncode,
        killed.stdout,
    )
    again = ccs("testbed", "kill", "node-2")
    assert (2, True) == (again.returncode, "is not running" in again.stderr)
    assert "ended (signal 9)" in ccs("testbed", "status").stdout
    assert "not reachable" in ccs("cluster", "status").stdout
    assert "node-2 runs and is ready\n" == ccs("testbed", "restart", "node-2").stdout
    assert "node_starting" in ccs("testbed", "logs", "node-2", "--lines", "500").stdout
    assert 2 == ccs("testbed", "logs", "node-9").returncode
