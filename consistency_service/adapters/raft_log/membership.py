"""Who belongs to the cluster: one table, and the few ways in which one table may follow another.

Picture the list of partners on the first page of a firm's book. Changing it is an entry like any other, and whoever holds
that entry goes by it at once, committed or not; whoever tears the entry off goes by the one before. Of two successive
lists the voters differ by one at most, so that a majority of either shares a member with a majority of the other, and
nobody needs both at once (the dissertation's section 4.1). A newcomer is listed without a vote until it holds the log.

A name that was removed stays removed: the machine that bore it has voted, and may come back with that memory or without.
"""

from __future__ import annotations

from typing import Final

import msgspec

from consistency_service.adapters.raft_log.config import RaftLogConfig
from consistency_service.runtime import ports

MEMBERS_MAX: Final = 9
REMOVED_MAX: Final = 256
"""Names of removed nodes that are remembered; the oldest is forgotten."""


class Member(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    raft: str
    """`host:port` at which others reach it."""
    url: str
    """Of its REST API; empty if unknown."""
    votes: bool


class Members(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    table: dict[str, Member]
    removed: tuple[str, ...] = ()

    @property
    def voters(self) -> tuple[str, ...]:
        return tuple(sorted(node_id for node_id, member in self.table.items() if member.votes))

    @property
    def learners(self) -> tuple[str, ...]:
        return tuple(sorted(node_id for node_id, member in self.table.items() if not member.votes))

    def beside(self, node_id: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Voters and learners other than this node."""
        voters, learners = set(self.voters) - {node_id}, set(self.learners) - {node_id}
        return tuple(sorted(voters)), tuple(sorted(learners))

    @property
    def majority(self) -> int:
        return len(self.voters) // 2 + 1

    def with_learner(self, node_id: str, *, raft: str, url: str) -> Members:
        return Members({**self.table, node_id: Member(raft, url, votes=False)}, self.removed)

    def with_vote(self, node_id: str) -> Members:
        member = self.table[node_id]
        return Members({**self.table, node_id: Member(member.raft, member.url, votes=True)}, self.removed)

    def without(self, node_id: str) -> Members:
        table = {name: member for name, member in self.table.items() if name != node_id}
        return Members(table, (*self.removed, node_id)[-REMOVED_MAX:])

    def follows(self, before: Members) -> bool:
        """Whether this table may come right after that one: one voter more, one less, or the same."""
        return len(set(self.voters) ^ set(before.voters)) <= 1 and len(self.voters) > 0


NOBODY: Final = Members({})


def founders(config: RaftLogConfig) -> Members:
    """The table of a cluster whose log has none yet."""
    return Members(
        {
            node_id: Member(address, config.urls.get(node_id, ""), votes=True)
            for node_id, address in sorted(config.peers.items())
        }
    )


def peers_of(members: Members, *, config: RaftLogConfig) -> dict[str, str]:
    """Whom to connect to and where: the members, and whom the settings name beside them, for they may know more.

    Where both have an address, that of the settings is newer. Who was removed is nobody.
    """
    named = {node_id: address for node_id, address in config.peers.items() if node_id not in members.removed}
    return {node_id: member.raft for node_id, member in members.table.items()} | named


def shown(members: Members) -> tuple[ports.Member, ...]:
    return tuple(
        ports.Member(node_id=node_id, raft=member.raft, url=member.url, votes=member.votes)
        for node_id, member in sorted(members.table.items())
    )


def encode(members: Members) -> bytes:
    return msgspec.msgpack.encode(members)


def decode(payload: bytes) -> Members:
    """Raises `ValueError` for what a later release may have written."""
    try:
        return msgspec.msgpack.decode(payload, type=Members)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ValueError(f"no table of members: {error}") from error
