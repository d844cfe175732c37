"""An edge and nodes that ask who comes: by https, with a token that is replaced, shown to nodes alone."""

from __future__ import annotations

import httpx
import pytest

from edge_client.adapters.http_access import HttpAccess
from edge_client.adapters.http_source import HttpSource
from edge_client.errors import ArtifactUnavailableError, ConfigError
from tests.api.secured import authority, tls_node, tls_of


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    return authority(tmp_path_factory.mktemp("certs"))


def written(path, text: str):
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.chmod(0o600)
    return fresh.replace(path)


async def fetched(source: HttpSource, url: str, digest: str, *, offset: int = 0) -> bytes:
    return b"".join([chunk async for chunk in source.fetch(url=url, digest=digest, offset=offset)])


async def test_a_download_with_ca_and_token_that_are_replaced(tmp_path, certs):
    async with tls_node(tmp_path, certs) as (url, served):
        async with httpx.AsyncClient(verify=tls_of(certs), base_url=url) as http:
            stored = await http.post("/v1/artifacts", content=b"weights", headers=served.table.bearer("publisher"))
        digest = stored.json()["digest"]
        file = written(tmp_path / "token", served.table.tokens["edge"] + "\n")
        source = HttpSource(access=HttpAccess(ca=certs / "ca.crt", token=file))
        whole = await fetched(source, url, digest)
        served.table.write("")  # everybody is gone
        with pytest.raises(ArtifactUnavailableError, match="401"):
            await fetched(source, url, digest)
        written(file, served.table.add("edge-2", "edge"))
        rest = await fetched(source, url, digest, offset=3)
        unlinked = file.rename(tmp_path / "away")
        still = await fetched(source, url, digest)
        await source.close()

        strangers = HttpSource(access=HttpAccess(token=unlinked))
        with pytest.raises(ArtifactUnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
            await fetched(strangers, url, digest)
        await strangers.close()

    assert (b"weights", b"ghts", b"weights") == (whole, rest, still)


@pytest.mark.parametrize(
    ("url", "shown"),
    [("https://n1:8700/x", True), ("http://127.0.0.1/x", True), ("http://[::1]/x", True), ("http://10.0.0.1/x", False)],
)
def test_where_a_token_is_shown(tmp_path, url, shown):
    access = HttpAccess(token=written(tmp_path / "token", "ccs_secret"))

    assert shown == bool(access.headers(httpx.URL(url)))
    assert "secret" not in repr(access)


async def test_a_token_does_not_follow_a_redirect_to_somebody_else(tmp_path):
    seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((request.url.host, request.headers.get("authorization")))
        if request.url.host == "127.0.0.1":
            return httpx.Response(307, headers={"location": "http://127.0.0.2/store"})
        return httpx.Response(200, stream=httpx.ByteStream(b"weights"))

    source = HttpSource(access=HttpAccess(token=written(tmp_path / "token", "ccs_secret")))
    source._http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    assert b"weights" == await fetched(source, "http://127.0.0.1", "sha256:" + "0" * 64)
    await source.close()

    assert [("127.0.0.1", "Bearer ccs_secret"), ("127.0.0.2", None)] == seen


@pytest.mark.parametrize("text", ["", "two words", "ø", "x" * 9_000])
def test_files_that_hold_no_token(tmp_path, text):
    with pytest.raises(ConfigError, match="http_token") as refused:
        HttpAccess(token=written(tmp_path / "token", text))
    assert not text or text not in str(refused.value)
    with pytest.raises(ConfigError, match="http_ca"):
        HttpAccess(ca=tmp_path / "token")
