"""The ports of a real edge, made from its settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from edge_client.adapters.http_access import HttpAccess
from edge_client.adapters.http_source import HttpSource
from edge_client.adapters.nats_access import NatsAccess
from edge_client.adapters.nats_bus import NatsBus
from edge_client.adapters.redis_feature_ports import open_feature_ports
from edge_client.protocol.subjects import EDGE_INBOXES, token_of

if TYPE_CHECKING:
    from edge_client.config import EdgeConfig
    from edge_client.runtime.features import FeaturePorts
    from edge_client.runtime.ports import ArtifactSource, Bus, Clock, LocalTier


class Ports(TypedDict):
    """What `AsyncEdgeClient.over` is given."""

    bus: Bus
    source: ArtifactSource
    tier: LocalTier | None
    features: FeaturePorts | None


def open_ports(config: EdgeConfig, *, clock: Clock) -> Ports:
    """Not connected yet. Raises `ConfigError` for what can never work."""
    tier: LocalTier | None = None
    if config.local is not None:
        from edge_client.adapters.redis_tier import RedisTier, edge_namespace

        namespace = edge_namespace(region=config.region, edge_id=config.edge_id)
        tier = RedisTier(config.local, namespace=namespace, ca=config.local_ca)
    bus = NatsBus(
        config.servers,
        name=f"edge {config.edge_id}",
        inbox_prefix=f"{EDGE_INBOXES}.{token_of(config.edge_id)}",
        access=NatsAccess(
            ca=config.nats_ca,
            certificate=config.nats_certificate,
            key=config.nats_key,
            credentials=config.nats_credentials,
        ),
    )
    source = HttpSource(access=HttpAccess(ca=config.http_ca, token=config.http_token))
    return Ports(bus=bus, source=source, tier=tier, features=open_feature_ports(config, clock=clock))
