"""What the service's drivers need from the world, and what they must not assume about it.

Each port is a small `Protocol`. A working in-memory fake lives in `tests`; fake and real adapter pass the same
conformance suite. Adapters translate the exceptions of their library into `consistency_service.errors`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from consistency_service.core.outcomes import Outcome
from edge_client.protocol.envelope import Signer


class Clock(Protocol):
    """Nanoseconds that count suspension. Has no relation to wall time or to another host's clock."""

    def now_ns(self) -> int:
        """The instant every rule is given: `CLOCK_BOOTTIME`."""
        ...

    def monotonic_ns(self) -> int:
        """`CLOCK_MONOTONIC`: stops while suspended; compared with `now_ns` to tell a suspension from a fault."""
        ...

    def raw_ns(self) -> int:
        """`CLOCK_MONOTONIC_RAW`: not slewed by time daemons; what the rate is watched against."""
        ...

    def unix_ms(self) -> int:
        """Wall time, for people only."""
        ...

    async def sleep_until(self, deadline_ns: int) -> None:
        """Return at or after `deadline_ns` of `now_ns`."""
        ...


class StateMachine(Protocol):
    """What a log drives: synchronous, deterministic, single-threaded (always called on the event loop)."""

    def apply(self, *, index: int, command: bytes) -> Outcome:
        """Apply the command at `index`. Must not raise for any bytes; an exception ends the process (fail-stop)."""
        ...

    def snapshot(self) -> bytes:
        """The whole state, to be given to `restore` in another life or on another node."""
        ...

    def restore(self, *, state: bytes, index: int) -> None:
        """Replace the state by one that `snapshot` made at `index`. Raises `SnapshotError` on anything else."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """The command was applied here at `index`, with this outcome; a quorum has it."""

    index: int
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class NotLeader:
    """This node does not lead; nothing was proposed. `leader_id` is a hint and may be None or wrong."""

    leader_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """The proposal may have committed, may yet, or never will. Ask again with the same request id."""

    reason: str


ProposalOutcome = Committed | NotLeader | Unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """Who belongs to the cluster, and where it is."""

    node_id: str
    raft: str
    """`host:port` of its raft listener."""
    url: str
    """Base URL of its REST API; empty if the log does not know."""
    votes: bool
    """False: it is catching up, and is not counted yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddMember:
    """Afterwards the node has a vote. It must be running, and have been started to join."""

    node_id: str
    raft: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveMember:
    """Afterwards the node has no vote and hears nothing; its id stays taken."""

    node_id: str


MembershipChange = AddMember | RemoveMember


@dataclass(frozen=True, slots=True, kw_only=True)
class MembershipRefused:
    """Nothing was changed, or no more than a first step that a repetition finds done."""

    code: str
    reason: str
    """For people."""


MembershipOutcome = Committed | NotLeader | Unknown | MembershipRefused


@dataclass(frozen=True, slots=True, kw_only=True)
class LogStatus:
    """What this node believes. Believing to lead is a routing hint, never grounds for an answer."""

    node_id: str
    leader_id: str | None
    leading: bool
    """This node believes that it leads."""
    term_settled: bool
    """`leading`, and the first entry of its term has applied here."""
    term: int
    commit_index: int
    applied_index: int
    voters: tuple[str, ...]
    storage_fault: str | None = None
    """What keeps this node's disk from its part, for people; None: nothing."""
    members: tuple[Member, ...] = ()
    """Voters and those who are to become one, as the log of this node says. Empty: it does not say."""
    standing: Literal["member", "joining", "removed"] = "member"
    """`joining` waits for its first vote. `removed` was told so by a member, in this life, and heard no leader since."""


class MetadataLog(Protocol):
    """A command applied at index *i* is applied at *i* everywhere, in order, durable on a quorum before its proposer
    hears so. Not guaranteed: that a believed leader leads; that a proposal which failed did not commit.
    """

    async def start(self, machine: StateMachine) -> None:
        """Recover, replay into `machine`, and begin to take part. Raises `LogStorageError` if the disk holds damage."""
        ...

    async def close(self) -> None:
        """Stop taking part and release files and sockets. Outstanding proposals end as `Unknown`."""
        ...

    async def propose(self, command: bytes, *, timeout_ms: int) -> ProposalOutcome:
        """Offer a command of at most 1 MiB; returns when it applied here, or after `timeout_ms` at the latest."""
        ...

    async def barrier(self, *, timeout_ms: int) -> ProposalOutcome:
        """When `Committed` comes back, everything committed before the call has been applied here. At any node."""
        ...

    def status(self) -> LogStatus: ...

    async def change_membership(self, change: MembershipChange, *, timeout_ms: int) -> MembershipOutcome:
        """`Committed` when everything that `change` promises is true. Repeating it is harmless, and goes on where it stopped.

        On the leader only; a leader that is asked to remove itself hands over instead and answers `NotLeader`. One change
        at a time. Refuses with `change_pending`, `invalid_member`, `member_exists`, `member_removed`, `unknown_member`,
        `too_many_members`, `last_voter`, `catching_up` when a newcomer takes too long, or, when the voters that can be heard
        would be no majority, `quorum_at_risk`.
        """
        ...

    def transfer(self, heir: str | None) -> str | None:
        """If leading: as `resign`, in favour of `heir`; returns whom, None if nobody. Raises `ValueError` if it has no vote."""
        ...

    def resign(self) -> None:
        """If leading: step down in favour of another, and do not stand for election for about two seconds."""
        ...

    def on_status_change(self, listener: Callable[[LogStatus], None]) -> None:
        """Call `listener` on the event loop when leadership or `term_settled` changed here."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One message as it came off the bus: nothing about it is to be trusted yet."""

    subject: str
    payload: bytes
    reply_to: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamTail:
    """The last message the event stream holds: its stream sequence (0: none) and message id (None: none)."""

    sequence: int
    message_id: str | None


