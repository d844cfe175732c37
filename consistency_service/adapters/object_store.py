"""Artifacts in a directory, or in S3, GCS or Azure: one adapter, because `obstore` speaks to all of them.

Picture a loading dock. What arrives is put down under a staging key while it is hashed and weighed; only when its digest
is known is it moved to the shelf that the digest names. So a shelf never holds half an artifact, and whatever is on the
dock for long was left there by an upload that died. An upload that must be refused is closed and then deleted, instead
of aborted: that is the one way that leaves nothing behind on every kind of store.

Reads ask for bounded ranges, one after the other, so that neither memory nor the time of a single request grows with
the artifact, and a slow consumer holds no connection.

Not undone here: the parts that an S3 upload leaves when this process is killed in the middle of it are invisible to
listings; a lifecycle rule of the bucket (`AbortIncompleteMultipartUpload`) removes them. S3 moves at most 5 GiB.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, MemoryStore, from_url

from consistency_service.errors import (
    ArtifactCorruptError,
    ArtifactMissingError,
    ArtifactTooLargeError,
    ConfigError,
    DigestMismatchError,
    StoreFullError,
    StoreUnavailableError,
)
from edge_client.protocol.digest import Digest, Hasher, InvalidDigestError

PART_BYTES: Final = 8 * 1024 * 1024
"""What one request to the store carries. An upload holds at most four of these in memory, a read two."""

CHUNK_BYTES: Final = 1024 * 1024
"""The most that one step of `read` yields."""

_UPLOADS_IN_FLIGHT: Final = 2
_HASH_OFF_LOOP_BYTES: Final = 128 * 1024
_SHELF: Final = "artifacts/sha256"
_STAGING: Final = "staging"
_CLEANUP_TIMEOUT_S: Final = 30
_REMOTE_SCHEMES: Final = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "adl")
_FULL_ERRNOS: Final = (errno.ENOSPC, errno.EDQUOT)
_FULL_PHRASES: Final = (
    *(f"(os error {number})" for number in _FULL_ERRNOS),
    "507 Insufficient Storage",
    "XMinioStorageFull",
    "QuotaExceeded",
)


class ObjectStore:
    """An `ArtifactStore` under `url`: `file://` or a plain path (made if missing), `memory://`, `s3://`, `gs://`, `az://`.

    `options` are obstore's settings for the remote kinds (`endpoint`, `access_key_id`…), added to those it finds in the
    environment. Raises `ConfigError` if the URL or an option makes no sense, or the directory cannot be made.
    """

    def __init__(self, url: str, *, options: Mapping[str, str] | None = None, request_timeout_ms: int = 30_000) -> None:
        self._store, self._directory = _open(url, options=dict(options or {}), request_timeout_ms=request_timeout_ms)
        self._cleanups: set[asyncio.Task[None]] = set()

    async def put(self, chunks: AsyncIterator[bytes], *, size_max_bytes: int, digest: str | None) -> tuple[str, int]:
        """Store a stream and return `(digest, size_bytes)`; it survives a power cut if the store is a directory.

        The same bytes twice are one artifact; the second upload replaces the first, and so repairs a damaged one.
        Leaves nothing behind when it raises: `ArtifactTooLargeError`, `DigestMismatchError`, `StoreFullError`,
        `StoreUnavailableError`, whatever `chunks` raised, or `CancelledError`.
        """
        staging = f"{_STAGING}/{uuid.uuid4().hex}"
        writer = obstore.open_writer_async(
            self._store, staging, buffer_size=PART_BYTES, max_concurrency=_UPLOADS_IN_FLIGHT
        )
        try:
            found, size_bytes = await self._receive(chunks, writer=writer, size_max_bytes=size_max_bytes)
            if digest is not None and digest != str(found):
                raise DigestMismatchError(f"the bytes are {found}, not {digest[:100]}", digest=str(found))
            with _translated(str(found)):
                await writer.close()
                await self._shelve(staging, target=_key(found))
        except BaseException:
            await self._clean_up(writer, staging=staging)
            raise
        return str(found), size_bytes

    async def size(self, digest: str) -> int:
        """The size in bytes. Raises `ArtifactMissingError`, `StoreUnavailableError`."""
        key = _key(_parsed(digest))
        with _translated(digest):
            meta = await obstore.head_async(self._store, key)
        return int(meta["size"])

    async def read(self, digest: str, *, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Stream `length` bytes from `offset` on, or as many as there are, in chunks of at most 1 MiB.

        A read of the whole raises `ArtifactCorruptError` if the bytes differ, and does so before it yields its last
        chunk: nobody ever holds a corrupt artifact that looks complete. Raises `ArtifactMissingError` and
        `StoreUnavailableError` too, and `ValueError` for a negative range.
        """
        if offset < 0 or (length is not None and length < 0):
            raise ValueError(f"no such range: offset {offset}, length {length}")
        key = _key(_parsed(digest))
        size_bytes = await self.size(digest)
        end = size_bytes if length is None else min(size_bytes, offset + length)
        hasher = Hasher() if offset == 0 and end == size_bytes else None
        position = offset
        while position < end:
            part = await self._read_part(key, digest=digest, start=position, end=min(position + PART_BYTES, end))
            position += len(part)
            if hasher is not None:
                await _hash(hasher, part)
                if position >= end:
                    _verify(hasher, digest=digest)
            for start in range(0, len(part), CHUNK_BYTES):
                yield bytes(part[start : start + CHUNK_BYTES])
        if hasher is not None and size_bytes == 0:
            _verify(hasher, digest=digest)

    async def delete(self, digest: str) -> None:
        """Remove it if it is there. Raises `StoreUnavailableError`."""
        with suppress(ArtifactMissingError):
            key = _key(_parsed(digest))
            with _translated(digest):
                await obstore.delete_async(self._store, key)

    async def digests(self) -> tuple[tuple[str, int], ...]:
        """Every stored `(digest, stored_at_unix_ms)`, by digest. What is not ours under the prefix is left out."""
        found: list[tuple[str, int]] = []
        with _translated(None):
            async for page in obstore.list(self._store, f"{_SHELF}/", chunk_size=1000):
                for meta in page:
                    with suppress(InvalidDigestError):
                        digest = Digest(str(meta["path"]).rsplit("/", maxsplit=1)[-1])
                        found.append((str(digest), int(meta["last_modified"].timestamp() * 1000)))
        return tuple(sorted(found))

    async def sweep_partial(self, *, older_than_ms: int) -> int:
        """Remove what interrupted uploads left that nothing touched for `older_than_ms`; return how many they were."""
        before_unix_ms = time.time() * 1000 - older_than_ms
        with _translated(None):
            if self._directory is not None:
                return await asyncio.to_thread(_sweep_directory, self._directory, before_unix_ms=before_unix_ms)
            count = 0
            async for page in obstore.list(self._store, f"{_STAGING}/", chunk_size=1000):
                old = [str(meta["path"]) for meta in page if meta["last_modified"].timestamp() * 1000 <= before_unix_ms]
                if old:
                    await obstore.delete_async(self._store, old)
                count += len(old)
        return count

    async def close(self) -> None:
        """Return when uploads that ended badly have been cleaned up."""
        if self._cleanups:
            await asyncio.wait(tuple(self._cleanups))

    async def _receive(
        self, chunks: AsyncIterator[bytes], *, writer: obstore.AsyncWritableFile, size_max_bytes: int
    ) -> tuple[Digest, int]:
        hasher = Hasher()
        async for chunk in chunks:
            if hasher.size_bytes + len(chunk) > size_max_bytes:
                raise ArtifactTooLargeError(f"the artifact is larger than the limit of {size_max_bytes} bytes")
            view = memoryview(chunk)
            for start in range(0, len(view), PART_BYTES):
                piece = view[start : start + PART_BYTES]
                await _hash(hasher, piece)
                with _translated(None):
                    await writer.write(piece)
        return hasher.digest(), hasher.size_bytes

    async def _shelve(self, staging: str, *, target: str) -> None:
        if self._directory is None:
            await obstore.rename_async(self._store, staging, target)
            return
        await asyncio.to_thread(_fsync, self._directory / staging)
        await obstore.rename_async(self._store, staging, target)
        await asyncio.to_thread(_fsync_parents, self._directory / target, root=self._directory)

    async def _read_part(self, key: str, *, digest: str, start: int, end: int) -> memoryview:
        with _translated(digest):
            part = memoryview(await obstore.get_range_async(self._store, key, start=start, end=end))
        if len(part) != end - start:
            raise ArtifactCorruptError(f"{digest} ended early, at {start + len(part)} bytes", digest=digest)
        return part

    async def _clean_up(self, writer: obstore.AsyncWritableFile, *, staging: str) -> None:
        """Remove the staging key, even if our caller is cancelled meanwhile; then it goes on until `close`."""
        task = asyncio.ensure_future(self._discard(writer, staging=staging))
        self._cleanups.add(task)
        task.add_done_callback(self._cleanups.discard)
        await asyncio.shield(task)

    async def _discard(self, writer: obstore.AsyncWritableFile, *, staging: str) -> None:
        with suppress(BaseError, OSError, TimeoutError):
            async with asyncio.timeout(_CLEANUP_TIMEOUT_S):
                await writer.close()
        with suppress(BaseError, OSError, TimeoutError):
            async with asyncio.timeout(_CLEANUP_TIMEOUT_S):
                if self._directory is not None:
                    await asyncio.to_thread(_remove_staged, self._directory / staging)
                else:
                    await obstore.delete_async(self._store, staging)


