"""Adding and removing members of a running cluster: one voter at a time, and none before the last one is settled.

Picture a club that admits somebody. First the newcomer is listed as a guest, and reads the minutes; when it has read what
was written a moment ago, it is given a vote. Whoever presides does not strike its own name: it hands the chair to another,
who does. And no change is made by which those who are here now would stop being enough to decide.

Every step asks the table what is still to be done, so a change that was interrupted is simply asked for again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from consistency_service.adapters.raft_log import membership
from consistency_service.adapters.raft_log.config import RaftLogConfig, split_address
from consistency_service.adapters.raft_log.library import Replica
from consistency_service.adapters.raft_log.library_parts import monotonic_ns
from consistency_service.adapters.raft_log.membership import Members
from consistency_service.core.outcomes import Outcome
from consistency_service.errors import ConfigError
from consistency_service.runtime.ports import (
    AddMember,
    Committed,
    MembershipChange,
    MembershipOutcome,
    MembershipRefused,
    NotLeader,
    ProposalOutcome,
    RemoveMember,
    Unknown,
)

LOOK_S: Final = 0.02
HEARD_WITHIN_TIMEOUTS: Final = 2
"""Who answered within so many of the longest election timeouts is here."""


class Changes:
    """Of one node. At most one under way here; a second one is refused, as it is while another leader's is not settled."""

    def __init__(
        self,
        config: RaftLogConfig,
        *,
        replica: Callable[[], Replica | None],
        append: Callable[[Members], Awaitable[ProposalOutcome]],
        hand_over: Callable[[], str | None],
    ) -> None:
        self._config = config
        self._replica = replica
        self._append = append
        self._hand_over = hand_over
        self._busy = False

    async def make(self, change: MembershipChange, *, timeout_ms: int) -> MembershipOutcome:
        """See `ports.MetadataLog.change_membership`."""
        if self._leading() is None:
            return self._not_leader()
        if self._busy:
            return _refused("change_pending", "another change is under way")
        self._busy = True
        try:
            async with asyncio.timeout(timeout_ms / 1_000):
                await self._settled()
                match change:
                    case AddMember():
                        return await self._add(change)
                    case RemoveMember():
                        return await self._remove(change.node_id)
        except TimeoutError:
            return self._unfinished(change, timeout_ms=timeout_ms)
        finally:
            self._busy = False

    async def _add(self, change: AddMember) -> MembershipOutcome:
        replica = self._leading()
        if replica is None:
            return self._not_leader()
        members, node_id = replica.roster.members, change.node_id
        refused = self._refuses_to_add(change, members=members)
        if refused is not None:
            return refused
        if node_id not in members.table:
            learning = members.with_learner(node_id, raft=change.raft, url=change.url)
            outcome = await self._put(learning)
            if not isinstance(outcome, Committed):
                return outcome
            replica = self._leading()
        elif members.table[node_id].votes:
            return Committed(index=replica.commit_index, outcome=Outcome())
        while replica is not None and not await self._keeps_up(node_id, replica=replica):
            replica = self._leading()
        if replica is None:
            return Unknown(reason="this node stopped leading before the newcomer had caught up; ask again")
        if node_id not in replica.roster.members.table:
            return _refused("unknown_member", f"{node_id} was removed meanwhile")
        return await self._put(replica.roster.members.with_vote(node_id))

    async def _remove(self, node_id: str) -> MembershipOutcome:
        replica = self._leading()
        if replica is None:
            return self._not_leader()
        members = replica.roster.members
        if node_id in members.removed:
            return Committed(index=replica.commit_index, outcome=Outcome())
        if node_id not in members.table:
            return _refused("unknown_member", f"there is no member {node_id}")
        if members.voters == (node_id,):
            return _refused("last_voter", f"{node_id} is the only one with a vote")
        if node_id == self._config.node_id:
            refused = refusal(members.without(node_id), replica=replica, config=self._config)
            return refused or NotLeader(leader_id=self._hand_over())
        return await self._put(members.without(node_id))

    async def _put(self, members: Members) -> MembershipOutcome:
        """The table is in the log, if it may be; or why not."""
        await self._settled()
        replica = self._leading()
        if replica is None:
            return self._not_leader()
        return refusal(members, replica=replica, config=self._config) or await self._append(members)

    def _refuses_to_add(self, change: AddMember, *, members: Members) -> MembershipRefused | None:
        held = members.table.get(change.node_id)
        if not 0 < len(change.node_id) <= 64:
            return _refused("invalid_member", "a node id has 1 to 64 characters")
        try:
            split_address(change.raft)
        except ConfigError as error:
            return _refused("invalid_member", str(error))
        if change.node_id in members.removed:
            return _refused("member_removed", f"{change.node_id} was removed; the same machine needs a new name")
        if held is not None and (held.raft, held.url) != (change.raft, change.url):
            return _refused("member_exists", f"{change.node_id} is a member at {held.raft}, {held.url}")
        if held is None and change.raft in {member.raft for member in members.table.values()}:
            return _refused("member_exists", f"another member is at {change.raft}")
        if held is None and len(members.table) >= membership.MEMBERS_MAX:
            return _refused("too_many_members", f"a cluster has at most {membership.MEMBERS_MAX} members")
        return None

    async def _settled(self) -> None:
        """This node leads and has committed in its term, and the table in force with it; or it does not lead."""
        while self._unsettled():  # noqa: ASYNC110 -- it is told nobody
            await asyncio.sleep(LOOK_S)

    def _unsettled(self) -> bool:
        replica = self._leading()
        return replica is not None and (replica.members_pending or not replica.settled)

    async def _keeps_up(self, node_id: str, *, replica: Replica) -> bool:
        """Whether the newcomer got, within the shortest election timeout, all that the log held at its beginning."""
        end, quorum = replica.commit_index, replica.voter.quorum
        for _ in range(round(self._config.election_timeout_min_ms / 1_000 / LOOK_S)):
            if node_id in quorum and quorum.counts(node_id) and quorum.matched_through(node_id) >= end:
                return True
            await asyncio.sleep(LOOK_S)
        return False

    def _unfinished(self, change: MembershipChange, *, timeout_ms: int) -> MembershipOutcome:
        replica = self._leading()
        if isinstance(change, AddMember) and replica is not None and not replica.members_pending:
            member = replica.roster.members.table.get(change.node_id)
            if member is not None and not member.votes:
                return _refused("catching_up", f"{change.node_id} does not hold the log yet; it has no vote before")
        return Unknown(reason=f"not done within {timeout_ms} ms; asked again, it goes on")

    def _leading(self) -> Replica | None:
        replica = self._replica()
        return replica if replica is not None and replica.leading else None

    def _not_leader(self) -> NotLeader:
        replica = self._replica()
        return NotLeader(leader_id=None if replica is None else replica.leader_id)


def refusal(members: Members, *, replica: Replica, config: RaftLogConfig) -> MembershipRefused | None:
    """Why this table may not be put into the log now; None: it may, and all that makes it safe is true."""
    if not replica.settled or replica.members_pending:
        return _refused("change_pending", "the change before, or this term, is not settled")
    if not members.follows(replica.roster.members):
        return _refused("change_pending", "the members changed meanwhile")
    within_ns = HEARD_WITHIN_TIMEOUTS * config.election_timeout_max_ms * 1_000_000
    here = replica.voter.quorum.heard_since(monotonic_ns() - within_ns) | {config.node_id}
    silent = [node_id for node_id in members.voters if node_id not in here]
    if len(members.voters) - len(silent) >= members.majority:
        return None
    return _refused(
        "quorum_at_risk", f"{', '.join(silent)} cannot be heard, and without them the others were no majority"
    )


def _refused(code: str, reason: str) -> MembershipRefused:
    return MembershipRefused(code=code, reason=reason)
