"""Bundles: what is one, what is not, and what only pretends to be."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from consistency_service.cli import bundle_archive
from consistency_service.cli.bundle_archive import opened
from consistency_service.cli.errors import LocalError

MANIFEST = {
    "models": {
        "detector": {"version": "2.0.0", "file": "det.onnx", "metadata": {"commit": "4f2"}},
        "tracker": {"version": "1.4.0", "file": "parts/track.onnx"},
    }
}
FILES = {"det.onnx": b"detector" * 1_000, "parts/track.onnx": b"tracker" * 1_000}


def plain(name: str, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    return member, content


def good(manifest=MANIFEST) -> list[tuple[tarfile.TarInfo, bytes]]:
    return [plain("bundle.json", json.dumps(manifest).encode()), *(plain(name, body) for name, body in FILES.items())]


def odd(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, b""


def archive(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, "w:gz") as made:
        for member, content in members:
            made.addfile(member, io.BytesIO(content) if content else None)
    return path


def contents(path: Path) -> dict[str, bytes]:
    with opened(path) as bundle:
        return {model: file.read_bytes() for model, file in bundle.files.items()}


def refusal(path: Path) -> str:
    with pytest.raises(LocalError) as caught, opened(path):
        pass
    return str(caught.value)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "b.tar.gz"


EXPECTED = {"detector": FILES["det.onnx"], "tracker": FILES["parts/track.onnx"]}


@pytest.mark.parametrize("order", [1, -1])
def test_an_archive_gives_what_its_manifest_names(path, order):
    """Wherever in the archive the manifest is; what it does not name is not taken."""
    archive(path, [*good(), plain("README", b"hello")][::order])

    with opened(path) as bundle:
        files = list(bundle.files.values())
        assert {"commit": "4f2"} == bundle.manifest.models["detector"].metadata
        assert EXPECTED == {model: file.read_bytes() for model, file in bundle.files.items()}
        assert 2 == len(list(files[0].parent.iterdir()))
    assert not any(file.exists() for file in files), "nothing stays behind"


def test_names_as_tar_writes_them_are_understood(path):
    members = [odd(".", tarfile.DIRTYPE), *good()]
    for member, _ in members[1:]:
        member.name = f"./{member.name}"

    assert EXPECTED == contents(archive(path, members))


def test_a_directory_is_a_bundle_too(tmp_path):
    (tmp_path / "parts").mkdir()
    for name, body in FILES.items():
        (tmp_path / name).write_bytes(body)
    (tmp_path / "bundle.json").write_text(json.dumps(MANIFEST))

    assert EXPECTED == contents(tmp_path)


HOSTILE = {
    "climbs": (plain("../outside", b"x"), "leads out of it"),
    "climbs later": (plain("a/../../outside", b"x"), "leads out of it"),
    "absolute": (plain("/etc/passwd", b"x"), "leads out of it"),
    "a drive": (plain("C:evil", b"x"), "leads out of it"),
    "backslashes": (plain("..\\evil", b"x"), "leads out of it"),
    "symbolic link": (odd("l", tarfile.SYMTYPE, "/etc/passwd"), "is a link"),
    "hard link": (odd("l", tarfile.LNKTYPE, "det.onnx"), "is a link"),
    "device": (odd("d", tarfile.CHRTYPE), "neither a file nor a directory"),
    "pipe": (odd("p", tarfile.FIFOTYPE), "neither a file nor a directory"),
    "twice": (plain("det.onnx", b"other"), "twice"),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("first", [True, False])
def test_one_hostile_member_turns_the_archive_away(path, name, first, tmp_path):
    """Also one that the manifest does not name, and before anything is written."""
    member, said = HOSTILE[name]
    before = set(tmp_path.iterdir())

    assert said in refusal(archive(path, [member, *good()] if first else [*good(), member]))
    assert before | {path} == set(tmp_path.iterdir())


def test_a_bomb_is_not_unpacked(path, monkeypatch):
    """A few kilobytes that unpack to 100 MB: stopped on the way."""
    monkeypatch.setattr(bundle_archive, "RATIO_FREE_BYTES", 1_000_000)
    archive(path, [plain("zeros", bytes(100_000_000)), *good()])

    assert path.stat().st_size < 200_000
    assert "unpacks to more than" in refusal(path)


def test_a_header_that_claims_a_gigabyte_is_not_read(path):
    """The tar library would read the body of such a header at once."""
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 1_000_000_000
    with gzip.open(path, "wb") as stream:
        stream.write(header.tobuf(tarfile.USTAR_FORMAT) + bytes(10_240))

    assert "larger than any header" in refusal(path)


def test_headers_about_headers_end(path):
    header = tarfile.TarInfo("x")
    header.type = tarfile.XGLTYPE
    with gzip.open(path, "wb") as stream:
        stream.write(header.tobuf(tarfile.USTAR_FORMAT) * 20_000)

    assert "not a readable .tar.gz" in refusal(path)


def test_too_many_members_are_refused(path):
    assert "more than 1000 members" in refusal(archive(path, [*good(), *(plain(f"f{n}", b"x") for n in range(1_000))]))


@pytest.mark.parametrize(
    "content", [b"", b"no archive at all", gzip.compress(b"no tar", mtime=0), gzip.compress(b"x" * 5_000, mtime=0)]
)
def test_what_is_no_archive_is_one_sentence(path, content):
    path.write_bytes(content)

    assert "not a readable .tar.gz" in refusal(path) or "has no bundle.json" in refusal(path)


def test_an_archive_that_was_cut_is_refused(path):
    archive(path, good())
    path.write_bytes(path.read_bytes()[:-200])

    assert "not a readable .tar.gz" in refusal(path)


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ({"models": {}}, "names 0 models"),
        ({"models": {f"m{n}": {"version": "1.0.0", "file": "det.onnx"} for n in range(17)}}, "names 17 models"),
        ({"models": {"A b": {"version": "1.0.0", "file": "det.onnx"}}}, "is not a model's name"),
        ({"models": {"m": {"version": "2", "file": "det.onnx"}}}, "is no version"),
        ({"models": {"m": {"version": "1.0.0\n", "file": "det.onnx"}}}, "is no version"),
        ({"models": {"m": {"version": "1.0.0", "file": "../det.onnx"}}}, "leads out of the bundle"),
        ({"models": {"m": {"version": "1.0.0", "file": "missing"}}}, "missing (of m) is not a file"),
        ({"models": {"m": {"version": "1.0.0"}}}, "is not of the form"),
        ({"models": {"m": {"version": "1.0.0", "file": "det.onnx", "url": "x"}}}, "unknown field `url`"),
        ([], "is not of the form"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_one_sentence(path, tmp_path, manifest, said):
    assert said in refusal(archive(path, good(manifest)))

    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "bundle.json").write_text(json.dumps(manifest))
    (tmp_path / "dir" / "det.onnx").write_bytes(b"x")
    assert said in refusal(tmp_path / "dir")


def test_a_link_in_a_directory_does_not_lead_out_of_it(tmp_path):
    (tmp_path / "secret").write_bytes(b"x")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "det.onnx").symlink_to(tmp_path / "secret")
    (bundle / "bundle.json").write_text(json.dumps({"models": {"m": {"version": "1.0.0", "file": "det.onnx"}}}))

    assert "leads out of the bundle" in refusal(bundle)
