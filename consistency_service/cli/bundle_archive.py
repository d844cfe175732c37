"""A bundle: versions of several models that belong together, as a directory or a `.tar.gz` with a manifest `bundle.json`.

Picture the customs of a country that trusts no parcel: an archive is looked through from end to end before anything of it is
kept, and whatever is not a plain file at a plain place inside turns the whole parcel away. Nothing is created but
the files that the manifest names, under names of our own.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import re
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final

import msgspec

from consistency_service.api.semver import LENGTH_MAX, SEMVER
from consistency_service.cli.errors import LocalError
from consistency_service.cli.render import size
from consistency_service.core.rollout import TARGETS_MAX
from edge_client.protocol.models import NAME_PATTERN
from edge_client.protocol.signatures import SIGNATURES_MAX, parse_signature

MANIFEST: Final = "bundle.json"
MANIFEST_BYTES_MAX: Final = 64 * 1024
MEMBERS_MAX: Final = 1_000
BUNDLE_BYTES_MAX: Final = 20 * 1_000**3
"""Of what an archive unpacks to, headers and all. What is larger is pushed as a directory."""
RATIO_MAX: Final = 100
RATIO_FREE_BYTES: Final = 10_000_000
"""An archive may unpack to 100 times its size and 10 MB: far more than any model does, far less than a bomb."""
_READ_BYTES_MAX: Final = 1 << 20
"""Of one read. The tar library reads headers of any declared length at once; nobody needs such."""
_UNREADABLE: Final = (
    *(tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, UnicodeError, ValueError, OverflowError),
    RecursionError,  # of headers about headers about headers
)


class BundleModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model of a bundle: the version, and the file with its bytes, relative to the manifest."""

    version: Annotated[str, msgspec.Meta(max_length=LENGTH_MAX)]
    file: Annotated[str, msgspec.Meta(min_length=1, max_length=1_000)]
    metadata: dict[str, str] = {}
    signatures: Annotated[list[str], msgspec.Meta(max_length=SIGNATURES_MAX)] = []
    """Lines that `ccs keys sign` made."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `bundle.json` says."""

    models: dict[str, BundleModel]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle whose files can be read, as long as the context that gave it lasts."""

    manifest: Manifest
    files: dict[str, Path]
    """Model to its file."""


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Bundle]:
    """The bundle, looked through and complete. What an archive holds is in a temporary directory until the end.

    Raises `LocalError` for what is no bundle, is incomplete, or is more than it seems.
    """
    if path.is_dir():
        yield _of_directory(path)
        return
    with tempfile.TemporaryDirectory(prefix="ccs-bundle-") as directory:
        bytes_max = min(BUNDLE_BYTES_MAX, RATIO_MAX * path.stat().st_size + RATIO_FREE_BYTES)
        try:
            bundle = _of_archive(path, Path(directory), bytes_max=bytes_max)
        except _UNREADABLE as error:
            raise LocalError(f"{path} is not a readable .tar.gz archive: {error}") from None
        yield bundle


def _of_directory(root: Path) -> Bundle:
    manifest_file = root / MANIFEST
    if not manifest_file.is_file():
        raise LocalError(f"{root} has no {MANIFEST}")
    with manifest_file.open("rb") as stream:
        manifest = _manifest(stream.read(MANIFEST_BYTES_MAX + 1), name=str(manifest_file))
    files: dict[str, Path] = {}
    for model, entry in manifest.models.items():
        file = root / entry.file
        if not file.resolve().is_relative_to(root.resolve()):
            raise LocalError(f"{entry.file} (of {model}) leads out of the bundle")
        if not file.is_file():
            raise LocalError(f"{entry.file} (of {model}) is not a file in {root}")
        files[model] = file
    return Bundle(manifest=manifest, files=files)


def _of_archive(path: Path, directory: Path, *, bytes_max: int) -> Bundle:
    """Two passes: look at everything and learn the manifest, then take the files that it names."""
    found: dict[str, int] = {}
    content: bytes | None = None
    for member, archive in _members(path, bytes_max=bytes_max):
        name = _checked(member)
        if name in found:
            raise LocalError(f"{path} has {name!r} twice")
        if member.isfile():
            found[name] = member.size
        if name == MANIFEST:
            content = _body(archive, member).read(MANIFEST_BYTES_MAX + 1)
    if content is None:
        raise LocalError(f"{path} has no {MANIFEST} at its top")
    manifest = _manifest(content, name=f"{MANIFEST} in {path}")
    wanted = {model: str(PurePosixPath(entry.file)) for model, entry in manifest.models.items()}
    for model, name in wanted.items():
        if name not in found:
            raise LocalError(f"{manifest.models[model].file} (of {model}) is not a file in {path}")
    files = {name: directory / str(number) for number, name in enumerate(sorted(set(wanted.values())))}
    for member, archive in _members(path, bytes_max=bytes_max):
        target = files.get(_checked(member))
        if target is not None and member.isfile():
            _copy(_body(archive, member), target)
    return Bundle(manifest=manifest, files={model: files[name] for model, name in wanted.items()})


def _members(path: Path, *, bytes_max: int) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    """Every member of an archive, in order. Raises `LocalError` for what is too much, and what `_UNREADABLE` names."""
    with (
        gzip.open(path, "rb") as unpacked,
        tarfile.TarFile(fileobj=_Guarded(unpacked, bytes_max=bytes_max)) as archive,
    ):
        count = 0
        while (member := archive.next()) is not None:
            count += 1
            if count > MEMBERS_MAX:
                raise LocalError(f"{path} has more than {MEMBERS_MAX} members")
            yield member, archive


class _Guarded(io.RawIOBase):
    """Unpacked bytes, read forward and in bounded pieces; beyond the limit it raises `LocalError`."""

    def __init__(self, source: gzip.GzipFile, *, bytes_max: int) -> None:
        super().__init__()
        self._source = source
        self._bytes_max = bytes_max

    def read(self, count: int = -1, /) -> bytes:
        if not 0 <= count <= _READ_BYTES_MAX:
            raise LocalError("the archive has a header that is larger than any header needs to be")
        self._check(self._source.tell() + count - tarfile.BLOCKSIZE)
        return self._source.read(count)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._check(offset)
        return self._source.seek(offset, whence)

    def tell(self) -> int:
        return self._source.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def _check(self, position: int) -> None:
        if position > self._bytes_max:
            raise LocalError(
                f"the archive unpacks to more than {size(self._bytes_max)}, which is too much for its size; "
                "if it is what it should be, push its directory instead"
            )


def _checked(member: tarfile.TarInfo) -> str:
    """Its name, if it is a plain file or a directory at a place inside. Raises `LocalError`."""
    name = member.name
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\x00" in name or re.match(r"[A-Za-z]:", name):
        raise LocalError(f"the archive has a member {name[:200]!r}, which leads out of it; nothing was taken")
    plain = member.type in {tarfile.REGTYPE, tarfile.AREGTYPE} and member.sparse is None
    if not plain and not member.isdir():
        kind = "a link" if member.issym() or member.islnk() else "neither a file nor a directory"
        raise LocalError(f"{name[:200]!r} in the archive is {kind}; nothing was taken")
    return str(path)


def _body(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Any:
    body = archive.extractfile(member)
    if body is None:
        raise LocalError(f"{member.name[:200]!r} in the archive has no bytes")
    return body


def _copy(source: Any, target: Path) -> None:
    with target.open("xb") as stream:
        while chunk := source.read(_READ_BYTES_MAX):
            stream.write(chunk)


def _manifest(content: bytes, *, name: str) -> Manifest:
    if len(content) > MANIFEST_BYTES_MAX:
        raise LocalError(f"{name} has more than {MANIFEST_BYTES_MAX} bytes")
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        shape = '{"models": {"NAME": {"version": "1.0.0", "file": "PATH", "metadata": {}}}}'
        raise LocalError(f"{name} is not of the form {shape}: {error}") from None
    if not 1 <= len(manifest.models) <= TARGETS_MAX:
        raise LocalError(f"{name} names {len(manifest.models)} models; a bundle has 1 to {TARGETS_MAX}")
    for model, entry in manifest.models.items():
        if NAME_PATTERN.fullmatch(model) is None:
            raise LocalError(f"{name}: {model[:200]!r} is not a model's name")
        if re.fullmatch(SEMVER, entry.version) is None:
            raise LocalError(f"{name}: {entry.version!r} (of {model}) is no version such as 2.3.0")
        if PurePosixPath(entry.file).is_absolute() or ".." in PurePosixPath(entry.file).parts:
            raise LocalError(f"{name}: {entry.file[:200]!r} (of {model}) leads out of the bundle")
        try:
            keys = [parse_signature(line)[0] for line in entry.signatures]
        except ValueError as error:
            raise LocalError(f"{name}: signatures of {model}: {error}") from None
        if len(set(keys)) < len(keys):
            raise LocalError(f"{name}: two signatures of {model} are by one key")
    return manifest
