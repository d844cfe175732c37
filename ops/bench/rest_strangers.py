"""What a hostile host does to a node's REST port: each attack is one connection, repeated as long as the assault lasts."""

from __future__ import annotations

import json
import random
from typing import Final

from ops.bench.strangers import Attack, speak

PATHS: Final = (
    *("/", "/v1/models", "/v1/models/m", "/v1/models/m/activations", "/v1/rollouts", "/v1/edges", "/v1/audit"),
    *("/v1/cluster", "/v1/cluster/self", "/v1/events", "/v1/snapshot", "/v1/artifacts", "/v1/features/classes"),
    *("/metrics", "/readyz", "/openapi.json", "/v1/artifacts/sha256:" + "0" * 64, "/v1/webhooks", "/dashboard/x"),
)
METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "BREW")
VALUES: Final = (
    "",
    "0",
    "-1",
    "9" * 400,
    "NaN",
    "\x00",
    "../../etc/passwd",
    "%00",
    "%ff%fe",
    "'; --",
    "{{7*7}}",
    "*",
    "1-99999999999999999999",
)
HEADERS: Final = (
    *("If-Match", "Idempotency-Key", "X-CCS-Author", "X-CCS-Forwarded", "X-CCS-On-Behalf", "Authorization", "Range"),
    *("Content-Range", "Accept", "Last-Event-ID", "traceparent", "Cookie", "Origin", "Content-Type", "Expect"),
)


def attacks(*, rng: random.Random) -> dict[str, Attack]:
    """Every attack by name."""

    def raw(*pieces: bytes, pause_s: float = 0.0, deaf: bool = False) -> Attack:
        return lambda host, port: speak(host, port, pieces=pieces, pause_s=pause_s, deaf=deaf)

    head = b"POST /v1/models HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return {
        "silence": raw(),
        "garbage": raw(rng.randbytes(4_000)),
        "a TLS client": raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(600)),
        "half a request line": raw(b"GET /v1/mod"),
        "slow head": raw(*(bytes([byte]) for byte in head), pause_s=0.25),
        "endless head": raw(b"GET / HTTP/1.1\r\n", *[b"X-Y: " + b"z" * 8_000 + b"\r\n"] * 64),
        "a thousand headers": raw(b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(5_000)) + b"\r\n"),
        "slow body": raw(head + b"Content-Length: 1000\r\n\r\n", *[b"["] * 60, pause_s=0.5),
        "no body": raw(head + b"Content-Length: 1000000\r\n\r\n"),
        "endless chunks": raw(
            head + b"Transfer-Encoding: chunked\r\n\r\n", *[b"10000\r\n" + bytes(65_536) + b"\r\n"] * 64
        ),
        "huge chunk size": raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\n"),
        "two lengths": raw(head + b"Content-Length: 3\r\nContent-Length: 9\r\n\r\n{}"),
        "smuggled": raw(
            head + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\n\r\n"
        ),
        "deep JSON": raw(head + b"Content-Length: 900000\r\n\r\n" + b"[" * 900_000),
        "pipelined": raw(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n" * 500),
        "deaf reader": raw(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 200, deaf=True),
        "deaf subscriber": raw(b"GET /v1/events HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n", deaf=True),
        "endless artifact": raw(
            b"POST /v1/artifacts?digest=sha256:"
            + b"0" * 64
            + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
            *[b"10000\r\n" + bytes(65_536) + b"\r\n"] * 200,
        ),
        "slow artifact": raw(
            b"POST /v1/artifacts?digest=sha256:"
            + b"0" * 64
            + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n",
            *[bytes(10)] * 60,
            pause_s=0.5,
        ),
        "drawn requests": lambda host, port: speak(
            host, port, pieces=tuple(drawn(rng) for _ in range(8)), pause_s=0.02, linger_s=2.0
        ),
    }


def drawn(rng: random.Random) -> bytes:
    """A request as nobody would make it, most of them well-formed enough to reach a route."""
    path = rng.choice(PATHS)
    if rng.random() < 0.5:
        path += rng.choice(("?", "/", "?limit=", "?cursor=", "?after=", "?consistency=", "?timeout_ms=")) + rng.choice(
            VALUES
        )
    lines = [f"{rng.choice(METHODS)} {path.replace(' ', '%20')} HTTP/1.1", "Host: x"]
    lines += [f"{rng.choice(HEADERS)}: {rng.choice(VALUES)}" for _ in range(rng.randrange(4))]
    body = _body(rng) if rng.random() < 0.7 else b""
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + body


def _body(rng: random.Random) -> bytes:
    def value(depth: int) -> object:
        match rng.randrange(7 if depth < 4 else 5):
            case 0:
                return rng.choice((None, True, False))
            case 1:
                return rng.choice((0, -1, 1 << 70, 1e308, 0.5))
            case 5:
                return [value(depth + 1) for _ in range(rng.randrange(5))]
            case 6:
                return {
                    rng.choice(("name", "version", "digest", "stages", "models", "share", "x")): value(depth + 1)
                    for _ in range(4)
                }
            case _:
                return rng.choice(VALUES)

    body = json.dumps(value(0)).encode()
    if rng.random() < 0.3:
        place = rng.randrange(len(body) + 1)
        body = body[:place] + rng.randbytes(rng.randrange(8)) + body[place:]
    return body
