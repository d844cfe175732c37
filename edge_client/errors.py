"""Every error the edge raises: one base, two levels, fields on the exception, and in the text what to do."""

from __future__ import annotations


class EdgeError(Exception):
    """Base of all errors raised by `edge_client`."""


class ConfigError(EdgeError):
    """A setting makes no sense; the text names it."""


class ProtocolError(EdgeError):
    """Something the other side said cannot be accepted."""


class BusUnavailableError(EdgeError):
    """The bus is disconnected; try again when it is back."""


class LocalTierError(EdgeError):
    """The local Redis failed or refused; the edge goes on without it."""


class ArtifactUnavailableError(EdgeError):
    """No service node gave us the artifact just now; it is tried again by itself."""


class ArtifactCorruptError(EdgeError):
    """Bytes did not match their digest; they were thrown away."""


class SignatureRefusedError(EdgeError):
    """`signatures` forbids to load this version; sign it, or add its publisher to `publishers`."""

    def __init__(self, word: str, *, meaning: str) -> None:
        super().__init__(f"signature refused: {word}: {meaning}")
        self.word = word


class EdgeIdTakenError(EdgeError):
    """Another living process uses this edge id; give each process an id of its own."""


class UnknownModelError(EdgeError):
    """The region knows no model of this name, or it has no active version."""


class ModelNotReadyError(EdgeError):
    """No version of this model is loaded here yet; wait with `wait_ready`."""


class LoaderError(EdgeError):
    """The application's loader raised; the cause is chained."""


class TooStaleError(EdgeError):
    """`staleness_max_ms`, the policy's or the caller's, is exceeded, or no bound is known."""


class FallbackRefusedError(EdgeError):
    """The policy does not allow the fallback version, and the right one is not usable here."""


class NotStrongError(EdgeError):
    """`read_strong` could not become strong within its timeout."""


class FeatureStoreError(EdgeError):
    """The regional feature store failed; base of the two below."""


class FeatureStoreUnavailableError(FeatureStoreError):
    """The feature store is away, slow or full; what is queued is sent when it is back."""


class FeatureStoreRefusedError(FeatureStoreError):
    """The feature store refuses this for good: permissions, a wrong type under the key, something too large."""


class FeatureQueueFullError(EdgeError):
    """The write-behind queue is at its bound, and the class says to raise then; flush, or write less."""


class FeatureSpoolError(EdgeError):
    """The spool on disk failed: full, read-only, damaged; what is queued lives in memory until it works again."""


class FeatureSpoolTakenError(FeatureSpoolError):
    """Another process has this spool file open; give each process a file of its own."""


class FeatureValueError(EdgeError):
    """A key or value that cannot be a feature: too long, too large, or of no type that is kept."""


class FeatureCorruptError(EdgeError):
    """Bytes of a tier are no feature: damaged, cut, or not ours; they count as absent."""


class ClosedError(EdgeError):
    """The client was closed."""


class UnsupportedRegionError(EdgeError):
    """The region demands a rule that this client does not know, such as the fast barrier; install a newer client."""
