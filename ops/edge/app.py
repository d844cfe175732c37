"""The smallest application that is an edge, told what to do by its environment: for containers, units and copying.

    CCS_EDGE_SERVERS=nats://… CCS_EDGE_TRUST=region.pub CCS_EDGE_EDGE_ID=cam-17 CCS_EDGE_MODELS=digits python app.py
    python app.py check

`CCS_EDGE_NAME` is the setting `name` of `edge_client.EdgeConfig`; lists have commas, labels are `name=value`; a URL with a
password in it is better kept in a file, which `CCS_EDGE_NAME_FILE` names. It reads every
model of `CCS_EDGE_MODELS` a hundred times a second, says in `CCS_EDGE_STATUS_FILE` once a second what it was served, and keeps
the number of reads as a feature, where there is a store.
`check` ends with code 0 while that file is fresh, whatever the reads are worth: being cut off is no reason to be restarted.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:  # imported where it is used: `check` runs every few seconds, and needs nothing of it
    from edge_client import EdgeClient

PREFIX: Final = "CCS_EDGE_"
OWN: Final = {"MODELS", "STATUS_FILE"}
STATUS_INTERVAL_S: Final = 1.0
FRESH_S: Final = 10.0
READ_INTERVAL_S: Final = 0.01


def settings_of(environment: Mapping[str, str]) -> dict[str, Any]:
    """What `EdgeClient.connect` takes. Raises `ValueError` for what is no setting or no value of one, `OSError` for a file."""
    from edge_client import EdgeConfig

    types = {field.name: str(field.type) for field in dataclasses.fields(EdgeConfig)}
    found: dict[str, Any] = {}
    for variable, text in environment.items():
        if not variable.startswith(PREFIX) or variable.removeprefix(PREFIX) in OWN:
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name.endswith("_file") and name.removesuffix("_file") in types:
            name = name.removesuffix("_file")
            found[name] = _typed(variable, Path(text).read_text(encoding="utf-8").strip(), kind=types[name])
        elif name in types:
            found[name] = _typed(variable, text, kind=types[name])
        else:
            raise ValueError(f"{variable} is no setting of an edge")
    return found


def _typed(variable: str, text: str, *, kind: str) -> Any:
    if kind.startswith("tuple"):
        return tuple(text.split(","))
    if kind.startswith("Mapping"):
        return dict(pair.split("=", 1) for pair in text.split(",") if pair)
    if kind.startswith("bool"):
        if text not in ("true", "false"):
            raise ValueError(f"{variable} must be true or false")
        return text == "true"
    try:
        return int(text) if kind.startswith("int") else text
    except ValueError:
        raise ValueError(f"{variable} must be a whole number") from None


def serve(edge: EdgeClient, *, models: list[str], status_file: Path | None, stopping: threading.Event) -> None:
    """Read and report until told to stop."""
    from edge_client import EdgeError

    handles = {
        name: edge.model(name, loader=lambda artifact: artifact.path.read_bytes(), wait=False) for name in models
    }
    reads: dict[str, Counter[str]] = {name: Counter() for name in models}
    last: dict[str, dict[str, Any]] = {name: {} for name in models}
    reported_s = 0.0
    while not stopping.wait(READ_INTERVAL_S):
        for name, handle in handles.items():
            try:
                with handle.read() as reading:  # an inference would use reading.value here
                    guarantee = str(reading.guarantee)
                    bound_ms = reading.staleness_bound_ms
                    last[name] = {"version": reading.version, "guarantee": guarantee, "staleness_bound_ms": bound_ms}
            except EdgeError as error:
                guarantee = "failed"
                last[name] = {"version": None, "guarantee": None, "error": f"{type(error).__name__}: {error}"[:300]}
            reads[name][guarantee] += 1
        if status_file is not None and time.monotonic() - reported_s >= STATUS_INTERVAL_S:
            reported_s = time.monotonic()
            status = edge.status()
            if status.features is not None:
                edge.features.put(f"reads:{status.edge_id}", sum(sum(each.values()) for each in reads.values()))
            words = {
                "edge_id": status.edge_id,
                "connected": status.connected,
                "lease_remaining_ms": status.lease_remaining_ms,
                "local_tier": status.local_tier,
                "feature_store": status.features.store if status.features else "none",
                "features_flushed": status.features.queue.get("flushed", 0) if status.features else 0,
                "models": {name: {**last[name], "reads": dict(reads[name])} for name in models},
            }
            temporary = status_file.with_name(status_file.name + ".new")
            temporary.write_text(json.dumps(words) + "\n", encoding="utf-8")
            temporary.replace(status_file)


def check(status_file: Path) -> int:
    """0 if the status is fresh."""
    try:
        age_s = time.time() - status_file.stat().st_mtime
    except OSError:
        return 1
    return 0 if age_s < FRESH_S else 1


def main() -> int:
    """The exit code: 1 and one sentence if the settings make no sense or the edge id is taken."""
    status_text = os.environ.get(PREFIX + "STATUS_FILE")
    if sys.argv[1:] == ["check"]:
        return check(Path(status_text or "status.json"))
    from edge_client import EdgeClient, EdgeError

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        models = [name for name in os.environ.get(PREFIX + "MODELS", "").split(",") if name]
        with EdgeClient.connect(**settings_of(os.environ)) as edge:
            serve(edge, models=models, status_file=Path(status_text) if status_text else None, stopping=stopping)
    except (EdgeError, OSError, ValueError, TypeError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
