"""Artifacts: whole or not at all, in and out."""

from __future__ import annotations

import asyncio
import hashlib

import httpx
import pytest

from consistency_service.api import artifacts
from edge_client.protocol.digest import Digest
from tests.api.served import ARTIFACT_BYTES_MAX, Served, serving
from tests.api.test_models import code_of

CONTENT = bytes(range(256)) * 10_000
DIGEST = str(Digest.of(CONTENT))


async def put(served: Served, content: bytes = CONTENT) -> str:
    return str((await served.http.post("/v1/artifacts", content=content)).json()["digest"])


async def test_upload_and_download(served: Served):
    stored = await served.http.post(f"/v1/artifacts?digest={DIGEST}", content=CONTENT)
    loaded = await served.http.get(f"/v1/artifacts/{DIGEST}")

    assert (201, {"digest": DIGEST, "size_bytes": len(CONTENT)}) == (stored.status_code, stored.json())
    assert f"/v1/artifacts/{DIGEST}" == stored.headers["location"]
    assert (200, CONTENT) == (loaded.status_code, loaded.content)
    assert (f'"{DIGEST}"', "bytes", str(len(CONTENT))) == tuple(
        loaded.headers[name] for name in ("etag", "accept-ranges", "content-length")
    )


async def test_an_empty_artifact(served: Served):
    digest = await put(served, b"")

    assert hashlib.sha256(b"").hexdigest() in digest
    assert (200, b"") == ((r := await served.http.get(f"/v1/artifacts/{digest}")).status_code, r.content)
    assert (416, "range_not_satisfiable") == code_of(
        await served.http.get(f"/v1/artifacts/{digest}", headers={"Range": "bytes=0-"})
    )


async def test_look_without_loading(served: Served):
    await put(served)
    response = await served.http.head(f"/v1/artifacts/{DIGEST}")

    assert (200, b"", str(len(CONTENT))) == (response.status_code, response.content, response.headers["content-length"])
    assert 404 == (await served.http.head("/v1/artifacts/sha256:" + "0" * 64)).status_code


@pytest.mark.parametrize(
    "header,start,end",
    [("bytes=0-99", 0, 100), ("bytes=2000000-", 2_000_000, None), ("bytes=-7", -7, None), ("bytes=5-5", 5, 6)],
)
async def test_a_range(served: Served, header, start, end):
    await put(served)
    response = await served.http.get(f"/v1/artifacts/{DIGEST}", headers={"Range": header})
    expected = CONTENT[start:end]
    first = start % len(CONTENT)

    assert (206, expected) == (response.status_code, response.content)
    assert f"bytes {first}-{first + len(expected) - 1}/{len(CONTENT)}" == response.headers["content-range"]


async def test_a_range_outside(served: Served):
    await put(served)
    response = await served.http.get(f"/v1/artifacts/{DIGEST}", headers={"Range": f"bytes={len(CONTENT)}-"})

    assert (416, "range_not_satisfiable") == code_of(response)
    assert f"bytes */{len(CONTENT)}" == response.headers["content-range"]


async def test_conditions(served: Served):
    await put(served)
    url, tag = f"/v1/artifacts/{DIGEST}", f'"{DIGEST}"'

    assert 304 == (await served.http.get(url, headers={"If-None-Match": tag})).status_code
    assert 200 == (await served.http.get(url, headers={"If-None-Match": '"x"'})).status_code
    assert 206 == (await served.http.get(url, headers={"Range": "bytes=1-2", "If-Range": tag})).status_code
    assert 200 == (await served.http.get(url, headers={"Range": "bytes=1-2", "If-Range": '"x"'})).status_code


@pytest.mark.parametrize("digest", ["sha256:" + "0" * 64, "sha256:0", "md5:1", "SHA256:" + "0" * 64])
async def test_an_unknown_artifact(served: Served, digest):
    assert (404, "unknown_artifact") == code_of(await served.http.get(f"/v1/artifacts/{digest}"))


async def test_other_bytes_than_announced(served: Served):
    response = await served.http.post(f"/v1/artifacts?digest={DIGEST}", content=b"other")

    assert (422, "digest_mismatch") == code_of(response)
    assert str(Digest.of(b"other")) == response.json()["digest"]
    assert {} == served.store.shelf
    assert (422, "invalid") == code_of(await served.http.post("/v1/artifacts?digest=x", content=b""))


