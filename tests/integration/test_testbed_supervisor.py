"""Testbeds of real processes: real bus and tier, with tiny programs in the place of nodes and edges."""

import contextlib
import dataclasses
import functools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from consistency_service.errors import ConfigError
from consistency_service.testbed import bootstrap, errors, processes, supervisor, topology
from consistency_service.testbed.binaries import find_nats_server, find_redis_server
from consistency_service.testbed.processes import Condition, condition_of
from consistency_service.testbed.state import Lock, Phase, State, log_path

ROOT = Path(__file__).parents[2]
NODE = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
EDGE = """
import pathlib, subprocess, sys, time
print("hello from", sys.argv[1], flush=True)
subprocess.Popen(["sleep", "600"])  # a grandchild, to be taken down too
pathlib.Path(sys.argv[1]).write_text("{}")
time.sleep(600)
"""
DYING = "import sys; print('I give up', flush=True); sys.exit(7)"


def python(program, *arguments):
    return (sys.executable, "-S", "-E", "-c", program, *map(str, arguments))


def small_region(config, ports, *, node_program=NODE):
    """The real plan, with what is run as nodes and edges exchanged."""
    programs = topology.Programs(
        python=sys.executable,
        nats_server=str(find_nats_server()),
        redis_server=str(find_redis_server()),
        python_path=str(ROOT),
    )
    plan = topology.plan_region(config, ports, programs=programs)
    exchanged = (dataclasses.replace(spec, argv=tiny_program(spec, node_program)) for spec in plan.processes)
    return dataclasses.replace(plan, processes=tuple(exchanged))


def tiny_program(spec, node_program):
    if spec.name.startswith("node-"):
        return python(node_program, spec.ports[0])
    return python(EDGE, spec.ready.target) if spec.name.startswith("edge-") else spec.argv


@pytest.fixture
def config(tmp_path):
    config = topology.TestbedConfig(directory=tmp_path / "bed", nodes=1, edges=1, ready_timeout_ms=20_000)
    yield config
    if (config.directory / "state.json").exists():
        supervisor.down(config.directory)
    assert running_in(config.directory) == []


