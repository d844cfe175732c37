"""Where in the region's history something stands: the only thing an edge ever compares."""

from __future__ import annotations

from typing import NamedTuple


class Position(NamedTuple):
    """`(epoch, revision)`, ordered lexicographically (protocol, section 7)."""

    epoch: int
    revision: int

    def __str__(self) -> str:
        return f"e{self.epoch} r{self.revision}"


ORIGIN = Position(0, 0)
"""Before any history: whoever knows nothing stands here."""