def _open(url: str, *, options: dict[str, Any], request_timeout_ms: int) -> tuple[Any, Path | None]:
    scheme, separator, rest = url.partition("://")
    try:
        if not separator:
            return LocalStore(url, mkdir=True), Path(url).resolve()
        if scheme == "file":
            local = LocalStore.from_url(url, mkdir=True)
            return local, Path(local.prefix or "/")
        if scheme == "memory":
            return MemoryStore(), None
        if scheme not in _REMOTE_SCHEMES or not rest:
            raise ConfigError(f"artifact store {_shown(url)}: use file://, memory://, s3://, gs:// or az://")
        timeout = timedelta(milliseconds=request_timeout_ms)
        client_options: dict[str, Any] = {"timeout": timeout, "connect_timeout": timedelta(seconds=5)}
        # What is given here replaces what obstore would find in the environment, so this one is looked up by us.
        if options.pop("allow_http", os.environ.get("AWS_ALLOW_HTTP", "false")).lower() == "true":
            client_options["allow_http"] = True
        retry: dict[str, Any] = {"max_retries": 3, "retry_timeout": timeout}
        return from_url(url, config=options, client_options=client_options, retry_config=retry), None  # type: ignore[call-overload]
    except (BaseError, OSError, ValueError, TypeError) as error:
        # The cause may repeat the URL, so it is not chained; what it says follows, and is cleaned too.
        said = _first_line(error).replace(url, _shown(url))
        raise ConfigError(f"artifact store {_shown(url)}: {said}") from None


