"""Gets the bytes of an artifact onto the disk, verified: from the disk, else the local tier, else the region.

Every hop is verified by the same digest; what does not match is thrown away, counted, and fetched from the next place.
A download that was cut goes on where it stopped, from whichever node answers. One download a digest at a time; all of
them together no faster than they may. Where disk or tier is too small, what is needed least makes room, and never what
is loaded.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from edge_client.core.pace import Pace
from edge_client.errors import ArtifactCorruptError, ArtifactUnavailableError, ConfigError
from edge_client.protocol.digest import Digest, Hasher

if TYPE_CHECKING:
    from random import Random

    from edge_client.protocol.models import Version
    from edge_client.runtime.ports import ArtifactSource, Clock
    from edge_client.runtime.tier import Tier

_log = logging.getLogger(__name__)
BLOCK_BYTES: Final = 1024 * 1024
_PART: Final = ".part"


class Downloads:
    """The directory of verified artifacts, at most `bytes_max` in all. For one event loop; the disk is used in threads."""

    def __init__(
        self,
        *,
        directory: Path,
        bytes_max: int,
        source: ArtifactSource,
        tier: Tier,
        urls: Callable[[], tuple[str, ...]],
        rng: Random,
        clock: Clock,
        bytes_per_s_max: int | None = None,
        ranking: Callable[[], tuple[str, ...]] = tuple,
        held: Callable[[], tuple[str, ...]] = tuple,
    ) -> None:
        """`ranking` names the digests that are needed, most needed first; `held` those whose files must stay."""
        self._directory = directory
        self._bytes_max = bytes_max
        self._source = source
        self._tier = tier
        self._urls = urls
        self._rng = rng
        self._clock = clock
        self._pace = None if bytes_per_s_max is None else Pace(bytes_per_s_max=bytes_per_s_max)
        self._ranking = ranking
        self._held = held
        self._locks: dict[str, asyncio.Lock] = {}
        self.fetched_bytes: dict[str, int] = {}
        """Digest to bytes so far, while a download runs."""
        self.counters: Counter[str] = Counter()

    async def obtain(self, version: Version) -> Path:
        """The path of the verified artifact.

        Raises `ArtifactUnavailableError`, `ArtifactCorruptError`, and `OSError` when the disk refuses.
        """
        digest = Digest.parse(version.digest)
        async with self._locks.setdefault(version.digest, asyncio.Lock()):
            try:
                path = self._directory / digest.hex
                if await asyncio.to_thread(_is_verified, path, digest):
                    return path
                if await self._from_tier(version, digest, path):
                    return path
                await self._from_region(version, digest, path)
            finally:
                self.fetched_bytes.pop(version.digest, None)
            self.counters["artifacts_fetched"] += 1
            await self._put_in_tier(version.digest, path)
            return path

    async def keep_only(self, digests: Iterable[str]) -> None:
        """Remove the files of all other artifacts, and what is left of their downloads."""
        names = {digest.removeprefix("sha256:") for digest in digests}
        busy = {digest.removeprefix("sha256:") for digest, lock in self._locks.items() if lock.locked()}
        for digest in [d for d, lock in self._locks.items() if not lock.locked()]:
            del self._locks[digest]
        await asyncio.to_thread(_remove_others, self._directory, names | busy)

    async def mend_tier(self, *, needed: Iterable[str], named: Iterable[str]) -> None:
        """Put needed artifacts that the tier has lost back into it, and delete those that no view names any more."""
        held = await self._tier.blobs()
        if held is None:
            return
        named = frozenset(named)
        for name in held:
            if name not in named:
                await self._tier.delete_blob(name)
        for digest in needed:
            path = self._directory / digest.removeprefix("sha256:")
            if digest not in held and await asyncio.to_thread(path.is_file):
                self.counters["blobs_put_back"] += 1
                await self._put_in_tier(digest, path)

    async def _put_in_tier(self, digest: str, path: Path) -> None:
        """It is in the tier if there is room, or if what is needed less can make room for it."""
        while not await self._tier.put_blob(digest, chunks=_blocks(path)):
            rank = {name: place for place, name in enumerate(self._ranking())}
            own = rank.get(digest, len(rank))
            less_needed = [name for name in await self._tier.blobs() or () if rank.get(name, len(rank)) > own]
            if not less_needed:
                return
            self.counters["blobs_gave_way"] += 1
            await self._tier.delete_blob(max(less_needed, key=lambda name: rank.get(name, len(rank))))

    async def _from_tier(self, version: Version, digest: Digest, path: Path) -> bool:
        if not self._tier.present:
            return False
        temporary = path.with_suffix(".tier")
        hasher = Hasher()
        try:
            with await asyncio.to_thread(temporary.open, "wb") as file:
                async for chunk in self._tier.blob(version.digest):
                    if hasher.size_bytes + len(chunk) > version.size_bytes:
                        break
                    await asyncio.to_thread(_append, file, chunk, hasher)
            if hasher.digest() == digest:
                await asyncio.to_thread(temporary.replace, path)
                self.counters["artifacts_from_tier"] += 1
                return True
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        if hasher.size_bytes:
            self.counters["artifacts_corrupt_in_tier"] += 1
            _log.warning("artifact_corrupt where=local_tier digest=%s", version.digest)
            await self._tier.delete_blob(version.digest)
        return False

    async def _from_region(self, version: Version, digest: Digest, path: Path) -> None:
        urls = list(self._urls())
        if not urls:
            raise ArtifactUnavailableError("no service node is known yet")
        self._rng.shuffle(urls)
        await asyncio.to_thread(self._make_room, version, keep=frozenset(self._held()))
        part = path.with_suffix(_PART)
        hasher = await asyncio.to_thread(_hash_part, part, version.size_bytes)
        failure = ArtifactUnavailableError("no node gave all of it")
        for url in urls:
            try:
                await self._download(version, url=url, part=part, hasher=hasher)
            except ArtifactUnavailableError as error:
                self.counters["downloads_cut"] += 1
                failure = error
            if hasher.size_bytes >= version.size_bytes:
                break
        else:
            raise failure
        if hasher.digest() != digest:
            self.counters["artifacts_corrupt"] += 1
            _log.warning("artifact_corrupt where=wire digest=%s", version.digest)
            await asyncio.to_thread(part.unlink, missing_ok=True)
            raise ArtifactCorruptError(f"what the region sent is not {version.digest}; it was thrown away")
        await asyncio.to_thread(part.replace, path)

    async def _download(self, version: Version, *, url: str, part: Path, hasher: Hasher) -> None:
        self.fetched_bytes[version.digest] = hasher.size_bytes
        if hasher.size_bytes >= version.size_bytes > 0:
            return
        with await asyncio.to_thread(part.open, "ab") as file:
            chunks = self._source.fetch(url=url, digest=version.digest, offset=hasher.size_bytes)
            async for chunk in _regrouped(chunks if self._pace is None else self._paced(chunks, pace=self._pace)):
                await asyncio.to_thread(_append, file, chunk, hasher)
                self.fetched_bytes[version.digest] = hasher.size_bytes
                if hasher.size_bytes > version.size_bytes:
                    return

    async def _paced(self, chunks: AsyncIterator[bytes], *, pace: Pace) -> AsyncIterator[bytes]:
        """The same chunks, none of them asked for before its turn."""
        async for chunk in chunks:
            yield chunk
            await self._clock.sleep_until(pace.taken(len(chunk), now_ns=self._clock.now_ns()))

    def _make_room(self, version: Version, *, keep: frozenset[str]) -> None:
        """There is room for it, if need be without files that are not in `keep`. Raises `ArtifactUnavailableError`."""
        files = [entry for entry in self._directory.iterdir() if entry.suffix != _PART]
        excess_bytes = sum(entry.stat().st_size for entry in files) + version.size_bytes - self._bytes_max
        spare = [entry for entry in files if _is_ours(entry) and f"sha256:{entry.stem}" not in keep]
        if excess_bytes > sum(entry.stat().st_size for entry in spare):
            raise ArtifactUnavailableError("download_bytes_max leaves no room for it now")
        for entry in spare:
            if excess_bytes > 0:
                excess_bytes -= entry.stat().st_size
                entry.unlink(missing_ok=True)
                self.counters["files_gave_way"] += 1


def _append(file: IO[bytes], chunk: bytes, hasher: Hasher) -> None:
    file.write(chunk)
    file.flush()
    hasher.update(chunk)


def _is_verified(path: Path, digest: Digest) -> bool:
    """Whether the file is there and matches; one that does not match is removed."""
    try:
        with path.open("rb") as file:
            hasher = Hasher()
            while block := file.read(BLOCK_BYTES):
                hasher.update(block)
    except FileNotFoundError:
        return False
    if hasher.digest() == digest:
        return True
    path.unlink(missing_ok=True)
    return False


def _hash_part(part: Path, size_bytes: int) -> Hasher:
    """What was downloaded before; nothing, if that is more than there should be."""
    hasher = Hasher()
    with suppress(FileNotFoundError), part.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            hasher.update(block)
    if hasher.size_bytes <= size_bytes:
        return hasher
    part.unlink()
    return Hasher()


def _remove_others(directory: Path, names: set[str]) -> None:
    for entry in directory.iterdir():
        if entry.stem not in names and _is_ours(entry):
            with suppress(OSError):
                entry.unlink()


def _is_ours(entry: Path) -> bool:
    return len(entry.stem) == 64 and entry.suffix in ("", _PART, ".tier")


async def _regrouped(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in blocks of about a mebibyte; what arrived before a failure is given first."""
    held = bytearray()
    failure: ArtifactUnavailableError | None = None
    try:
        async for chunk in chunks:
            held += chunk
            if len(held) >= BLOCK_BYTES:
                yield bytes(held)
                held.clear()
    except ArtifactUnavailableError as error:
        failure = error
    if held:
        yield bytes(held)
    if failure is not None:
        raise failure


async def _blocks(path: Path) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(path.open, "rb") as file:
        while block := await asyncio.to_thread(file.read, BLOCK_BYTES):
            yield block


@contextmanager
def download_directory(path: str | None) -> Iterator[Path]:
    """The directory at `path`, made if it is missing, or one that goes with the context. Raises `ConfigError`."""
    with ExitStack() as resources:
        try:
            if path is None:
                directory = Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="edge-client-")))
            else:
                directory = Path(path)
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"download_dir: {error}") from error
        yield directory
