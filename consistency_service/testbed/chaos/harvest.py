"""Reads the region's books while they are kept, and the edges' histories, torn lines included.

The region keeps a bounded audit and bounded histories, so they are read now and then from the start; what was read once
must say the same later. A process that was killed leaves at most one line half written: it is cut, and counted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from consistency_service.testbed.chaos.caller import Caller
from consistency_service.testbed.chaos.ledger import Books, BooksDraft
from consistency_service.testbed.chaos.workload import MODELS
from consistency_service.testbed.errors import TestbedError
from consistency_service.testbed.history import Operation, parse

HARVEST_S: Final = 45.0
PAGE: Final = 1_000
PAGES_MAX: Final = 200
ASK_S: Final = 3.0
LINE_START: Final = b'{"process":'


class Harvest:
    """A thread that reads the books until `finish`."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._draft = BooksDraft()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chaos-harvest", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """It reads no more by itself."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def finish(self, *, within_s: float) -> Books:
        """The books as they are in the end, read strongly. Raises `TestbedError` if nobody tells."""
        self.stop()
        deadline_s = time.monotonic() + within_s
        while True:
            try:
                return self._final()
            except TestbedError:
                if time.monotonic() >= deadline_s:
                    raise
                time.sleep(0.5)

    def _final(self) -> Books:
        self._look(whole=True)
        models = list(self._pages("/v1/models"))
        versions: dict[str, dict[str, str]] = {}
        for model in models:
            name = str(model["name"])
            listed = self._pages(f"/v1/models/{name}/versions")
            versions[name] = {str(version["version"]): str(version["digest"]) for version in listed}
        return self._draft.close(models, versions)

    def _run(self) -> None:
        while not self._stop.wait(HARVEST_S):
            try:
                self._look()
            except TestbedError:
                continue  # nobody tells just now; the books are kept for a while

    def _look(self, *, whole: bool = False) -> None:
        known = 0 if whole else self._draft.newest_revision()
        self._draft.audit_seen(self._pages("/v1/audit", until=lambda line: line["revision"] < known), whole=whole)
        for model in MODELS:
            generation = self._draft.newest_generation(model)
            lines = self._pages(f"/v1/models/{model}/history", until=lambda line, g=generation: line["generation"] < g)
            self._draft.history_seen(model, lines)

    def _pages(self, path: str, *, until: Any = None) -> Iterator[dict[str, Any]]:
        """Every item, page by page; no more after the first for which `until` is true. Raises `TestbedError`."""
        cursor: str | None = None
        for _ in range(PAGES_MAX):
            more = {} if cursor is None else {"cursor": cursor}
            page = self._caller.ask(path, timeout_s=ASK_S, limit=PAGE, **more)
            if page is None:
                raise TestbedError(f"no node tells {path}")
            for item in page["items"]:
                yield item
                if until is not None and until(item):
                    return
            cursor = page["next_cursor"]
            if cursor is None:
                return
        raise TestbedError(f"{path} has more than {PAGES_MAX} pages")


def read_histories(paths: Iterable[Path]) -> tuple[list[Operation], dict[str, int]]:
    """Every operation in these files, and how many torn lines were cut from each. Raises `HistoryError`, `OSError`."""
    operations: list[Operation] = []
    torn: dict[str, int] = {}
    for path in paths:
        with path.open("rb") as file:
            mended = list(_mended(file, path=path, torn=torn))
        operations.extend(parse(mended, origin=str(path)))
    return operations, torn


def _mended(lines: Iterable[bytes], *, path: Path, torn: dict[str, int]) -> Iterator[bytes]:
    """The whole lines; a torn one may have the first line of the next life stuck to it."""
    for line in lines:
        begin = line.rfind(LINE_START)
        if line.endswith(b"}\n") and begin == 0:
            yield line
            continue
        torn[path.stem] = torn.get(path.stem, 0) + 1
        rest = line[begin:] if begin > 0 else b""
        try:
            msgspec.json.decode(rest)
        except msgspec.DecodeError:
            continue
        yield rest
