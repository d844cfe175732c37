"""What every `ArtifactStore` does: the fake, a directory, memory, and S3, which `moto` plays."""

from __future__ import annotations

import asyncio
import random
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import obstore
import pytest

from consistency_service.adapters.object_store import ObjectStore
from consistency_service.errors import (
    ArtifactCorruptError,
    ArtifactMissingError,
    ArtifactTooLargeError,
    DigestMismatchError,
    StoreFullError,
)
from consistency_service.runtime.ports import ArtifactStore
from edge_client.protocol.digest import Digest
from tests.fakes.artifact_store import FakeArtifactStore

MIB = 1024 * 1024
LARGE = random.Random(7).randbytes(21 * MIB + 12_345)
"""More than two parts, and no multiple of anything."""
SMALL = b"a model of few words"
LIMIT_BYTES = 64 * MIB
UNKNOWN = str(Digest.of(b"never stored"))


@dataclass
class Rig:
    """A store and the levers to break it with."""

    store: ArtifactStore
    corrupt: Callable[[str, bytes], None]
    leftovers: Callable[[], list[str]]
    """Whatever is held beside finished artifacts."""
    plant_partial: Callable[[], None]


def fake_rig() -> Rig:
    store = FakeArtifactStore()
    return Rig(
        store=store,
        corrupt=lambda digest, content: store.shelf.__setitem__(digest, (content, 0)),
        leftovers=lambda: list(store.partial),
        plant_partial=lambda: store.partial.__setitem__("dead", int(time.time() * 1000)),
    )


def object_store_rig(store: ObjectStore, *, more_leftovers: Callable[[], list[str]] = list) -> Rig:
    def leftovers() -> list[str]:
        keys = [str(meta["path"]) for page in obstore.list(store._store) for meta in page]
        return [key for key in keys if not key.startswith("artifacts/sha256/")] + more_leftovers()

    def corrupt(digest: str, content: bytes) -> None:
        hexadecimal = Digest.parse(digest).hex
        obstore.put(store._store, f"artifacts/sha256/{hexadecimal[:2]}/{hexadecimal}", content)

    def plant_partial() -> None:
        obstore.put(store._store, "staging/dead", b"half")

    return Rig(store=store, corrupt=corrupt, leftovers=leftovers, plant_partial=plant_partial)


def directory_rig(root: Path) -> Rig:
    staging = root / "staging"

    def plant_partial() -> None:
        staging.mkdir(exist_ok=True)
        (staging / "dead#1").write_bytes(b"half")

    store = ObjectStore(root.as_uri())
    rig = object_store_rig(store, more_leftovers=lambda: [path.name for path in root.glob("staging/*")])
    rig.plant_partial = plant_partial
    return rig


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    import moto.server as server_module

    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()


def s3_rig(endpoint: str) -> Rig:
    bucket = f"artifacts-{uuid4().hex}"
    secrets = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    s3: Any = pytest.importorskip("boto3").client("s3", endpoint_url=endpoint, region_name="us-east-1", **secrets)
    s3.create_bucket(Bucket=bucket)
    options = {"endpoint": endpoint, "region": "us-east-1", "allow_http": "true", **secrets}
    return object_store_rig(
        ObjectStore(f"s3://{bucket}/region-a", options=options),
        more_leftovers=lambda: [
            upload["Key"] for upload in s3.list_multipart_uploads(Bucket=bucket).get("Uploads", ())
        ],
    )


@pytest.fixture(params=["fake", "directory", "memory", "s3"])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    match request.param:
        case "fake":
            made = fake_rig()
        case "directory":
            made = directory_rig(tmp_path / "store")
        case "memory":
            made = object_store_rig(ObjectStore("memory://"))
        case _:
            made = s3_rig(request.getfixturevalue("s3_endpoint"))
    yield made
    await made.store.close()


async def stream(content: bytes, *, chunk_bytes: int = 300_000) -> AsyncIterator[bytes]:
    for start in range(0, len(content), chunk_bytes):
        yield content[start : start + chunk_bytes]


async def put(store: ArtifactStore, content: bytes) -> str:
    digest, _ = await store.put(stream(content), size_max_bytes=LIMIT_BYTES, digest=None)
    return digest


async def read(store: ArtifactStore, digest: str, *, offset: int = 0, length: int | None = None) -> bytes:
    return b"".join([chunk async for chunk in store.read(digest, offset=offset, length=length)])


async def assert_nothing_held(rig: Rig) -> None:
    assert await rig.store.digests() == ()
    assert rig.leftovers() == []


