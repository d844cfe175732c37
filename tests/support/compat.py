"""`python -m tests.support.compat record VERSION`: writes down what this release says and stores, for later ones to read.

Into `tests/data/compat/VERSION`, once for each release and never again. What is there already is kept: a release that is
changed before it is out is recorded under another name, or its directory is removed by hand.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any, get_args

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consistency_service.adapters.raft_log import RaftLogConfig, found, frames, membership, records, wire
from consistency_service.adapters.raft_log.membership import Member, Members
from consistency_service.core.commands import AnyCommand, encode_command
from consistency_service.core.state import decode_state, encode_state
from edge_client.protocol import feature_codec
from edge_client.protocol.envelope import Signer, trust_line
from edge_client.protocol.feature_classes import FeatureClass, FeatureCodec
from edge_client.protocol.messages import SnapshotChunk, encode_edge, encode_region, encode_snapshot
from tests.property.service.test_rollout_properties import drawn
from tests.support.rollout_judge import Judge
from tests.unit.protocol.wire_messages import EDGE_MESSAGES, FEATURE_CLASS, NONCE, REGION_MESSAGES, SNAPSHOT

DATA = Path(__file__).resolve().parents[1] / "data" / "compat"
SIGNER = Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
FEATURES: dict[str, Any] = {
    "number": 7,
    "text": "grün",
    "flag": True,
    "nested": {"a": [1, 2.5, None]},
    "raw": b"\x00\xff",
}


def sample(kind: Any) -> Any:
    """A value of a type, with something in every field."""
    match kind:
        case msgspec.inspect.StructType(cls=cls) if cls is FeatureClass:
            return FEATURE_CLASS
        case msgspec.inspect.StructType():
            return kind.cls(**{field.name: sample(field.type) for field in kind.fields})
        case msgspec.inspect.UnionType():
            return sample(next(one for one in kind.types if not isinstance(one, msgspec.inspect.NoneType)))
        case msgspec.inspect.DictType():
            return {sample(kind.key_type): sample(kind.value_type)}
        case msgspec.inspect.VarTupleType():
            return (sample(kind.item_type),)
        case msgspec.inspect.TupleType():
            return tuple(sample(one) for one in kind.item_types)
        case msgspec.inspect.ListType():
            return [sample(kind.item_type)]
        case msgspec.inspect.EnumType():
            return next(iter(kind.cls))
        case msgspec.inspect.BoolType():
            return True
        case msgspec.inspect.IntType():
            return 7
        case msgspec.inspect.FloatType():
            return 0.5
        case msgspec.inspect.BytesType():
            return b"bytes"
        case _:
            return "text"


def commands() -> dict[str, AnyCommand]:
    """One of each kind, every field set."""
    return {kind.__name__: sample(msgspec.inspect.type_info(kind)) for kind in get_args(AnyCommand)}


def peer_messages() -> dict[str, wire.Message]:
    """One of each kind that nodes say to each other."""
    entry = wire.Entry(b"\xc5\x01\x01" + bytes(16) + b"command", 8, 7)
    made = {kind.__name__: sample(msgspec.inspect.type_info(kind)) for kind in get_args(wire.Peer)}
    made["Append"] = msgspec.structs.replace(made["Append"], entries=[entry])
    return made


def state() -> bytes:
    """A region with models, rollouts in all conditions, an audit and request ids."""
    judge = Judge()
    judge.play(drawn(3, count=250))
    return encode_state(judge.region.state)


def files() -> dict[str, bytes]:
    """Everything that is recorded, by file name."""
    region = {name: encode_region(message, signer=SIGNER).hex() for name, message in REGION_MESSAGES.items()}
    snapshot = encode_snapshot(SNAPSHOT)
    chunk = SnapshotChunk(epoch=2, nonce=NONCE, revision=42, index=0, count=1, data=snapshot)
    kept = msgspec.msgpack.encode((1_700_000_000_000, [encode_region(chunk, signer=SIGNER)]))
    members = Members({"n1": Member("127.0.0.1:1", "http://n1", votes=True)}, removed=("n0",))
    table = frames.encode(frames.Frame(kind=frames.KIND_MEMBERS, life=1, number=2, payload=membership.encode(members)))
    command = frames.encode(frames.Frame(kind=frames.KIND_COMMAND, life=1, number=3, payload=b"command"))
    journal = b"".join(records.file_pieces([(frames.NO_OP, 1, 0), (table, 2, 1), (command, 3, 1)]))
    hello = wire.Hello(version=1, cluster_id="region", sender="n1", target="n2")
    return {
        "trust.pub": trust_line(SIGNER.public_key).encode(),
        "region.json": _json(region),
        "edge.json": _json({name: encode_edge(message).hex() for name, message in EDGE_MESSAGES.items()}),
        "snapshot.msgpack": snapshot,
        "local-tier.msgpack": kept,
        "commands.json": _json({name: encode_command(one).hex() for name, one in commands().items()}),
        "state.msgpack": state(),
        "peers.json": _json(
            {name: wire.encode(one).hex() for name, one in ({"Hello": hello} | peer_messages()).items()}
        ),
        "journal": journal,
        "features.json": _json(
            {
                name: feature_codec.encode_value(value, codec=FeatureCodec.PLAIN).hex()
                for name, value in FEATURES.items()
            }
        ),
    }


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"


def record(version: str) -> list[Path]:
    """The files written."""
    directory = DATA / version
    directory.mkdir(parents=True)
    for name, data in files().items():
        (directory / name).write_bytes(data)
    raft = directory / "raft"
    config = RaftLogConfig(node_id="n1", listen="127.0.0.1:1", peers={"n1": "127.0.0.1:1"}, data_dir=raft)
    found(config, state=(directory / "state.msgpack").read_bytes(), lineage=5)
    (raft / "lock").unlink()
    (directory / "region.ccsbackup").write_bytes(_backup((directory / "state.msgpack").read_bytes()))
    return sorted(path for path in directory.rglob("*") if path.is_file())


def _backup(state: bytes) -> bytes:
    found_state = decode_state(state)
    about = {
        "format": 1,
        "region": found_state.region,
        "epoch": found_state.epoch,
        "revision": found_state.revision,
        "made_at_unix_ms": 5_000,
        "made_by_node": "n1",
        "made_by_version": "recorded",
        "artifacts": [],
        "state": {"sha256": hashlib.sha256(state).hexdigest(), "size_bytes": len(state)},
    }
    parts = {"state.msgpack": state, "backup.json": _json(about)}
    parts["SHA256SUMS"] = "".join(f"{hashlib.sha256(d).hexdigest()}  {n}\n" for n, d in parts.items()).encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in parts.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def main() -> int:
    """Exit code 2 for anything but `record VERSION`."""
    if len(sys.argv) != 3 or sys.argv[1] != "record":
        sys.stderr.write(f"{__doc__}\n")
        return 2
    for path in record(sys.argv[2]):
        print(path.relative_to(DATA.parents[1]), path.stat().st_size)
    return 0


if __name__ == "__main__":
    sys.exit(main())
