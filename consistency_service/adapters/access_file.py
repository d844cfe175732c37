"""The `access` file: read again whenever it is replaced, changed as a whole or not at all.

It holds digests of tokens, which let nobody in, so others may read it; whoever may write it may let anybody in, so that is
the owner alone. A new file that makes no sense leaves the former one in force, is logged and counted.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import secrets
import stat
import tomllib
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from consistency_service.adapters.private_files import write_over
from consistency_service.adapters.rest_tls import stamps_of
from consistency_service.core.access import AccessList, access_of
from consistency_service.errors import ConfigError

_log = logging.getLogger(__name__)
FILE_BYTES_MAX: Final = 4 * 1024 * 1024
TOKEN_PREFIX: Final = "ccs_"  # noqa: S105 -- by which a leaked token is recognised
TOKEN_BYTES: Final = 32


class AccessFile:
    """The list in a file. Raises `ConfigError` if there is none that makes sense to begin with."""

    def __init__(self, path: Path, *, counters: Counter[str]) -> None:
        self.path = path
        self._counters = counters
        self._stamps = stamps_of((path,))
        self._list = load(path)
        self._reading = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<AccessFile {self.path} tokens={len(self._list.tokens)}>"

    async def current(self) -> AccessList:
        """What it holds now, or held when it last made sense. A long one is read by a thread: the node has other things to do."""
        stamps = stamps_of((self.path,))
        if stamps == self._stamps:
            return self._list
        async with self._reading:
            self._stamps = stamps
            try:
                self._list = await asyncio.to_thread(load, self.path)
            except ConfigError as error:
                self._counters["access_files_refused"] += 1
                _log.error("access_file_refused reason=%s", error)
            else:
                self._counters["access_files_read"] += 1
                _log.info("access_file_read path=%s tokens=%d", self.path, len(self._list.tokens))
        return self._list


def load(path: Path) -> AccessList:
    """The list in `path`. Raises `ConfigError`."""
    try:
        return access_of(_parsed(_read(path)))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o022:
                raise ConfigError(f"others may write it (mode {mode:04o}); run: chmod go-w {path}")
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}") from error
    if len(content) > FILE_BYTES_MAX:
        raise ConfigError(f"is larger than {FILE_BYTES_MAX} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ConfigError("is not UTF-8") from None


def _parsed(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"is not TOML: {error}") from None


# ---- tokens, as `ccs token` makes them


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToken:
    """A token that is told once, and the table that lets it in."""

    token: str
    table: str

    def __repr__(self) -> str:
        return "<NewToken>"


def digest_of(token: str) -> bytes:
    """What is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def create_token(*, name: str, role: str, models: tuple[str, ...], expires_at: datetime | None) -> NewToken:
    """A new token of 256 random bits. Raises `ConfigError` for what no `access` file could hold."""
    token = TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    lines = ["[[token]]", f"name = {_quoted(name)}", f'role = "{role}"']
    if models:
        lines.append(f"models = [{', '.join(map(_quoted, models))}]")
    if expires_at is not None:
        lines.append(f"expires = {expires_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}")
    lines.append(f'sha256 = "{digest_of(token).hex()}"')
    table = "\n".join(lines) + "\n"
    access_of(_parsed(table))
    return NewToken(token=token, table=table)


def append(path: Path, table: str) -> None:
    """`path` ends with `table`; made with mode 0600 if it was not there. Raises `ConfigError`, and then nothing changed."""
    before = _read(path) if path.exists() else ""
    if before:
        load(path)
    text = f"{before.rstrip()}\n\n{table}" if before.strip() else table
    _replace(path, text)


def revoke(path: Path, *, name: str) -> int:
    """No token of this name is in `path` any more; how many there were. Comments elsewhere stay. Raises `ConfigError`."""
    text = _read(path)
    load(path)
    kept, count = [], 0
    for block in _blocks(text):
        try:
            entries = tomllib.loads(block).get("token", []) if block.lstrip().startswith("[[token]]") else []
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path}: a [[token]] cannot be told from its neighbours: {error}") from None
        if entries and entries[0].get("name") == name:
            count += 1
        else:
            kept.append(block)
    if count:
        _replace(path, "".join(kept))
    return count


def _blocks(text: str) -> list[str]:
    """The text, cut before every line that begins a table."""
    blocks = [""]
    for line in text.splitlines(keepends=True):
        if line.lstrip().startswith("[") and not line.startswith((" ", "\t")):
            blocks.append("")
        blocks[-1] += line
    return blocks


def _quoted(text: str) -> str:
    """A TOML string. Names are printable, so that two characters are all there is to escape."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _replace(path: Path, text: str) -> None:
    """`path` holds `text`, whole and durable, with the rights it had. Raises `ConfigError`, and then it is as before."""
    try:
        access_of(_parsed(text))
        mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o600
        write_over(path, text.encode(), mode=mode)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error
