"""What stands in the log: one opcode, one format, and an id by which its proposer knows its own again.

The id is what makes an answer honest. The library would call back whoever waits at an index, although another leader
may have filled that place; we look at the entry that was really applied and see whose it is.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

NO_OP: Final = b"\x01"
"""What the library appends at the start of a log and of each term."""

OPCODE: Final = 0xC5
FORMAT: Final = 1
KIND_COMMAND: Final = 1
KIND_MEMBERS: Final = 2
"""The payload is a table of members: see `membership`."""
MEMBERS_PREFIX: Final = bytes([OPCODE, FORMAT, KIND_MEMBERS])
HEADER: Final = struct.Struct(">BBBQQ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    kind: int
    life: int
    """Random for each life of a process, so that an id of an earlier one is nobody's."""
    number: int
    payload: bytes


def encode(frame: Frame) -> bytes:
    return HEADER.pack(OPCODE, FORMAT, frame.kind, frame.life, frame.number) + frame.payload


def decode(entry: bytes) -> Frame | None:
    """What an entry holds; None for a no-op. Raises `ValueError` for what a later release may have written."""
    if entry == NO_OP:
        return None
    if len(entry) < HEADER.size:
        raise ValueError(f"log entry of {len(entry)} bytes is no frame")
    opcode, version, kind, life, number = HEADER.unpack_from(entry)
    if (opcode, version) != (OPCODE, FORMAT) or kind not in {KIND_COMMAND, KIND_MEMBERS}:
        raise ValueError(f"log entry has opcode {opcode:#x} format {version} kind {kind}; a newer release wrote it")
    return Frame(kind=kind, life=life, number=number, payload=entry[HEADER.size :])
