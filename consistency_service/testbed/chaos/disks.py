"""Small disks that can be filled: one for each node's data and one for the artifacts.

They are mounted in a mount namespace of our own, which our children share and which ends with the last of us: whatever
kills us, nothing stays mounted. Where mounting is not allowed there are no disks, and disk faults are skipped.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

NODE_BYTES: Final = 96_000_000
ARTIFACTS_BYTES: Final = 64_000_000
BALLAST: Final = "ballast"
CHUNK_BYTES: Final = 1_000_000
_CLONE_NEWNS: Final = 0x20000
_MNT_DETACH: Final = 2
_MS_PRIVATE_ALL: Final = (1 << 18) | (1 << 14)


class Disks:
    """Directories that are file systems of their own, by name; none if that is not possible here."""

    def __init__(self) -> None:
        self._paths: dict[str, Path] = {}
        self._libc = ctypes.CDLL(None, use_errno=True)

    def __contains__(self, name: str) -> bool:
        return name in self._paths

    def mount(self, paths: Iterable[tuple[str, Path, int]]) -> str | None:
        """A disk of so many bytes at each path. Returns why not, if that is not possible.

        Call it before the program has threads: only threads made later see the disks.
        """
        libc = self._libc
        if libc.unshare(_CLONE_NEWNS) != 0 or libc.mount(b"none", b"/", None, _MS_PRIVATE_ALL, None) != 0:
            return f"no small disks can be mounted here: {os.strerror(ctypes.get_errno())}"
        for name, path, size_bytes in paths:
            path.mkdir(parents=True, exist_ok=True)
            options = f"size={size_bytes},mode=0700".encode()
            if libc.mount(b"tmpfs", os.fsencode(path), b"tmpfs", 0, options) != 0:
                reason = os.strerror(ctypes.get_errno())
                self.unmount()
                return f"no small disk can be mounted at {path}: {reason}"
            self._paths[name] = path
        return None

    def unmount(self) -> None:
        """The directories are plain and empty again, and there are no disks."""
        for path in self._paths.values():
            self._libc.umount2(os.fsencode(path), _MNT_DETACH)
        self._paths.clear()

    def fill(self, name: str) -> None:
        """Not one more byte fits."""
        descriptor = os.open(self._paths[name] / BALLAST, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            size_bytes = CHUNK_BYTES
            while size_bytes:
                try:
                    os.write(descriptor, b"\0" * size_bytes)
                except OSError:
                    size_bytes //= 2
        finally:
            os.close(descriptor)

    def free(self, name: str) -> None:
        """The room is there again."""
        (self._paths[name] / BALLAST).unlink(missing_ok=True)
