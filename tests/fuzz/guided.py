"""One target under atheris, in a process of its own: libFuzzer ends the one it runs in.

python -m tests.fuzz.guided TARGET [libFuzzer's own arguments]
"""

from __future__ import annotations

import sys
from types import FunctionType
from typing import Final

from tests.fuzz.targets import TARGETS

GUIDED: Final[dict[str, tuple[str, ...]]] = {
    "envelope": ("edge_client.protocol.envelope",),
    "feature_block": ("edge_client.protocol.feature_blocks",),
    "feature_block_find": ("edge_client.protocol.feature_blocks",),
    "feature_value": ("edge_client.protocol.feature_arrays", "edge_client.protocol.feature_codec"),
    "journal_sealed": ("consistency_service.adapters.raft_log.records", "consistency_service.adapters.raft_log.frames"),
    "nats_wire": ("edge_client.adapters.nats_wire",),
    "trace": ("consistency_service.cli.traces",),
}
"""Targets, and the modules whose branches guide. Whole imports would take longer to prepare than to fuzz."""


def main() -> None:
    import atheris

    name = sys.argv.pop(1)
    for module in GUIDED[name]:
        _instrument(sys.modules[module].__dict__, module=module, instrument=atheris.instrument_func)
    atheris.Setup(sys.argv, TARGETS[name].try_one)
    atheris.Fuzz()


def _instrument(holder: dict[str, object], *, module: str, instrument: object) -> None:
    """In place, so that references that others hold already are instrumented with it."""
    for value in list(holder.values()):
        if isinstance(value, FunctionType) and value.__module__ == module:
            value.__code__ = instrument(value).__code__  # type: ignore[operator]
        elif isinstance(value, type) and value.__module__ == module:
            _instrument(dict(vars(value)), module=module, instrument=instrument)


if __name__ == "__main__":
    main()
