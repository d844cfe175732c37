"""`edge.features` over real servers: tiers, other edges, restarts, forks."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_client import ConfigError, EdgeClient, FeatureStoreError, TooStaleError
from edge_client.protocol.envelope import trust_line
from edge_client.protocol.feature_classes import FeatureClass, FeatureKind
from tests.support.bed import eventually
from tests.support.servers import start_nats, start_redis

ROOT = Path(__file__).resolve().parents[2]
USER = FeatureClass(name="user", kind=FeatureKind.CRITICAL, window_base_ms=2_000, expire_ms=None)


@pytest.fixture(scope="module")
def servers(tmp_path_factory) -> Iterator[SimpleNamespace]:
    directory = tmp_path_factory.mktemp("features")
    trust = trust_line(Ed25519PrivateKey.generate().public_key())
    with (
        start_nats(directory, jetstream=False) as bus,
        start_redis(directory / "store") as store,
        start_redis(directory / "box") as box,
    ):
        yield SimpleNamespace(bus=bus, store=store, box=box, trust=trust)


@pytest.fixture
def connect(servers) -> Iterator[Any]:
    servers.store.flush()
    servers.box.flush()
    edges = []

    def connected(edge_id: str, *, box: bool = True, store: bool = True, **settings: Any) -> EdgeClient:
        edge = EdgeClient.connect(
            servers.bus.url,
            trust=servers.trust,
            edge_id=edge_id,
            local=servers.box.url if box else None,
            feature_store=servers.store.url if store else None,
            **settings,
        )
        edges.append(edge)
        # No region speaks here: the class that it would have said is put where its word would be.
        behind: Any = edge._life
        behind.client._state._follower.feature_classes = {"user": USER}
        if box or store:
            behind.client.features.copies.take_classes()
        return edge

    yield connected
    for edge in edges:
        edge.close()


def test_from_one_edge_to_the_other_through_every_tier(connect, servers):
    one, other, far = connect("one"), connect("other"), connect("far", box=False)
    vector = np.linspace(0, 1, 256, dtype="f4")
    assert one.features.put("user:1", vector)

    near = other.features.get("user:1")
    assert "local" == near.tier and near.staleness_bound_ms == near.age_ms
    assert "memory" == other.features.get("user:1").tier
    there = far.features.get("user:1")
    assert "store" == there.tier and np.array_equal(vector, there.value) and there.value.dtype == vector.dtype
    one.features.put("track:1", {"n": 1})
    assert one.features.flush(timeout_ms=10_000)
    assert {"n": 1} == far.features.get("track:1").value

    one.features.put("user:1", 2)
    eventually(lambda: far.features.get("user:1").value == 2, within_s=1)
    eventually(lambda: other.features.get("user:1").value == 2, within_s=1)
    one.features.delete("user:1")
    eventually(lambda: not far.features.get("user:1").found, within_s=1)


def test_what_the_box_holds_is_as_old_as_it_is_after_a_restart_of_the_process(connect):
    connect("one").features.put("user:1", 1)
    time.sleep(0.3)

    reading = connect("two").features.get("user:1")

    assert "local" == reading.tier and reading.age_ms >= 300


def test_servers_come_and_go(connect, servers):
    edge = connect("one")
    edge.features.put("user:1", 1)
    servers.box.kill()
    assert 1 == edge.features.get("user:1").value
    assert edge.features.put("user:1", 2), "the box is no condition"
    servers.store.pause()
    with pytest.raises(TooStaleError):
        edge.features.get("user:2")
    servers.store.resume()
    servers.box.start()
    eventually(lambda: back(edge), within_s=25)
    assert "closed" == edge.status().features.store


def back(edge: EdgeClient) -> bool:
    try:
        return edge.features.put("user:1", 4) and edge.features.get("user:1").value == 4
    except FeatureStoreError:
        return False


def test_the_local_redis_alone_is_the_store(connect):
    one, other = connect("one", store=False), connect("other", store=False)
    one.features.put("user:1", 1)

    assert "store" == other.features.get("user:1").tier
    assert "none" == other.status().features.local_tier


def test_without_any_redis_features_say_what_to_set(connect):
    edge = connect("one", box=False, store=False)

    assert edge.status().features is None
    with pytest.raises(ConfigError, match="feature_store"):
        edge.features.get("user:1")


FORK = """
import os, sys, time, traceback
from edge_client import EdgeClient
bus, store, box, trust = sys.argv[1:]
edge = EdgeClient.connect(bus, trust=trust, edge_id="parent", local=box, feature_store=store)
features = edge.features
features.put("a", "parent")
features.flush(timeout_ms=5_000)
features.put("b", "queued by the parent")
pid = os.fork()
if pid == 0:
    code = 1
    try:
        assert not features.get("b").found, "the parent's queue is the parent's"
        assert "store" == features.get("a").tier, "the parent's memory too"
        features.put("c", "child")
        assert features.flush(timeout_ms=5_000)
        assert f"parent.{os.getpid()}" == edge.edge_id
        edge.close()
        code = 0
    except BaseException:
        traceback.print_exc()
    os._exit(code)
assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
assert "queued by the parent" == features.get("b").value
assert features.flush(timeout_ms=5_000)
assert "child" == features.get("c").value
edge.close()
print("done")
"""


def test_a_forked_child_has_features_of_its_own(servers):
    servers.store.flush()
    shown = subprocess.run(
        [sys.executable, "-c", FORK, servers.bus.url, servers.store.url, servers.box.url, servers.trust],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
    )

    assert (0, "done\n") == (shown.returncode, shown.stdout), shown.stderr
