"""Where on the bus what is said. One place, so that permissions and both sides agree."""

from __future__ import annotations

import re
from dataclasses import dataclass

REGION_PATTERN = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,62}[a-z0-9])?")
"""Names of regions: as other names, but shorter and without dots, since they are one token of a subject."""


@dataclass(frozen=True, slots=True)
class Subjects:
    """The subjects of one region."""

    region: str

    def __post_init__(self) -> None:
        if REGION_PATTERN.fullmatch(self.region) is None:
            raise ValueError(f"a region is named by 1 to 64 of a-z 0-9 _ and -, not {self.region!r}")

    @property
    def beacon(self) -> str:
        """The authority's beacons: signed, not persisted."""
        return f"ccs.{self.region}.beacon"

    @property
    def event(self) -> str:
        """The relayed outbox: signed, persisted in the event stream."""
        return f"ccs.{self.region}.event"

    @property
    def stream(self) -> str:
        """The name of the JetStream stream that holds `event`."""
        return f"CCS_{self.region}_EVENTS"

    @property
    def clock(self) -> str:
        """Clock requests that every node answers, each under its own id."""
        return f"ccs.{self.region}.clock"

    def clock_of(self, clock_id: str) -> str:
        """Clock requests to one life of one node."""
        return f"ccs.{self.region}.clock.{clock_id}"

    @property
    def snapshot(self) -> str:
        """Snapshot requests: one node of the queue group answers."""
        return f"ccs.{self.region}.snapshot"

    @property
    def report(self) -> str:
        """Edge reports: every node listens, the authority replies."""
        return f"ccs.{self.region}.report"

    @property
    def features(self) -> str:
        """What edges say to each other of features they wrote."""
        return f"ccs.{self.region}.features"
