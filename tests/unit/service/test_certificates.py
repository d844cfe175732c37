"""Certificates as files: whole, private, never overwritten, and saying what they should."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509

from consistency_service.adapters import certificates
from consistency_service.errors import ConfigError

NOW = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
def directory(tmp_path):
    certificates.create_authority(tmp_path / "certs", cluster_id="dock", now=NOW)
    return tmp_path / "certs"


def test_a_nodes_certificate_names_it_for_peers_and_its_hosts_for_tools(directory):
    files = certificates.issue(directory, node_id="n1", now=NOW, hosts=["n1.example", "10.0.0.1", "::1"], days=30)
    certificate = certificates.load_certificate(files.certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value

    assert ["ccs://dock/node/n1"] == names.get_values_for_type(x509.UniformResourceIdentifier)
    assert ["n1.example"] == names.get_values_for_type(x509.DNSName)
    assert [ip_address("10.0.0.1"), ip_address("::1")] == names.get_values_for_type(x509.IPAddress)
    assert timedelta(days=30) == certificate.not_valid_after_utc - NOW
    certificate.verify_directly_issued_by(certificates.load_certificate(directory / "ca.crt"))
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_keys_are_private_and_certificates_are_not(directory):
    files = certificates.issue(directory, node_id="n1", now=NOW)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}

    assert {"ca.crt": 0o644, "ca.key": 0o600, "n1.crt": 0o644, "n1.key": 0o600} == modes
    assert 0o700 == stat.S_IMODE(directory.stat().st_mode)
    assert files.key.name in modes


def test_nothing_is_ever_overwritten(directory):
    certificates.issue(directory, node_id="n1", now=NOW)
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    with pytest.raises(ConfigError, match=r"n1\.key exists already"):
        certificates.issue(directory, node_id="n1", now=NOW)
    with pytest.raises(ConfigError, match=r"ca\.key exists already"):
        certificates.create_authority(directory, cluster_id="dock", now=NOW)

    assert before == {path.name: path.read_bytes() for path in directory.iterdir()}


def test_no_key_is_left_behind_without_its_certificate(directory):
    (directory / "n1.crt").write_text("something else")
    with pytest.raises(ConfigError, match=r"n1\.crt exists already"):
        certificates.issue(directory, node_id="n1", now=NOW)

    assert {"ca.crt", "ca.key", "n1.crt"} == {path.name for path in directory.iterdir()}


def test_a_renewal_goes_into_another_directory(directory):
    first = certificates.issue(directory, node_id="n1", now=NOW)
    second = certificates.issue(directory, node_id="n1", now=NOW, into=directory / "new")

    assert first.key.read_bytes() != second.key.read_bytes()
    assert directory / "new" / "n1.crt" == second.certificate


@pytest.mark.parametrize("name", ["", "n 1", "n/1", "../n1", "n1\n", "x" * 65, "ü"])
def test_names_that_do_not_fit_a_uri_are_refused(directory, tmp_path, name):
    with pytest.raises(ConfigError, match="node id"):
        certificates.issue(directory, node_id=name, now=NOW)
    with pytest.raises(ConfigError, match="cluster id"):
        certificates.create_authority(tmp_path / "second", cluster_id=name, now=NOW)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"hosts": ["not a host"]}, "neither an address nor a host name"),
        ({"hosts": ["-x.example"]}, "neither an address nor a host name"),
        ({"days": 0}, "1 day at least"),
        ({"days": 4_000}, "the authority itself expires before that"),
    ],
)
def test_what_makes_no_sense_is_refused_and_leaves_nothing(directory, wrong, text):
    with pytest.raises(ConfigError, match=text):
        certificates.issue(directory, node_id="n1", now=NOW, **wrong)

    assert {"ca.crt", "ca.key"} == {path.name for path in directory.iterdir()}


def test_an_authority_that_is_damaged_open_or_not_ours_is_refused(directory, tmp_path):
    key = directory / "ca.key"
    key.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        certificates.issue(directory, node_id="n1", now=NOW)
    key.chmod(0o600)
    certificates.create_authority(tmp_path / "second", cluster_id="dock", now=NOW)
    good = key.read_bytes()
    key.write_bytes((tmp_path / "second" / "ca.key").read_bytes())
    with pytest.raises(ConfigError, match="not the key of"):
        certificates.issue(directory, node_id="n1", now=NOW)
    key.write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="no readable private key"):
        certificates.issue(directory, node_id="n1", now=NOW)
    key.write_bytes(good)
    leaf = certificates.issue(directory, node_id="n1", now=NOW)
    (directory / "ca.crt").write_bytes(leaf.certificate.read_bytes())
    (directory / "ca.key").write_bytes(leaf.key.read_bytes())
    with pytest.raises(ConfigError, match="names no cluster"):
        certificates.issue(directory, node_id="n2", now=NOW)
    with pytest.raises(ConfigError, match="cannot read"):
        certificates.issue(tmp_path / "nowhere", node_id="n2", now=NOW)