def running_in(directory: Path) -> list[str]:
    """Command lines of every process that has this directory in it: an independent count of what is left."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            cwd = str((entry / "cwd").readlink()) if words else ""
        except OSError:
            continue
        if int(entry.name if entry.name.isdigit() else 0) != os.getpid() and (
            str(directory) in cwd or any(str(directory).encode() in word for word in words)
        ):
            found.append(b" ".join(words).decode())
    return found


def all_stopped(state: State) -> bool:
    return all(p.identity is None or condition_of(p.identity) is Condition.STOPPED for p in state.processes)


def wait_until(condition, *, timeout_s):
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def up(config, **keywords) -> State:
    return supervisor.up(config, progress=lambda _line: None, plan=small_region, **keywords)


def test_up_starts_everything_and_down_leaves_no_process(config):
    said: list[str] = []

    state = supervisor.up(config, progress=said.append, plan=small_region)

    assert state.phase is Phase.READY and state.supervised and not state.embedded
    assert [(p.name, p.condition, p.ready) for p in state.processes] == [
        (name, Condition.ALIVE, True) for name in ("nats", "redis-edge", "node-1", "edge-1")
    ]
    assert sorted(line.split()[0] for line in said) == sorted(p.name for p in state.processes)
    assert len(running_in(config.directory)) == 6  # and the supervisor, and the edge's grandchild
    with socket.create_connection(("127.0.0.1", state.process("nats").ports[0]), timeout=2) as bus:
        assert b'"jetstream":true' in bus.recv(4096)
    with socket.create_connection(("127.0.0.1", state.process("redis-edge").ports[0]), timeout=2) as tier:
        tier.sendall(b"PING\r\n")
        assert tier.recv(16) == b"+PONG\r\n"

    supervisor.down(config.directory)

    assert running_in(config.directory) == []
    with pytest.raises(errors.TestbedError, match="no testbed"):
        supervisor.status(config.directory)


def test_a_second_up_says_that_one_is_running(config):
    up(config)

    with pytest.raises(errors.TestbedError, match="running already"):
        up(config)

    assert all(p.condition is Condition.ALIVE for p in supervisor.status(config.directory).processes)


def test_a_killed_supervisor_takes_everything_with_it(config):
    state = up(config)
    supervisor.pause(config.directory, "node-1")  # a paused process must go too

    processes.send_signal(state.supervisor, signal.SIGKILL)

    assert wait_until(lambda: all_stopped(state), timeout_s=1)
    seen = supervisor.status(config.directory)
    assert not seen.supervised and all(p.condition is Condition.STOPPED for p in seen.processes)
    assert running_in(config.directory) == ["sleep 600 "]  # a grandchild, which the next `up` or `down` sees to

    again = up(config)

    assert len(running_in(config.directory)) == 6
    assert again.phase is Phase.READY and again.supervisor != state.supervisor


def test_leftovers_of_a_killed_supervisor_are_stopped_by_the_next_down(config):
    """As where the parent-death signal did not come: a process in the state file still runs."""
    state = up(config)
    processes.send_signal(state.supervisor, signal.SIGKILL)
    assert wait_until(lambda: not Lock.is_held(config.directory), timeout_s=1)
    leftover = subprocess.Popen(["sleep", "600"])
    stranger = subprocess.Popen(["sleep", "600"])
    left, strange = processes.Identity.of(leftover.pid), processes.Identity.of(stranger.pid)
    node, edge = state.process("node-1"), state.process("edge-1")
    recycled = dataclasses.replace(strange, started_ticks=strange.started_ticks - 1)
    changed = dataclasses.replace(
        state,
        processes=(dataclasses.replace(node, identity=left), dataclasses.replace(edge, identity=recycled)),
    )
    (config.directory / "state.json").write_bytes(changed.as_json())

    supervisor.down(config.directory)

    assert leftover.wait(timeout=2) == -signal.SIGKILL
    assert stranger.poll() is None  # it has the number of ours, and is not ours
    stranger.kill()
    stranger.wait(timeout=2)


def test_pause_resume_kill_and_restart_show_in_the_status(config):
    first = up(config)

    assert supervisor.pause(config.directory, "node-1").process("node-1").condition is Condition.PAUSED
    assert supervisor.resume(config.directory, "node-1").process("node-1").condition is Condition.ALIVE

    killed = supervisor.kill(config.directory, "node-1").process("node-1")

    assert (killed.condition, killed.ready, killed.exit_code) == (Condition.STOPPED, False, -9)
    time.sleep(0.3)  # nobody brings it back unasked
    assert supervisor.status(config.directory).process("node-1").condition is Condition.STOPPED
    with pytest.raises(errors.TestbedError, match="not running"):
        supervisor.pause(config.directory, "node-1")

    back = supervisor.restart(config.directory, "node-1").process("node-1")

    assert (back.condition, back.ready, back.start_count) == (Condition.ALIVE, True, 2)
    assert back.pid != first.process("node-1").pid and back.ports == first.process("node-1").ports
    with pytest.raises(errors.TestbedError, match="is running; kill it first"):
        supervisor.restart(config.directory, "node-1")
    with pytest.raises(errors.TestbedError, match="no process 'node-9'"):
        supervisor.kill(config.directory, "node-9")


def test_a_process_that_ends_by_itself_is_recorded_and_not_restarted(config):
    state = up(config)

    identity = state.process("redis-edge").identity
    assert identity is not None
    processes.send_signal(identity, signal.SIGTERM)  # redis ends orderly

    assert wait_until(lambda: supervisor.status(config.directory).process("redis-edge").exit_code == 0, timeout_s=3)
    assert supervisor.status(config.directory).phase is Phase.READY


def test_a_process_that_cannot_start_fails_up_with_the_end_of_its_log_and_leaves_nothing(config):
    with pytest.raises(errors.TestbedError, match=r"(?s)node-1 ended with exit code 7.*I give up"):
        supervisor.up(config, progress=lambda _line: None, plan=functools.partial(small_region, node_program=DYING))

    assert running_in(config.directory) == []


def test_one_that_never_becomes_ready_fails_up_in_time(config):
    config = dataclasses.replace(config, ready_timeout_ms=1_500)

    with pytest.raises(errors.TestbedError, match="node-1, edge-1: not ready in time"):
        supervisor.up(
            config,
            progress=lambda _line: None,
            plan=functools.partial(small_region, node_program="import time; time.sleep(600)"),
        )

    assert running_in(config.directory) == []


@pytest.mark.parametrize("embedded", [False, True])
def test_a_port_taken_in_between_leads_to_another_try(config, embedded):
    said: list[str] = []
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    plans: list[topology.Topology] = []

    def unlucky(config, ports):
        plan = small_region(
            config, iter([taken.getsockname()[1], *(next(ports) for _ in range(3))]) if not plans else ports
        )
        plans.append(plan)
        return plan

    with taken:
        if embedded:
            with supervisor.Testbed(config, plan=unlucky, progress=said.append) as bed:
                state = bed.state
        else:
            state = supervisor.up(config, progress=said.append, plan=unlucky)

    assert len(plans) == 2 and state.phase is Phase.READY
    assert any("was taken by somebody else; trying other ports" in line for line in said)


def test_a_testbed_in_this_program_can_be_hurt_and_restarted_from_any_thread(config):
    with supervisor.Testbed(config, plan=small_region) as bed:
        assert bed.state.embedded and bed.state.phase is Phase.READY
        bed.kill("edge-1")
        worker = threading.Thread(target=bed.restart, args=("edge-1",))
        worker.start()
        worker.join()
        time.sleep(0.2)  # the child must not die with the thread that asked
        assert bed.state.process("edge-1").condition is Condition.ALIVE
        inside = bed.state

    assert all_stopped(inside)
    assert not Lock.is_held(config.directory)


def test_a_killed_program_takes_its_embedded_testbed_with_it(config):
    program = f"""
