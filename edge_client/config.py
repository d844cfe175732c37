"""Everything that can be set about an edge, as one value that refuses nonsense.

Parsed once, where the application connects; passed down whole to whoever needs a part of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from edge_client.errors import ConfigError
from edge_client.protocol.models import NAME_PATTERN
from edge_client.protocol.subjects import REGION_PATTERN

SERVERS_MAX: Final = 16
LABELS_MAX: Final = 64
LABEL_CHARS_MAX: Final = 256
DOWNLOADS_MAX: Final = 16
PREFETCH_JITTER_MS_MAX: Final = 3_600_000
FEATURE_BYTES_MIN: Final = 1024 * 1024
_TRUST_LINE: Final = "ccs-region-key"
_PUBLISHER_LINES: Final = ("ccs-publisher-key", "ccs-revoked", "#")
_TRUST_BYTES_MAX: Final = 256 * 1024
_BUS_SCHEMES: Final = ("nats", "tls", "ws", "wss")
_LOCAL_SCHEMES: Final = ("redis", "rediss", "unix")


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeConfig:
    """What one edge is, whom it follows, and how much room it may take. Raises `ConfigError` that names the setting."""

    servers: tuple[str, ...] = field(repr=False)
    """The bus: one or several `nats://host:port`; any of them will do."""

    trust: str
    """The region's public keys: the path of a trust file, read again when it changes, or the text of its lines. Nothing else
    signed is believed."""

    edge_id: str
    """Unique in the region among living processes; a second one that uses it is refused."""

    region: str = "default"
    """Which region's subjects to follow."""

    publishers: str | None = None
    """Keys of publishers, and those revoked here: the path of a file, read again when it changes, or the text of its lines."""

    signatures: str = "off"
    """`off`; `check`: a version that is signed is loaded only if one of `publishers` signed it; `require`: unsigned ones are
    not loaded either. What is served already is served on."""

    nats_ca: str | None = None
    """A file of certificates to trust instead of the system's, for `tls://` servers."""

    nats_certificate: str | None = None
    nats_key: str | None = None
    """Files of a client certificate for the bus, both or neither."""

    nats_credentials: str | None = None
    """A `.creds` file by which the bus knows this edge. Read again when reconnecting, so that it can be renewed."""

    http_ca: str | None = None
    """A file of certificates to trust instead of the system's, for nodes with https addresses."""

    http_token: str | None = None
    """A file that holds the bearer token shown to nodes. Read again when a node refuses it."""

    local_ca: str | None = None
    """A file of certificates to trust instead of the system's, for a `local` that is `rediss://`."""

    site: str = ""
    """Where this edge stands, for cohorts and people. Empty: nowhere in particular."""

    labels: Mapping[str, str] = field(default_factory=dict)
    """What else cohorts may select by, such as `{"gpu": "orin"}`. At most 64, each at most 256 characters."""

    local: str | None = field(default=None, repr=False)
    """The box's own Redis, `redis://…`. None: memory alone, so that a restart without the region finds nothing."""

    report_interval_ms: int = 1_000
    """How often the edge says what it serves. Higher is cheaper for the region; lower shows the fleet sooner."""

    memory_bytes_max: int = 512 * 1024 * 1024
    """Artifact bytes whose models stay loaded. Versions that may be needed give way first, those in use never do."""

    download_bytes_max: int = 2 * 1024 * 1024 * 1024
    """The most that downloads may occupy on disk; an artifact larger than this is refused."""

    downloads_max: int = 2
    """How many versions are fetched or loaded at a time, and as many again if one that must be served would have to wait."""

    download_bytes_per_s_max: int | None = None
    """The most that downloads take from the network, all together. Lower spares a narrow link; None: as fast as it goes."""

    prefetch_jitter_ms: int = 250
    """A version that may be activated next is fetched at a moment of one's own within this time, so that a fleet does not
    ask at once. Higher spares the region; lower gets a plain activation going sooner. What must be served never waits."""

    download_dir: str | None = None
    """Where verified artifacts lie, kept over restarts and for this edge alone. None: a directory that goes with us."""

    feature_store: str | None = field(default=None, repr=False)
    """The region's feature store, `redis://…`, `rediss://…` or `unix://…`. None: the local Redis is the store as well."""

    feature_store_ca: str | None = None
    """A file of certificates to trust instead of the system's, for `rediss://`."""

    feature_store_cluster: bool = False
    """Whether the feature store is a Redis or Valkey cluster."""

    feature_memory_bytes_max: int = 64 * 1024 * 1024
    """Copies of features in this process. Higher saves fetches; 0: none."""

    feature_queue_bytes_max: int = 64 * 1024 * 1024
    """Bulk writes in memory: what waits for the store, and what is stored and still readable here."""

    feature_spool: str | None = None
    """A file for the bulk writes of classes that want one; what is in it survives a crash of this process. None: no file."""

    feature_spool_bytes_max: int = 1024 * 1024 * 1024
    """What that file may take."""

    feature_misses_bp_max: int = 9_000
    """Of 10,000 readings, how many may need a fetch before `features.admits` says no."""

    feature_stale_bp_max: int = 2_000
    """Of 10,000 readings, how many may be too old before `features.admits` says no."""

    metrics: str | None = None
    """`host:port` at which `GET /metrics` is answered for a scraper, whoever asks; port 0: any. None: nowhere. An app that has
    set up OpenTelemetry needs none."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "servers", tuple(self.servers))
        object.__setattr__(self, "labels", dict(self.labels))
        self._check_addresses()
        if not REGION_PATTERN.fullmatch(self.region):
            raise ConfigError(f"region must be 1 to 64 of a-z 0-9 _ and -, not {self.region!r}")
        for setting, name in (("edge_id", self.edge_id), ("site", self.site or "none")):
            if not NAME_PATTERN.fullmatch(name):
                raise ConfigError(f"{setting} must be a lower-case name of 1 to 128 of a-z 0-9 . _ -, not {name!r}")
        if not self.trust.strip():
            raise ConfigError("trust must be the path of a trust file or the text of its lines")
        if self.signatures not in ("off", "check", "require"):
            raise ConfigError(f"signatures must be 'off', 'check' or 'require', not {self.signatures!r}")
        if self.signatures != "off" and not (self.publishers or "").strip():
            raise ConfigError(f"signatures = {self.signatures!r} needs publishers")
        self._check_labels()
        if self.metrics is not None:
            _check_address("metrics", self.metrics)
        if not 50 <= self.report_interval_ms <= 2_000:
            raise ConfigError(f"report_interval_ms must lie in 50..2000, not {self.report_interval_ms}")
        for setting, size_bytes in (
            ("memory_bytes_max", self.memory_bytes_max),
            ("download_bytes_max", self.download_bytes_max),
        ):
            if size_bytes < 1:
                raise ConfigError(f"{setting} must be at least 1, not {size_bytes}")
        self._check_features()
        if not 1 <= self.downloads_max <= DOWNLOADS_MAX:
            raise ConfigError(f"downloads_max must lie in 1..{DOWNLOADS_MAX}, not {self.downloads_max}")
        if self.download_bytes_per_s_max is not None and self.download_bytes_per_s_max < 1:
            raise ConfigError(f"download_bytes_per_s_max must be at least 1, not {self.download_bytes_per_s_max}")
        if not 0 <= self.prefetch_jitter_ms <= PREFETCH_JITTER_MS_MAX:
            raise ConfigError(
                f"prefetch_jitter_ms must lie in 0..{PREFETCH_JITTER_MS_MAX}, not {self.prefetch_jitter_ms}"
            )

    def __repr__(self) -> str:
        """All settings, but no password that an address holds."""
        shown = ", ".join(f"{item.name}={_shown(getattr(self, item.name))!r}" for item in fields(self))
        return f"EdgeConfig({shown})"

    @property
    def trust_is_file(self) -> bool:
        """Whether `trust` is a path rather than the lines themselves."""
        return not self.trust.lstrip().startswith((_TRUST_LINE, "#"))

    @property
    def publishers_is_file(self) -> bool:
        """Whether `publishers` is a path rather than the lines themselves."""
        return bool(self.publishers) and not (self.publishers or "").lstrip().startswith(_PUBLISHER_LINES)

    def trust_text(self) -> str:
        """The lines of the trust file. Raises `ConfigError` when the file cannot be read."""
        return _text_of("trust", self.trust) if self.trust_is_file else self.trust

    def publishers_text(self) -> str:
        """The lines of the publishers file; empty where there is none. Raises `ConfigError` when it cannot be read."""
        text = self.publishers or ""
        return _text_of("publishers", text) if self.publishers_is_file else text

    def _check_addresses(self) -> None:
        if not 1 <= len(self.servers) <= SERVERS_MAX:
            raise ConfigError(f"servers must name 1 to {SERVERS_MAX} addresses, not {len(self.servers)}")
        for server in self.servers:
            _check_url("servers", server, schemes=_BUS_SCHEMES)
        if (self.nats_certificate is None) != (self.nats_key is None):
            raise ConfigError("nats_certificate and nats_key are given together or not at all")
        if self.local_ca is not None and self.local is None:
            raise ConfigError("local_ca says something of a local: name it")
        for setting, url in (("local", self.local), ("feature_store", self.feature_store)):
            if url is not None:
                _check_url(setting, url, schemes=_LOCAL_SCHEMES)

    def _check_features(self) -> None:
        if self.feature_store is None and (self.feature_store_ca is not None or self.feature_store_cluster):
            raise ConfigError("feature_store_ca and feature_store_cluster say something of a feature_store: name it")
        if self.feature_memory_bytes_max < 0:
            raise ConfigError(f"feature_memory_bytes_max must not be negative: {self.feature_memory_bytes_max}")
        for setting, size_bytes in (
            ("feature_queue_bytes_max", self.feature_queue_bytes_max),
            ("feature_spool_bytes_max", self.feature_spool_bytes_max),
        ):
            if size_bytes < FEATURE_BYTES_MIN:
                raise ConfigError(f"{setting} must be at least {FEATURE_BYTES_MIN}, not {size_bytes}")
        for setting, share_bp in (
            ("feature_misses_bp_max", self.feature_misses_bp_max),
            ("feature_stale_bp_max", self.feature_stale_bp_max),
        ):
            if not 0 <= share_bp <= 9_999:
                raise ConfigError(f"{setting} must lie in 0..9999, not {share_bp}")

    def _check_labels(self) -> None:
        if len(self.labels) > LABELS_MAX:
            raise ConfigError(f"labels must be at most {LABELS_MAX}, not {len(self.labels)}")
        given: list[tuple[object, object]] = list(self.labels.items())
        for name, value in given:
            if not isinstance(name, str) or not isinstance(value, str) or not name:
                raise ConfigError(f"labels must map text to text; {name!r} does not")
            if len(name) > LABEL_CHARS_MAX or len(value) > LABEL_CHARS_MAX:
                raise ConfigError(f"labels must be at most {LABEL_CHARS_MAX} characters; {name[:40]!r} is longer")


def _shown(value: object) -> object:
    """The value; of an address, all but user and password."""
    if isinstance(value, tuple):
        return tuple(map(_shown, value))
    if isinstance(value, str):
        return re.sub(r"(password=)[^&]*", r"\1***", re.sub(r"://.*@", "://***@", value))
    return value


def _text_of(setting: str, path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            content = file.read(_TRUST_BYTES_MAX + 1)
        if len(content) > _TRUST_BYTES_MAX:
            raise ConfigError(f"{setting}: {path!r} has more than {_TRUST_BYTES_MAX} bytes")
        return content.decode("utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{setting}: cannot read {path!r}: {error}") from error


def _check_address(setting: str, address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or int(port) > 65_535:
        raise ConfigError(f"{setting} must be host:port, not {address!r}")


def _check_url(setting: str, url: str, *, schemes: tuple[str, ...]) -> None:
    try:
        scheme = urlsplit(url).scheme
    except ValueError:
        scheme = ""
    if scheme not in schemes:
        # The address may carry a password: say what is wrong with it without repeating it.
        raise ConfigError(f"{setting} must be a URL with one of the schemes {', '.join(schemes)}")
