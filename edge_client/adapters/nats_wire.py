"""What a NATS server says, cut into lines and messages at the exact bytes.

Put in the place of nats-py's parser, which matches lines with regular expressions: what another client chose as a reply
subject can make that one misread lengths, or fail. Each of the two packages has this file, because neither may import
the other's adapters.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import msgspec
import nats.errors

LINE_BYTES_MAX: Final = 64 * 1024
MESSAGE_BYTES_MAX: Final = 8 * 1024 * 1024
_MESSAGE_WORDS: Final = {b"MSG": (4, 5), b"HMSG": (5, 6)}
"""How many words such a line has, without and with a reply subject."""


class Receiver(Protocol):
    """Whom the parser tells: our client, with what nats-py's own parser calls on it."""

    def receive(self, sid: int, *, subject: bytes, reply: bytes, payload: bytes, head: bytes) -> bool:
        """Take a message; False if its subscription is one of the library's own."""
        ...

    async def receive_internal(
        self, sid: int, *, subject: bytes, reply: bytes, payload: bytes, head: bytes
    ) -> None: ...
    async def _process_ping(self) -> None: ...
    async def _process_pong(self) -> None: ...
    async def _process_err(self, err_msg: str) -> None: ...
    async def _process_info(self, info: dict[str, Any]) -> None: ...


class WireParser:
    """Cuts the server's bytes into lines and messages. A token is what lies between two spaces, whatever is in it."""

    def __init__(self, client: Receiver) -> None:
        self._client = client
        self.reset()

    def reset(self) -> None:
        self._buffer = bytearray()
        self._message: tuple[int, bytes, bytes, int, int] | None = None

    async def parse(self, data: bytes = b"") -> None:
        """Handle whatever is complete. Raises `nats.errors.ProtocolError`, after which the connection is given up."""
        buffer = self._buffer
        buffer += data
        offset = 0
        while True:
            if self._message is None:
                end = buffer.find(b"\r\n", offset)
                if end < 0:
                    break
                line, offset = bytes(buffer[offset:end]), end + 2
                await self._line(line)
                continue
            sid, subject, reply, head_bytes, size_bytes = self._message
            end = offset + size_bytes
            if len(buffer) < end + 2:
                break
            head, payload = bytes(buffer[offset : offset + head_bytes]), bytes(buffer[offset + head_bytes : end])
            offset, self._message = end + 2, None
            if not self._client.receive(sid, subject=subject, reply=reply, payload=payload, head=head):
                await self._client.receive_internal(sid, subject=subject, reply=reply, payload=payload, head=head)
        del buffer[:offset]
        if self._message is None and len(buffer) > LINE_BYTES_MAX:
            raise nats.errors.ProtocolError("a line without end")

    async def _line(self, line: bytes) -> None:
        word, _, rest = line.partition(b" ")
        word = word.upper()
        if word in _MESSAGE_WORDS:
            self._message = _message(line.split(b" "), counts=_MESSAGE_WORDS[word])
        elif word == b"PING":
            await self._client._process_ping()  # noqa: SLF001  (as the library's own parser does)
        elif word == b"PONG":
            await self._client._process_pong()  # noqa: SLF001
        elif word == b"-ERR":
            await self._client._process_err(rest.decode(errors="replace").lower())  # noqa: SLF001
        elif word == b"INFO":
            await self._client._process_info(_info(rest))  # noqa: SLF001
        elif word != b"+OK":
            raise nats.errors.ProtocolError(f"unknown word {word[:20]!r}")


def _message(words: list[bytes], *, counts: tuple[int, int]) -> tuple[int, bytes, bytes, int, int]:
    """Subscription, subject, reply subject, bytes of the head, and of head and payload."""
    with_head = counts[0] == 5
    try:
        reply = words[3] if len(words) == counts[1] else b""
        sid, size_bytes = int(words[2]), int(words[-1])
        head_bytes = int(words[-2]) if with_head else 0
    except (ValueError, IndexError) as error:
        raise nats.errors.ProtocolError("malformed message line") from error
    if len(words) not in counts or not 0 <= head_bytes <= size_bytes <= MESSAGE_BYTES_MAX:
        raise nats.errors.ProtocolError("malformed message line")
    return sid, words[1], reply, head_bytes, size_bytes


def _info(text: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise nats.errors.ProtocolError("malformed INFO") from error
