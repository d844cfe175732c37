"""This release reads what earlier ones said and stored, and is read by them: recorded bytes, one directory a release.

`python -m tests.support.compat record VERSION` adds a directory. The rules are in docs/reference/compatibility.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from consistency_service.adapters.raft_log import frames, records, snapshots, vote, wire
from consistency_service.cli import backup_archive
from consistency_service.core.commands import decode_command, encode_command
from consistency_service.core.machine import MetadataMachine
from consistency_service.core.restoring import restored
from consistency_service.core.state import State, decode_state, encode_state
from edge_client.protocol import feature_codec
from edge_client.protocol.envelope import Verifier
from edge_client.protocol.messages import SnapshotChunk, decode_edge, decode_region, decode_snapshot, encode_edge
from tests.support import compat

VERSIONS = sorted(path for path in compat.DATA.iterdir() if path.is_dir())
HEADER_BYTES = 73
FUTURE = {"a_field_of_the_future": {"with": ["something", 1, None]}}

each_version = pytest.mark.parametrize("version", VERSIONS, ids=lambda path: path.name)


def recorded(version: Path, name: str) -> dict[str, bytes]:
    return {key: bytes.fromhex(text) for key, text in json.loads((version / name).read_text()).items()}


def verifier(version: Path) -> Verifier:
    return Verifier.from_trust((version / "trust.pub").read_text())


def kept(said: Any, understood: Any) -> bool:
    """Everything that was said is understood: what has another form, or is gone, is not."""
    if isinstance(said, dict):
        return isinstance(understood, dict) and all(
            key in understood and kept(value, understood[key]) for key, value in said.items()
        )
    if isinstance(said, list):
        return len(said) == len(understood) and all(map(kept, said, understood))
    return bool(said == understood)


def fields(payload: bytes) -> Any:
    return msgspec.msgpack.decode(payload, strict=False)


@each_version
def test_what_the_region_said_is_understood(version: Path) -> None:
    for name, frame in recorded(version, "region.json").items():
        message = decode_region(frame, verifier=verifier(version))
        assert kept(fields(frame[HEADER_BYTES:]), fields(msgspec.msgpack.encode(message))), name
    snapshot = decode_snapshot((version / "snapshot.msgpack").read_bytes())
    assert kept(fields((version / "snapshot.msgpack").read_bytes()), fields(msgspec.msgpack.encode(snapshot)))


@each_version
def test_what_edges_said_is_understood(version: Path) -> None:
    for name, frame in recorded(version, "edge.json").items():
        assert kept(fields(frame[1:]), fields(encode_edge(decode_edge(frame))[1:])), name


@each_version
def test_what_a_local_tier_kept_is_understood(version: Path) -> None:
    at, kept_frames = msgspec.msgpack.decode(
        (version / "local-tier.msgpack").read_bytes(), type=tuple[int, list[bytes]]
    )
    (chunk,) = [decode_region(frame, verifier=verifier(version)) for frame in kept_frames]

    assert isinstance(chunk, SnapshotChunk)
    assert at > 0 and decode_snapshot(chunk.data).models


@each_version
def test_features_that_were_stored_are_read(version: Path) -> None:
    stored = recorded(version, "features.json")

    assert {name: feature_codec.decode_value(data) for name, data in stored.items()} == compat.FEATURES


@each_version
def test_every_recorded_command_is_known(version: Path) -> None:
    for name, payload in recorded(version, "commands.json").items():
        command = decode_command(payload)
        assert command is not None and type(command).__name__ == name
        assert kept(fields(payload[1:]), fields(encode_command(command)[1:])), name


@each_version
def test_the_recorded_state_goes_on(version: Path) -> None:
    payload = (version / "state.msgpack").read_bytes()
    machine = MetadataMachine()
    machine.restore(payload)
    machine.check_invariants()

    assert machine.state.rollouts and machine.state.audit
    assert kept(fields(payload), fields(encode_state(machine.state)))
    assert restored(payload, epoch=10_000, author="o", at_unix_ms=1).state.models


@each_version
def test_recorded_files_of_the_log_are_read(version: Path) -> None:
    held = records.decode_file((version / "journal").read_bytes()).entries
    kinds = [frame and frame.kind for frame in map(frames.decode, (entry[0] for entry in held))]
    snapshot = snapshots.decode((version / "raft" / "snapshot").read_bytes(), path=version)
    own = vote.newest((version / "raft" / "vote").read_bytes(), path=version, remedy="")

    assert kinds == [None, frames.KIND_MEMBERS, frames.KIND_COMMAND]
    assert (snapshot.lineage, tuple(snapshot.members.table), own.node_id) == (5, ("n1",), "n1")
    assert decode_state(snapshot.state).epoch
    assert records.decode_file((version / "raft" / "journal").read_bytes()).entries


@each_version
def test_what_nodes_said_to_each_other_is_understood(version: Path) -> None:
    for name, frame in recorded(version, "peers.json").items():
        body = frame[wire.LENGTH.size :]
        message = wire.decode_hello(body) if name == "Hello" else wire.decode_peer(body)
        assert type(message).__name__ == name and frame == wire.encode(message)


@each_version
def test_a_recorded_backup_can_be_restored(version: Path) -> None:
    contents = backup_archive.verify(version / "region.ccsbackup")

    assert restored(contents.state, epoch=10_000, author="o", at_unix_ms=1).state.region == contents.about.region


# ---- what the next release may say


def with_unknown_fields(payload: bytes) -> bytes:
    """The same message with something in it that nobody knows yet, on every level."""

    def more(value: Any) -> Any:
        if isinstance(value, dict):
            grown = {key: more(part) for key, part in value.items()}
            return grown | FUTURE if all(isinstance(key, str) for key in value) and "type" in value else grown
        return [more(part) for part in value] if isinstance(value, list) else value

    return msgspec.msgpack.encode(more(fields(payload)))


@each_version
def test_unknown_fields_of_messages_are_passed_over(version: Path) -> None:
    for name, frame in recorded(version, "region.json").items():
        grown = compat.SIGNER.sign(with_unknown_fields(frame[HEADER_BYTES:]))
        assert decode_region(grown, verifier=verifier(version)) == decode_region(frame, verifier=verifier(version)), (
            name
        )
    for name, frame in recorded(version, "edge.json").items():
        assert decode_edge(frame[:1] + with_unknown_fields(frame[1:])) == decode_edge(frame), name


@each_version
def test_commands_that_are_not_wholly_known_are_not_applied_at_all(version: Path) -> None:
    for payload in recorded(version, "commands.json").values():
        assert decode_command(payload[:1] + with_unknown_fields(payload[1:])) is None
        assert decode_command(bytes((2,)) + payload[1:]) is None
    assert decode_command(b"\x01" + msgspec.msgpack.encode({"type": "CommandOfTheFuture"})) is None


@each_version
def test_a_state_with_more_in_it_is_refused_and_one_that_only_could_have_more_is_not(version: Path) -> None:
    state = fields((version / "state.msgpack").read_bytes())

    nothings: tuple[Any, ...] = ({}, [], None, 0, "", False)
    for nothing in nothings:
        assert isinstance(decode_state(msgspec.msgpack.encode(state | {"collection_of_the_future": nothing})), State)
    with pytest.raises(ValueError, match="collection_of_the_future: upgrade this node"):
        decode_state(msgspec.msgpack.encode(state | {"collection_of_the_future": {"a": 1}}))
    with pytest.raises(ValueError, match="version 2 is not 1"):
        decode_state(msgspec.msgpack.encode(state | {"version": 2}))


def test_this_release_is_recorded_with_everything_that_it_says() -> None:
    """If this fails after a kind was added: record the release that will have it, once it is complete."""
    newest = VERSIONS[-1]
    assert recorded(newest, "commands.json").keys() <= compat.commands().keys()
    assert recorded(newest, "peers.json").keys() == {"Hello", *compat.peer_messages()}
