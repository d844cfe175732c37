"""When to stand, and whom to let stand: judgement before the library counts a single vote.

Picture somebody about to call a meeting. First they ask around: *would you come?* (a trial; the dissertation's pre-vote,
section 9.6). Nobody's term moves by being asked. Only who finds a majority willing stands, so a node behind a broken cable
calls no meeting when it returns. Who hears a leader is not willing, nor is who just woke: it may have promised something to
a leader that lives. A leader that leaves names its heir, and the heir may skip the asking.

A silence is a reason to ask only if we were listening: after a stall of our own the deadline moves, so that what waits in
the sockets is read first. A lost connection to the leader is a hint worth asking early; the others decide what it means.
"""

from __future__ import annotations

from random import Random
from typing import Final

EARLY_SHARE_MIN: Final = 0.05
EARLY_SHARE_MAX: Final = 0.5
"""Who lost the connection to its leader asks around after a silence of these shares of the shortest timeout."""

Credentials = tuple[int, int, str]
"""Last term, last index, and the node id to tell equals apart."""


class Elections:
    """The rules and their clock. All instants are nanoseconds of one clock."""

    def __init__(
        self,
        *,
        majority: int,
        timeout_min_ns: int,
        timeout_max_ns: int,
        grace_ns: int,
        random: Random,
        now_ns: int,
    ) -> None:
        self.majority = majority
        """Of the voters, with ourselves."""
        self._timeout_min_ns = timeout_min_ns
        self._timeout_max_ns = timeout_max_ns
        self._grace_ns = grace_ns
        self._random = random
        self._awake_at_ns = now_ns + timeout_min_ns
        self._heard_at_ns: int | None = None
        self._deadline_ns = self._drawn(now_ns=now_ns)
        self._held_until_ns = 0
        self._trial_stamp: int | None = None
        self._willing: list[str] = []

    @property
    def trying(self) -> bool:
        return self._trial_stamp is not None

    def due(self, *, now_ns: int) -> bool:
        """It is time to ask around."""
        return now_ns >= max(self._deadline_ns, self._held_until_ns)

    def held(self, *, now_ns: int) -> bool:
        return now_ns < self._held_until_ns

    # News.

    def leader_heard(self, *, now_ns: int) -> None:
        self._heard_at_ns = now_ns
        self.wait(now_ns=now_ns)

    def leader_lost(self, *, now_ns: int) -> None:
        """The connection to the leader is gone: it may be alive, but we do not hear it."""
        self._heard_at_ns = None
        share = self._random.uniform(EARLY_SHARE_MIN, EARLY_SHARE_MAX)
        self._deadline_ns = min(self._deadline_ns, now_ns + int(self._timeout_min_ns * share))

    def wait(self, *, now_ns: int) -> None:
        """Somebody else's turn: we voted, or a term began, or we stood ourselves."""
        self._trial_stamp = None
        self._deadline_ns = self._drawn(now_ns=now_ns)

    def stalled(self, *, now_ns: int) -> None:
        """We did not listen for a while; silence proves nothing until the sockets were read."""
        self._deadline_ns = max(self._deadline_ns, now_ns + self._grace_ns)
        if self._heard_at_ns is not None:
            self._heard_at_ns = max(self._heard_at_ns, now_ns + self._grace_ns - self._timeout_min_ns)

    def hold(self, *, until_ns: int) -> None:
        """We do not stand before `until_ns`; we forget whom we heard."""
        self._trial_stamp = None
        self._heard_at_ns = None
        self._held_until_ns = max(self._held_until_ns, until_ns)

    # Asking.

    def begin_trial(self, *, stamp: int, now_ns: int) -> None:
        """The question of this stamp is on its way to everybody else."""
        self._heard_at_ns = None
        self.wait(now_ns=now_ns)
        self._trial_stamp, self._willing = stamp, []

    def willing(self, node_id: str, *, stamp: int) -> None:
        if stamp == self._trial_stamp and node_id not in self._willing:
            self._willing.append(node_id)

    def should_stand(self) -> bool:
        """A majority is willing, ourselves among it. The trial is over when this says so."""
        if self._trial_stamp is None or len(self._willing) + 1 < self.majority:
            return False
        self._trial_stamp = None
        return True

    # Being asked.

    def may_vote(self, *, handed_over: bool, now_ns: int) -> bool:
        """No leader is heard, and we are awake long enough to know; or the leader itself named this heir."""
        if handed_over:
            return True
        heard = self._heard_at_ns is not None and now_ns < self._heard_at_ns + self._timeout_min_ns
        return not heard and now_ns >= self._awake_at_ns

    def would_vote(self, candidate: Credentials, *, own: Credentials, now_ns: int) -> bool:
        """We would come. Of two that ask each other, who has the longer log, or the greater name, goes first."""
        if candidate[:2] < own[:2] or not self.may_vote(handed_over=False, now_ns=now_ns):
            return False
        if self.trying and candidate < own:
            return False
        self._trial_stamp = None
        self._deadline_ns = max(self._deadline_ns, now_ns + self._grace_ns)
        return True

    def _drawn(self, *, now_ns: int) -> int:
        return now_ns + self._random.randint(self._timeout_min_ns, self._timeout_max_ns)
