"""A backup file: written whole or not at all, read only if every byte is right."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import msgspec
import pytest

from consistency_service.cli.backup_archive import ABOUT, STATE, SUMS, Writer, artifacts_of, verify
from consistency_service.cli.errors import LocalError

BYTES = b"weights" * 200_000
HEX = hashlib.sha256(BYTES).hexdigest()
DIGEST = f"sha256:{HEX}"
DECIDED = b"what was decided"


def said(**more: object) -> bytes:
    about = {
        "format": 1,
        "region": "r",
        "epoch": 1,
        "revision": 7,
        "made_at_unix_ms": 5_000,
        "made_by_node": "node-1",
        "made_by_version": "0.1.0",
        "artifacts": [{"digest": DIGEST, "size_bytes": len(BYTES)}],
        "state": {"sha256": hashlib.sha256(DECIDED).hexdigest(), "size_bytes": len(DECIDED)},
        "said_by_a_later_release": True,
    }
    return msgspec.json.encode(about | more)


def written(path: Path, *, artifact: bytes | None = BYTES, about: bytes | None = None) -> Path:
    writer = Writer(path)
    parts = {STATE: DECIDED, ABOUT: said() if about is None else about}
    if artifact is not None:
        parts = {f"artifacts/{HEX}": artifact} | parts
    for name, data in parts.items():
        pieces = (data[start : start + 1_000] for start in range(0, len(data), 1_000))
        writer.add(name, pieces, size_bytes=len(data), made_at_unix_ms=5_000)
    writer.finish(made_at_unix_ms=5_000)
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "b")
    contents = verify(path)

    assert (contents.state, contents.artifacts, contents.missing) == (DECIDED, {DIGEST: len(BYTES)}, ())
    assert [(digest, stream.read()) for digest, stream in artifacts_of(path)] == [(DIGEST, BYTES)]
    assert path.stat().st_mode & 0o777 == 0o600 and [path] == list(tmp_path.iterdir())
    with tarfile.open(path) as tar:
        sums = tar.extractfile(SUMS)
        assert sums is not None and f"{HEX}  artifacts/{HEX}".encode() in sums.read()


def test_without_artifacts_the_backup_says_what_must_be_elsewhere(tmp_path: Path) -> None:
    contents = verify(written(tmp_path / "b", artifact=None, about=said(artifacts_included=False)))

    assert contents.missing == (DIGEST,)
    with pytest.raises(LocalError, match="lacks the artifact"):
        verify(written(tmp_path / "c", artifact=None))


def test_every_altered_byte_is_found(tmp_path: Path) -> None:
    path = written(tmp_path / "b", artifact=None, about=said(artifacts_included=False))
    good = path.read_bytes()
    ends_at = good.rindex(b"SHA256SUMS\n") if b"SHA256SUMS\n" in good else len(good.rstrip(b"\0"))
    missed = []
    for place in range(ends_at):
        # Padding between parts, and what the archive says of modes, owners and times, is of no meaning to us.
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        try:
            contents = verify(path)
        except LocalError:
            continue
        missed += [place] if contents.state != DECIDED or contents.about.revision != 7 else []

    assert missed == []


def test_what_was_cut_short_is_found_wherever_that_was(tmp_path: Path) -> None:
    path = written(tmp_path / "b")
    good = path.read_bytes()
    for size in (*range(0, len(good.rstrip(b"\0")), 65_537), 0, 1, 511, 512, 513):
        path.write_bytes(good[:size])
        with pytest.raises(LocalError):
            verify(path)


def archive(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for info, data in members:
            info.size = len(data) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(data))
    return path


def link() -> tarfile.TarInfo:
    info = tarfile.TarInfo(STATE)
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return info


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([(tarfile.TarInfo("../../etc/cron.d/x"), b"x")], "is no part of one"),
        ([(tarfile.TarInfo(f"artifacts/../{HEX}"), b"x")], "is no part of one"),
        ([(link(), b"")], "is no part of one"),
        ([(tarfile.TarInfo(f"artifacts/{HEX}"), b"other")], "other bytes than its name says"),
        ([(tarfile.TarInfo(STATE), b"x"), (tarfile.TarInfo(STATE), b"x")], "two parts"),
        ([(tarfile.TarInfo(SUMS), b""), (tarfile.TarInfo(STATE), b"x")], "goes on behind"),
        ([(tarfile.TarInfo(STATE), b"x"), (tarfile.TarInfo(ABOUT), b"{}"), (tarfile.TarInfo(SUMS), b"x")], "cannot be"),
        ([(tarfile.TarInfo(STATE), b"x"), (tarfile.TarInfo(ABOUT), b"{}"), (tarfile.TarInfo(SUMS), b"")], "is not in"),
    ],
)
def test_strange_archives_are_refused(
    members: list[tuple[tarfile.TarInfo, bytes]], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(LocalError, match=reason):
        verify(archive(tmp_path / "b", *members))


def test_other_formats_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="format 2"):
        verify(written(tmp_path / "a", about=said(format=2)))
    with pytest.raises(LocalError, match="not the one that"):
        verify(written(tmp_path / "b", about=said(state={"sha256": "0" * 64, "size_bytes": 1})))
    with pytest.raises(LocalError, match=r"of this release: backup\.json"):
        verify(written(tmp_path / "c", about=b"[]"))
    for number, text in enumerate((b'{"format": "\xff"}', b"[" * 100_000)):
        with pytest.raises(LocalError, match=r"of this release: backup\.json"):
            verify(written(tmp_path / f"c{number}", about=text))
    (tmp_path / "d").write_bytes(b"no archive at all" * 100)
    with pytest.raises(LocalError, match="is no backup"):
        verify(tmp_path / "d")


def test_a_part_that_breaks_off_leaves_nothing_of_it(tmp_path: Path) -> None:
    """The region deleted the artifact while it was being fetched: the archive goes on without it."""

    def broken():
        yield b"half"
        raise ConnectionError("gone")

    writer = Writer(tmp_path / "b")
    with pytest.raises(ConnectionError):
        writer.add(f"artifacts/{HEX}", broken(), size_bytes=len(BYTES), made_at_unix_ms=0)
    with pytest.raises(OSError, match="unexpected end"):
        writer.add(f"artifacts/{HEX}", iter((b"short",)), size_bytes=len(BYTES), made_at_unix_ms=0)
    for name, data in ((STATE, DECIDED), (ABOUT, said(artifacts=[]))):
        writer.add(name, iter((data,)), size_bytes=len(data), made_at_unix_ms=0)
    writer.finish(made_at_unix_ms=0)

    assert verify(tmp_path / "b").artifacts == {}


def test_nothing_is_overwritten_and_nothing_left_behind(tmp_path: Path) -> None:
    path = written(tmp_path / "b")
    with pytest.raises(LocalError, match="exists already"):
        Writer(path)
    Writer(tmp_path / "c").abandon()

    assert [path] == list(tmp_path.iterdir())
