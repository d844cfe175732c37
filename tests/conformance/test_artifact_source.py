"""What every `ArtifactSource` does: the fake, and HTTP against a loopback server that misbehaves on request."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest

from edge_client.adapters.http_source import REDIRECTS_MAX, HttpSource
from edge_client.errors import ArtifactUnavailableError
from edge_client.protocol.digest import Digest
from edge_client.runtime.ports import ArtifactSource
from tests.fakes.artifact_source import FakeArtifactSource
from tests.support.servers import free_port

CONTENT = random.Random(3).randbytes(1_000_003)
DIGEST = str(Digest.of(CONTENT))
UNKNOWN = str(Digest.of(b"unknown"))


class Region:
    """Serves `CONTENT` over HTTP/1.1; `answer` decides how, and is given the offset that was asked for."""

    def __init__(self) -> None:
        self.answer: Callable[[int | None], tuple[str, dict[str, str], bytes]] = self.proper
        self.cut_after_bytes: int | None = None
        self.silent = False
        self.requests: list[str] = []
        self.url = ""
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    def proper(self, offset: int | None) -> tuple[str, dict[str, str], bytes]:
        if offset is None:
            return "200 OK", {}, CONTENT
        if offset >= len(CONTENT):
            return "416 Range Not Satisfiable", {"content-range": f"bytes */{len(CONTENT)}"}, b""
        content_range = f"bytes {offset}-{len(CONTENT) - 1}/{len(CONTENT)}"
        return "206 Partial Content", {"content-range": content_range}, CONTENT[offset:]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.requests.append(head)
        if self.silent:
            await reader.read()
        offset = None
        for line in head.lower().splitlines():
            if line.startswith("range: bytes="):
                offset = int(line.removeprefix("range: bytes=").removesuffix("-"))
        status, headers, body = self.answer(offset)
        if not head.split(" ")[1].endswith(f"/v1/artifacts/{DIGEST}"):
            status, headers, body = "404 Not Found", {}, b"no such artifact"
        headers = {"content-length": str(len(body)), "connection": "close", **headers}
        lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        writer.write("\r\n".join(lines).encode() + body[: self.cut_after_bytes])
        await writer.drain()
        writer.close()


@dataclass
class Rig:
    source: ArtifactSource
    url: str
    go_down: Callable[[], None]
    cut_after: Callable[[int], None]


@pytest.fixture
async def region() -> AsyncIterator[Region]:
    started = Region()
    await started.start()
    yield started
    await started.stop()


@pytest.fixture
async def source() -> AsyncIterator[HttpSource]:
    made = HttpSource(connect_timeout_ms=500, read_timeout_ms=300)
    yield made
    await made.close()


@pytest.fixture(params=["fake", "http"])
def rig(request: pytest.FixtureRequest, region: Region, source: HttpSource) -> Rig:
    if request.param == "fake":
        fake = FakeArtifactSource(artifacts={DIGEST: CONTENT})
        return Rig(
            source=fake,
            url="http://region",
            go_down=lambda: setattr(fake, "down", True),
            cut_after=lambda count: setattr(fake, "cut_after_bytes", count),
        )
    made = Rig(
        source=source,
        url=region.url,
        go_down=lambda: setattr(made, "url", f"http://127.0.0.1:{free_port()}"),
        cut_after=lambda count: setattr(region, "cut_after_bytes", count),
    )
    return made


async def fetched(source: ArtifactSource, url: str, *, digest: str = DIGEST, offset: int = 0) -> bytes:
    return b"".join([chunk async for chunk in source.fetch(url=url, digest=digest, offset=offset)])


@pytest.mark.parametrize("offset", [0, 1, 500_000, len(CONTENT) - 1, len(CONTENT)])
async def test_the_bytes_from_the_offset_on(rig: Rig, offset: int) -> None:
    assert await fetched(rig.source, rig.url, offset=offset) == CONTENT[offset:]


async def test_it_comes_in_pieces(rig: Rig) -> None:
    sizes = [len(chunk) async for chunk in rig.source.fetch(url=rig.url, digest=DIGEST, offset=0)]

    assert len(sizes) > 1
    assert 0 not in sizes


async def test_a_download_cut_short_goes_on_where_it_stopped(rig: Rig) -> None:
    received = bytearray()
    rig.cut_after(400_000)

    async def download() -> None:
        async for chunk in rig.source.fetch(url=rig.url, digest=DIGEST, offset=len(received)):
            received.extend(chunk)

    for expected in (400_000, 800_000):
        with pytest.raises(ArtifactUnavailableError):
            await download()
        assert len(received) == expected
    await download()
    assert bytes(received) == CONTENT


@pytest.mark.parametrize("digest", [UNKNOWN, "sha256:../../secret", "", "sha256:" + "A" * 64])
async def test_what_is_not_there_is_unavailable(rig: Rig, digest: str) -> None:
    with pytest.raises(ArtifactUnavailableError):
        await fetched(rig.source, rig.url, digest=digest)


async def test_beyond_the_end_is_unavailable(rig: Rig) -> None:
    with pytest.raises(ArtifactUnavailableError):
        await fetched(rig.source, rig.url, offset=len(CONTENT) + 1)


async def test_a_region_that_is_down_is_unavailable(rig: Rig) -> None:
    rig.go_down()

    with pytest.raises(ArtifactUnavailableError):
        await fetched(rig.source, rig.url)


async def test_several_downloads_at_once(rig: Rig) -> None:
    offsets = [0, 10, 999_999, 0]
    found = await asyncio.gather(*(fetched(rig.source, rig.url, offset=offset) for offset in offsets))

    assert found == [CONTENT[offset:] for offset in offsets]


@pytest.mark.parametrize("offset", [1, 70_000, len(CONTENT)])
async def test_a_whole_answer_to_a_request_for_a_range_is_skipped_into(
    region: Region, source: HttpSource, offset: int
) -> None:
    region.answer = lambda _: ("200 OK", {}, CONTENT)

    assert await fetched(source, region.url, offset=offset) == CONTENT[offset:]
    assert f"range: bytes={offset}-" in region.requests[0].lower()


@pytest.mark.parametrize(
    "status, headers, offset",
    [
        ("206 Partial Content", {"content-range": "bytes 4-9/10"}, 5),
        ("206 Partial Content", {}, 5),
        ("206 Partial Content", {"content-range": "bytes x"}, 5),
        ("206 Partial Content", {"content-range": "bytes 0-9/10"}, 0),
        ("200 OK", {}, 100),
        ("200 OK", {"content-encoding": "gzip"}, 0),
        ("416 Range Not Satisfiable", {"content-range": "bytes */4"}, 5),
        ("416 Range Not Satisfiable", {}, 5),
        ("204 No Content", {}, 0),
        ("302 Found", {}, 0),
        ("400 Bad Request", {}, 0),
        ("500 Internal Server Error", {}, 0),
        ("503 Service Unavailable", {}, 0),
        ("200 OK", {"content-length": "nonsense"}, 0),
    ],
)
async def test_an_answer_of_no_use_is_unavailable(
    region: Region, source: HttpSource, status: str, headers: dict[str, str], offset: int
) -> None:
    region.answer = lambda _: (status, headers, b"0123456789")

    with pytest.raises(ArtifactUnavailableError):
        await fetched(source, region.url, offset=offset)


async def test_a_redirect_within_the_scheme_is_followed_with_the_range(region: Region, source: HttpSource) -> None:
    other = Region()
    await other.start()
    region.answer = lambda _: ("307 Temporary Redirect", {"location": f"{other.url}/b/v1/artifacts/{DIGEST}"}, b"")

    assert await fetched(source, region.url, offset=7) == CONTENT[7:]
    assert "range: bytes=7-" in other.requests[0].lower()
    await other.stop()


@pytest.mark.parametrize("location", ["https://127.0.0.1/x", "ftp://127.0.0.1/x", "file:///etc/passwd"])
async def test_a_redirect_to_another_scheme_is_refused(region: Region, source: HttpSource, location: str) -> None:
    region.answer = lambda _: ("302 Found", {"location": location}, b"")

    with pytest.raises(ArtifactUnavailableError, match="scheme"):
        await fetched(source, region.url)


async def test_redirects_without_end_are_given_up(region: Region, source: HttpSource) -> None:
    region.answer = lambda _: ("302 Found", {"location": f"/v1/artifacts/{DIGEST}"}, b"")

    with pytest.raises(ArtifactUnavailableError, match="redirects"):
        await fetched(source, region.url)
    assert len(region.requests) == REDIRECTS_MAX + 1


async def test_a_silent_server_is_given_up_in_time(region: Region, source: HttpSource) -> None:
    region.silent = True
    started = time.monotonic()

    with pytest.raises(ArtifactUnavailableError):
        await fetched(source, region.url)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("url", ["", "ftp://127.0.0.1", "http://", "http://[", "127.0.0.1:80", "http://\x00"])
async def test_a_url_that_makes_no_sense_is_unavailable(source: HttpSource, url: str) -> None:
    with pytest.raises(ArtifactUnavailableError):
        await fetched(source, url)


async def test_a_reader_that_stops_early_frees_the_connection(region: Region, source: HttpSource) -> None:
    for _ in range(40):
        chunks = source.fetch(url=region.url, digest=DIGEST, offset=0)
        await anext(chunks)
        await chunks.aclose()  # type: ignore[attr-defined]

    assert await fetched(source, region.url) == CONTENT


async def test_a_closed_source_is_unavailable(region: Region) -> None:
    source = HttpSource()
    await source.close()

    with pytest.raises(ArtifactUnavailableError):
        await fetched(source, region.url)


async def test_closing_ends_a_download_under_way(region: Region) -> None:
    source = HttpSource(read_timeout_ms=2_000)
    region.answer = lambda _: ("200 OK", {"content-length": str(2 * len(CONTENT))}, CONTENT)

    async def download() -> None:
        received = 0
        async for chunk in source.fetch(url=region.url, digest=DIGEST, offset=0):
            received += len(chunk)
            if received > 100_000:
                await source.close()

    with pytest.raises(ArtifactUnavailableError):
        await download()
