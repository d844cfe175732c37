"""A backup as a file: a plain tar archive that `tar` and `sha256sum -c` can read, too.

    artifacts/HEX        the bytes of each artifact, under the SHA-256 that is its name; none with --no-artifacts
    state.msgpack        what the region had decided, in its own encoding
    backup.json          what is in here: region, position, when, by whom, settings, artifacts referenced
    SHA256SUMS           of all of the above, and so the end: what was cut short has none

An archive is read from end to end before anything of it is believed. It may have been on any disk and in anybody's hands:
parts have names of this form and no other, and nothing is ever unpacked to a path that the archive names.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from consistency_service.cli.errors import LocalError

FORMAT: Final = 1
STATE: Final = "state.msgpack"
ABOUT: Final = "backup.json"
SUMS: Final = "SHA256SUMS"
PIECE_BYTES: Final = 1 << 20
PART_BYTES_MAX: Final = {STATE: 1 << 30, ABOUT: 64 << 20, SUMS: 64 << 20}
PARTS_MAX: Final = 1_100_000
"""A region has at most a million versions."""
_ARTIFACT: Final = re.compile(r"artifacts/([0-9a-f]{64})", re.ASCII)
_SUM: Final = re.compile(r"([0-9a-f]{64})  (\S+)", re.ASCII)


class Referenced(msgspec.Struct, frozen=True, kw_only=True):
    digest: str
    size_bytes: int


class Whole(msgspec.Struct, frozen=True, kw_only=True):
    sha256: str
    size_bytes: int


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup says of itself. Later formats may say more."""

    format: int
    region: str
    epoch: int
    revision: int
    made_at_unix_ms: int
    made_by_node: str
    made_by_version: str
    artifacts: tuple[Referenced, ...]
    state: Whole
    terms: dict[str, Any] = {}
    members: tuple[dict[str, Any], ...] = ()
    settings: dict[str, Any] = {}
    models: dict[str, int] = {}
    artifacts_included: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """A backup of which every byte was compared with its sum."""

    about: About
    state: bytes = field(repr=False)
    artifacts: dict[str, int]
    """Size by digest of what is in the archive."""

    @property
    def missing(self) -> tuple[str, ...]:
        """Digests that versions name, and that must be in the object store already."""
        return tuple(one.digest for one in self.about.artifacts if one.digest not in self.artifacts)


class Writer:
    """Writes an archive beside its place; it takes that place when everything is in it. Nothing is overwritten."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(path.name + ".partial")
        if path.exists():
            raise LocalError(f"{path} exists already")
        descriptor = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(descriptor, "wb")
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 -- closed by `finish` or `abandon`
        self._sums: dict[str, str] = {}

    def add(self, name: str, pieces: Iterator[bytes], *, size_bytes: int, made_at_unix_ms: int) -> str:
        """The part is in the archive; its SHA-256. Raises what `pieces` raises, and then nothing of it is in there."""
        begin = self._tar.offset
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = size_bytes, 0o600, made_at_unix_ms // 1_000
        source = _Hashed(pieces)
        try:
            self._tar.addfile(info, source)  # type: ignore[arg-type]
        except BaseException:
            self._file.seek(begin)
            self._file.truncate()
            self._tar.offset = begin
            raise
        self._sums[name] = source.sha256
        return source.sha256

    def finish(self, *, made_at_unix_ms: int) -> int:
        """The archive has its place, durably; its size."""
        lines = "".join(f"{total}  {name}\n" for name, total in self._sums.items()).encode()
        self.add(SUMS, iter((lines,)), size_bytes=len(lines), made_at_unix_ms=made_at_unix_ms)
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.link(self._partial, self._path)  # unlike a rename, refuses a file that came meanwhile
        self._partial.unlink()
        return self._path.stat().st_size

    def abandon(self) -> None:
        """Nothing is left of it."""
        self._file.close()
        self._partial.unlink(missing_ok=True)


class _Hashed:
    """Pieces as a file to read from, and the SHA-256 of what was read."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""
        self._hash = hashlib.sha256()

    def read(self, size: int) -> bytes:
        while len(self._rest) < size and (more := next(self._pieces, b"")):
            self._rest += more
        taken, self._rest = self._rest[:size], self._rest[size:]
        self._hash.update(taken)
        return taken

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


Taker = Callable[[str, IO[bytes], int], None]


