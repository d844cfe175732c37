"""What a region survives: dead and paused leaders, a lost majority, a bus that dies or forgets everything."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.bed import MODEL, Bed, eventually, running

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with running(tmp_path_factory.mktemp("region")) as bed:
        yield bed


@pytest.fixture(autouse=True)
def _healthy_afterwards(bed: Bed) -> Iterator[None]:
    """Each test begins and ends with every edge strong at one version."""
    yield
    bed.swap("1.0.0" if bed.edge("edge-1").version == "2.0.0" else "2.0.0")


def test_a_killed_leader_costs_no_strong_read_and_commits_resume(bed: Bed) -> None:
    leader = bed.region.leader()
    bed.testbed.kill(leader)
    began = time.monotonic()
    bed.region.committed(MODEL, versions_kept=11)
    resumed_s = time.monotonic() - began
    bed.quiet_for(4)
    bed.testbed.restart(leader)

    assert resumed_s < 5, "commits did not resume; see ops.bench failover for the figure"


def test_a_leader_killed_with_an_activation_pending_completes_it(bed: Bed) -> None:
    target = "2.0.0" if bed.edge("edge-1").version == "1.0.0" else "1.0.0"
    bed.region.activate(MODEL, target, wait="accepted")
    leader = bed.region.leader()
    bed.testbed.kill(leader)

    bed.all_strong(target, within_s=15)
    bed.testbed.restart(leader)
    eventually(lambda: bed.region.call("GET", f"/v1/models/{MODEL}").json()["pending"] is None, within_s=15)


def test_a_paused_leader_is_not_believed_when_it_comes_back(bed: Bed) -> None:
    leader = bed.region.leader()
    url = bed.testbed.state.process(leader).url
    bed.testbed.pause(leader)
    try:
        time.sleep(1.5)
        target = "2.0.0" if bed.edge("edge-1").version == "1.0.0" else "1.0.0"
        bed.region.activate(MODEL, target)
        bed.all_strong(target)
        time.sleep(6)
    finally:
        bed.testbed.resume(leader)
    answer = httpx.get(f"{url}/v1/models/{MODEL}/active", timeout=10, trust_env=False)

    assert answer.status_code == 503 or answer.json()["version"] == target
    bed.all_strong(target)


def test_without_a_majority_strong_ends_within_the_lease_and_the_bound_grows(bed: Bed) -> None:
    version = bed.edge("edge-1").version
    leader = bed.region.leader()
    other = next(name for name in ("node-1", "node-2", "node-3") if name != leader)
    bed.testbed.kill(leader)
    bed.testbed.kill(other)
    first = bed.all_edges(lambda s: s.guarantee == "bounded", within_s=4)
    time.sleep(1.5)
    second = [bed.edge(edge_id) for edge_id in bed.edge_ids]

    for before, after in zip(first, second, strict=True):
        assert before.staleness_bound_ms is not None and after.staleness_bound_ms is not None
        assert after.staleness_bound_ms >= before.staleness_bound_ms + 1_000
        assert after.version == version
    bed.testbed.restart(leader)
    bed.testbed.restart(other)
    bed.all_strong(str(version), within_s=20)


def test_the_bus_restarts_and_forgets_and_nobody_notices_beyond_a_resync(bed: Bed) -> None:
    for wipe in (False, True):
        bed.testbed.kill("nats")
        if wipe:
            shutil.rmtree(bed.config.directory / "nats")
        target = "2.0.0" if bed.edge("edge-1").version == "1.0.0" else "1.0.0"
        bed.testbed.restart("nats")
        bed.region.activate(MODEL, target)
        bed.all_strong(target, within_s=20)


def test_hostile_messages_on_every_subject_are_dropped_and_counted(bed: Bed) -> None:
    bed.region.committed(MODEL, versions_kept=12)
    _shout(bed, Path(bed.config.directory))
    bed.quiet_for(1)
    counted = {
        name: count
        for node in bed.testbed.state.urls("node-")
        for name, count in httpx.get(f"{node}/v1/cluster/self", trust_env=False).json()["counters"].items()
        if name.startswith("answers.")
    }

    assert counted.get("answers.region_bad_signature", 0) + counted.get("answers.region_unknown_key", 0) > 0
    assert counted.get("answers.edge_undecodable", 0) > 0 and counted.get("answers.edge_unknown_version", 0) > 0


def _shout(bed: Bed, directory: Path) -> None:
    """Malformed, huge, unsigned, wrongly signed and replayed messages, on everything anybody listens to."""
    import asyncio
    import os

    import nats
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from edge_client.protocol.envelope import Signer
    from edge_client.protocol.messages import Beacon, encode_region
    from edge_client.protocol.subjects import Subjects

    subjects = Subjects(bed.config.region)
    heard: list[bytes] = []

    async def shout() -> None:
        client = await nats.connect(bed.testbed.state.urls("nats")[0])

        async def keep(message: object) -> None:
            heard.append(message.data)  # type: ignore[attr-defined]

        await client.subscribe(subjects.beacon, cb=keep)
        await asyncio.sleep(0.5)
        forger = Signer(Ed25519PrivateKey.generate())
        forged = Beacon(epoch=1, revision=1 << 40, clock_id="f", assumption=1, assumed_at_ns=0, t0_ns=1 << 60)
        tampered = bytearray(heard[0])
        tampered[-1] ^= 1
        junk = [b"", b"\x01", os.urandom(300), b"\x01" + b"\x91" * 5_000, b"x" * 900_000, bytes(tampered)]
        junk += [encode_region(forged, signer=forger), heard[0], heard[0]]
        for subject in (subjects.beacon, subjects.event, subjects.clock, subjects.snapshot, subjects.report):
            for payload in junk:
                await client.publish(subject, payload, reply=client.new_inbox())
        await client.flush()
        await client.close()

    asyncio.run(shout())
