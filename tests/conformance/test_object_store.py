"""What only the object store can show: its directory, its URLs, its memory, and what a killed process leaves."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from consistency_service.adapters.object_store import ObjectStore
from consistency_service.errors import ConfigError, StoreUnavailableError
from tests.conformance.test_artifact_store import SMALL, UNKNOWN, put


async def test_a_directory_holds_each_artifact_under_its_digest(tmp_path: Path) -> None:
    digest = await put(ObjectStore(str(tmp_path / "a" / "b")), SMALL)
    hexadecimal = digest.removeprefix("sha256:")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]

    assert files == [tmp_path / "a" / "b" / "artifacts" / "sha256" / hexadecimal[:2] / hexadecimal]


async def test_a_store_that_failed_is_unavailable_not_missing(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path / "store"))
    (tmp_path / "store" / "artifacts").write_bytes(b"a file where a directory belongs")

    with pytest.raises(StoreUnavailableError):
        await put(store, SMALL)
    assert list((tmp_path / "store").glob("staging/*")) == []


async def test_an_endpoint_that_is_away_is_unavailable_within_the_bound(tmp_path: Path) -> None:
    options = {"endpoint": "http://127.0.0.1:9", "allow_http": "true", "access_key_id": "a", "secret_access_key": "b"}
    store = ObjectStore("s3://bucket/prefix", options=options, request_timeout_ms=500)

    async with asyncio.timeout(10):
        with pytest.raises(StoreUnavailableError):
            await store.size(UNKNOWN)
        with pytest.raises(StoreUnavailableError):
            await put(store, SMALL)
        with pytest.raises(StoreUnavailableError):
            await store.digests()


@pytest.mark.parametrize(
    "url", ["http://example.org/x", "ftp://x", "s3://", "file:///proc/nope/store", "/dev/null/store"]
)
def test_a_url_that_makes_no_sense_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="artifact store"):
        ObjectStore(url)


UPLOAD_IN_A_PROCESS = """
    import asyncio, hashlib, resource, sys
    from consistency_service.adapters.object_store import ObjectStore

    async def main(path, size_mib, stall):
        async def chunks():
            block = bytes(range(256)) * 4096
            for _ in range(size_mib):
                yield block
            if stall:
                print("stalled", flush=True)
                await asyncio.Event().wait()

        store = ObjectStore(path)
        base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        digest, size = await store.put(chunks(), size_max_bytes=1 << 40, digest=None)
        read = 0
        async for chunk in store.read(digest):
            read += len(chunk)
        print(size == read == size_mib << 20, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) // 1024)

    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "stall"))
"""


def uploading_process(root: Path, *, size_mib: int, stall: bool) -> subprocess.Popen[str]:
    arguments = [str(root), str(size_mib), "stall" if stall else "finish"]
    script = textwrap.dedent(UPLOAD_IN_A_PROCESS)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True, env=environment
    )


def test_memory_does_not_grow_with_the_artifact(tmp_path: Path) -> None:
    out, _ = uploading_process(tmp_path / "store", size_mib=384, stall=False).communicate(timeout=50)
    whole, grown_mib = out.split()

    assert whole == "True"
    assert int(grown_mib) < 128


async def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    process = uploading_process(tmp_path / "store", size_mib=20, stall=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "stalled\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)
    store = ObjectStore(str(tmp_path / "store"))

    assert await store.digests() == ()
    assert list((tmp_path / "store").glob("staging/*")) != []
    assert await store.sweep_partial(older_than_ms=-2_000) == 1
    assert list((tmp_path / "store").glob("staging/*")) == []
