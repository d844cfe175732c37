"""Removes what nothing needs: versions beyond the policy's count, then artifacts that no version names.

Runs on every node, since each may have a directory of its own; versions are deleted by the authority alone. An artifact
is left alone for an hour after it was stored: its version may be about to be registered.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final

from consistency_service.core.commands import DeleteVersion
from consistency_service.core.state import ModelState
from consistency_service.errors import ArtifactError, NotLeaderError, UnknownOutcomeError
from consistency_service.runtime.authority import AuthorityDriver
from consistency_service.runtime.metadata import Metadata
from consistency_service.runtime.ports import ArtifactStore, Clock

_log = logging.getLogger(__name__)
GRACE_MS: Final = 3_600_000
AUTHOR: Final = "garbage-collection"


class Garbage:
    """The collector of one node."""

    def __init__(
        self,
        *,
        metadata: Metadata,
        authority: AuthorityDriver,
        artifacts: ArtifactStore,
        clock: Clock,
        interval_ms: int,
        grace_ms: int = GRACE_MS,
    ) -> None:
        self._metadata = metadata
        self._authority = authority
        self._artifacts = artifacts
        self._clock = clock
        self._interval_ns = interval_ms * 1_000_000
        self._grace_ms = grace_ms
        self.counters: Counter[str] = Counter()

    async def run(self) -> None:
        """Collect until cancelled."""
        while True:
            await self._clock.sleep_until(self._clock.now_ns() + self._interval_ns)
            await self.collect()

    async def collect(self) -> None:
        """One round. What fails is tried again in the next."""
        if self._authority.core.is_authority:
            await self._delete_versions()
        if not self._metadata.state.epoch:
            return
        try:
            await self._delete_artifacts()
        except ArtifactError as error:
            self.counters["store_failures"] += 1
            _log.warning("garbage_store_failed error=%s", error)

    async def _delete_versions(self) -> None:
        surplus = [
            DeleteVersion(model=model.name, version=version, author=AUTHOR, proposed_at_unix_ms=self._clock.unix_ms())
            for model in self._metadata.state.models.values()
            for version in surplus_versions(model)
        ]
        for command in surplus:
            try:
                await self._metadata.propose(command)
                self.counters["versions_deleted"] += 1
            except (NotLeaderError, UnknownOutcomeError):
                return

    async def _delete_artifacts(self) -> None:
        named = {v.digest for model in self._metadata.state.models.values() for v in model.versions.values()}
        now_unix_ms = self._clock.unix_ms()
        await self._artifacts.sweep_partial(older_than_ms=self._grace_ms)
        for digest, stored_at_unix_ms in await self._artifacts.digests():
            if digest not in named and now_unix_ms - stored_at_unix_ms > self._grace_ms:
                await self._artifacts.delete(digest)
                self.counters["artifacts_deleted"] += 1


def surplus_versions(model: ModelState) -> list[str]:
    """Versions beyond the newest `versions_kept` that nothing uses, oldest first."""
    in_use = set(model.versions_in_use())
    oldest_first = sorted(model.versions, key=lambda v: model.registered_at_unix_ms.get(v, 0))
    spare = [version for version in oldest_first if version not in in_use]
    return spare[: max(0, len(spare) - model.policy.versions_kept)]
