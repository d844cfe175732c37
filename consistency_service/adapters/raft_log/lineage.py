"""Which history a log belongs to: nodes of two histories of one cluster never hear each other.

A restore begins a history anew, from a backup, in a greater epoch; that epoch is the *lineage* of every log that descends
from it, and 0 that of a cluster that was never restored. Terms do not protect here: a survivor of the old history would
take part in elections of the new one, be voted for by other survivors in a greater term, and then send its own log as the
truth. So the lineage is in every greeting, behind the cluster's name, and only equals go on talking.

Who has no memory learns the lineage from those that speak to it, the greatest that it hears; it has no vote, and whatever
it holds is replaced by the first snapshot. With that snapshot the lineage is on its disk: the log of a restored cluster
begins behind a snapshot, so that nobody gets it in any other way.
"""

from __future__ import annotations

from consistency_service.adapters.raft_log.journal import Journal
from consistency_service.adapters.raft_log.snapshots import SnapshotStore

MARK = "#"


class Lineage:
    """Of one node's log."""

    def __init__(self, journal: Journal, *, snapshots: SnapshotStore) -> None:
        self._journal = journal
        self._snapshots = snapshots
        self._adopted = 0

    @property
    def number(self) -> int:
        return max(self._adopted, self._snapshots.lineage)

    def adopts(self, number: int) -> bool:
        """Whether this node, without memory, follows that greater lineage from here on."""
        if not self._journal.rejoining or number <= self.number:
            return False
        self._adopted = number
        return True


def named(cluster_id: str, *, number: int) -> str:
    """What a node calls its cluster in a greeting."""
    return f"{cluster_id}{MARK}{number}" if number else cluster_id


def split(name: str) -> tuple[str, int]:
    """Cluster and lineage of such a name."""
    cluster_id, mark, number = name.rpartition(MARK)
    return (cluster_id, int(number)) if mark and number.isascii() and number.isdigit() else (name, 0)
