"""What every `Spool` does: the fake, and SQLite itself; and what only a file can suffer."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from edge_client.adapters.sqlite_spool import SqliteSpool
from edge_client.errors import FeatureSpoolError, FeatureSpoolTakenError
from edge_client.runtime.feature_ports import Spool, SpooledBatch, SpoolPart
from tests.fakes.spool import Disk, FakeSpool

PART = SpoolPart(
    edge_id="edge-1",
    pipe="life-0",
    sequence=1,
    class_name="track",
    shards=64,
    payload=b"first",
    count=3,
    expires_at_unix_ms=1 << 62,
)
BATCH = SpooledBatch(
    edge_id="edge-1",
    pipe="life-0",
    sequence=1,
    class_name="track",
    shards=64,
    count=3,
    size_bytes=5,
    expires_at_unix_ms=1 << 62,
)


@dataclass
class Rig:
    spool: Spool
    another: Callable[[], Spool]
    """A later process, or one beside it."""


@pytest.fixture(params=["fake", "sqlite"])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    disk = Disk()
    made: list[Spool] = []

    def another() -> Spool:
        made.append(FakeSpool(disk) if request.param == "fake" else SqliteSpool(tmp_path / "deep" / "spool.db"))
        return made[-1]

    yield Rig(another(), another)
    for spool in made:
        await spool.close()


async def test_what_was_committed_is_there_for_the_next_process(rig):
    assert await rig.spool.open() == ()
    await rig.spool.commit([PART, replace(PART, sequence=2, payload=b"second" * 1_000)], done=[])
    await rig.spool.commit([replace(PART, payload=b"later", count=4, expires_at_unix_ms=7)], done=[])
    await rig.spool.close()

    later = rig.another()
    assert await later.open() == (replace(BATCH, count=7, size_bytes=10), replace(BATCH, sequence=2, size_bytes=6_000))
    assert await later.read(pipe="life-0", sequence=1) == [(b"first", 3), (b"later", 4)]
    assert await later.read(pipe="life-0", sequence=3) == []
    assert later.set_aside == 0


async def test_what_is_done_is_gone_in_the_same_commit(rig):
    await rig.spool.open()
    await rig.spool.commit([PART, replace(PART, pipe="life-1"), replace(PART, sequence=2)], done=[])
    await rig.spool.commit([replace(PART, sequence=3)], done=[("life-0", 1), ("life-0", 99)])
    await rig.spool.close()

    left = await rig.another().open()
    assert [(batch.pipe, batch.sequence) for batch in left] == [("life-1", 1), ("life-0", 2), ("life-0", 3)]


async def test_one_process_has_it(rig):
    await rig.spool.open()
    second = rig.another()
    with pytest.raises(FeatureSpoolTakenError, match="another process"):
        await second.open()
    await rig.spool.commit([PART], done=[])
    await rig.spool.close()

    assert await second.open() == (BATCH,)


async def test_nothing_is_done_before_it_is_open_or_after_it_is_closed(rig):
    with pytest.raises(FeatureSpoolError):
        await rig.spool.commit([PART], done=[])
    await rig.spool.open()
    await rig.spool.close()
    with pytest.raises(FeatureSpoolError):
        await rig.spool.read(pipe="life-0", sequence=1)


def foreign_text(path: Path) -> None:
    path.write_text("minutes of the meeting, which somebody keeps here\n" * 200)


def foreign_database(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE part (sorrow TEXT)")
    other.close()


def another_format(path: Path) -> None:
    ours(path)
    with sqlite3.connect(path) as file:
        file.execute("PRAGMA user_version = 99")
    file.close()


def overwritten(path: Path) -> None:
    ours(path)
    content = bytearray(path.read_bytes())
    content[4_096:] = b"\xa5" * (len(content) - 4_096)
    path.write_bytes(content)


def wrong_types(path: Path) -> None:
    ours(path)
    with sqlite3.connect(path) as file:
        file.execute("UPDATE part SET shards = 'many'")
    file.close()


def ours(path: Path) -> None:
    code = (
        "import asyncio, sys, pathlib\n"
        "from edge_client.adapters.sqlite_spool import SqliteSpool\n"
        "from tests.conformance.test_spool import PART\n"
        "async def main():\n"
        "    spool = SqliteSpool(pathlib.Path(sys.argv[1]))\n"
        "    await spool.open()\n"
        "    await spool.commit([PART] * 50, done=[])\n"
        "    await spool.close()\n"
        "asyncio.run(main())\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=30)


@pytest.mark.parametrize("spoil", [foreign_text, foreign_database, another_format, overwritten, wrong_types])
async def test_a_file_that_cannot_be_read_is_moved_aside_and_kept(tmp_path, spoil, caplog):
    path = tmp_path / "spool.db"
    spoil(path)
    before = path.read_bytes()

    spool = SqliteSpool(path)
    assert await spool.open() == ()
    await spool.commit([PART], done=[])
    assert spool.set_aside == 1
    assert "spool_set_aside" in caplog.text
    assert (tmp_path / "spool.db.set-aside").read_bytes() == before
    await spool.close()

    again = SqliteSpool(path)
    assert await again.open() == (BATCH,)
    assert again.set_aside == 0
    await again.close()


async def test_a_commit_outlives_sigkill_and_the_lock_does_not(tmp_path):
    path = tmp_path / "spool.db"
    code = (
        "import asyncio, sys, pathlib, time\n"
        "from edge_client.adapters.sqlite_spool import SqliteSpool\n"
        "from tests.conformance.test_spool import PART\n"
        "async def main():\n"
        "    spool = SqliteSpool(pathlib.Path(sys.argv[1]))\n"
        "    await spool.open()\n"
        "    await spool.commit([PART], done=[])\n"
        "    print('committed', flush=True)\n"
        "    time.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"committed\n"
        beside = SqliteSpool(path)
        with pytest.raises(FeatureSpoolTakenError):
            await beside.open()
        os.kill(child.pid, signal.SIGKILL)

    assert await beside.open() == (BATCH,)
    await beside.close()


async def test_a_disk_that_cannot_be_written_is_an_error_and_no_crash(tmp_path):
    (tmp_path / "file").write_text("not a directory")
    spool = SqliteSpool(tmp_path / "file" / "spool.db")

    with pytest.raises(FeatureSpoolError):
        await spool.open()
    await spool.close()
