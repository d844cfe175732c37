"""A testbed makes its nodes' certificates by itself, keeps them while they are good, and mends what is half there."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from consistency_service.adapters.certificates import load_certificate
from consistency_service.config import config_of
from consistency_service.errors import ConfigError
from consistency_service.testbed import bootstrap, topology
from consistency_service.testbed.errors import TestbedError as BedError

NOW = datetime(2026, 11, 1, tzinfo=UTC)


def contents(directory):
    return {path.name: path.read_bytes() for path in (directory / "certs").iterdir()}


def test_every_node_has_a_certificate_and_keeps_it(tmp_path):
    config = topology.TestbedConfig(directory=tmp_path, nodes=3)
    bootstrap.make_certificates(config, now=NOW)
    first = contents(tmp_path)
    bootstrap.make_certificates(config, now=NOW + timedelta(days=300))

    nodes = [f"node-{n}.{kind}" for n in (1, 2, 3) for kind in ("crt", "key")]
    assert sorted(["ca.crt", "ca.key", *nodes]) == sorted(first)
    assert first == contents(tmp_path)


def test_what_expires_soon_or_is_half_there_is_made_anew(tmp_path):
    config = topology.TestbedConfig(directory=tmp_path, nodes=2)
    bootstrap.make_certificates(config, now=NOW)
    first = contents(tmp_path)
    (tmp_path / "certs" / "node-2.crt").unlink()
    later = NOW + timedelta(days=390)
    bootstrap.make_certificates(config, now=later)

    assert first["ca.crt"] == contents(tmp_path)["ca.crt"]
    for name in ("node-1", "node-2"):
        assert first[f"{name}.key"] != contents(tmp_path)[f"{name}.key"]
        assert load_certificate(tmp_path / "certs" / f"{name}.crt").not_valid_after_utc > later + timedelta(days=300)


def test_certificates_of_another_region_are_left_alone(tmp_path):
    bootstrap.make_certificates(topology.TestbedConfig(directory=tmp_path, region="first"), now=NOW)
    first = contents(tmp_path)
    with pytest.raises(BedError, match="belongs to region 'first'"):
        bootstrap.make_certificates(topology.TestbedConfig(directory=tmp_path, region="second"), now=NOW)

    assert first == contents(tmp_path)


TABLE = {
    "node_id": "n1",
    "data_dir": "d",
    "region_key": "k",
    "peers": {"n1": {"raft": "127.0.0.1:7000", "url": "http://127.0.0.1:8700"}},
}


def test_a_nodes_settings_take_certificates_together_or_not_at_all():
    files = {"raft_ca": "ca.crt", "raft_certificate": "n1.crt", "raft_key": "n1.key"}
    config = config_of({**TABLE, **files}, environ={}, origin="test")

    assert "n1.key" == str(config.raft_key)
    assert config_of(TABLE, environ={}, origin="test").raft_ca is None
    for name in files:
        with pytest.raises(ConfigError, match="together or not at all"):
            config_of({**TABLE, **{key: files[key] for key in files.keys() - {name}}}, environ={}, origin="test")


@pytest.mark.parametrize(("given", "meant"), [(True, True), (False, False), ("true", True), ("false", False)])
def test_a_switch_is_true_or_false(given, meant):
    assert meant is config_of({**TABLE, "raft_insecure": given}, environ={}, origin="test").raft_insecure
    with pytest.raises(ConfigError, match="true or false"):
        config_of(TABLE, environ={"CCS_RAFT_INSECURE": "yes"}, origin="test")
