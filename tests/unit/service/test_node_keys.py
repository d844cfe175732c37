"""A node's keys: signed with, believed, renewed in the right order and left alone in the wrong one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consistency_service.adapters.region_key import KeyFiles, generate, load_private
from consistency_service.config import config_of
from consistency_service.errors import ConfigError, SignatureRefusedError
from consistency_service.runtime import keys as keys_module
from consistency_service.runtime.keys import NodeKeys
from edge_client.protocol.envelope import EnvelopeError, Signer, trust_line
from edge_client.protocol.signatures import publisher_line, sign_version
from tests.support.region import version

ALICE = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(keys_module, "LOOK_S", 0.001)


class Rig:
    """The files of one node in a directory."""

    def __init__(self, directory: Path) -> None:
        self.private, self.trust, self.publishers = (directory / name for name in ("key", "trust", "publishers"))
        self.old = generate(self.private, directory / "old.pub")
        self.new = generate(directory / "new", directory / "new.pub")
        self.lines = [trust_line(key.public_key()) for key in (self.old, self.new)]
        self.trust.write_text(self.lines[0])
        self.publishers.write_text(publisher_line(ALICE.public_key()))

    def keys(self, *, signatures: str = "off", trust: bool = True) -> NodeKeys:
        files = KeyFiles(private=self.private, trust=self.trust if trust else None, publishers=self.publishers)
        return NodeKeys(signer=Signer(load_private(self.private)), files=files, signatures=signatures)

    def believe(self, *lines: str) -> None:
        self.trust.write_text("\n".join(lines))

    def rotate(self) -> None:
        (self.private.parent / "new").replace(self.private)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


async def looked(keys: NodeKeys, condition=None, *, passes: int = 20) -> None:
    """It has looked at its files often enough, or until the condition holds."""
    running = asyncio.create_task(keys.run())
    async with asyncio.timeout(10):
        for _ in range(passes if condition is None else 10_000):
            if condition is not None and condition():
                break
            await asyncio.sleep(0.003)
    running.cancel()
    await asyncio.wait({running})


def opens(keys: NodeKeys, key: Ed25519PrivateKey) -> bool:
    try:
        return keys.verifier.open(Signer(key).sign(b"x"), bytes_max=1_000) == b"x"
    except EnvelopeError:
        return False


async def test_in_the_right_order_both_keys_are_believed_meanwhile(rig):
    keys = rig.keys()
    assert opens(keys, rig.old) and not opens(keys, rig.new)

    rig.believe(*rig.lines)
    await looked(keys, lambda: opens(keys, rig.new))
    assert opens(keys, rig.old) and keys.signer.public_key == rig.old.public_key()

    rig.rotate()
    await looked(keys, lambda: keys.signer.public_key == rig.new.public_key())
    assert opens(keys, rig.old) and opens(keys, rig.new)
    assert keys.shown()["trusted"] == sorted(line.split()[2] for line in rig.lines)

    rig.believe(rig.lines[1])
    await looked(keys, lambda: not opens(keys, rig.old))
    assert opens(keys, rig.new)
    assert keys.counters == {"region_trust_renewed": 2, "region_key_renewed": 1}


async def test_a_key_that_the_list_does_not_name_is_not_signed_with(rig):
    keys = rig.keys()

    rig.rotate()
    await looked(keys)

    assert keys.signer.public_key == rig.old.public_key() and opens(keys, rig.old)
    assert keys.counters["region_key_unusable"] > 0


async def test_a_list_without_the_own_key_is_not_taken(rig):
    keys = rig.keys()

    rig.believe(rig.lines[1])
    await looked(keys)

    assert opens(keys, rig.old) and not opens(keys, rig.new)
    assert keys.counters["region_trust_unusable"] > 0
    with pytest.raises(ConfigError, match="does not name"):
        rig.keys()


@pytest.mark.parametrize("content", ["", "nonsense", "ccs-region-key ed25519 a b"])
async def test_what_cannot_be_read_changes_nothing(rig, content):
    keys = rig.keys()

    rig.believe(content)
    rig.publishers.write_text(content)
    rig.private.chmod(0o644)
    await looked(keys)

    assert opens(keys, rig.old) and keys.signer.public_key == rig.old.public_key()
    assert {name for name, count in keys.counters.items() if count} == {
        "region_trust_unusable",
        "region_key_unusable",
        "publishers_unusable",
    }


async def test_without_a_list_the_key_is_that_of_the_start(rig):
    keys = rig.keys(trust=False)

    rig.rotate()
    await looked(keys)

    assert keys.signer.public_key == rig.old.public_key() and not keys.counters


@pytest.mark.parametrize(("signatures", "unsigned", "stranger"), [("off", 1, 1), ("check", 1, 0), ("require", 0, 0)])
def test_what_may_be_registered(rig, signatures, unsigned, stranger):
    keys = rig.keys(signatures=signatures)
    asked = version("1.0.0")
    good, bad = (
        msgspec.structs.replace(asked, signatures=(sign_version(key, model="m", version=asked),))
        for key in (ALICE, rig.old)
    )

    keys.require_signed("m", good, revoked=())
    for allowed, given, word in ((unsigned, asked, "unsigned"), (stranger, bad, "unknown_publisher")):
        if allowed:
            keys.require_signed("m", given, revoked=())
        else:
            with pytest.raises(SignatureRefusedError, match=word):
                keys.require_signed("m", given, revoked=())
    if signatures != "off":
        with pytest.raises(SignatureRefusedError, match="publisher_revoked"):
            keys.require_signed("m", good, revoked={publisher_line(ALICE.public_key()).split()[2]})


async def test_publishers_are_read_again(rig):
    keys = rig.keys(signatures="require")
    asked = version("1.0.0")
    signed = msgspec.structs.replace(asked, signatures=(sign_version(rig.old, model="m", version=asked),))

    rig.publishers.write_text(publisher_line(rig.old.public_key()))
    await looked(keys, lambda: keys.counters["publishers_renewed"])

    keys.require_signed("m", signed, revoked=())


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"signatures": "perhaps"}, "'off', 'check'"), ({"signatures": "require"}, "needs publishers")],
)
def test_settings_that_make_no_sense_are_refused(settings, said):
    table = {
        "node_id": "n1",
        "data_dir": "d",
        "region_key": "k",
        "peers": {"n1": {"raft": "127.0.0.1:1", "url": "http://127.0.0.1:2"}},
    }
    with pytest.raises(ConfigError, match=said):
        config_of(table | settings, environ={}, origin="test")