class EventBus(Protocol):
    """Core messages at most once; the event stream at least once, in order, one acceptance per message id in its window.

    Not guaranteed: absence of gaps, or durability of anything it holds. Reconnects by itself, for ever.
    """

    async def connect(self) -> None:
        """Return at once; a bus that is away is not an error."""
        ...

    async def close(self) -> None: ...

    @property
    def connected(self) -> bool: ...

    @property
    def fault(self) -> str:
        """Why it is not connected, in a sentence without secrets; empty while it is, and before that is known."""
        ...

    @property
    def counters(self) -> Mapping[str, int]:
        """What happened so far, by stable words."""
        ...

    async def publish(self, subject: str, *, payload: bytes, reply_to: str | None = None) -> None:
        """Publish, not persisted. Raises `BusUnavailableError` when disconnected."""
        ...

    async def subscribe(
        self, subject: str, *, handler: Callable[[Delivery], None], pending_max: int, queue: str = ""
    ) -> None:
        """Call `handler` on the event loop for each message; beyond `pending_max` unhandled ones the oldest go, counted."""
        ...

    async def unsubscribe(self, subject: str) -> None:
        """No handler of `subject` is called any more; that there is none is no error."""
        ...

    async def stream_tail(self) -> StreamTail:
        """The end of the event stream, created if it is missing. Raises `BusUnavailableError`."""
        ...

    async def append(self, *, payload: bytes, message_id: str, expected_sequence: int, trace: str = "") -> int:
        """Persist one event after `expected_sequence`, under this traceparent if there is one; return its stream sequence.

        Raises `StreamFencedError` when the stream's last sequence is another, `BusUnavailableError` otherwise.
        """
        ...


class ArtifactStore(Protocol):
    """Immutable bytes by digest. What is read matches the digest asked for, or raises. Existence is not guaranteed."""

    async def put(self, chunks: AsyncIterator[bytes], *, size_max_bytes: int, digest: str | None) -> tuple[str, int]:
        """Store a stream, never holding it whole in memory; return `(digest, size_bytes)`.

        Leaves nothing behind when it raises: `ArtifactTooLargeError`, `DigestMismatchError` (when `digest` was
        given and the bytes differ), `StoreFullError`, `StoreUnavailableError`, or whatever `chunks` raised.
        """
        ...

    async def size(self, digest: str) -> int:
        """The size in bytes. Raises `ArtifactMissingError`."""
        ...

    def read(self, digest: str, *, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Stream a range. A read of the whole raises `ArtifactCorruptError` at its end, at the latest, if the bytes differ."""
        ...

    async def delete(self, digest: str) -> None:
        """Remove it if it is there."""
        ...

    async def digests(self) -> tuple[tuple[str, int], ...]:
        """Every stored `(digest, stored_at_unix_ms)`; for garbage collection."""
        ...

    async def sweep_partial(self, *, older_than_ms: int) -> int:
        """Remove what interrupted uploads of earlier lives left; return how many."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WebAnswer:
    """What somebody answered. A body longer than allowed is cut one byte beyond that."""

    status: int
    body: bytes


class WebCaller(Protocol):
    """Calls to addresses that callers of the region named. Not guaranteed: that a call without answer had no effect."""

    async def post(
        self, url: str, *, body: bytes, headers: dict[str, str], timeout_ms: int, answer_bytes_max: int
    ) -> WebAnswer:
        """The answer; redirects are answers. Raises `WebUnavailableError`, also for what is not http or https."""
        ...

    async def close(self) -> None: ...


class KeyFiles(Protocol):
    """The files of a node's keys. Reading one may take a moment, and gives what the file holds now; all raise `ConfigError`."""

    has_trust: bool
    has_publishers: bool

    def signer(self) -> Signer: ...

    def trust_text(self) -> str: ...

    def publishers_text(self) -> str: ...
