"""Where on the bus what is said, and by whom. One place, so that permissions and both sides agree.

What one edge may say or hear alone has its name in the subject, so that a server can give it to that edge and refuse it to
the others: its reports, and the inbox to which replies come.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

TOKEN_CHARS_MAX: Final = 64
INBOXES: Final = "_INBOX"
EDGE_INBOXES: Final = f"{INBOXES}.e"
"""Below it, by token, the inboxes of edges. Those of nodes and observers lie beside it, so that none is a prefix of
another's."""

NODE_INBOXES: Final = f"{INBOXES}.n"
OBSERVER_INBOXES: Final = f"{INBOXES}.o"

REGION_PATTERN = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,62}[a-z0-9])?")
"""Names of regions: as other names, but shorter and without dots, since they are one token of a subject."""


def token_of(name: str) -> str:
    """A name as one token of a subject: the name itself, with `D` for a dot; what is longer than 64 characters becomes `H`
    and 32 hexadecimal digits. Names are lower case, so that no two have the same token.
    """
    if len(name) > TOKEN_CHARS_MAX:
        return "H" + blake2b(name.encode(), digest_size=16).hexdigest()
    return name.replace(".", "D")


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
        """Edge reports of the version before, on one subject for all: every node listens, the authority replies."""
        return f"ccs.{self.region}.report"

    @property
    def reports(self) -> str:
        """Everything that `report_of` may be."""
        return f"ccs.{self.region}.report.*"

    def report_of(self, edge_id: str) -> str:
        """The reports of one edge: every node listens, the authority replies. Newer than `report`."""
        return f"ccs.{self.region}.report.{token_of(edge_id)}"

    @property
    def features(self) -> str:
        """What edges say to each other of features they wrote."""
        return f"ccs.{self.region}.features"
