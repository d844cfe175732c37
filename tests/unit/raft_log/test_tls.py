"""Two ends of a TLS connection without a network: who is believed, and that nothing is read of who is not."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta

import pytest

from consistency_service.adapters import certificates
from consistency_service.adapters.raft_log import RaftTls, tls
from consistency_service.errors import ConfigError

NOW = datetime.now(tz=UTC)


@pytest.fixture(scope="module")
def bed(tmp_path_factory):
    """An authority with nodes n1 and n2, and others with certificates of the wrong kind."""
    directory = tmp_path_factory.mktemp("certs")
    long_ago = NOW - timedelta(days=30)
    certificates.create_authority(directory, cluster_id="ccs", now=long_ago)
    for node_id in ("n1", "n2"):
        certificates.issue(directory, node_id=node_id, now=NOW, hosts=["127.0.0.1", "n.example"])
    certificates.issue(directory, node_id="n2", now=long_ago, days=1, into=directory / "expired")
    certificates.issue(directory, node_id="n2", now=NOW + timedelta(days=2), into=directory / "early")
    for name, cluster_id in (("foreign", "ccs"), ("other", "other")):
        certificates.create_authority(directory / name, cluster_id=cluster_id, now=NOW)
        certificates.issue(directory / name, node_id="n2", now=NOW)
    return directory


def files_of(directory, node_id="n1", *, ca=None):
    pair = certificates.node_files(directory, node_id)
    return RaftTls(ca=(ca or directory) / "ca.crt", certificate=pair.certificate, key=pair.key)


def server_of(bed):
    return tls.TlsFiles(files_of(bed), cluster_id="ccs", node_id="n1").channel(server_side=True)


def client_of(bed, directory):
    """A client that believes the server, and shows what is in `directory`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cafile=bed / "ca.crt")
    if directory is not None:
        pair = certificates.node_files(directory, "n2")
        context.load_cert_chain(pair.certificate, pair.key)
    return tls.TlsChannel(context, server_side=False)


def shake(client, server, *, then=b""):
    """What the server read of what the client said at once after the handshake."""
    client.start()
    server.receive(client.take_outgoing())
    client.receive(server.take_outgoing())
    return server.receive(client.take_outgoing() + (client.send(then) if then else b""))


def test_both_ends_know_each_other_by_the_node_in_the_certificate(bed):
    client, server = client_of(bed, bed), server_of(bed)

    assert b"hello" == shake(client, server, then=b"hello")
    assert ("ccs", "n2") == (server.identity.cluster_id, server.identity.node_id)
    assert ("ccs", "n1") == (client.identity.cluster_id, client.identity.node_id)
    assert b"back" * 100_000 == client.receive(server.send(b"back" * 100_000))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("expired", "has expired"),
        ("early", "not yet valid"),
        ("foreign", "certificate signature|issuer"),
        ("other", "issuer"),
    ],
)
def test_a_certificate_of_the_wrong_kind_is_refused_before_a_byte_is_read(bed, kind, reason):
    client, server = client_of(bed, bed / kind), server_of(bed)
    with pytest.raises(tls.CertificateRefusedError, match=reason):
        shake(client, server, then=b"never read")

    assert server.identity is None
    with pytest.raises(tls.TlsError, match="alert"):
        client.receive(server.take_outgoing())


def test_who_shows_no_certificate_is_refused(bed):
    client, server = client_of(bed, None), server_of(bed)
    with pytest.raises(tls.TlsError, match="did not return a certificate"):
        shake(client, server, then=b"never read")

    assert server.identity is None


def test_an_older_tls_is_not_spoken(bed):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with pytest.raises(tls.TlsError, match="unsupported protocol"):
        shake(tls.TlsChannel(context, server_side=False), server_of(bed))


@pytest.mark.parametrize("garbage", [b"\xff" * 100, b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + bytes(100)])
def test_garbage_is_no_handshake(bed, garbage):
    with pytest.raises(tls.TlsError):
        server_of(bed).receive(garbage)


def test_garbage_after_the_handshake_ends_the_connection(bed):
    client, server = client_of(bed, bed), server_of(bed)
    shake(client, server)
    with pytest.raises(tls.TlsError):
        server.receive(b"\x17\x03\x03\x00\x20" + bytes(32))


