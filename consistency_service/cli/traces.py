"""What was asked for, in the order in which it was asked: files of keys, as caches are judged by.

Picture a till roll. Three kinds are read: one key a line (`keys`), one number a line with `*` as a mark that means nothing
here (`lirs`, after Jiang and Zhang), and runs of blocks as `start count ignored ignored` (`arc`, after Megiddo and
Modha). Each may be packed by gzip, xz or zstd, told by its first bytes and never by its name. Keys become numbers in the
order of their first appearance, which is all that a cache can tell of them, and makes runs repeatable.

Files come from elsewhere: lines, runs and the whole are bounded, and what is not as it should be is said with its line.
"""

from __future__ import annotations

import gzip
import lzma
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, Final, cast

from consistency_service.cli.errors import LocalError

LINE_BYTES_MAX: Final = 4_096
BLOCKS_MAX: Final = 1 << 20
"""In one line of an ARC trace."""
LINES_WITHOUT_KEY_MAX: Final = 1_000_000
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"


class TraceFormat(StrEnum):
    """How the lines of a trace are read."""

    AUTO = "auto"
    KEYS = "keys"
    ARC = "arc"
    LIRS = "lirs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Requests by number of key: 0 is the key that was asked for first, and so on."""

    name: str
    requests: array[int]
    keys: int
    """How many different ones."""
    cut: bool
    """There was more in the file than was to be read."""


def read_trace(file: Path, *, trace_format: TraceFormat, requests_max: int) -> Trace:
    """The first `requests_max` requests of a file. Raises `LocalError` for what is no trace, with the line, and `OSError`."""
    numbers: dict[bytes | int, int] = {}
    requests = array("I")
    cut = False
    with file.open("rb") as packed:
        for key in _keys(_lines(packed, file), trace_format):
            if len(requests) == requests_max:
                cut = True
                break
            requests.append(numbers.setdefault(key, len(numbers)))
    if not requests:
        raise LocalError(f"{file} holds no request")
    return Trace(name=file.name, requests=requests, keys=len(numbers), cut=cut)


def _lines(packed: IO[bytes], file: Path) -> Iterator[tuple[int, bytes]]:
    """Number and content of each line that is not empty."""
    empty = 0
    try:
        stream = _unpacked(packed)
        number = 0
        while line := stream.readline(LINE_BYTES_MAX):
            number += 1
            text = line.strip()
            if len(line) == LINE_BYTES_MAX or b"\0" in text:
                raise LocalError(f"line {number} of {file} is no line of text: is this a trace?")
            empty = 0 if text else empty + 1
            if empty > LINES_WITHOUT_KEY_MAX:
                raise LocalError(f"{file} has a million empty lines before line {number}")
            if text:
                yield number, text
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise LocalError(f"{file} is cut or damaged: {error}") from error


def _unpacked(packed: IO[bytes]) -> IO[bytes]:
    head = packed.read(6)
    packed.seek(0)
    if head.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.open(packed))
    if head == b"\xfd7zXZ\0":
        return lzma.open(packed)
    if head.startswith(_ZSTD_MAGIC):
        return _zstd(packed)
    return packed


def _zstd(packed: IO[bytes]) -> IO[bytes]:
    try:
        import zstandard
    except ModuleNotFoundError:
        raise LocalError("zstd needs zstandard: install it with  pip install 'edge-consistency[testbed]'") from None
    import io

    class Reader(io.RawIOBase):
        """Says what the library keeps to itself: that a frame ended before its end."""

        def __init__(self) -> None:
            self._pieces = iter(self._unpack())
            self._rest = memoryview(b"")

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            while not self._rest:
                piece = next(self._pieces, None)
                if piece is None:
                    return 0
                self._rest = memoryview(piece)
            size = min(len(buffer), len(self._rest))
            buffer[:size] = self._rest[:size]
            self._rest = self._rest[size:]
            return size

        def _unpack(self) -> Iterator[bytes]:
            frame = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
            begun = False
            try:
                while chunk := packed.read(1 << 14):
                    while chunk:
                        begun = True
                        yield frame.decompress(chunk)
                        if not frame.eof:
                            break
                        chunk, begun = frame.unused_data, False
                        frame = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
            except zstandard.ZstdError as error:
                raise EOFError(str(error)) from error
            if begun:
                raise EOFError("the zstd frame has no end")

    return io.BufferedReader(Reader(), buffer_size=1 << 16)


def _keys(lines: Iterator[tuple[int, bytes]], trace_format: TraceFormat) -> Iterator[bytes | int]:
    for number, text in lines:
        if trace_format is TraceFormat.AUTO:
            trace_format = _recognised(text)
        if trace_format is TraceFormat.KEYS:
            yield text
        elif trace_format is TraceFormat.ARC:
            yield from _run(number, text)
        elif text != b"*":
            yield _number(number, text, what="a number or `*`, as LIRS's have")


def _recognised(text: bytes) -> TraceFormat:
    fields = text.split()
    if len(fields) == 4 and all(field.isdigit() for field in fields):
        return TraceFormat.ARC
    return TraceFormat.LIRS if text == b"*" or text.isdigit() else TraceFormat.KEYS


def _run(number: int, text: bytes) -> range:
    fields = text.split()
    what = "`start count ignored ignored`, as ARC's have"
    if len(fields) != 4:
        raise LocalError(f"line {number} is not {what}: {_shown(text)}; see --format")
    start, count = (_number(number, field, what=what) for field in fields[:2])
    if count > BLOCKS_MAX:
        raise LocalError(f"line {number} asks for {count:,} blocks at once; at most {BLOCKS_MAX:,} are read")
    return range(start, start + count)


def _number(number: int, text: bytes, *, what: str) -> int:
    if not text.isdigit() or len(text) > 20:
        raise LocalError(f"line {number} is not {what}: {_shown(text)}; see --format")
    return int(text)


def _shown(text: bytes) -> str:
    return repr(text[:40].decode("utf-8", "replace"))
