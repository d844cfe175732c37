"""Loaders: what becomes of an artifact before it is served, and when nobody needs it any more."""

import asyncio
import json
import mmap
import os
import struct
import threading

from edge_client import Artifact, EdgeClient


class Table:
    """Numbers in a file that is mapped and not read: pages come when they are touched, and are shared by processes."""

    def __init__(self, artifact: Artifact) -> None:
        if artifact.size_bytes % 8 or artifact.metadata.get("format", "f64") != "f64":
            raise ValueError(f"no table of 64-bit floats: {artifact.size_bytes} bytes")  # the version is then not ready
        with artifact.path.open("rb") as file:  # the file may go once we have returned; the mapping stays
            self.content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.count = artifact.size_bytes // 8

    def __getitem__(self, index: int) -> float:
        return struct.unpack_from("<d", self.content, index * 8)[0]


def warm_up(table: Table) -> None:
    """Touch every page, so that no reader waits for the disk. Only then does the edge report that it is ready."""
    sum(table[index] for index in range(0, table.count, mmap.PAGESIZE // 8))


def unload(table: Table) -> None:
    """Called once, when the client and the last reading have let go of it: never under somebody's hands."""
    print(f"unloaded a table of {table.count} by {threading.current_thread().name != 'MainThread' and 'the client'}")
    table.content.close()


async def load_slowly(artifact: Artifact) -> dict:
    """An `async` loader runs on the event loop: for what waits (another process, a device), not for what computes."""
    await asyncio.sleep(0.01)
    return json.loads(artifact.read_bytes())


def main() -> None:
    with EdgeClient.connect(
        os.environ["NATS_URL"],
        trust=os.environ["TRUST"],
        region=os.environ["REGION"],
        local=os.environ["REDIS_URL"],
        edge_id="loader",
        memory_bytes_max=64 * 1024 * 1024,
    ) as edge:
        table = edge.model("table", loader=Table, warm_up=warm_up, unload=unload)
        names = edge.model("names", loader=load_slowly)
        with table.read() as t, names.read() as n:
            print(t.version, t.value.count, t.value[2], "|", n.version, n.value["2"])


if __name__ == "__main__":
    main()
