"""One voter as a process: commands come in as lines, answers go out as lines; killed from outside, without notice.

    python -m tests.conformance.metadata_log_node <config as JSON>

`propose <text>`, `status` and `applied` are answered with one JSON object each.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from consistency_service.adapters.raft_log import RaftLog, RaftLogConfig
from consistency_service.runtime.ports import Committed
from tests.conformance.metadata_log_cluster import Recorder


async def main(settings: dict[str, Any]) -> None:
    settings["data_dir"] = Path(settings["data_dir"])
    log, machine = RaftLog(RaftLogConfig(**settings)), Recorder()
    await log.start(machine)
    reader = asyncio.StreamReader(limit=1 << 20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := (await reader.readline()).decode().strip():
        verb, _, text = line.partition(" ")
        if verb == "propose":
            outcome = await log.propose(text.encode(), timeout_ms=1_000)
            index = outcome.index if isinstance(outcome, Committed) else None
            answer: dict[str, Any] = {"outcome": type(outcome).__name__, "index": index}
        elif verb == "status":
            answer = {"settled": log.status().term_settled, "leading": log.status().leading}
        else:
            answer = {"applied": [[index, command.decode()] for index, command in machine.applied]}
        print(json.dumps(answer), flush=True)
    await log.close()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
