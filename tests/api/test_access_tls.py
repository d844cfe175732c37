"""TLS on REST: what is spoken, whose certificates count, and files that are renewed on the run."""

from __future__ import annotations

import asyncio
import socket
import ssl
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from consistency_service.adapters import certificates
from consistency_service.adapters.rest_tls import client_context, server_context
from consistency_service.api import server
from consistency_service.errors import ConfigError
from tests.api.secured import authority, now, tls_node, tls_of

ADA = '\n[[certificate]]\nname = "ada"\nrole = "operator"\n'


@pytest.fixture(scope="module")
def certs(tmp_path_factory) -> Path:
    return authority(tmp_path_factory.mktemp("certs"))


async def whoami(url: str, certs: Path, name: str | None = None, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(verify=tls_of(certs, name)) as http:
        return await http.get(f"{url}/v1/whoami", headers=headers)


async def test_tls_and_nothing_else(tmp_path, certs):
    async with tls_node(tmp_path, certs) as (url, served):
        answer = await whoami(url, certs, **served.table.bearer("viewer"))
        with pytest.raises(httpx.HTTPError):
            async with httpx.AsyncClient() as http:
                await http.get(url.replace("https", "http") + "/livez")
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            async with httpx.AsyncClient() as http:
                await http.get(f"{url}/livez")

    assert (200, "viewer") == (answer.status_code, answer.json()["role"])


@pytest.mark.parametrize(("version", "spoken"), [("TLSv1_1", False), ("TLSv1_2", True), ("TLSv1_3", True)])
async def test_versions(tmp_path, certs, version, spoken):
    context = tls_of(certs)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with tls_node(tmp_path, certs) as (url, _):
        port = int(url.rpartition(":")[2])
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        except (ssl.SSLError, ConnectionError):
            assert not spoken
            return
        found = writer.get_extra_info("ssl_object").selected_alpn_protocol()
        writer.close()

    assert spoken
    assert found is None


async def test_whoever_begins_and_does_not_go_on_is_sent_away(tmp_path, certs, monkeypatch):
    monkeypatch.setattr(server, "HANDSHAKE_TIMEOUT_S", 0.2)
    async with tls_node(tmp_path, certs) as (url, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"\x16\x03\x01")
        async with asyncio.timeout(5):
            assert b"" == await reader.read()
        writer.close()


async def test_certificates_of_people(tmp_path, certs):
    async with tls_node(tmp_path, certs, access=ADA, http_client_ca=certs / "ca.crt") as (url, served):
        ada, eve, nobody = [await whoami(url, certs, name) for name in ("ada", "eve", None)]
        both = await whoami(url, certs, "ada", **served.table.bearer("viewer"))
        wrong = await whoami(url, certs, "ada", Authorization="Bearer wrong")

    assert ("ada", "operator", "certificate") == tuple(ada.json()[key] for key in ("name", "role", "kind"))
    assert ada.json()["expires_at_unix_ms"] > 0
    assert (401, 401) == (eve.status_code, nobody.status_code)
    assert "viewer" == both.json()["role"], "a token says more than the connection it comes by"
    assert 401 == wrong.status_code, "wrong credentials do not fall back on others"


async def test_the_nodes_authority_makes_nobody_else_known(tmp_path, certs):
    """Without http_client_ca, a certificate of the nodes' authority that is no node's is nobody's."""
    async with tls_node(tmp_path, certs, access=ADA) as (url, _):
        ada, node = await whoami(url, certs, "ada"), await whoami(url, certs, "n2")

    assert 401 == ada.status_code
    assert ("n2", "node") == (node.json()["name"], node.json()["role"])


async def test_another_authority_makes_no_nodes(tmp_path, certs, tmp_path_factory):
    """Somebody with the right to sign for people names a node; and a stranger's certificate ends the connection."""
    people = authority(tmp_path_factory.mktemp("people"))
    listed = ADA + '\n[[certificate]]\nname = "n2"\nrole = "viewer"\n'
    async with tls_node(tmp_path, certs, access=listed, http_client_ca=people / "ca.crt") as (url, _):
        context = tls_of(certs)
        context.load_cert_chain(people / "n2.crt", people / "n2.key")
        async with httpx.AsyncClient(verify=context) as http:
            forged = await http.get(f"{url}/v1/whoami")
        context = tls_of(certs)
        context.load_cert_chain(people / "ada.crt", people / "ada.key")
        async with httpx.AsyncClient(verify=context) as http:
            ada = await http.get(f"{url}/v1/whoami")

    assert 401 == forged.status_code
    assert "ada" == ada.json()["name"]
    other = authority(tmp_path_factory.mktemp("other"))
    async with tls_node(tmp_path_factory.mktemp("again"), certs, http_client_ca=certs / "ca.crt") as (url, _):
        context = tls_of(certs)
        context.load_cert_chain(other / "ada.crt", other / "ada.key")
        with pytest.raises(httpx.TransportError):
            async with httpx.AsyncClient(verify=context) as http:
                await http.get(f"{url}/livez")


async def test_an_expired_certificate(tmp_path, certs, tmp_path_factory):
    directory = tmp_path_factory.mktemp("old")
    for file in ("ca.crt", "ca.key"):
        (directory / file).write_bytes((certs / file).read_bytes())
    (directory / "ca.key").chmod(0o600)
    certificates.issue_client(directory, name="ada", now=now() - timedelta(days=30), days=1)
    async with tls_node(tmp_path, certs, access=ADA, http_client_ca=certs / "ca.crt") as (url, _):
        context = tls_of(certs)
        context.load_cert_chain(directory / "ada.crt", directory / "ada.key")
        with pytest.raises(httpx.TransportError):
            async with httpx.AsyncClient(verify=context) as http:
                await http.get(f"{url}/v1/whoami")


async def test_renewed_files_are_used_and_useless_ones_are_not(tmp_path, tmp_path_factory):
    certs = authority(tmp_path_factory.mktemp("renewed"))
    async with tls_node(tmp_path, certs) as (url, served):
        before = await asyncio.to_thread(serial, url, certs)
        fresh = tmp_path_factory.mktemp("fresh")
        certificates.issue(certs, node_id="n1", hosts=("127.0.0.1",), now=now(), into=fresh)
        (fresh / "n1.crt").replace(certs / "n1.crt")
        between = await asyncio.to_thread(serial, url, certs)  # the key is not there yet
        (fresh / "n1.key").replace(certs / "n1.key")
        after = await asyncio.to_thread(serial, url, certs)

    assert before == between != after
    assert 1 == served.counters["tls_files_refused"]
    assert 1 == served.counters["tls_files_renewed"]


def serial(url: str, certs: Path) -> str:
    """Of the certificate that is shown now."""
    host, _, port = url.removeprefix("https://").partition(":")
    plain = socket.create_connection((host, int(port)), timeout=5)
    with plain, tls_of(certs).wrap_socket(plain, server_hostname=host) as tls:
        return str((tls.getpeercert() or {})["serialNumber"])


def test_files_that_make_no_sense(tmp_path):
    certs = authority(tmp_path)
    with pytest.raises(ConfigError, match=r"with .*n2\.key"):
        server_context(certificate=certs / "n1.crt", key=certs / "n2.key")
    (certs / "n1.key").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        server_context(certificate=certs / "n1.crt", key=certs / "n1.key")
    with pytest.raises(ConfigError, match="cannot use"):
        client_context(ca=certs / "n2.key")
