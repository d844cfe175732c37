"""Which Redis plays which part for features: the regional store, and the box's own in front of it.

Where only the box's own is configured it is the store, and nothing stands in front of it: there would be no point in asking
the same Redis twice.
"""

from __future__ import annotations

from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from edge_client.adapters.redis_feature_tier import BlockingFeatureTier, RedisFeatureTier
from edge_client.adapters.redis_features import RedisFeatureStore
from edge_client.adapters.sqlite_spool import SqliteSpool
from edge_client.adapters.system_clock import SystemClock
from edge_client.runtime.features import FeaturePorts

if TYPE_CHECKING:
    from edge_client.config import EdgeConfig
    from edge_client.runtime.ports import Clock

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_TIME_NAMESPACE = Path("/proc/self/ns/time")


def open_feature_ports(config: EdgeConfig, *, clock: Clock) -> FeaturePorts | None:
    """The adapters that the settings ask for; None where they name no Redis. Raises `ConfigError`; connects to nothing."""
    url = config.feature_store or config.local
    if url is None:
        return None
    store = RedisFeatureStore(
        url,
        region=config.region,
        cluster=config.feature_store_cluster,
        ca=config.local_ca if config.feature_store is None else config.feature_store_ca,
        clock_unix_ms=clock.unix_ms,
    )
    spool = None if config.feature_spool is None else SqliteSpool(Path(config.feature_spool))
    if config.feature_store is None or config.local is None:
        return FeaturePorts(store=store, spool=spool)
    options: dict[str, Any] = {
        "region": config.region,
        "boot_id": boot_id(clock),
        "ca": config.local_ca,
        "clock_unix_ms": clock.unix_ms,
    }
    return FeaturePorts(
        store=store,
        tier=RedisFeatureTier(config.local, **options),
        blocking_tier=BlockingFeatureTier(config.local, **options),
        spool=spool,
    )


def boot_id(clock: Clock) -> str:
    """Equal in two processes if and only if their clocks show the same nanoseconds: one life of one machine, one time
    namespace. A clock that errs on purpose, and a machine that does not say, are like nobody else's.
    """
    if isinstance(clock, SystemClock):
        try:
            return f"{_BOOT_ID.read_text(encoding='ascii').strip()} {_TIME_NAMESPACE.readlink()}"
        except OSError:
            pass
    return token_hex(16)
