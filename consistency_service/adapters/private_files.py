"""Files that only their owner may read: read on that condition, and made whole or not at all.

Keys of regions, publishers, nodes and the bus live in such files. Beside them go files that anybody may read, which are written
here too, so that nobody ever sees half of one.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from consistency_service.errors import ConfigError


def require_private(path: Path) -> None:
    """Only its owner can read `path`. Raises `ConfigError`."""
    try:
        status = path.stat()
    except OSError as error:
        raise ConfigError(f"cannot read the key {path}: {error.strerror}") from error
    _require_owner_alone(status, path=path)


def read_private(path: Path, *, bytes_max: int, what: str = "") -> bytes:
    """The first `bytes_max` bytes of a file that only its owner can read. `what` it is goes into what is told of a file that
    cannot be read. Raises `ConfigError`.
    """
    try:
        with path.open("rb") as file:
            _require_owner_alone(os.fstat(file.fileno()), path=path)
            return file.read(bytes_max)
    except OSError as error:
        raise ConfigError(f"cannot read {what}{path}: {error.strerror or error}") from error


def write_new(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """`path` is whole and durable, or not there; an existing file is left alone (`FileExistsError`). Raises `OSError`."""
    temporary = _written(path, content, mode=mode)
    try:
        os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_over(path: Path, content: bytes, *, mode: int) -> None:
    """`path` is whole and durable, whatever it held before; or as before. Raises `OSError`."""
    temporary = _written(path, content, mode=mode)
    try:
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def no_password() -> str:
    """For OpenSSL, which would ask at the terminal for the password of an encrypted key. Raises `ValueError`."""
    raise ValueError("the key is encrypted; a node starts without anybody at the keyboard")


def _require_owner_alone(status: os.stat_result, *, path: Path) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise ConfigError(f"{path} is open to group or others (mode {mode:04o}); run: chmod 600 {path}")


def _written(path: Path, content: bytes, *, mode: int) -> Path:
    """A new file beside `path`, durable, or none."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")  # mode 0600 from the start
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)
