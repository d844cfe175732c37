"""The spool in a SQLite file: one table of parts, one thread, one process.

A row holds a hundred milliseconds of one class, compressed, so that a commit costs one page or a few however much was put.
A batch is the rows that bear its number: nothing else says what is in it, so nothing can disagree with them.

WAL with `synchronous=NORMAL`: a commit is in the kernel when it returns, and outlives SIGKILL. It is not fsynced, which
spares a flash card ten fsyncs a second; what that gives up is power: after a power cut the last commits, at most what the
WAL took since its last checkpoint, may be gone, and a batch sent in that time may be sent again under another number.
The file is never damaged by it. It does not shrink: freed pages are written again.

One process has the file: `locking_mode=EXCLUSIVE` keeps the lock from the first read on, and the kernel gives it back
however the process ends. A file in which SQLite cannot find our table is renamed to `….set-aside` (replacing an older one).
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from edge_client.errors import FeatureSpoolError, FeatureSpoolTakenError
from edge_client.runtime.feature_ports import SpooledBatch, SpoolPart

_log = logging.getLogger(__name__)
T = TypeVar("T")

APPLICATION_ID: Final = 0x43435350
FORMAT: Final = 1
TAKEN_TIMEOUT_S: Final = 2.0
"""How long a process that is just ending may still have the file."""
WAL_BYTES_MAX: Final = 4 << 20
_CREATE: Final = f"""
BEGIN;
CREATE TABLE part (
  id INTEGER PRIMARY KEY, edge TEXT NOT NULL, pipe TEXT NOT NULL, sequence INTEGER NOT NULL, class TEXT NOT NULL,
  shards INTEGER NOT NULL, count INTEGER NOT NULL, expires INTEGER NOT NULL, payload BLOB NOT NULL
);
CREATE INDEX part_of ON part (pipe, sequence);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {FORMAT};
COMMIT;
"""
_INSERT: Final = (
    "INSERT INTO part (edge, pipe, sequence, class, shards, count, expires, payload) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_BATCHES: Final = """
SELECT edge, pipe, sequence, class, shards, sum(count), sum(length(payload)), max(expires), min(id)
FROM part GROUP BY edge, pipe, sequence, class, shards ORDER BY min(id)
"""


class SqliteSpool:
    """The `Spool` port over one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._closed = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="feature-spool")
        self.set_aside = 0

    async def open(self) -> tuple[SpooledBatch, ...]:
        return await self._do(self._open)

    async def commit(self, parts: Sequence[SpoolPart], *, done: Sequence[tuple[str, int]]) -> None:
        await self._do(lambda: self._commit(parts, done))

    async def read(self, *, pipe: str, sequence: int) -> list[tuple[bytes, int]]:
        return await self._do(lambda: self._read(pipe, sequence))

    async def close(self) -> None:
        """Leave the file to the next process; a second time does nothing."""
        if not self._closed:
            self._closed = True
            await self._do(self._close)
            self._thread.shutdown(wait=False)

    async def _do(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except (sqlite3.Error, OSError) as error:
            raise FeatureSpoolError(f"{self._path}: {error}") from error
        except RuntimeError as error:
            raise FeatureSpoolError(f"{self._path}: the spool is closed") from error

    # ---------------------------------------------------------------------------------------------- in the thread

    def _open(self) -> tuple[SpooledBatch, ...]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return self._opened()
        except sqlite3.DatabaseError as error:
            self._close()
            if _is(error, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise FeatureSpoolTakenError(
                    f"{self._path}: another process has this spool open; give each process a file of its own"
                ) from error
            if not _is(error, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_MISMATCH):
                raise
            self._move_aside(error)
            return self._opened()

    def _opened(self) -> tuple[SpooledBatch, ...]:
        # Autocommit: what belongs together says BEGIN and COMMIT itself.
        connection = sqlite3.connect(self._path, timeout=TAKEN_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        self._connection = connection
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        application_id = connection.execute("PRAGMA application_id").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if tables and (application_id, connection.execute("PRAGMA user_version").fetchone()[0]) != (
            APPLICATION_ID,
            FORMAT,
        ):
            raise _foreign("a database of another application or version")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_MAX}")
        # A transaction that writes, so that the lock is taken now and not at the first commit.
        if not tables:
            connection.executescript(_CREATE)
        else:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("COMMIT")
        try:
            return tuple(_batch(row) for row in connection.execute(_BATCHES))
        except (TypeError, ValueError) as error:
            raise _foreign(str(error)) from error

    def _commit(self, parts: Sequence[SpoolPart], done: Sequence[tuple[str, int]]) -> None:
        connection = self._opened_connection()
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.executemany(_INSERT, [_row(part) for part in parts])
            connection.executemany("DELETE FROM part WHERE pipe = ? AND sequence = ?", done)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _read(self, pipe: str, sequence: int) -> list[tuple[bytes, int]]:
        query = "SELECT payload, count FROM part WHERE pipe = ? AND sequence = ? ORDER BY id"
        rows = self._opened_connection().execute(query, (pipe, sequence)).fetchall()
        return [(bytes(payload), int(count)) for payload, count in rows]

    def _opened_connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise FeatureSpoolError(f"{self._path}: the spool is not open")
        return self._connection

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _move_aside(self, error: Exception) -> None:
        self.set_aside += 1
        for suffix in ("", "-wal", "-shm"):
            file = self._path.with_name(self._path.name + suffix)
            if file.exists():
                file.replace(file.with_name(f"{self._path.name}.set-aside{suffix}"))
        _log.error("spool_set_aside path=%s reason=%s", self._path, error)


def _is(error: sqlite3.Error, *codes: int) -> bool:
    """Whether SQLite's primary result code is one of these."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF in codes


def _foreign(reason: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(reason)
    error.sqlite_errorcode = sqlite3.SQLITE_NOTADB
    return error


def _row(part: SpoolPart) -> tuple[str, str, int, str, int, int, int, bytes]:
    return (
        part.edge_id,
        part.pipe,
        part.sequence,
        part.class_name,
        part.shards,
        part.count,
        part.expires_at_unix_ms,
        part.payload,
    )


def _batch(row: tuple[str, str, int, str, int, int, int, int, int]) -> SpooledBatch:
    edge_id, pipe, sequence, class_name, shards, count, size_bytes, expires_at_unix_ms, _ = row
    return SpooledBatch(
        edge_id=str(edge_id),
        pipe=str(pipe),
        sequence=int(sequence),
        class_name=str(class_name),
        shards=int(shards),
        count=int(count),
        size_bytes=int(size_bytes),
        expires_at_unix_ms=int(expires_at_unix_ms),
    )
