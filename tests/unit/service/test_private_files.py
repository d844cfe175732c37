"""Files of secrets: read on condition, made whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from consistency_service.adapters.private_files import read_private, require_private, write_new, write_over
from consistency_service.errors import ConfigError


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_what_others_may_open_is_refused_and_named(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"secret")
    path.chmod(mode)
    for look in (require_private, lambda path: read_private(path, bytes_max=10)):
        with pytest.raises(ConfigError, match=rf"\(mode {mode:04o}\); run: chmod 600"):
            look(path)
    path.chmod(0o600)
    require_private(path)
    assert read_private(path, bytes_max=3) == b"sec"


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the key .*/none"):
        require_private(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"cannot read the private key .*/none"):
        read_private(tmp_path / "none", bytes_max=1, what="the private key ")


def test_a_new_file_is_its_owners_alone_and_overwrites_nothing(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_new(path, b"first")
    require_private(path)
    with pytest.raises(FileExistsError):
        write_new(path, b"second")
    assert path.read_bytes() == b"first"
    assert [each.name for each in tmp_path.iterdir()] == ["key"]


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lines"
    write_over(path, b"first", mode=0o644)
    assert path.stat().st_mode & 0o777 == 0o644

    def full(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for write in (lambda: write_over(path, b"second", mode=0o644), lambda: write_new(tmp_path / "other", b"second")):
        with pytest.raises(OSError, match="no space"):
            write()
    assert path.read_bytes() == b"first"
    assert [each.name for each in tmp_path.iterdir()] == ["lines"]
