"""What a hostile host does to a raft port: each attack is one connection, repeated as long as the assault lasts.

The certificates are real ones of the wrong kind: of a foreign authority, expired, of another cluster, of a node that is no
voter, of the victim itself, and of another voter whose holder greets in a third one's name.
"""

from __future__ import annotations

import contextlib
import random
import ssl
import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from consistency_service.adapters import certificates
from ops.bench.raft_cluster import Voter
from ops.bench.strangers import Attack, Storm, Target, speak

RECORD: Final = b"\x16\x03\x01"


def give_certificates(directory: Path, *, voters: list[Voter]) -> Path:
    """Every voter has a good certificate and believes two authorities; bad certificates of all kinds lie in `directory`."""
    now, good, other, foreign = datetime.now(tz=UTC), directory / "good", directory / "other", directory / "foreign"
    long_ago = now - timedelta(days=30)
    certificates.create_authority(good, cluster_id="ccs", now=long_ago)
    certificates.create_authority(other, cluster_id="other", now=now)
    certificates.create_authority(foreign, cluster_id="ccs", now=now)
    bundle = [certificates.authority_files(part).certificate.read_text() for part in (good, other)]
    (good / "ca.pem").write_text("".join(bundle))
    for voter in voters:
        pair = certificates.issue(good, node_id=voter.name, now=now)
        voter.settings["tls"] = {
            "ca": str(good / "ca.pem"),
            "certificate": str(pair.certificate),
            "key": str(pair.key),
        }
    certificates.issue(good, node_id="n9", now=now)
    certificates.issue(good, node_id="n2", now=long_ago, days=1, into=directory / "expired")
    certificates.issue(other, node_id="n2", now=now)
    certificates.issue(foreign, node_id="n2", now=now)
    return directory


def client_context(certificate: certificates.KeyPair | None, *, tls: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """Believes everybody, shows `certificate`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if tls is not None:
        context.maximum_version = tls
    if certificate is not None:
        context.load_cert_chain(certificate.certificate, certificate.key)
    return context


def greeting(sender: str, *, target: str, cluster_id: str = "ccs") -> bytes:
    """A frame as peers send it, put together by hand."""
    body = b"\x95\x01\x01" + b"".join(
        b"\xd9" + bytes([len(name)]) + name.encode() for name in (cluster_id, sender, target)
    )
    return struct.pack(">I", len(body)) + body


def attacks(directory: Path, *, rng: random.Random) -> dict[str, Attack]:
    """Every attack by name. Each takes a host and port, and returns when the node has hung up or patience is at its end."""
    good = directory / "good"

    def raw(*pieces: bytes, pause_s: float = 0.0) -> Attack:
        return lambda host, port: speak(host, port, pieces=pieces, pause_s=pause_s)

    def certified(context: ssl.SSLContext, *pieces: bytes, pause_s: float = 0.0) -> Attack:
        return lambda host, port: speak(host, port, pieces=pieces, pause_s=pause_s, context=context)

    stolen = client_context(certificates.node_files(good, "n2"))
    hello = _client_hello(stolen)
    return {
        "silence": raw(),
        "garbage": raw(rng.randbytes(4_000)),
        "http": raw(b"GET / HTTP/1.1\r\nHost: raft\r\n\r\n"),
        "plain greeting": raw(greeting("n2", target="n1")),
        "half a TLS record": raw(RECORD + b"\x40\x00" + bytes(100)),
        "huge TLS record": raw(RECORD + b"\xff\xff" + bytes(70_000)),
        "endless zeros": raw(*[bytes(65_536)] * 64),
        "half a client hello": raw(hello[: len(hello) // 2]),
        "slow client hello": raw(*(hello[n : n + 1] for n in range(len(hello))), pause_s=0.1),
        "client hello and silence": raw(hello),
        "no certificate": certified(client_context(None)),
        "TLS 1.2": certified(client_context(certificates.node_files(good, "n2"), tls=ssl.TLSVersion.TLSv1_2)),
        "foreign authority": certified(client_context(certificates.node_files(directory / "foreign", "n2"))),
        "expired": certified(client_context(certificates.node_files(directory / "expired", "n2"))),
        "another cluster": certified(client_context(certificates.node_files(directory / "other", "n2"))),
        "no voter": certified(client_context(certificates.node_files(good, "n9")), greeting("n9", target="n1")),
        "own certificate": certified(client_context(certificates.node_files(good, "n1")), greeting("n1", target="n1")),
        "another's name": certified(stolen, greeting("n3", target="n1")),
        "certified huge length": certified(stolen, struct.pack(">I", 1 << 31)),
        "certified half greeting": certified(stolen, greeting("n2", target="n1")[:9]),
        "certified slow greeting": certified(stolen, *(bytes([b]) for b in greeting("n3", target="n1")), pause_s=0.1),
        "certified pickle": certified(stolen, struct.pack(">I", 30) + b"cos\nsystem\n(S'true'\ntR." + bytes(7)),
    }


class Assault(Storm):
    """All attacks on all raft ports, and `connections` more that only want to be there."""

    def __init__(self, targets: list[Target], *, directory: Path, connections: int, per_s: int) -> None:
        known = attacks(directory, rng=random.Random(20))
        super().__init__(
            {name: (attack, targets) for name, attack in known.items()},
            held=targets,
            connections=connections,
            per_s=per_s,
            seed=20,
        )


def _client_hello(context: ssl.SSLContext) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls: Any = context.wrap_bio(incoming, outgoing)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()
