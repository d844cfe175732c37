"""What a log does to the process around it: ends it, wakes its loop, and claims a directory for it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

from consistency_service.errors import LogStorageError

logger = logging.getLogger(__name__)

EXIT_CODE_FATAL: Final = 70


def end_process(reason: str) -> None:
    """The process is gone, at once and without cleaning up: what was in memory can no longer be trusted."""
    logger.critical("log_failed", extra={"reason": reason})
    os._exit(EXIT_CODE_FATAL)


def wake(loop: asyncio.AbstractEventLoop, *, ring: Callable[[], None]) -> None:
    """Called by writer threads; a loop that is closed needs no waking."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(ring)


def take_directory(data_dir: Path) -> IO[bytes]:
    """The directory exists and is ours until closed. Raises `LogStorageError`."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = (data_dir / "lock").open("ab")
    except OSError as error:
        raise LogStorageError(f"{data_dir}: {error}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise LogStorageError(f"{data_dir} is used by another process") from error
    return lock
