"""A disk in memory that forgets what was not synced, stops a machine at any step, and can be full.

Each write, truncation, sync, rename and directory sync is one step. `cut_at` raises `PowerCut` instead of taking that
step. `after_power_cut` is what another life may find, by the least and the most that a real disk may have done meanwhile.
"""

from __future__ import annotations

import copy
import dataclasses
import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

CONTENTS = ("dropped", "kept", "torn", "holed", "zeroed")
"""Of the last write there is nothing, all, the first half, the second half, or the first half and then zeros."""
NAMES = ("synced", "latest")


class PowerCut(BaseException):
    """The machine stops here. No `except Exception` sees it."""


@dataclass
class Inode:
    synced: bytes = b""
    data: bytearray = field(default_factory=bytearray)
    unsynced: list[tuple[int, bytes] | int] = field(default_factory=list)
    """Writes with their offset, and truncations, since the last sync."""

    def left(self, how: str) -> bytes:
        """What a power cut leaves."""
        if how == "dropped" or not self.unsynced:
            return self.synced
        if how == "kept":
            return bytes(self.data)
        data = bytearray(self.synced)
        for change in self.unsynced[:-1]:
            apply(data, change)
        last = self.unsynced[-1]
        if isinstance(last, int):
            return bytes(data)
        offset, written = last
        half = len(written) // 2
        left = {
            "torn": written[:half],
            "zeroed": written[:half] + bytes(len(written) - half),
            "holed": bytes(half) + written[half:],
        }
        apply(data, (offset, left[how]))
        return bytes(data)


def apply(data: bytearray, change: tuple[int, bytes] | int) -> None:
    if isinstance(change, int):
        del data[change:]
        return
    offset, written = change
    data.extend(bytes(max(0, offset - len(data))))
    data[offset : offset + len(written)] = written


def _nothing(what: str, path: Path) -> None:
    """Before most steps nothing happens."""


@dataclass
class ForgetfulDisk:
    """Satisfies `disk.Files`."""

    names: dict[str, Inode] = field(default_factory=dict)
    synced_names: dict[str, Inode] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)
    cut_at: int | None = None
    full: bool = False
    broken: bool = False
    """Every sync fails, as on a disk that died."""
    before_step: Callable[[str, Path], None] = _nothing
    """May raise `PowerCut`, too. Not passed on to another life."""

    def step(self, what: str, path: Path) -> None:
        self.before_step(what, path)
        if self.cut_at is not None and len(self.steps) >= self.cut_at:
            raise PowerCut
        self.steps.append(f"{what} {path.name}")

    def after_power_cut(self, *, contents: str, names: str) -> ForgetfulDisk:
        found = self.synced_names if names == "synced" else self.names
        left = {
            name: Inode(synced=(data := inode.left(contents)), data=bytearray(data)) for name, inode in found.items()
        }
        return ForgetfulDisk(names=dict(left), synced_names=dict(left))

    def after_kill(self) -> ForgetfulDisk:
        """Only the process died: the kernel has everything."""
        again = dataclasses.replace(self, steps=[], cut_at=None, before_step=_nothing)
        return copy.deepcopy(again)

    # disk.Files

    def open(self, path: Path, *, empty: bool = False) -> ForgetfulFile:
        if empty:
            self.step("empty", path)
            self.names[str(path)] = Inode()
        elif str(path) not in self.names:
            raise FileNotFoundError(path)
        return ForgetfulFile(self, path=path, inode=self.names[str(path)])

    def read(self, path: Path) -> bytes | None:
        inode = self.names.get(str(path))
        return None if inode is None else bytes(inode.data)

    def rename(self, path: Path, *, target: Path) -> None:
        self.step("rename", target)
        self.names[str(target)] = self.names.pop(str(path))

    def sync_directory(self, path: Path) -> None:
        self.step("sync_directory", path)
        self.synced_names = dict(self.names)

    def unlink(self, path: Path) -> None:
        self.names.pop(str(path), None)


class ForgetfulFile:
    def __init__(self, disk: ForgetfulDisk, *, path: Path, inode: Inode) -> None:
        self._disk = disk
        self._path = path
        self._inode = inode
        self._place = 0

    def write(self, data: bytes, *, offset: int) -> None:
        """A full disk takes half of what would make the file longer."""
        self._disk.step("write", self._path)
        full = self._disk.full and offset + len(data) > len(self._inode.data)
        change = (offset, data[: len(data) // 2] if full else data)
        apply(self._inode.data, change)
        self._inode.unsynced.append(change)
        if full:
            raise OSError(errno.ENOSPC, "no space left on device", str(self._path))

    def read(self, size: int) -> bytes:
        data = bytes(self._inode.data[self._place : self._place + size])
        self._place += len(data)
        return data

    def truncate(self, size: int) -> None:
        self._disk.step("truncate", self._path)
        apply(self._inode.data, size)
        self._inode.unsynced.append(size)

    def sync(self) -> None:
        self._disk.step("sync", self._path)
        if self._disk.broken:
            raise OSError(errno.EIO, "input/output error", str(self._path))
        self._inode.synced = bytes(self._inode.data)
        self._inode.unsynced.clear()

    def close(self) -> None:
        """Nothing is synced by it."""
