"""Publishers in the replicated state: what they signed, and which of their keys count no more.

The region keeps signatures and hands them on; whose they are, and whether they are good, edges decide by keys of their own,
and a node at its door (`protocol.signatures`). So nothing replicated can raise anybody's trust: a signature that is no good
is worth nothing, and a revocation only takes away.
"""

from __future__ import annotations

from typing import Final

import msgspec

from consistency_service.core import commands as c
from consistency_service.core.feature_machine import FeatureMachine
from consistency_service.core.outcomes import Outcome
from consistency_service.core.refusals import RefusalError
from consistency_service.core.state import ModelState, RevokedPublisher
from edge_client.protocol.models import Version
from edge_client.protocol.signatures import KEY_ID_PATTERN, REVOKED_MAX, SIGNATURES_MAX, parse_signature

REASON_CHARS_MAX: Final = 500


class PublisherMachine(FeatureMachine):
    """The handlers of everything that concerns publishers."""

    def _revoke_publisher(self, command: c.RevokePublisher) -> Outcome:
        """Doing it again changes nothing; who did it first, and why, stays."""
        revoked = self.state.publishers_revoked
        if KEY_ID_PATTERN.fullmatch(command.key_id) is None:
            raise RefusalError("invalid", field="key_id")
        if command.key_id in revoked:
            return Outcome(revision=self.state.revision, detail={"existed": True})
        if len(revoked) >= REVOKED_MAX:
            raise RefusalError("limit_reached", limit="revoked keys", value=REVOKED_MAX)
        revoked[command.key_id] = RevokedPublisher(
            key_id=command.key_id,
            author=command.author,
            reason=command.reason[:REASON_CHARS_MAX],
            revoked_at_unix_ms=command.proposed_at_unix_ms,
        )
        detail = {"key_id": command.key_id, "reason": command.reason[:REASON_CHARS_MAX]}
        return self._changed("PublisherRevoked", command, publishers_revoked=(command.key_id,), detail=detail)

    def _signed_again(self, model: ModelState, asked: Version, command: c.Command) -> Outcome:
        """A registered version takes signatures of further keys; one that it has is never replaced."""
        known = model.versions[asked.version]
        keys = _keys_of(known)
        new = tuple(line for line in asked.signatures if parse_signature(line)[0] not in keys)
        if not new:
            return Outcome(revision=self.state.revision, detail={"existed": True})
        if len(known.signatures) + len(new) > SIGNATURES_MAX:
            raise RefusalError("limit_reached", limit="signatures", value=SIGNATURES_MAX)
        model.versions[known.version] = msgspec.structs.replace(known, signatures=(*known.signatures, *new))
        return self._changed(
            "VersionSigned",
            command,
            models=[model],
            detail={"model": model.name, "version": known.version, "existed": True},
        )

    def _require_signatures(self, version: Version) -> None:
        """They are lines of signatures, each by another key; what they are worth is not looked at."""
        try:
            keys = _keys_of(version)
        except ValueError:
            raise RefusalError("invalid", field="signatures") from None
        if len(version.signatures) > SIGNATURES_MAX or len(keys) < len(version.signatures):
            raise RefusalError("invalid", field="signatures")

    def _check_publishers(self) -> None:
        assert len(self.state.publishers_revoked) <= REVOKED_MAX
        for key_id, revoked in self.state.publishers_revoked.items():
            assert key_id == revoked.key_id


def _keys_of(version: Version) -> set[str]:
    return {parse_signature(line)[0] for line in version.signatures}
