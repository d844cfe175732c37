"""Every error the service raises: one base, two levels, fields on the exception, and in the text what to do."""

from __future__ import annotations


class ServiceError(Exception):
    """Base of all errors raised by `consistency_service`."""


class ConfigError(ServiceError):
    """A setting makes no sense; the text names it."""


class LogStorageError(ServiceError):
    """What the disk holds of the log cannot be trusted; the text names file, offset and what to do."""


class SnapshotError(ServiceError):
    """Bytes offered as a snapshot are not one we can read."""


class BusUnavailableError(ServiceError):
    """The bus is disconnected or did not answer in time."""


class StreamFencedError(ServiceError):
    """Somebody else appended to the event stream; read its end again."""


class ArtifactError(ServiceError):
    """Base of what can go wrong with an artifact. `digest` names it where one is known."""

    def __init__(self, text: str, *, digest: str | None = None) -> None:
        super().__init__(text)
        self.digest = digest


class ArtifactTooLargeError(ArtifactError):
    """The upload exceeds the limit."""


class DigestMismatchError(ArtifactError):
    """The uploaded bytes are not those that the caller announced."""


class ArtifactMissingError(ArtifactError):
    """No artifact is stored under this digest."""


class ArtifactCorruptError(ArtifactError):
    """Stored bytes do not match their digest any more."""


class StoreFullError(ArtifactError):
    """The object store has no room left."""


class StoreUnavailableError(ArtifactError):
    """The object store failed or did not answer."""
