"""What a forked child serves, and that its parent notices nothing. Each test forks in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

PRELUDE = """
import os, sys, threading, time, traceback
from edge_client.blocking import EdgeClient
from edge_client.errors import ClosedError, EdgeIdTakenError, ModelNotReadyError
from tests.unit.edge_blocking.behind import Opener

def load(edge_id):
    return f"model of {edge_id}"

def in_child(function, *, leave=os._exit):
    pid = os.fork()
    if pid == 0:
        try:
            function()
            code = 0
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush(), sys.stderr.flush()
        leave(code)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return "hung"

opener = Opener()
edge = EdgeClient(opener, edge_id="cam-1")
model = edge.model("m", loader=load)
"""


def run(body: str) -> None:
    shown = subprocess.run(
        [sys.executable, "-c", PRELUDE + body + "\nprint('done')"], cwd=ROOT, capture_output=True, text=True, timeout=50
    )

    assert (0, "done\n", "") == (shown.returncode, shown.stdout, shown.stderr)


def test_the_first_read_in_a_child_is_its_own():
    run("""
def child():
    assert model.read() == f"model of cam-1.{os.getpid()}"
    assert len(opener.clients) == 2 and opener.last.pid == os.getpid()
    assert model.read == opener.last.models["m"].read
    assert edge.edge_id == f"cam-1.{os.getpid()}"

parent_read = model.read
assert in_child(child) == 0
assert model.read == parent_read and model.read() == "model of cam-1" and edge.edge_id == "cam-1"
assert edge.status()[0] == "cam-1" and len(opener.clients) == 1
""")


@pytest.mark.parametrize(
    "use",
    [
        "edge.status()",
        "model.wait_ready()",
        "model.read_strong(timeout_ms=1000)",
        "edge.model('m', loader=load)",
        "model.on_change(print)",
    ],
)
def test_any_first_use_brings_back_all_models(use):
    run(f"""
other = edge.model("other", loader=load)
def child():
    {use}
    assert opener.last.pid == os.getpid() and set(opener.last.models) == {{"m", "other"}}
    assert other.read() == model.read() == f"model of cam-1.{{os.getpid()}}"
assert in_child(child) == 0
""")


def test_listeners_go_on_listening_in_the_child_and_can_be_stopped_there():
    run("""
told = []
stop = model.on_change(lambda value: told.append((os.getpid(), value)))
def child():
    edge.status()
    behind = opener.last.models["m"]
    behind.client.loop.call_soon_threadsafe(behind.serve, "second")
    edge.status()
    assert told == [(os.getpid(), "second")], told
    stop()
    behind.client.loop.call_soon_threadsafe(behind.serve, "third")
    edge.status()
    assert len(told) == 1 and not behind.listeners
assert in_child(child) == 0
assert told == []
behind = opener.last.models["m"]
behind.client.loop.call_soon_threadsafe(behind.serve, "second")
edge.status()
assert told == [(os.getpid(), "second")]
""")


def test_a_model_nobody_waited_for_is_not_waited_for_in_the_child():
    run("""
never = edge.model("never", loader=load, wait=False)
def child():
    try:
        never.read()
    except ModelNotReadyError:
        return
    raise AssertionError
assert in_child(child) == 0
""")


def test_a_child_that_cannot_connect_says_so_and_may_try_again():
    run("""
class Refusing(Opener):
    async def __call__(self, edge_id, directory):
        if "." in edge_id and len(self.clients) < 3:
            self.clients.append(None)
            raise EdgeIdTakenError(edge_id)
        return await super().__call__(edge_id, directory)
edge.close()
opener = Refusing()
edge = EdgeClient(opener, edge_id="cam-1")
model = edge.model("m", loader=load)
def child():
    for _ in range(2):
        try:
            model.read()
        except EdgeIdTakenError:
            continue
        raise AssertionError
    assert model.read() == f"model of cam-1.{os.getpid()}"
assert in_child(child) == 0
""")


def test_locks_held_at_the_moment_of_the_fork_do_not_stop_the_child():
    run("""
held, over = threading.Event(), threading.Event()
def hold():
    with edge._lock:
        held.set()
        over.wait()
threading.Thread(target=hold, daemon=True).start()
held.wait()
assert in_child(lambda: model.read()) == 0
over.set()
""")


def test_a_fork_amid_threads_that_ask_is_survived_by_both():
    run("""
over = threading.Event()
def ask():
    while not over.is_set():
        model.read(), model.read_strong(timeout_ms=1000), edge.status()
threads = [threading.Thread(target=ask) for _ in range(4)]
for thread in threads:
    thread.start()
def child():
    assert model.read() == f"model of cam-1.{os.getpid()}"
    edge.close()
assert [in_child(child) for _ in range(10)] == [0] * 10
over.set()
for thread in threads:
    thread.join()
""")


def test_a_child_that_exits_like_a_program_leaves_its_parent_alone():
    run("""
import atexit, gc
directory = opener.last.directory
(directory / "artifact").write_bytes(b"kept")
def leave(code):
    atexit._run_exitfuncs()
    gc.collect()
    os._exit(code)
def unused():
    pass
def used():
    model.read()
    assert opener.last.directory != directory
for function in (unused, used):
    assert in_child(function, leave=leave) == 0
    assert (directory / "artifact").read_bytes() == b"kept"
assert not opener.last.closed and edge.status()[0] == "cam-1"
""")


def test_closed_is_closed_on_both_sides_and_closing_one_leaves_the_other():
    run("""
def child():
    edge.close()
    for ask in (model.read, edge.status):
        try:
            ask()
        except ClosedError:
            continue
        raise AssertionError
assert in_child(child) == 0
assert model.read() == "model of cam-1" and not opener.last.closed
edge.close()
assert in_child(child) == 0
""")


def test_a_grandchild_has_an_id_of_its_own():
    run("""
def grandchild():
    assert model.read() == f"model of cam-1.{os.getpid()}"
def child():
    model.read()
    assert in_child(grandchild) == 0
    assert model.read() == f"model of cam-1.{os.getpid()}"
assert in_child(child) == 0
""")


def test_the_processes_of_multiprocessing_are_children_too():
    run("""
import multiprocessing
def read():
    return os.getpid(), model.read()
with multiprocessing.get_context("fork").Pool(3) as pool:
    answers = set(pool.starmap(read, [()] * 12, chunksize=1))
assert all(answer == f"model of cam-1.{pid}" for pid, answer in answers), answers
assert model.read() == "model of cam-1"
""")
