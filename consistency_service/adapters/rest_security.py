"""What a node's settings say about REST: its TLS, whom it believes, and whether it may listen at all."""

from __future__ import annotations

import ssl
from collections import Counter
from urllib.parse import urlsplit

from consistency_service.adapters.rest_authentication import RestAuthentication
from consistency_service.adapters.rest_tls import client_context, server_context
from consistency_service.config import ServiceConfig, is_loopback
from consistency_service.errors import ConfigError


def require_guarded(config: ServiceConfig) -> None:
    """Raises `ConfigError`, in one sentence, for settings under which strangers could do everything, or nodes nothing."""
    guarded = config.http_certificate is not None and config.access is not None
    if not guarded and not config.insecure and not is_loopback(config.http):
        raise ConfigError(
            f"http = {config.http!r} is reached by other machines: set http_certificate, http_key and access, "
            "or say insecure = true (--insecure) and whoever reaches it may do everything"
        )
    if config.http_client_ca is not None and (config.http_certificate is None or config.access is None):
        raise ConfigError("http_client_ca needs http_certificate and http_key, and access, which lists certificates")
    if config.access is None or len(config.peers) == 1:
        return
    plain = [peer.url for peer in config.peers.values() if urlsplit(peer.url).scheme != "https"]
    if config.http_certificate is None or config.raft_certificate is None or plain:
        raise ConfigError(
            "with access, the nodes of a region know each other by their raft certificates, over TLS: set http_certificate, "
            "http_key, raft_ca, raft_certificate and raft_key, and give every peer an https url"
        )


def server_tls(config: ServiceConfig, *, counters: Counter[str]) -> ssl.SSLContext | None:
    """TLS for callers; None: they come without. Raises `ConfigError`."""
    if config.http_certificate is None or config.http_key is None:
        return None
    client_cas = [path for path in (config.http_client_ca, config.raft_ca) if path is not None]
    return server_context(
        certificate=config.http_certificate, key=config.http_key, client_cas=client_cas, counters=counters
    )


def peers_tls(config: ServiceConfig, *, counters: Counter[str]) -> ssl.SSLContext | None:
    """TLS to the other nodes, who know this one by its raft certificate. None: as the system has it. Raises `ConfigError`."""
    if config.http_ca is None and config.raft_certificate is None:
        return None
    return client_context(
        ca=config.http_ca, certificate=config.raft_certificate, key=config.raft_key, counters=counters
    )


def authentication(config: ServiceConfig, *, counters: Counter[str]) -> RestAuthentication | None:
    """Who may come in; None: everybody. Raises `ConfigError`."""
    if config.access is None:
        return None
    return RestAuthentication(
        config.access,
        region=config.region,
        node_ca=config.raft_ca,
        client_ca=config.http_client_ca,
        counters=counters,
    )
