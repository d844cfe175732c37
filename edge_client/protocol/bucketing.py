"""On which side of a rollout does an edge fall? The same answer everywhere, for ever.

An edge's bucket for a salt is a fixed number in 0..9999. A share of n basis points covers the buckets below n, so that
raising the share only ever adds edges. Changing this function would move edges in running rollouts: it never changes.
"""

from __future__ import annotations

import hashlib

import msgspec

SHARE_BP_MAX = 10_000


def bucket_of(edge_id: str, *, salt: str) -> int:
    """The bucket in `[0, 10000)`: the first 8 bytes of SHA-256 over `salt NUL edge_id`, big-endian, modulo 10000."""
    digest = hashlib.sha256(f"{salt}\x00{edge_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % SHARE_BP_MAX


class CohortSelector(msgspec.Struct, frozen=True, kw_only=True):
    """A named condition on edges: any of `sites` (none: every site) and all of `labels`."""

    sites: tuple[str, ...] = ()
    labels: dict[str, str] = {}

    def matches(self, *, site: str, labels: dict[str, str]) -> bool:
        """True when the edge's site and labels fulfil the condition; the empty selector matches everybody."""
        if self.sites and site not in self.sites:
            return False
        return all(labels.get(name) == value for name, value in self.labels.items())
