"""The region's key is changed on a running region, in the order that `docs/how-to/rotate-keys.md` tells, under load."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import nats
import pytest

from consistency_service.adapters import region_key
from consistency_service.testbed import bootstrap
from consistency_service.testbed.region_calls import Region
from consistency_service.testbed.supervisor import Testbed
from consistency_service.testbed.topology import TestbedConfig, key_paths
from edge_client import EdgeClient
from edge_client.protocol.envelope import Signer
from edge_client.protocol.messages import Beacon, encode_region
from edge_client.protocol.subjects import Subjects
from tests.support import ccs
from tests.support.bed import MODEL, Bed, eventually

NODES = ("node-1", "node-2", "node-3")


class Reader(threading.Thread):
    """Asks every node in turn for a strong answer, and remembers what was none."""

    def __init__(self, urls: tuple[str, ...]) -> None:
        super().__init__(daemon=True)
        self._urls = urls
        self._ended = threading.Event()
        self.strong_count = 0
        self.others: list[str] = []

    def run(self) -> None:
        with httpx.Client(trust_env=False, timeout=10) as http:
            while not self._ended.is_set():
                for url in self._urls:
                    try:
                        answer = http.get(f"{url}/v1/models/{MODEL}/active")
                    except httpx.TransportError as error:
                        self.others.append(repr(error))
                        return
                    if answer.status_code == 200 and answer.json()["consistency"] in ("lease", "log"):
                        self.strong_count += 1
                    else:
                        self.others.append(answer.text)
                time.sleep(0.01)

    def end(self) -> None:
        self._ended.set()
        self.join()


def _own_keys(directory: Path) -> Any:
    """A plan in which each node has a key file of its own, as on machines of their own, and all have one list of keys."""

    def plan(config: TestbedConfig, ports: Any) -> Any:
        topology = bootstrap._region_plan()(config, ports)
        shared = str(key_paths(directory)[0])
        files = [
            replace(file, text=file.text.replace(shared, str(directory / "keys" / f"{Path(file.path).stem}.key")))
            for file in topology.files
        ]
        return replace(topology, files=tuple(files))

    return plan


def _move(path: Path, text: str) -> None:
    """Put a file into place whole."""
    staged = path.with_name(f".{path.name}.staged")
    staged.write_text(text)
    staged.replace(path)


def _say_as(key: Any, *, region: str, bus_url: str) -> None:
    """A beacon of a later epoch, signed by this key: whoever believed it would leave everything."""

    async def say() -> None:
        client = await nats.connect(bus_url)
        beacon = Beacon(epoch=99, revision=1, clock_id="c", assumption=1, assumed_at_ns=0, t0_ns=0)
        await client.publish(Subjects(region).beacon, encode_region(beacon, signer=Signer(key)))
        await client.drain()

    asyncio.run(say())


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_key_of_a_region_is_rotated_under_load(tmp_path):
    directory = tmp_path / "bed"
    private, edges_trust = key_paths(directory)
    old = region_key.generate(private, edges_trust)
    old_line, nodes_trust = edges_trust.read_text(), directory / "keys" / "region.trust"
    nodes_trust.write_text(old_line)
    for node in NODES:
        copy = directory / "keys" / f"{node}.key"
        copy.write_bytes(private.read_bytes())
        copy.chmod(0o600)
    config = TestbedConfig(
        directory=directory,
        nodes=3,
        edges=2,
        models=(MODEL,),
        node_options={"region_trust": str(nodes_trust)},
        edge_options={"loader": "bytes", "workload": "read"},
    )
    with Testbed(config, plan=_own_keys(directory), progress=lambda _: None) as testbed:
        region = Region(testbed.state.urls("node-"))
        bed = Bed(config=config, testbed=testbed, region=region)
        for number in (1, 2, 3):
            region.push(MODEL, f"{number}.0.0", b"%d" % number * 20_000)
        bed.swap("1.0.0")
        bus_url = str(next(process.url for process in testbed.state.processes if process.name == "nats"))
        witness = EdgeClient.connect(bus_url, trust=str(edges_trust), edge_id="witness", region=config.region)
        reader = Reader(testbed.state.urls("node-"))
        reader.start()
        url = ["--url", ",".join(testbed.state.urls("node-"))]

        def keys_of() -> dict[str, tuple[str, list[str]]]:
            nodes = region.call("GET", "/v1/cluster").json()["nodes"]
            return {n["node_id"]: (n["region_keys"]["signing"], n["region_keys"]["trusted"]) for n in nodes}

        def signs_with_the_new(node: str) -> bool:
            return bool(keys_of()[node][0] == new_id)

        @contextmanager
        def only_strong() -> Iterator[None]:
            """No edge has a reading meanwhile that is not strong. (In an open switch there are some, rotation or not.)"""
            before = {edge_id: bed.edge(edge_id).not_strong_count for edge_id in bed.edge_ids}
            yield
            assert {edge_id: bed.edge(edge_id).not_strong_count for edge_id in bed.edge_ids} == before

        def counted(name: str) -> int:
            return witness.status().counters.get(name, 0)

        # 1. A new pair.
        made = ccs.run("keys", "region", "new", "region-2", "--directory", str(directory / "keys"), cwd=tmp_path)
        assert made.returncode == 0, made.stderr
        new_key = directory / "keys" / "region-2.key"
        new_line = (directory / "keys" / "region-2.pub").read_text()
        old_id, new_id = old_line.split()[2], new_line.split()[2]

        # Out of order nothing happens: a node that is given the new key before anybody believes it signs as before.
        early = ccs.run(*_rotation(directory, "node-1", new_key), cwd=tmp_path)
        assert early.returncode == 2 and new_id in early.stderr

        # 2. Nodes and edges believe both.
        with only_strong():
            _move(nodes_trust, old_line + new_line)
            _move(edges_trust, old_line + new_line)
            eventually(lambda: all(len(trusted) == 2 for _, trusted in keys_of().values()), within_s=20)
            eventually(lambda: counted("trust_renewed") == 1, within_s=20)
            time.sleep(2)  # the other edges have looked as well

        # 3. One node after the other signs with the new key, while the region goes on deciding.
        for node, version in zip(NODES, ("2.0.0", "3.0.0", "1.0.0"), strict=True):
            with only_strong():
                rotated = ccs.run(*_rotation(directory, node, new_key), cwd=tmp_path)
                assert rotated.returncode == 0, rotated.stderr
                eventually(partial(signs_with_the_new, node), within_s=20)
            bed.swap(version)
        shown = ccs.run("keys", "region", "show", *url, cwd=tmp_path)
        assert shown.stdout.count(new_id) == 6 and shown.stdout.count(old_id) == 3

        # 4. Nobody believes the old key any more.
        with only_strong():
            _move(edges_trust, new_line)
            _move(nodes_trust, new_line)
            eventually(lambda: all(trusted == [new_id] for _, trusted in keys_of().values()), within_s=20)
            eventually(lambda: counted("trust_renewed") == 2, within_s=20)
            time.sleep(2)
        bed.swap("2.0.0")

        # Whatever was said meanwhile was believed by everybody, at once.
        assert counted("messages_unknown_key") == 0
        answered = region.call("GET", "/v1/cluster").json()["nodes"]
        assert [n["counters"].get("answers.region_unknown_key", 0) for n in answered] == [0, 0, 0]
        reader.end()
        assert reader.strong_count > 100 and not reader.others

        # What the old key signs is refused, by edges and by nodes.
        _say_as(old, region=config.region, bus_url=bus_url)
        eventually(lambda: counted("messages_unknown_key") == 1, within_s=20)
        told = region.call("GET", "/v1/cluster").json()["nodes"]
        assert [n["counters"].get("answers.region_unknown_key", 0) for n in told] == [1, 1, 1]
        bed.all_strong("2.0.0")

        bed.nothing_wrong()
        witness.close()
        region.close()
    assert (directory / "keys" / "node-1.key").stat().st_mode & 0o777 == 0o600


def _rotation(directory: Path, node: str, new_key: Path) -> tuple[str, ...]:
    keys = directory / "keys"
    files = ("--key", str(keys / f"{node}.key"), "--new", str(new_key), "--trust", str(keys / "region.trust"))
    return ("keys", "region", "rotate", *files)