@pytest.mark.parametrize("content", [b"", SMALL, LARGE], ids=["empty", "small", "large"])
async def test_what_was_put_is_read(rig: Rig, content: bytes) -> None:
    expected = (str(Digest.of(content)), len(content))

    assert await rig.store.put(stream(content), size_max_bytes=LIMIT_BYTES, digest=expected[0]) == expected
    assert await rig.store.size(expected[0]) == len(content)
    assert await read(rig.store, expected[0]) == content
    assert rig.leftovers() == []


async def test_one_huge_chunk_is_a_stream_too(rig: Rig) -> None:
    digest, size_bytes = await rig.store.put(
        stream(LARGE, chunk_bytes=len(LARGE)), size_max_bytes=len(LARGE), digest=None
    )

    assert (digest, size_bytes) == (str(Digest.of(LARGE)), len(LARGE))
    assert await read(rig.store, digest) == LARGE


@pytest.mark.parametrize(
    "offset, length",
    [
        (0, 1),
        (1, None),
        (8 * MIB - 1, 2),
        (20 * MIB, None),
        (5, 3 * MIB),
        (21 * MIB, 100 * MIB),
        (len(LARGE), None),
        (1 << 40, 5),
        (7, 0),
    ],
)
async def test_ranges(rig: Rig, offset: int, length: int | None) -> None:
    digest = await put(rig.store, LARGE)
    expected = LARGE[offset:] if length is None else LARGE[offset : offset + length]

    assert await read(rig.store, digest, offset=offset, length=length) == expected


async def test_reads_come_in_chunks_of_at_most_a_mebibyte(rig: Rig) -> None:
    digest = await put(rig.store, LARGE)
    sizes = [len(chunk) async for chunk in rig.store.read(digest)]

    assert max(sizes) == MIB
    assert all(size >= 256 * 1024 for size in sizes[:-1])


@pytest.mark.parametrize("offset, length", [(-1, None), (0, -1)])
async def test_a_negative_range_is_refused(rig: Rig, offset: int, length: int | None) -> None:
    digest = await put(rig.store, SMALL)

    with pytest.raises(ValueError, match="range"):
        await read(rig.store, digest, offset=offset, length=length)


@pytest.mark.parametrize("digest", [UNKNOWN, "sha256:../../etc/passwd", "", "sha256:" + "A" * 64])
async def test_what_is_not_there_is_missing(rig: Rig, digest: str) -> None:
    await put(rig.store, SMALL)

    with pytest.raises(ArtifactMissingError):
        await rig.store.size(digest)
    with pytest.raises(ArtifactMissingError):
        await read(rig.store, digest)
    await rig.store.delete(digest)
    assert len(await rig.store.digests()) == 1


async def test_the_same_bytes_twice_are_one_artifact(rig: Rig) -> None:
    first = await put(rig.store, LARGE)
    second = await put(rig.store, LARGE)

    assert first == second
    assert [digest for digest, _ in await rig.store.digests()] == [first]
    assert rig.leftovers() == []


async def test_uploads_side_by_side_do_not_mix(rig: Rig) -> None:
    contents = [random.Random(seed).randbytes(3 * MIB + seed) for seed in (1, 2, 3, 1)]
    digests = await asyncio.gather(*(put(rig.store, content) for content in contents))

    assert digests == [str(Digest.of(content)) for content in contents]
    assert [await read(rig.store, digest) for digest in digests] == contents
    assert rig.leftovers() == []


async def test_digests_tell_when_each_was_stored(rig: Rig) -> None:
    before_unix_ms = time.time() * 1000
    expected = sorted([await put(rig.store, SMALL), await put(rig.store, LARGE)])
    after_unix_ms = time.time() * 1000
    found = await rig.store.digests()

    assert [digest for digest, _ in found] == expected
    assert all(before_unix_ms - 1_100 <= stored_at <= after_unix_ms + 1_100 for _, stored_at in found)


async def test_deleted_is_gone_and_deleting_again_is_fine(rig: Rig) -> None:
    digest, kept = await put(rig.store, SMALL), await put(rig.store, LARGE)
    await rig.store.delete(digest)
    await rig.store.delete(digest)

    with pytest.raises(ArtifactMissingError):
        await rig.store.size(digest)
    assert [digest for digest, _ in await rig.store.digests()] == [kept]


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
async def test_above_the_limit_leaves_nothing(rig: Rig, content: bytes) -> None:
    with pytest.raises(ArtifactTooLargeError):
        await rig.store.put(stream(content, chunk_bytes=7_919), size_max_bytes=len(content) - 1, digest=None)

    await assert_nothing_held(rig)


