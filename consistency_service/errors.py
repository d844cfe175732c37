"""Every error the service raises: one base, two levels, fields on the exception, and in the text what to do."""

from __future__ import annotations

from typing import Any


class ServiceError(Exception):
    """Base of all errors raised by `consistency_service`."""


class ConfigError(ServiceError):
    """A setting makes no sense; the text names it."""


class LogStorageError(ServiceError):
    """What the disk holds of the log cannot be trusted; the text names file, offset and what to do."""


class SnapshotError(ServiceError):
    """Bytes offered as a snapshot are not one we can read."""


class UnknownCommandError(ServiceError):
    """The log holds a command that this release does not know: a newer node wrote it. Nothing was applied."""

    def __init__(self, index: int) -> None:
        super().__init__(
            f"the log's entry {index} is a command that this release does not know: upgrade this node to the release of "
            "the others and start it again; it goes on from there"
        )
        self.index = index


class NotLeaderError(ServiceError):
    """This node does not lead; `leader_id` is where to try next, if it is known. Nothing was proposed."""

    def __init__(self, *, leader_id: str | None) -> None:
        super().__init__(f"not the leader; try {leader_id or 'again in a moment'}")
        self.leader_id = leader_id


class NotAuthorityError(ServiceError):
    """This node may not decide just now; `leader_id` is where to try next, if it is another."""

    def __init__(self, *, leader_id: str | None) -> None:
        super().__init__(f"not the authority; try {leader_id or 'again in a moment'}")
        self.leader_id = leader_id


class UnknownOutcomeError(ServiceError):
    """The command may or may not take effect. Ask again with the same request id."""


class UnknownModelError(ServiceError):
    """The region knows no model of this name."""

    def __init__(self, model: str) -> None:
        super().__init__(f"there is no model {model!r}")
        self.model = model


class NotStrongError(ServiceError):
    """This node cannot answer linearizably in time."""


class RefusedError(ServiceError):
    """The command was applied and refused: `code` is stable, `detail` holds the fields."""

    def __init__(self, *, code: str, detail: dict[str, Any], revision: int) -> None:
        super().__init__(f"refused: {code} {detail}")
        self.code = code
        self.detail = detail
        self.revision = revision


class SignatureRefusedError(ServiceError):
    """`signatures` forbids to register this version: sign it with a key that `publishers` names."""

    def __init__(self, word: str, *, meaning: str) -> None:
        super().__init__(f"signature refused: {word}: {meaning}")
        self.word = word


class MembershipRefusedError(ServiceError):
    """The cluster's members stay as they are."""

    def __init__(self, *, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class BusUnavailableError(ServiceError):
    """The bus is disconnected or did not answer in time."""


class WebUnavailableError(ServiceError):
    """An address that a caller of the region named was not reached, or did not answer in time."""


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