async def test_above_the_limit_announced_or_not(served: Served):
    async def unannounced():
        for _ in range(ARTIFACT_BYTES_MAX // 1000 + 2):
            yield b"x" * 1000

    announced = await served.http.post("/v1/artifacts", content=b"x" * (ARTIFACT_BYTES_MAX + 1))
    streamed = await served.http.post("/v1/artifacts", content=unannounced())

    assert (413, "too_large") == code_of(announced) == code_of(streamed)
    assert ARTIFACT_BYTES_MAX == announced.json()["limit_bytes"] == streamed.json()["limit_bytes"]
    assert {} == served.store.shelf
    assert 201 == (await served.http.post("/v1/artifacts", content=b"x" * ARTIFACT_BYTES_MAX)).status_code


async def test_an_announced_flood_is_refused_before_it_is_read(served: Served):
    read = 0

    async def flood():
        nonlocal read
        while True:
            read += 1
            yield b"x" * 1000

    headers = {"Content-Length": str(10**15)}
    response = await served.http.post("/v1/artifacts", content=flood(), headers=headers)

    assert (413, 0) == (response.status_code, read)


async def test_a_full_store(served: Served):
    served.store.capacity_bytes = 10

    assert (507, "store_full") == code_of(await served.http.post("/v1/artifacts", content=b"x" * 11))
    assert {} == served.store.shelf


async def test_a_small_corrupt_artifact_is_a_problem(served: Served):
    await put(served, b"weights")
    digest = str(Digest.of(b"weights"))
    served.store.shelf[digest] = (b"wEights", 0)
    response = await served.http.get(f"/v1/artifacts/{digest}")

    assert (500, "artifact_corrupt") == code_of(response)
    assert 1 == served.app.state.counters["artifacts_corrupt"]


# ---- on a real socket


async def exchange(url: str, request: bytes, *, close: bool = False) -> bytes:
    """What comes back for these bytes; with `close` the caller leaves at once."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    await writer.drain()
    if close:
        await asyncio.sleep(0.1)
        writer.close()
        return b""
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def test_a_large_corrupt_artifact_ends_short(served: Served):
    await put(served)
    served.store.shelf[DIGEST] = (CONTENT[:-1] + b"!", 0)
    async with serving(served.app) as url:
        answer = await exchange(url, f"GET /v1/artifacts/{DIGEST} HTTP/1.1\r\nHost: n1\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")

    assert b"200 OK" in head
    assert str(len(CONTENT)).encode() in head
    assert 0 < len(body) < len(CONTENT)
    assert (1, 1) == tuple(served.app.state.counters[name] for name in ("artifacts_corrupt", "answers_cut"))


async def test_an_upload_cut_in_the_middle_leaves_nothing(served: Served):
    head = b"POST /v1/artifacts HTTP/1.1\r\nHost: n1\r\nContent-Length: 1000\r\n\r\n"
    async with serving(served.app) as url:
        await exchange(url, head + b"x" * 500, close=True)
        await asyncio.sleep(0.1)
        callers_gone = served.app.state.counters["callers_gone"]

    assert 1 == callers_gone
    assert {} == served.store.shelf


async def test_a_refused_flood_hears_why(served: Served):
    """The caller sends on for a while after the refusal: what it sends must not cost it the answer."""
    async with serving(served.app) as url, httpx.AsyncClient(base_url=url) as http:
        refused = await http.post("/v1/artifacts", content=b"x" * (20 * ARTIFACT_BYTES_MAX))

    assert (413, "too_large") == code_of(refused)


async def test_transfers_take_turns_and_leave_their_places(served: Served, monkeypatch):
    """However they end: to their end, refused, or left by their caller."""
    await put(served)
    for name in ("UPLOADS_MAX", "DOWNLOADS_MAX"):
        monkeypatch.setattr(artifacts, name, 1)
    monkeypatch.setattr(artifacts, "TURN_TIMEOUT_S", 0.3)
    served.app.state.transfers = transfers = artifacts.Transfers()

    async def slowly():
        yield CONTENT[:100]
        await asyncio.sleep(30)

    for places, method, path in (
        (transfers.uploads, "POST", "/v1/artifacts"),
        (transfers.downloads, "GET", f"/v1/artifacts/{DIGEST}"),
    ):
        async with places:
            assert (503, "overloaded") == code_of(await served.http.request(method, path))
        for _ in range(3):
            assert (await served.http.request(method, path)).status_code in {200, 201}
            assert 404 == (await served.http.get("/v1/artifacts/sha256:" + "0" * 64)).status_code
            assert 400 <= (await served.http.post(f"/v1/artifacts?digest=sha256:{'0' * 64}", content=b"x")).status_code
        assert not places.locked()
    async with serving(served.app) as url, httpx.AsyncClient(base_url=url) as http:
        left = asyncio.create_task(http.post("/v1/artifacts", content=slowly()))
        while not transfers.uploads.locked():
            await asyncio.sleep(0.01)
        left.cancel()
        async with http.stream("GET", f"/v1/artifacts/{DIGEST}"):
            pass
        async with asyncio.timeout(5):
            while transfers.uploads.locked() or transfers.downloads.locked():
                await asyncio.sleep(0.01)
