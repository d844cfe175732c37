"""Publishers in the replicated state: signatures are kept and only added, revocations only added, both told to readers."""

from __future__ import annotations

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consistency_service.core import commands as c
from consistency_service.core import publisher_machine
from consistency_service.core.machine import MetadataMachine
from consistency_service.core.state import State, decode_state, encode_state
from edge_client.protocol.models import Version
from edge_client.protocol.signatures import SIGNATURES_MAX, publisher_line, sign_version
from tests.support.region import activation, assume, bootstrapped, version

KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in range(1, 7)]
IDS = [publisher_line(key.public_key()).split()[2] for key in KEYS]


def signed(asked: Version, *keys: Ed25519PrivateKey) -> Version:
    return msgspec.structs.replace(asked, signatures=tuple(sign_version(key, model="m", version=asked) for key in keys))


def register(machine: MetadataMachine, asked: Version):
    return machine.apply(c.RegisterVersion(model="m", version=asked, author="ci"))


def revoke(machine: MetadataMachine, key_id: str, **more: object):
    outcome = machine.apply(c.RevokePublisher(key_id=key_id, author="ana", proposed_at_unix_ms=7, **more))  # type: ignore[arg-type]
    machine.check_invariants()
    return outcome


def test_a_version_keeps_the_signatures_it_came_with_and_readers_are_given_them():
    machine = bootstrapped()
    asked = signed(version("4.0.0"), KEYS[0])
    register(machine, asked)
    assumption = assume(machine, clock_id="a")
    machine.apply(activation("4.0.0", clock_id="a", assumption=assumption, number=1))

    assert machine.state.models["m"].versions["4.0.0"] == asked
    assert machine.state.outbox[-1].models[0].versions["4.0.0"].signatures == asked.signatures
    assert machine.state.reader_snapshot().models[0].versions["4.0.0"].signatures == asked.signatures


def test_further_keys_may_sign_a_version_and_none_is_replaced():
    machine = bootstrapped()
    first = signed(version("4.0.0"), KEYS[0])
    forged = f"ed25519 {IDS[0]} " + "A" * 86 + "=="
    register(machine, first)

    assert register(machine, first).detail == {"existed": True}
    assert machine.state.outbox[-1].name == "VersionRegistered"
    both = msgspec.structs.replace(first, signatures=(forged, *signed(version("4.0.0"), KEYS[1]).signatures))
    outcome = register(machine, both)

    assert outcome.ok and outcome.detail["existed"] and machine.state.outbox[-1].name == "VersionSigned"
    assert machine.state.models["m"].versions["4.0.0"] == signed(version("4.0.0"), KEYS[0], KEYS[1])
    assert machine.state.outbox[-1].models[0].name == "m"  # readers are told at once
    machine.check_invariants()


def test_signing_again_changes_nothing_but_signatures():
    machine = bootstrapped()
    register(machine, version("4.0.0"))
    other = msgspec.structs.replace(signed(version("4.0.0"), KEYS[0]), metadata={"evil": "1"}, size_bytes=1)
    register(machine, other)

    kept = machine.state.models["m"].versions["4.0.0"]
    assert (kept.metadata, kept.size_bytes) == ({}, 10) and kept.signatures == other.signatures


def test_signatures_are_bounded():
    machine = bootstrapped()
    every = signed(version("4.0.0"), *KEYS[: SIGNATURES_MAX + 1])

    assert register(machine, every).code == "invalid"
    assert register(machine, msgspec.structs.replace(every, signatures=every.signatures[:SIGNATURES_MAX])).ok
    outcome = register(machine, signed(version("4.0.0"), KEYS[-1]))
    assert (outcome.code, outcome.detail["limit"]) == ("limit_reached", "signatures")


@pytest.mark.parametrize("line", ["", "nonsense", "ed25519 0123456789abcdef AAAA", "x" * 200])
def test_what_is_no_signature_is_refused(line):
    machine = bootstrapped()
    asked = msgspec.structs.replace(version("4.0.0"), signatures=(line,))

    assert register(machine, asked).detail == {"field": "signatures"}
    twice = signed(version("4.0.0"), KEYS[0]).signatures * 2
    assert register(machine, msgspec.structs.replace(asked, signatures=twice)).code == "invalid"


def test_a_revocation_is_told_to_readers_and_stays_as_it_was_first_made():
    machine = bootstrapped()
    revision = machine.state.revision

    assert revoke(machine, IDS[0], reason="laptop stolen").ok
    assert revoke(machine, IDS[0], reason="again").detail == {"existed": True}

    event = machine.state.outbox[-1]
    assert (event.name, event.publishers_revoked, event.revision) == ("PublisherRevoked", (IDS[0],), revision + 1)
    assert machine.state.reader_snapshot().publishers_revoked == (IDS[0],)
    kept = machine.state.publishers_revoked[IDS[0]]
    assert (kept.author, kept.reason, kept.revoked_at_unix_ms) == ("ana", "laptop stolen", 7)
    assert [(entry.command, entry.subject) for entry in machine.state.audit[-2:]] == [("RevokePublisher", IDS[0])] * 2


def test_revocations_are_bounded_and_have_an_id(monkeypatch):
    machine = bootstrapped()
    monkeypatch.setattr(publisher_machine, "REVOKED_MAX", 1)

    assert revoke(machine, "all").code == "invalid"
    assert revoke(machine, IDS[0].upper()).code == "invalid"
    assert revoke(machine, IDS[0]).ok
    assert revoke(machine, IDS[1]).code == "limit_reached"
    assert revoke(machine, IDS[0]).ok


def test_a_state_from_before_there_were_publishers_is_read():
    machine = bootstrapped()
    raw = msgspec.msgpack.decode(encode_state(machine.state))
    del raw["publishers_revoked"]
    for model in raw["models"].values():
        for known in model["versions"].values():
            del known["signatures"]

    before: State = decode_state(msgspec.msgpack.encode(raw))

    assert before.publishers_revoked == {} and before == machine.state
