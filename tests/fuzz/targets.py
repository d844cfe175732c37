"""What reads bytes that somebody else chose, and how it may say no.

A target is a reader, the bytes of something it takes, and the errors by which it refuses. Whatever else it raises is a
finding; so is taking more memory than `GROWTH` times its input. Where a checksum or a signature guards the rest, `seal` puts
it right again after the bytes were damaged: otherwise nothing behind it would ever be looked at.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import random
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import nats.errors
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consistency_service.adapters.raft_log import disk, frames, records, snapshots, vote, wire
from consistency_service.cli.bundle_archive import MANIFEST, opened
from consistency_service.cli.errors import LocalError
from consistency_service.cli.rollout_file import parse_strategy
from consistency_service.cli.traces import TraceFormat, read_trace
from consistency_service.config import config_of
from consistency_service.core.commands import COMMAND_VERSION, RegisterVersion, decode_command, encode_command
from consistency_service.core.state import State, decode_state, encode_state
from consistency_service.errors import ConfigError, LogStorageError
from edge_client.adapters.nats_wire import WireParser
from edge_client.errors import FeatureCorruptError
from edge_client.protocol.envelope import EnvelopeError, Signer, Verifier, trust_line
from edge_client.protocol.feature_classes import FeatureCodec
from edge_client.protocol.feature_codec import (
    decode_block,
    decode_entry,
    decode_value,
    encode_block,
    encode_entry,
    encode_value,
    find_in_block,
)
from edge_client.protocol.features import Entry
from edge_client.protocol.messages import (
    MessageError,
    decode_edge,
    decode_region,
    decode_snapshot,
    encode_edge,
    encode_region,
    encode_snapshot,
)
from edge_client.protocol.models import Version
from tests.unit.protocol.wire_messages import EDGE_MESSAGES, REGION_MESSAGES, SNAPSHOT

GROWTH: Final = 400
"""How many bytes an input's byte may become at worst: an empty list of msgpack takes some sixty, and is copied on the way."""
GROWTH_FREE_BYTES: Final = 16 << 20

_KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
_SIGNER: Final = Signer(_KEY)
_VERIFIER: Final = _SIGNER.verifier()


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One reader."""

    read: Callable[[bytes], object]
    refuses: tuple[type[Exception], ...]
    """None: it has another way to say no than raising."""
    seeds: tuple[bytes, ...]
    seal: Callable[[bytes], bytes] = bytes

    def try_one(self, data: bytes) -> bool:
        """Whether it was taken. Raises whatever is no refusal."""
        try:
            self.read(self.seal(data))
        except self.refuses:
            return False
        return True


# ---------------------------------------------------------------------------------------------------------- readers


class _Receiver:
    """Counts what a parser says, and forgets it."""

    def receive(self, sid: int, *, subject: bytes, reply: bytes, payload: bytes, head: bytes) -> bool:
        return True

    async def receive_internal(self, *_: Any, **__: Any) -> None: ...
    async def _process_ping(self) -> None: ...
    async def _process_pong(self) -> None: ...
    async def _process_err(self, err_msg: str) -> None: ...
    async def _process_info(self, info: dict[str, Any]) -> None: ...


def _nats(data: bytes) -> None:
    """In pieces as a socket would give them, the sizes drawn from the bytes themselves."""

    async def parse() -> None:
        parser, rng, offset = WireParser(_Receiver()), random.Random(zlib.crc32(data)), 0
        while offset < len(data):
            piece = rng.choice((1, 7, 64, 4_096))
            await parser.parse(data[offset : offset + piece])
            offset += piece

    asyncio.run(parse())


def _raft_stream(data: bytes) -> None:
    splitter = wire.FrameSplitter(bytes_max=1 << 20)
    splitter.feed(data)
    while (body := splitter.next_frame()) is not None:
        with suppress(wire.WireError):
            wire.decode_hello(body)
        wire.decode_peer(body)


def _journal(data: bytes) -> None:
    for command, _, _ in records.decode_file(data).entries:
        with suppress(ValueError):
            frames.decode(command)


def _in_file(read: Callable[[Path], object], suffix: str) -> Callable[[bytes], object]:
    def read_bytes(data: bytes) -> object:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / f"input{suffix}"
            path.write_bytes(data)
            return read(path)

    return read_bytes


def _bundle(path: Path) -> None:
    with opened(path):
        pass


def _settings(data: bytes) -> None:
    import tomllib

    try:
        table = tomllib.loads(data.decode())
    except (ValueError, RecursionError):
        return  # `load_config` says so of the file
    config_of(table, environ={}, origin="fuzz")


# ------------------------------------------------------------------------------------------------------------ seals


def _signed(data: bytes) -> bytes:
    return _SIGNER.sign(data)


def _sealed_records(data: bytes) -> bytes:
    """Every record that is whole gets the checksum of what is in it now."""
    out, offset = bytearray(data), len(records.MAGIC)
    while offset + records.HEAD.size <= len(out):
        _, length, _ = records.HEAD.unpack_from(out, offset)
        start = offset + records.HEAD.size
        if not records.PLACE.size <= length <= len(out) - start:
            break
        records.HEAD.pack_into(out, offset, records.MARK, length, zlib.crc32(out[start : start + length]))
        offset = start + length
    return bytes(out)


def _sealed_vote(data: bytes) -> bytes:
    return disk.sealed(data[: vote.COPY_BYTES - disk.CRC_BYTES].ljust(vote.COPY_BYTES - disk.CRC_BYTES, b"\xff"))


def _sealed_entry(data: bytes) -> bytes:
    body = data[5:]
    return data[:1] + zlib.crc32(body).to_bytes(4, "big") + body


def _archive(members: Iterable[tuple[str, bytes]]) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return plain.getvalue()


# ------------------------------------------------------------------------------------------------------------ seeds

_ENTRY: Final = Entry(encode_value({"x": 1.5, "label": "car"}, codec=FeatureCodec.PLAIN), 1 << 60, 7, 1 << 41)
_VALUES: Final = ({"x": [1, 2.5, None, True, b"\x00", "text"]}, "text" * 600, list(range(300)), 1 << 63)
_STATE: Final = encode_state(State())
_BLOCKS: Final = tuple(
    encode_block({f"track:{i}": _ENTRY, "other": Entry(None, i, i, 0)}, codec=codec)
    for i, codec in enumerate(FeatureCodec)
)
_COMMAND: Final = encode_command(
    RegisterVersion(
        model="m",
        version=Version(version="1.0.0", digest="sha256:" + "0" * 64, size_bytes=1, metadata={"k": "v"}),
        author="ci",
        request_id="r",
        proposed_at_unix_ms=1,
    )
)
_RAFT: Final = tuple(
    wire.encode(message)
    for message in (
        wire.Heartbeat(term=3, stamp=4),
        wire.Append(
            term=3,
            stamp=9,
            previous_index=4,
            previous_term=2,
            commit_index=4,
            entries=[wire.Entry(_COMMAND, 5, 3), wire.Entry(b"\x01", 6, 3)],
        ),
        wire.SnapshotPart(term=3, stamp=9, number=0, data=b"x" * 40, last=False),
    )
)
_JOURNAL: Final = b"".join(records.file_pieces([(_COMMAND, 1, 1), (b"\x01", 2, 1), (b"x" * 300, 3, 2)]))
_SNAPSHOT_HEAD: Final = msgspec.msgpack.encode(
    snapshots.Snapshot(format=snapshots.FORMAT, previous=(b"\x01", 4, 1), last=(_COMMAND, 5, 2), state=b"")
)
_SNAPSHOT_FILE: Final = snapshots.HEAD_BYTES.pack(len(_SNAPSHOT_HEAD)) + _SNAPSHOT_HEAD + _STATE
_MANIFEST: Final = json.dumps({"models": {"m": {"version": "1.0.0", "file": "m.onnx"}}}).encode()
_NATS: Final = (
    b'INFO {"server_id":"x","max_payload":1048576}\r\nPING\r\nPONG\r\n+OK\r\n',
    b"MSG ccs.r.beacon 1 5\r\nhello\r\nHMSG ccs.r.event 2 _INBOX.x 12 17\r\nNATS/1.0\r\n\r\nhello\r\n-ERR 'no'\r\n",
)
_TRUST: Final = f"# trusted\n{trust_line(_KEY.public_key())}\n".encode()
_STRATEGY: Final = (
    b"stages:\n  - share: 1%\n    bake: 30s\n  - {share: 100%, bake: 1m}\nanchors: &a [1, 2]\nagain: *a\n"
)
_SETTINGS: Final = (
    b'node_id = "n"\ndata_dir = "d"\nregion_key = "k"\nlease_ms = 2000\nnats = ["nats://h:1"]\n'
    b'[peers.n]\nraft = "127.0.0.1:1"\nurl = "http://127.0.0.1:2"\n'
)

TARGETS: Final[dict[str, Target]] = {
    "region_frame": Target(
        read=lambda data: decode_region(data, verifier=_VERIFIER),
        refuses=(MessageError,),
        seeds=tuple(encode_region(message, signer=_SIGNER) for message in REGION_MESSAGES.values()),
    ),
    "region_message": Target(
        read=lambda data: decode_region(data, verifier=_VERIFIER),
        refuses=(MessageError,),
        seeds=tuple(
            _VERIFIER.open(encode_region(message, signer=_SIGNER), bytes_max=1 << 20)
            for message in REGION_MESSAGES.values()
        ),
        seal=_signed,
    ),
    "envelope": Target(
        read=lambda data: _VERIFIER.open(data, bytes_max=1 << 20), refuses=(EnvelopeError,), seeds=(_signed(b"hello"),)
    ),
    "edge_message": Target(
        read=decode_edge,
        refuses=(MessageError,),
        seeds=tuple(encode_edge(message) for message in EDGE_MESSAGES.values()),
    ),
    "reader_snapshot": Target(read=decode_snapshot, refuses=(MessageError,), seeds=(encode_snapshot(SNAPSHOT),)),
    "trust_file": Target(
        read=lambda data: Verifier.from_trust(data.decode("utf-8", "replace")), refuses=(ValueError,), seeds=(_TRUST,)
    ),
    "feature_value": Target(
        read=decode_value,
        refuses=(FeatureCorruptError,),
        seeds=tuple(encode_value(value, codec=codec) for value in _VALUES for codec in FeatureCodec),
    ),
    "feature_entry": Target(
        read=lambda data: decode_value(decode_entry(data).value or b""),
        refuses=(FeatureCorruptError,),
        seeds=(encode_entry(_ENTRY),),
        seal=_sealed_entry,
    ),
    "feature_block": Target(read=decode_block, refuses=(FeatureCorruptError,), seeds=_BLOCKS),
    "feature_block_find": Target(
        read=lambda data: find_in_block(data, ["track:0", "other", "none"]),
        refuses=(FeatureCorruptError,),
        seeds=_BLOCKS,
    ),
    "nats_wire": Target(read=_nats, refuses=(nats.errors.ProtocolError,), seeds=_NATS),
    "raft_wire": Target(read=_raft_stream, refuses=(wire.WireError,), seeds=(b"".join(_RAFT), *_RAFT)),
    "journal": Target(read=_journal, refuses=(records.DamageError,), seeds=(_JOURNAL,)),
    "journal_sealed": Target(read=_journal, refuses=(records.DamageError,), seeds=(_JOURNAL,), seal=_sealed_records),
    "vote_file": Target(
        read=lambda data: vote.newest(data, path=Path("vote"), remedy="none"),
        refuses=(LogStorageError,),
        seeds=(msgspec.msgpack.encode(vote.first("node-1", rejoining=False)),),
        seal=_sealed_vote,
    ),
    "snapshot_file": Target(
        read=lambda data: snapshots.decode(data, path=Path("snapshot")),
        refuses=(LogStorageError,),
        seeds=(_SNAPSHOT_FILE,),
        seal=disk.sealed,
    ),
    "state": Target(read=decode_state, refuses=(ValueError,), seeds=(_STATE,)),
    "command": Target(
        read=decode_command, refuses=(), seeds=(_COMMAND,), seal=lambda data: bytes((COMMAND_VERSION,)) + data[1:]
    ),
    "strategy_file": Target(read=lambda data: parse_strategy(data, name="fuzz.yaml"), refuses=(), seeds=(_STRATEGY,)),
    "settings": Target(read=_settings, refuses=(ConfigError,), seeds=(_SETTINGS,)),
    "bundle": Target(
        read=_in_file(_bundle, ".tar.gz"),
        refuses=(LocalError,),
        seeds=(_archive([(MANIFEST, _MANIFEST), ("m.onnx", b"model")]),),
        seal=lambda data: gzip.compress(data, 1, mtime=0),
    ),
    "trace": Target(
        read=_in_file(lambda path: read_trace(path, trace_format=TraceFormat.AUTO, requests_max=100_000), ".trace"),
        refuses=(LocalError, ValueError),
        seeds=(b"1 3 0 0\n7 1 0 1\n", b"a\nb\na\n", gzip.compress(b"1\n2\n3\n", mtime=0)),
    ),
}
