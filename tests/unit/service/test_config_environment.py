"""A node that is told everything by its environment, as containers are."""

from __future__ import annotations

from pathlib import Path

import pytest

from consistency_service.config import Peer, config_of
from consistency_service.errors import ConfigError

ENVIRONMENT = {
    "CCS_NODE_ID": "n1",
    "CCS_DATA_DIR": "data",
    "CCS_REGION_KEY": "region.key",
    "CCS_PEERS": "n1 n1.raft:8701 https://n1:8700,\n n2 n2.raft:8701 https://n2:8700",
    "CCS_NATS": "tls://nats-1:4222,tls://nats-2:4222",
    "CCS_STREAM_REPLICAS": "3",
}


def test_the_environment_alone_is_enough():
    config = config_of({}, environ=ENVIRONMENT, origin="the environment")

    assert ("n1", Path("data"), 3) == (config.node_id, config.data_dir, config.stream_replicas)
    assert {
        "n1": Peer(raft="n1.raft:8701", url="https://n1:8700"),
        "n2": Peer(raft="n2.raft:8701", url="https://n2:8700"),
    } == config.peers
    assert ("tls://nats-1:4222", "tls://nats-2:4222") == config.nats


def test_the_environment_wins_over_the_file():
    file = {"peers": {"n1": {"raft": "localhost:1", "url": "http://localhost:2"}}}

    config = config_of(file, environ=ENVIRONMENT, origin="file")

    assert "n1.raft:8701" == config.peers["n1"].raft


@pytest.mark.parametrize("text", ["", "n1", "n1 n1.raft:8701", "n1 a:1 http://a, n1 b:1 http://b", "n1 a:1 http://a,"])
def test_a_table_of_peers_that_makes_no_sense_is_refused(text):
    with pytest.raises(ConfigError, match="CCS_PEERS"):
        config_of({}, environ=ENVIRONMENT | {"CCS_PEERS": text}, origin="the environment")


def test_what_is_missing_is_named():
    with pytest.raises(ConfigError, match="the environment: missing setting data_dir, peers"):
        config_of({}, environ={"CCS_NODE_ID": "n1", "CCS_REGION_KEY": "key"}, origin="the environment")
