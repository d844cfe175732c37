"""What a majority is known to hold, and to have heard.

Picture a table with one row per follower: through which index its disk agrees with ours, and the newest of our own send
stamps that it gave back. Sort a column and look at the middle: that much a majority has. The leader has a row as well,
and it is no better than the others: its entries count when its own disk has them. A follower that lost its memory is in
the table, to be caught up, and is not counted; nor is a newcomer that has no vote yet.

Stamps are instants of the leader's clock and never compared with anybody else's.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Row:
    matched_through: int = 0
    echoed_stamp: int = 0
    counts: bool = True


@dataclass(slots=True)
class Quorum:
    """Of one leader in one term: see `begin`."""

    followers: tuple[str, ...]
    """The other voters."""
    learners: tuple[str, ...] = ()
    _rows: dict[str, Row] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.begin()

    @property
    def majority(self) -> int:
        return (len(self.followers) + 1) // 2 + 1

    def begin(self) -> None:
        """Nothing is known of anybody."""
        self._rows = {node_id: Row() for node_id in self.everybody}

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._rows

    @property
    def everybody(self) -> tuple[str, ...]:
        return (*self.followers, *self.learners)

    def change(self, *, followers: tuple[str, ...], learners: tuple[str, ...]) -> None:
        """Others are counted from here on. What is known of those who stay, is."""
        self.followers, self.learners = followers, learners
        self._rows = {node_id: self._rows.get(node_id, Row()) for node_id in self.everybody}

    def forget(self, node_id: str) -> None:
        """It may come back with less than it held."""
        if node_id in self._rows:
            self._rows[node_id] = Row()

    def answered(self, node_id: str, *, stamp: int, counts: bool) -> None:
        row = self._rows[node_id]
        row.echoed_stamp = max(row.echoed_stamp, stamp)
        row.counts = counts

    def matched(self, node_id: str, *, index: int) -> None:
        row = self._rows[node_id]
        row.matched_through = max(row.matched_through, index)

    def matched_through(self, node_id: str) -> int:
        return self._rows[node_id].matched_through

    def counts(self, node_id: str) -> bool:
        """It was heard of, and is not catching up on a lost memory. Whether it has a vote is another matter."""
        row = self._rows[node_id]
        return row.counts and row.echoed_stamp > 0

    def echoed_stamp(self, node_id: str) -> int:
        return self._rows[node_id].echoed_stamp

    def held_through(self, *, own_through: int) -> int:
        """The last index that the disks of a majority hold."""
        return self._middle([own_through, *(row.matched_through for _, row in self._counted())])

    def heard_through(self, *, own_stamp: int) -> int:
        """The newest stamp that a majority had heard when it took nobody else for its leader."""
        return self._middle([own_stamp, *(row.echoed_stamp for _, row in self._counted())])

    def most_caught_up(self) -> str | None:
        """Of those that count and were heard of at all: who holds most, and of these who answered last."""
        heard = [(row.matched_through, row.echoed_stamp, node_id) for node_id, row in self._heard()]
        return max(heard)[2] if heard else None

    def heard_since(self, stamp: int) -> frozenset[str]:
        """Who gave back a stamp at least as new, with a vote or without, and is not catching up on a lost memory."""
        return frozenset(name for name, row in self._rows.items() if row.counts and row.echoed_stamp >= stamp)

    def _counted(self) -> list[tuple[str, Row]]:
        rows = [(node_id, self._rows[node_id]) for node_id in self.followers]
        return [(node_id, row) for node_id, row in rows if row.counts]

    def _heard(self) -> list[tuple[str, Row]]:
        return [(node_id, row) for node_id, row in self._counted() if row.echoed_stamp > 0]

    def _middle(self, values: list[int]) -> int:
        if len(values) < self.majority:
            return 0
        return sorted(values, reverse=True)[self.majority - 1]