@pytest.mark.parametrize("announced", [UNKNOWN, "nonsense"])
async def test_other_bytes_than_announced_leave_nothing(rig: Rig, announced: str) -> None:
    with pytest.raises(DigestMismatchError):
        await rig.store.put(stream(LARGE), size_max_bytes=LIMIT_BYTES, digest=announced)

    await assert_nothing_held(rig)


@pytest.mark.parametrize("sent_bytes", [0, 1_000, 20 * MIB])
async def test_an_upload_cut_in_the_middle_leaves_nothing(rig: Rig, sent_bytes: int) -> None:
    class CutError(FileNotFoundError):
        """Of a kind that the store itself knows: it must come out unchanged all the same."""

    async def cut() -> AsyncIterator[bytes]:
        async for chunk in stream(LARGE[:sent_bytes]):
            yield chunk
        raise CutError

    with pytest.raises(CutError):
        await rig.store.put(cut(), size_max_bytes=LIMIT_BYTES, digest=None)

    await assert_nothing_held(rig)


async def test_a_cancelled_upload_leaves_nothing(rig: Rig) -> None:
    stalled = asyncio.Event()

    async def stalling() -> AsyncIterator[bytes]:
        async for chunk in stream(LARGE):
            yield chunk
        stalled.set()
        await asyncio.Event().wait()

    upload = asyncio.ensure_future(rig.store.put(stalling(), size_max_bytes=LIMIT_BYTES, digest=None))
    await stalled.wait()
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload

    await assert_nothing_held(rig)


async def test_a_refused_upload_leaves_the_stored_one_alone(rig: Rig) -> None:
    digest = await put(rig.store, SMALL)
    with pytest.raises(ArtifactTooLargeError):
        await rig.store.put(stream(SMALL), size_max_bytes=3, digest=digest)

    assert await read(rig.store, digest) == SMALL


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    "damaged", [flipped(LARGE), LARGE[:-1], LARGE + b"x", b""], ids=["flipped", "short", "long", "empty"]
)
async def test_a_corrupt_artifact_is_never_read_to_its_end(rig: Rig, damaged: bytes) -> None:
    digest = await put(rig.store, LARGE)
    rig.corrupt(digest, damaged)
    received = bytearray()

    async def collect() -> None:
        async for chunk in rig.store.read(digest):
            received.extend(chunk)

    with pytest.raises(ArtifactCorruptError) as caught:
        await collect()

    assert caught.value.digest == digest
    assert len(received) < len(LARGE)


async def test_uploading_again_repairs_a_corrupt_artifact(rig: Rig) -> None:
    digest = await put(rig.store, SMALL)
    rig.corrupt(digest, flipped(SMALL))
    await put(rig.store, SMALL)

    assert await read(rig.store, digest) == SMALL


async def test_sweeping_removes_what_dead_uploads_left_and_nothing_else(rig: Rig) -> None:
    digest = await put(rig.store, SMALL)
    rig.plant_partial()

    assert await rig.store.sweep_partial(older_than_ms=60_000) == 0
    assert rig.leftovers() != []
    assert await rig.store.sweep_partial(older_than_ms=-2_000) == 1
    assert rig.leftovers() == []
    assert await read(rig.store, digest) == SMALL


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    mount_point = tmp_path / "disk"
    mount_point.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", mount_point], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("a full disk needs the right to mount a tmpfs")
    yield mount_point
    subprocess.run(["umount", mount_point], check=True)


@pytest.mark.parametrize("kind", ["fake", "directory"])
async def test_a_full_store_says_so_and_keeps_what_it_has(kind: str, request: pytest.FixtureRequest) -> None:
    store: ArtifactStore = FakeArtifactStore(capacity_bytes=4 * MIB)
    root: Path | None = None
    if kind == "directory":
        root = request.getfixturevalue("small_disk")
        store = ObjectStore(str(root))
    kept = await put(store, SMALL)
    for content in (LARGE[: 5 * MIB], LARGE):
        with pytest.raises(StoreFullError):
            await put(store, content)

    assert await read(store, kept) == SMALL
    assert [digest for digest, _ in await store.digests()] == [kept]
    assert root is None or list(root.glob("staging/*")) == []
    assert await read(store, await put(store, LARGE[: 2 * MIB])) == LARGE[: 2 * MIB]