def test_sessions_are_not_resumed_so_that_every_connection_shows_its_certificate(bed):
    client, server = client_of(bed, bed), server_of(bed)
    shake(client, server)
    server.receive(client.send(b"x"))

    assert b"" == server.take_outgoing()  # no ticket was handed out
    assert not client._tls.session.has_ticket


@pytest.mark.parametrize(
    "names",
    [
        (),
        (("DNS", "n2"),),
        (("URI", "ccs://ccs/node/n2"), ("URI", "ccs://ccs/node/n3")),
        (("URI", "ccs://ccs/node/n2/../n3"),),
        (("URI", "ccs://ccs/edge/n2"),),
        (("URI", "ccs://ccs/node/n2\n"),),
        (("URI", "https://ccs/node/n2"),),
    ],
)
def test_a_certificate_that_names_not_exactly_one_node_is_refused(names):
    with pytest.raises(tls.CertificateRefusedError):
        tls.identity_of({"subjectAltName": names, "notAfter": "Jan  5 09:34:43 2038 GMT"})


def test_an_identity_is_read_from_the_uri_beside_other_names():
    names = (("DNS", "n.example"), ("URI", "https://n.example"), ("URI", "ccs://a-b.c/node/n_2"))
    expected = tls.Identity(cluster_id="a-b.c", node_id="n_2", expires_at_unix_s=2_146_653_283)

    assert expected == tls.identity_of({"subjectAltName": names, "notAfter": "Jan  9 12:34:43 2038 GMT"})


# A node's own files.


@pytest.mark.parametrize(
    ("kind", "wrong"), [("expired", "has expired"), ("early", "not yet valid"), ("foreign", "issuer|signature")]
)
def test_a_node_does_not_start_with_a_certificate_that_no_peer_would_believe(bed, kind, wrong):
    with pytest.raises(ConfigError, match=wrong):
        tls.TlsFiles(files_of(bed / kind, "n2", ca=bed), cluster_id="ccs", node_id="n2")


@pytest.mark.parametrize(("cluster_id", "node_id"), [("ccs", "n2"), ("other", "n1")])
def test_a_node_does_not_start_with_the_certificate_of_another(bed, cluster_id, node_id):
    with pytest.raises(ConfigError, match="names node 'n1' of cluster 'ccs'"):
        tls.TlsFiles(files_of(bed), cluster_id=cluster_id, node_id=node_id)


def test_a_key_that_others_can_read_is_refused(tmp_path):
    certificates.create_authority(tmp_path, cluster_id="ccs", now=NOW)
    pair = certificates.issue(tmp_path, node_id="n1", now=NOW)
    pair.key.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        tls.TlsFiles(files_of(tmp_path), cluster_id="ccs", node_id="n1")


def test_missing_and_mismatched_files_are_named(bed, tmp_path):
    with pytest.raises(ConfigError, match=r"n7\.crt"):
        tls.TlsFiles(files_of(bed, "n7"), cluster_id="ccs", node_id="n7")
    mixed = RaftTls(ca=bed / "ca.crt", certificate=bed / "n1.crt", key=bed / "n2.key")
    with pytest.raises(ConfigError, match="mismatch"):
        tls.TlsFiles(mixed, cluster_id="ccs", node_id="n1")


def test_renewed_files_are_used_and_half_renewed_ones_are_not(bed, tmp_path):
    now = NOW
    certificates.create_authority(tmp_path, cluster_id="ccs", now=now)
    certificates.issue(tmp_path, node_id="n1", now=now, days=2)
    files = tls.TlsFiles(files_of(tmp_path), cluster_id="ccs", node_id="n1")
    first = files.identity.expires_at_unix_s
    renewed = certificates.issue(tmp_path, node_id="n1", now=now, days=30, into=tmp_path / "new")

    assert not files.reload()
    renewed.certificate.replace(tmp_path / "n1.crt")
    with pytest.raises(ConfigError, match="mismatch"):
        files.reload()
    assert first == files.identity.expires_at_unix_s
    renewed.key.replace(tmp_path / "n1.key")
    assert files.reload()
    assert first + 28 * 86_400 == files.identity.expires_at_unix_s
