"""The page of all settings, made from the two classes that hold them."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any, Final

from consistency_service.config import Peer, ServiceConfig
from edge_client.config import EdgeConfig
from ops.site.sources import cell, code, settings_of

UNITS: Final = {"_ms": "ms", "_ms_max": "ms", "_ms_min": "ms", "_s": "s", "_ppm": "ppm", "_bp_max": "bp"}
MIB: Final = 1024 * 1024

HEAD: Final = """# Configuration

<!-- Generated: python -m ops.site -->

For whoever sets up a node or an edge. Every setting, with its default; a name ends in its unit (`_bp` are hundredths of a per cent). What makes no sense is refused at
the start, with the name of the setting.

## Nodes

`ccs serve --config node-1.toml` reads a TOML file. `CCS_` and the name in capitals, in the environment, overrides a line of it
(`CCS_LEASE_MS=3000`; lists are parted by commas), and without `--config` is all there is. Names that do not exist are refused, so
that a typing error is not a default. Telemetry also follows the standard `OTEL_…` variables, object stores those of their clouds.

```toml
node_id = "node-1"
region = "harbour"
data_dir = "data"
region_key = "region.key"
http = "127.0.0.1:8700"
nats = ["nats://127.0.0.1:4222"]

[peers.node-1]
raft = "127.0.0.1:8701"
url = "http://127.0.0.1:8700"
```
"""

EDGE: Final = """## Edges

Arguments of `EdgeClient.connect` and `AsyncEdgeClient.connect`, or fields of `edge_client.EdgeConfig`. An edge reads nothing from the
environment by itself.
"""


def configuration() -> str:
    """The whole page."""
    return "\n".join(
        [
            HEAD,
            *_table(ServiceConfig, prefix="CCS_"),
            "",
            "Each entry of `peers`, `[peers.NODE_ID]`, has:",
            "",
            *_table(Peer),
            "",
            EDGE,
            *_table(EdgeConfig),
            "",
        ]
    )


def _table(kind: type, *, prefix: str | None = None) -> list[str]:
    values = {item.name: item for item in fields(kind)}
    rows = ["| setting | default | meaning |", "| --- | --- | --- |"]
    for item in settings_of(kind):
        unit = next(
            (f" {unit}" for end, unit in UNITS.items() if item.name.endswith(end) and not item.name.endswith("_per_s")),
            "",
        )
        name = f"`{item.name}`" + (f"<br>`{prefix}{item.name.upper()}`" if prefix and item.name != "peers" else "")
        rows.append(f"| {name} | {_default(values[item.name], unit=unit)} | {cell(item.text)} |")
    return rows


def _default(item: Any, *, unit: str) -> str:
    value = item.default if item.default_factory is MISSING else item.default_factory()
    if value is MISSING:
        return "required"
    if value is None or value in ("", (), {}):
        return "none"
    if isinstance(value, bool):
        return code(str(value).lower())
    if isinstance(value, int):
        return f"{value // MIB:,} MiB" if value >= MIB and value % MIB == 0 else f"{value:,}{unit}"
    return ", ".join(code(each) for each in value) if isinstance(value, tuple) else code(str(value))