def _shown(url: str) -> str:
    """The URL without what may be secret in it: user, password, query."""
    scheme, separator, rest = url.partition("://")
    place = rest.partition("?")[0].rpartition("@")[2]
    return f"{scheme}{separator}{place}" if separator else url


def _key(digest: Digest) -> str:
    return f"{_SHELF}/{digest.hex[:2]}/{digest.hex}"


def _parsed(digest: str) -> Digest:
    try:
        return Digest.parse(digest)
    except InvalidDigestError as error:
        raise ArtifactMissingError(str(error)) from error


@contextmanager
def _translated(digest: str | None) -> Iterator[None]:
    """Nothing of obstore's, and no `OSError`, leaves the block."""
    try:
        yield
    except FileNotFoundError as error:
        raise ArtifactMissingError(f"no artifact is stored under {digest}", digest=digest) from error
    except (BaseError, OSError, ValueError) as error:
        if getattr(error, "errno", None) in _FULL_ERRNOS or any(phrase in str(error) for phrase in _FULL_PHRASES):
            raise StoreFullError("the artifact store has no room left; free some and upload again") from error
        raise StoreUnavailableError(f"the artifact store failed: {_first_line(error)}", digest=digest) from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:300] or type(error).__name__


async def _hash(hasher: Hasher, chunk: memoryview) -> None:
    if len(chunk) >= _HASH_OFF_LOOP_BYTES:
        await asyncio.to_thread(hasher.update, chunk)
    else:
        hasher.update(chunk)


def _verify(hasher: Hasher, *, digest: str) -> None:
    if str(hasher.digest()) != digest:
        raise ArtifactCorruptError(f"the bytes stored under {digest} do not match it any more", digest=digest)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fsync_parents(path: Path, *, root: Path) -> None:
    for parent in path.parents:
        _fsync(parent)
        if parent == root:
            return


def _remove_staged(path: Path) -> None:
    """Remove a staging file and what obstore writes beside it (`name#1`), which its own listings hide."""
    if path.parent.is_dir():
        for staged in path.parent.glob(f"{path.name}*"):
            staged.unlink(missing_ok=True)


def _sweep_directory(root: Path, *, before_unix_ms: float) -> int:
    count = 0
    staging = root / _STAGING
    for staged in sorted(staging.iterdir()) if staging.is_dir() else ():
        with suppress(FileNotFoundError):
            if staged.is_file() and staged.stat().st_mtime * 1000 <= before_unix_ms:
                staged.unlink()
                count += 1
    return count
