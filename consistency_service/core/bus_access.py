"""Who may say and hear what on the bus: the one table, from which keys are made and which the documentation repeats.

Picture a building in which everybody has a badge. A badge opens some doors to speak and some to listen; what is not listed
is closed. Only nodes speak as the region. An edge reports as itself and hears its own replies, because the doors that carry
a name open for that name only. `NAME` stands for the holder's token; the bus puts it in, so that a badge for one more edge
changes nothing at the servers.

What the region says is signed besides, so that this table keeps out noise and eavesdroppers; nobody's promise rests on it
alone, but edges' words are unsigned, and that one edge cannot speak as another rests on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from edge_client.protocol.subjects import EDGE_INBOXES, NODE_INBOXES, OBSERVER_INBOXES, Subjects, token_of

NAME: Final = "{{name()}}"
"""What the server replaces by the name in the JWT of whoever connects."""

EDGE_PAYLOAD_BYTES_MAX: Final = 128 * 1024
"""Twice what an edge may say; larger messages have it disconnected."""
EDGE_SUBSCRIPTIONS_MAX: Final = 64


class BusRole(StrEnum):
    """What somebody on the bus is."""

    NODE = "node"
    EDGE = "edge"
    OBSERVER = "observer"
    """Reads what the region and its edges say."""
    LEAF = "leaf"
    """A site's own server, which carries the words of the edges behind it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Permissions:
    """Subjects, in the bus's notation; who may subscribe to one may also do so in a queue."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def permissions_of(role: BusRole, *, region: str, edge_ids: Sequence[str] = ()) -> Permissions:
    """What a role may do. `edge_ids`, of a leaf alone: the edges that stand there; none means any.

    Only nodes hear snapshot requests: anybody else in their queue would take requests away from them.
    """
    subjects = Subjects(region)
    requests = (subjects.clock, subjects.clock_of("*"), subjects.snapshot)
    stream = subjects.stream
    match role:
        case BusRole.NODE:
            return Permissions(
                publish=(
                    *(subjects.beacon, subjects.event, subjects.clock, subjects.clock_of("*")),
                    *(f"{EDGE_INBOXES}.>", f"{NODE_INBOXES}.>"),
                    *(f"$JS.API.STREAM.{action}.{stream}" for action in ("INFO", "CREATE", "MSG.GET")),
                ),
                subscribe=(
                    *(subjects.beacon, subjects.clock, subjects.clock_of("*")),
                    *(subjects.snapshot, subjects.reports, f"{NODE_INBOXES}.{NAME}.>"),
                ),
            )
        case BusRole.EDGE:
            return Permissions(
                publish=(f"{subjects.report}.{NAME}", *requests, subjects.features),
                subscribe=(subjects.beacon, subjects.event, subjects.features, f"{EDGE_INBOXES}.{NAME}.>"),
            )
        case BusRole.OBSERVER:
            return Permissions(
                publish=tuple(f"$JS.API.STREAM.{action}.{stream}" for action in ("INFO", "MSG.GET")),
                subscribe=(
                    *(subjects.beacon, subjects.event, subjects.reports, subjects.features),
                    f"{OBSERVER_INBOXES}.{NAME}.>",
                ),
            )
        case BusRole.LEAF:
            tokens = [token_of(edge_id) for edge_id in edge_ids] or ["*"]
            return Permissions(
                publish=(*(f"{subjects.report}.{token}" for token in tokens), *requests, subjects.features),
                subscribe=(
                    *(subjects.beacon, subjects.event, subjects.features),
                    *(f"{EDGE_INBOXES}.{token}.>" for token in tokens),
                ),
            )
