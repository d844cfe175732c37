"""The blocking client over a fake of the asyncio one: threads, errors, the end. `test_fork` has the rest."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edge_client.blocking import EdgeClient
from edge_client.errors import ClosedError, ConfigError, EdgeIdTakenError, ModelNotReadyError
from tests.unit.edge_blocking.behind import Opener

ROOT = Path(__file__).resolve().parents[3]


def load(edge_id):
    return f"model of {edge_id}"


def thread_of(edge):
    assert edge._life is not None
    return edge._life._thread


@pytest.fixture
def opener():
    return Opener()


@pytest.fixture
def edge(opener):
    with EdgeClient(opener, edge_id="cam-1") as edge:
        yield edge


def test_a_model_is_ready_when_it_is_returned(edge):
    assert "model of cam-1" == edge.model("m", loader=load).read()


def test_read_is_the_asyncio_models_own(edge, opener):
    model = edge.model("m", loader=load)

    assert model.read == opener.last.models["m"].read


def test_who_does_not_want_to_wait_does_not(edge):
    model = edge.model("never", loader=load, wait=False)
    with pytest.raises(ModelNotReadyError):
        model.read()


def test_errors_cross_the_threads_with_their_type_and_fields(edge):
    with pytest.raises(ModelNotReadyError, match="never"):
        edge.model("never", loader=load, timeout_ms=1)

    model = edge.model("never", loader=load, wait=False)
    with pytest.raises(ModelNotReadyError):
        model.read_strong(timeout_ms=1)


def test_a_model_asked_for_again_is_the_same_and_another_loader_is_refused(edge):
    model = edge.model("m", loader=load)

    assert model is edge.model("m", loader=load)
    with pytest.raises(ConfigError):
        edge.model("m", loader=str)


def test_what_opening_raises_is_raised_and_leaves_nothing_behind():
    directories: list[Path] = []

    async def refused(edge_id, directory):
        directories.append(directory)
        raise EdgeIdTakenError(edge_id)

    before = threading.active_count()
    with pytest.raises(EdgeIdTakenError, match="cam-1"):
        EdgeClient(refused, edge_id="cam-1")

    assert before == threading.active_count()
    assert not directories[0].exists()


def test_any_thread_may_ask(edge):
    def ask(number):
        model = edge.model(f"m{number % 4}", loader=load) if number < 4 else edge.model("own", loader=load, wait=False)
        return model.read(), model.read_strong(timeout_ms=1_000), edge.status()[0]

    edge.model("own", loader=load)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(64)))

    assert {("model of cam-1", "model of cam-1", "cam-1")} == set(answers)


def test_listeners_are_told_until_they_are_stopped(edge, opener):
    model = edge.model("m", loader=load)
    told: list = []
    stop = model.on_change(told.append)
    behind = opener.last.models["m"]
    behind.client.loop.call_soon_threadsafe(behind.serve, "second")
    edge.status()
    stop()
    stop()
    behind.client.loop.call_soon_threadsafe(behind.serve, "third")
    edge.status()

    assert ["second"] == told
    assert "third" == model.read()


def test_a_listener_may_ask_what_needs_no_waiting_and_is_told_off_otherwise(edge, opener):
    model = edge.model("m", loader=load)
    outcomes: list = []

    def listener(_):
        outcomes.append(edge.status()[0])
        try:
            model.wait_ready()
        except RuntimeError as error:
            outcomes.append(type(error).__name__)

    model.on_change(listener)
    behind = opener.last.models["m"]
    behind.client.loop.call_soon_threadsafe(behind.serve, "second")
    edge.status()

    assert ["cam-1", "RuntimeError"] == outcomes


def test_closing_again_does_nothing_and_afterwards_everything_is_closed(opener):
    edge = EdgeClient(opener, edge_id="cam-1")
    model = edge.model("m", loader=load)
    directory = opener.last.directory

    assert directory.is_dir()

    for _ in range(3):
        edge.close()

    assert 1 == opener.last.closed_count
    assert not directory.exists()
    for ask in (
        model.read,
        model.wait_ready,
        edge.status,
        lambda: model.read_strong(timeout_ms=1),
        lambda: edge.model("m", loader=load),
        lambda: model.on_change(print),
    ):
        with pytest.raises(ClosedError):
            ask()


def test_a_listener_may_close(opener):
    edge = EdgeClient(opener, edge_id="cam-1")
    model = edge.model("m", loader=load)
    model.on_change(lambda _: edge.close())
    behind = opener.last.models["m"]
    thread = thread_of(edge)
    behind.client.loop.call_soon_threadsafe(behind.serve, "second")
    thread.join(10)

    assert not thread.is_alive()
    assert 1 == opener.last.closed_count


def test_whoever_waits_while_it_is_closed_is_told(opener):
    edge = EdgeClient(opener, edge_id="cam-1")
    model = edge.model("never", loader=load, wait=False)
    asking = threading.Event()
    original = opener.last.models["never"].wait_ready

    async def wait_ready(*, timeout_ms):
        asking.set()
        await original(timeout_ms=timeout_ms)

    opener.last.models["never"].wait_ready = wait_ready
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(model.wait_ready, timeout_ms=60_000)
        assert asking.wait(10)
        edge.close()
        with pytest.raises(ClosedError):
            waiting.result(10)


def test_readers_in_full_swing_get_a_reading_or_are_told(opener):
    edge = EdgeClient(opener, edge_id="cam-1")
    model = edge.model("m", loader=load)
    started = threading.Barrier(5)

    def read_on():
        readings = set()
        started.wait(10)
        while True:
            try:
                readings.add(model.read())
            except ClosedError:
                return readings

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read_on) for _ in range(4)]
        started.wait(10)
        edge.close()

        for reader in readers:
            assert reader.result(10) <= {"model of cam-1"}


def test_a_client_nobody_holds_closes_itself(opener):
    edge = EdgeClient(opener, edge_id="cam-1")
    edge.model("m", loader=load)
    thread = thread_of(edge)
    del edge
    gc.collect()
    thread.join(10)

    assert not thread.is_alive()
    assert opener.last.closed


def test_an_interrupted_wait_ends_what_was_waited_for(edge, opener, monkeypatch):
    model = edge.model("never", loader=load, wait=False)
    begun, ended = threading.Event(), threading.Event()

    async def wait_ready(*, timeout_ms):
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    def interrupted(*_, **__):
        assert begun.wait(10)
        raise KeyboardInterrupt

    opener.last.models["never"].wait_ready = wait_ready
    with monkeypatch.context() as patch:
        patch.setattr("concurrent.futures.wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.wait_ready()

    assert ended.wait(10)


PROGRAM = """
import threading
from edge_client.blocking import EdgeClient
from tests.unit.edge_blocking.behind import Opener
opener = Opener()
edge = EdgeClient(opener, edge_id="cam-1")
model = edge.model("m", loader=str)
{body}
print(model.read(), opener.last.directory, flush=True)
"""


WAITING = """
from contextlib import suppress
from edge_client.errors import ClosedError
def wait():
    with suppress(ClosedError):
        edge.model('never', loader=str)
threading.Thread(target=wait, daemon=True).start()
"""


@pytest.mark.parametrize(
    ("body", "closed"),
    [
        ("", True),
        ("threading.Thread(target=model.read_strong, kwargs={'timeout_ms': 1}).start()", True),
        (WAITING, True),
        ("edge._life._loop.call_soon_threadsafe(threading.Event().wait)", False),
    ],
    ids=["quiet", "asked", "waited for", "stuck loop"],
)
def test_the_interpreter_ends_whether_it_was_closed_or_not(body, closed):
    shown = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=body)], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    said, directory = shown.stdout.rsplit(maxsplit=1)

    assert (0, "cam-1", "") == (shown.returncode, said, shown.stderr)
    assert closed is not Path(directory).exists()
    if not closed:
        Path(directory).rmdir()
