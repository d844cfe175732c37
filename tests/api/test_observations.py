"""A real edge tells a real node what came of its readings, over a bus in memory."""

from __future__ import annotations

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consistency_service.adapters.memory_log import MemoryLog
from consistency_service.api.app import create_api
from consistency_service.api.peers import Peers
from consistency_service.config import Peer
from edge_client.client import AsyncEdgeClient
from edge_client.config import EdgeConfig
from edge_client.protocol.envelope import Signer, trust_line
from edge_client.protocol.observations import quantile
from tests.api.served import Served, config_of, eventually, node_of, running
from tests.fakes.artifact_source import FakeArtifactSource
from tests.fakes.artifact_store import FakeArtifactStore
from tests.fakes.bus import Hub


async def test_what_is_reported_of_a_reading_is_in_the_totals_within_two_seconds(tmp_path):
    hub, peers, store, key = Hub(), Peers(), FakeArtifactStore(), Ed25519PrivateKey.generate()
    config = config_of("n1", peers={"n1": Peer(raft="127.0.0.1:1", url="http://n1")}, directory=tmp_path, log="memory")
    node = node_of(config, log=MemoryLog(node_id="n1"), hub=hub, store=store, signer=Signer(key), peers=peers)
    app = create_api(node, peers=peers)
    edge_config = EdgeConfig(
        servers=("nats://x",), trust=trust_line(key.public_key()), edge_id="e1", region=config.region
    )
    source = FakeArtifactSource()
    async with (
        running(node),
        httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://n1", timeout=30) as http,
    ):
        served = Served(node=node, app=app, http=http, store=store)
        await served.model("m", "1.0.0", "2.0.0")
        source.artifacts.update({digest: content for digest, (content, _) in store.shelf.items()})
        await served.activate("1.0.0")
        totals = node.fleet.view.observed
        async with await AsyncEdgeClient.over(edge_config, bus=hub.edge_bus(), source=source) as edge:
            model = edge.model("m", loader=lambda artifact: artifact.version)
            first = await model.read_strong(timeout_ms=10_000)
            for number in range(100):
                first.report(ok=number % 10 > 0, latency_ms=20.0 + number % 2, score=0.5, label="cat")
            await eventually(
                lambda: (t := totals.total("m", "1.0.0", 1)) is not None and t.observations.count == 100, within_s=2
            )

            await served.activate("2.0.0")
            second = await model.read_strong(timeout_ms=10_000)
            second.report(ok=False)
            first.report(ok=True)
            await eventually(lambda: totals.total("m", "2.0.0", 2) is not None, within_s=2)
            first.report(ok=True)
        await eventually(lambda: (t := totals.total("m", "1.0.0", 1)) is not None and t.observations.count == 102)

        one, two = totals.totals("m")
        assert (one.observations.judged_count, one.observations.failed_count, one.edge_count) == (102, 10, 1)
        assert (one.observations.labels, one.observations.score_sum) == ({"cat": 100}, 50.0)
        assert 19.5 < (quantile(one.observations.latencies, 0.5) or 0) < 21.5
        assert (two.observations.version, two.observations.count, two.observations.failed_count) == ("2.0.0", 1, 1)
        assert not [name for name in node.fleet.view.counters if name.startswith("observation")]
        (shown,) = (await http.get("/v1/edges")).json()["items"]
        assert (shown["edge_id"], shown["site"], shown["labels"], shown["leaving"]) == ("e1", "", {}, True)
    await peers.close()
