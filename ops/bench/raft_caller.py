"""One client process: asks a log server or etcd for commits or linearizable reads, and prints how long each took.

    python ops/bench/raft_caller.py log|etcd PORT commit|read SECONDS IN_FLIGHT

Both sides get the same loop. etcd is spoken to by grpcio with its two messages written by hand, so that no generated code
is in the way; with one request in flight by its blocking calls, which are its fastest. Runs without this project's
dependencies for etcd, and without grpcio for the log.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

VALUE = bytes(200)
WARM_UP_S = 0.5


def report(taken_s: list[float], *, seconds: float) -> None:
    taken_s.sort()
    found = {f"p{share}": taken_s[int(share / 100 * (len(taken_s) - 1))] * 1_000 for share in (50, 99)}
    print(json.dumps({"per_s": len(taken_s) / seconds, **found}))


async def load(ask: Callable[[], Awaitable[object]], *, seconds: float, in_flight: int) -> None:
    taken_s: list[float] = []
    begin = time.perf_counter() + WARM_UP_S
    end = begin + seconds

    async def caller() -> None:
        while (begun := time.perf_counter()) < end:
            await ask()
            if begun >= begin:
                taken_s.append(time.perf_counter() - begun)

    await asyncio.gather(*(caller() for _ in range(in_flight)))
    report(taken_s, seconds=seconds)


async def log(port: int, *, verb: str, seconds: float, in_flight: int) -> None:
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from ops.bench.raft_servers import Client, command

    client = await Client.connect(port)
    put = command("put", "key", VALUE)
    wanted = "committed" if verb == "commit" else "value"

    async def ask() -> None:
        answer = await (client.ask("propose", put, 5_000) if verb == "commit" else client.ask("read", "key", 5_000))
        if answer[0] != wanted:
            raise SystemExit(str(answer))

    await load(ask, seconds=seconds, in_flight=in_flight)


PUT = b"\x0a\x03key\x12\xc8\x01" + VALUE
RANGE = b"\x0a\x03key"
METHODS = {"commit": ("/etcdserverpb.KV/Put", PUT), "read": ("/etcdserverpb.KV/Range", RANGE)}


def etcd_one(port: int, *, verb: str, seconds: float) -> None:
    import grpc

    path, request = METHODS[verb]
    taken_s: list[float] = []
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(path)
        begin = time.perf_counter() + WARM_UP_S
        while (begun := time.perf_counter()) < begin + seconds:
            call(request)
            if begun >= begin:
                taken_s.append(time.perf_counter() - begun)
    report(taken_s, seconds=seconds)


async def etcd(port: int, *, verb: str, seconds: float, in_flight: int) -> None:
    import grpc.aio

    path, request = METHODS[verb]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(path)
        await load(lambda: call(request), seconds=seconds, in_flight=in_flight)


def leads(port: int) -> bool:
    """Whether this etcd says that it is the leader itself."""
    import grpc

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer = fields(channel.unary_unary("/etcdserverpb.Maintenance/Status")(b"", timeout=2))
    header = fields(answer[1])
    return 4 in answer and answer[4] == header[2]


def fields(message: bytes) -> dict[int, object]:
    """The numbers and byte strings of a protobuf message."""
    found: dict[int, object] = {}
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = varint()
        if key & 7 == 0:
            found[key >> 3] = varint()
        else:
            size = varint()
            found[key >> 3] = message[at : at + size]
            at += size
    return found


if __name__ == "__main__":
    side, where, *rest = sys.argv[1:]
    if rest == ["leads"]:
        print(json.dumps(leads(int(where))))
    elif side == "etcd" and rest[2] == "1":
        etcd_one(int(where), verb=rest[0], seconds=float(rest[1]))
    else:
        run = etcd if side == "etcd" else log
        asyncio.run(run(int(where), verb=rest[0], seconds=float(rest[1]), in_flight=int(rest[2])))