def verify(path: Path, *, progress: Callable[[int], None] = lambda _: None) -> Contents:
    """What is in a backup, after every byte of it was compared. Raises `LocalError`, naming what is wrong."""
    sums: dict[str, str] = {}
    kept: dict[str, bytes] = {}
    artifacts: dict[str, int] = {}
    with _opened(path) as tar:
        for member in _members(tar, path=path):
            if SUMS in kept:
                raise LocalError(f"{path} goes on behind its {SUMS}")
            stream = tar.extractfile(member)
            assert stream is not None
            total, data = _read(stream, keep=member.name in PART_BYTES_MAX, progress=progress)
            if member.name in sums:
                raise LocalError(f"{path} has two parts named {member.name}")
            sums[member.name] = total
            if (artifact := _ARTIFACT.fullmatch(member.name)) is None:
                kept[member.name] = data
            elif artifact[1] != total:
                raise LocalError(f"{path} is damaged: {member.name} has other bytes than its name says")
            else:
                artifacts[f"sha256:{total}"] = member.size
    for name in (STATE, ABOUT, SUMS):
        if name not in kept:
            raise LocalError(f"{path} has no {name}: it was cut short, or is no backup")
    _compare(kept[SUMS], sums, path=path)
    about = _about(kept[ABOUT], path=path)
    if (about.state.sha256, about.state.size_bytes) != (sums[STATE], len(kept[STATE])):
        raise LocalError(f"{path} is damaged: {STATE} is not the one that {ABOUT} speaks of")
    contents = Contents(about=about, state=kept[STATE], artifacts=artifacts)
    if about.artifacts_included and contents.missing:
        raise LocalError(f"{path} lacks the artifact {contents.missing[0]}")
    return contents


def artifacts_of(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """The artifacts of a verified backup, one after the other: digest and bytes."""
    with _opened(path) as tar:
        for member in _members(tar, path=path):
            if (artifact := _ARTIFACT.fullmatch(member.name)) is not None:
                stream = tar.extractfile(member)
                assert stream is not None
                yield f"sha256:{artifact[1]}", stream


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with path.open("rb") as file, tarfile.open(fileobj=io.BufferedReader(file, PIECE_BYTES), mode="r:") as tar:
            yield tar
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise LocalError(f"{path} is no backup, or damaged: {error}") from None


def _members(tar: tarfile.TarFile, *, path: Path) -> Iterator[tarfile.TarInfo]:
    for count, member in enumerate(tar):
        known = member.name in PART_BYTES_MAX or _ARTIFACT.fullmatch(member.name) is not None
        if not member.isreg() or not known or count > PARTS_MAX:
            raise LocalError(f"{path} is no backup: {member.name[:100]!r} is no part of one")
        if member.size > PART_BYTES_MAX.get(member.name, member.size):
            raise LocalError(f"{path} is no backup: its {member.name} has {member.size} bytes")
        yield member


def _read(stream: IO[bytes], *, keep: bool, progress: Callable[[int], None]) -> tuple[str, bytes]:
    hashed, kept = hashlib.sha256(), bytearray()
    while piece := stream.read(PIECE_BYTES):
        hashed.update(piece)
        progress(len(piece))
        if keep:
            kept += piece
    return hashed.hexdigest(), bytes(kept)


def _compare(lines: bytes, sums: dict[str, str], *, path: Path) -> None:
    said: dict[str, str] = {}
    for line in lines.decode(errors="replace").splitlines():
        if (match := _SUM.fullmatch(line)) is None:
            raise LocalError(f"{path} is damaged: its {SUMS} cannot be read")
        said[match[2]] = match[1]
    for name in said.keys() | (sums.keys() - {SUMS}):
        if said.get(name) != sums.get(name):
            what = (
                "is missing" if name not in sums else "is not in SHA256SUMS" if name not in said else "does not match"
            )
            raise LocalError(f"{path} is damaged: {name} {what}")


def _about(data: bytes, *, path: Path) -> About:
    try:
        about = msgspec.json.decode(data, type=About)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:  # what is no UTF-8 is a `ValueError` alone
        raise LocalError(f"{path} is no backup of this release: {ABOUT}: {error}") from None
    if about.format != FORMAT:
        raise LocalError(
            f"{path} has format {about.format}; this release reads {FORMAT}, made by ccs {about.made_by_version}"
        )
    return about