import sys, time
sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]
from pathlib import Path
import test_testbed_supervisor as here
config = here.topology.TestbedConfig(directory=Path({str(config.directory)!r}), nodes=1, edges=0)
with here.supervisor.Testbed(config, plan=here.small_region):
    print("up", flush=True)
    time.sleep(600)
"""
    holder = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"up\n"
    state = supervisor.status(config.directory)

    holder.kill()
    holder.wait()
    holder.stdout.close()

    assert wait_until(lambda: all_stopped(state), timeout_s=1)


def test_down_ends_a_supervisor_that_stands_still(config):
    state = up(config)
    processes.send_signal(state.supervisor, signal.SIGSTOP)
    assert processes.wait_condition(state.supervisor, frozenset({Condition.PAUSED}), timeout_ms=1_000)

    supervisor.down(config.directory)

    assert running_in(config.directory) == []


def test_logs_are_read_followed_and_bounded(config):
    noisy = "import time\nfor n in range(10**9):\n  print('x' * 99, flush=True)\n  n % 100 or time.sleep(0.01)"
    config = dataclasses.replace(config, edges=0, log_bytes_max=200_000)

    def plan(config, ports):
        made = small_region(config, ports, node_program=noisy)
        ready = topology.Ready(kind=topology.ReadyKind.LOG, target="xxx")
        node = dataclasses.replace(made.processes[-1], ready=ready)
        return dataclasses.replace(made, processes=(*made.processes[:-1], node))

    supervisor.up(config, progress=lambda _line: None, plan=plan)
    log = log_path(config.directory, "node-1")

    assert list(supervisor.logs(config.directory, "node-1", lines=3)) == ["x" * 99] * 3
    assert wait_until(log.with_name("node-1.log.1").exists, timeout_s=5)
    assert wait_until(lambda: log.stat().st_size > 0, timeout_s=2)
    followed = supervisor.logs(config.directory, "node-1", follow=True, lines=0)
    assert {next(followed) for _ in range(500)} == {"x" * 99}
    supervisor.kill(config.directory, "node-1")
    assert log.stat().st_size < 5_000_000
    with pytest.raises(errors.TestbedError, match="no process"):
        supervisor.logs(config.directory, "../../etc/passwd")

    supervisor.down(config.directory)
    assert list(followed)[-1:] in ([], ["x" * 99])  # following ends with the testbed


def test_a_key_open_to_others_is_refused_and_nothing_starts(config):
    up(config)
    supervisor.down(config.directory)
    private, public = topology.key_paths(config.directory)
    before = public.read_text()
    private.chmod(0o640)

    with pytest.raises(ConfigError, match="chmod 600"):
        up(config)

    private.chmod(0o600)
    public.unlink()
    up(config)  # the same region again: its key is kept, the public line written anew

    assert public.read_text() == before


def test_the_directory_may_have_a_long_and_odd_name(tmp_path):
    directory = tmp_path / ("a testbed with a very long name " * 4).strip() / 'quo"ted ünï'
    config = topology.TestbedConfig(directory=directory, nodes=1, edges=0)
    with supervisor.Testbed(config, plan=small_region) as bed:
        assert bed.kill("nats").process("nats").exit_code == -9
        assert bed.restart("nats").process("nats").ready
        assert (directory / "nats" / "jetstream").is_dir()


def test_garbage_on_the_control_socket_is_answered_and_harmless(config):
    with supervisor.Testbed(config, plan=small_region) as bed:
        for garbage in (b"\n", b"\xff\xfe\n", b"[1]\n", b'{"do": "restart", "name": "../x"}\n', b"x" * 10_000):
            descriptor = os.open(config.directory, os.O_RDONLY)
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(f"/proc/self/fd/{descriptor}/control.sock")
                connection.sendall(garbage)
                connection.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionResetError):  # it closed before reading all of an oversized one
                    assert b"error" in connection.recv(4096)
            os.close(descriptor)
        assert bed.state.process("nats").condition is Condition.ALIVE


def test_prepare_writes_private_files_for_the_owner_alone(config):
    lock = Lock.take(config.directory)
    assert lock is not None
    plan = bootstrap.prepare(config, lock, plan=small_region)
    lock.release()

    private, _ = topology.key_paths(config.directory)
    assert private.stat().st_mode & 0o777 == 0o600
    assert config.directory.stat().st_mode & 0o777 == 0o700
    assert {Path(f.path).name for f in plan.files} == {"nats.conf", "redis.conf", "node-1.toml", "edge-1.json"}
