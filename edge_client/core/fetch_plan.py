"""Which artifacts must be here, in which order are they fetched and loaded, and which may go?

Picture a mechanic's list: what runs now, what is to run from an announced instant, what may come next, what ran before.
Work goes down the list; what fails is tried again later, more and more rarely; what is on no list any more is let go.
When there is not enough room, what ran before gives way first, then what may come next; what runs or is announced never
does, even above the budget, since a model that cannot be served is worse than a counted excess.

A plain dict, not cachebox: a cache evicts by use, and here use must never decide. The handful of models that are loaded
are held for a reason that has a name, and the reasons are what is compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from edge_client.core.served import Target
from edge_client.protocol.models import Version

if TYPE_CHECKING:
    from random import Random

MS: Final = 1_000_000
BACKOFF_NS_MIN: Final = 250 * MS
BACKOFF_NS_MAX: Final = 30_000 * MS
REASON_CHARS_MAX: Final = 300
JOBS_MAX: Final = 2
"""How many artifacts are fetched or loaded at a time; more would only make the most needed one wait."""
ROLES: Final = ("current", "pending", "prefetch", "previous")
"""Most needed first; the last two give way when there is no room."""
_MAY_GIVE_WAY: Final = ("prefetch", "previous")


class Stage(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    READY = "ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Get this version verified, loaded and warm."""

    model: str
    version: Version


@dataclass(frozen=True, slots=True, kw_only=True)
class LetGo:
    """This version is needed no more, or must give way."""

    model: str
    digest: str


@dataclass(slots=True)
class _Item:
    version: Version
    role: str
    stage: Stage = Stage.WAITING
    due_ns: int = 0
    attempt_count: int = 0
    reason: str = ""


class FetchPlan:
    """The items of all models of this edge. Bounded by what the region's views name: at most four a model."""

    def __init__(self, *, memory_bytes_max: int, download_bytes_max: int, rng: Random) -> None:
        self._memory_bytes_max = memory_bytes_max
        self._download_bytes_max = download_bytes_max
        self._rng = rng
        self._items: dict[tuple[str, str], _Item] = {}
        self.counters: Counter[str] = Counter()

    # ---- inputs

    def targets_changed(self, model: str, *, targets: Sequence[Target], now_ns: int) -> tuple[LetGo, ...]:
        """These are the versions that `model` needs from now on; others are let go, unless a job still runs on them."""
        wanted = {target.version.digest: target for target in targets}
        unwanted = [key for key in self._items if key[0] == model and key[1] not in wanted]
        gone = [LetGo(model=model, digest=key[1]) for key in unwanted if self._items[key].stage is Stage.READY]
        for key in unwanted:
            del self._items[key]
        for digest, target in wanted.items():
            item = self._items.get((model, digest))
            if item is None:
                self._items[model, digest] = _Item(target.version, target.role, due_ns=now_ns)
            else:
                if item.role in _MAY_GIVE_WAY and target.role not in _MAY_GIVE_WAY:
                    item.due_ns = min(item.due_ns, now_ns)
                item.role = target.role
        return tuple(gone)

    def next_step(self, *, now_ns: int) -> Job | LetGo | None:
        """What to do next: a job, whose end must be told, or something that must give way to it first. None: wait."""
        if self._running_count() >= JOBS_MAX:
            return None
        for (model, _), item in self._in_order():
            if item.stage is not Stage.WAITING or now_ns < item.due_ns or self._behind(model, item):
                continue
            if item.version.size_bytes > self._download_bytes_max:
                self._postpone(item, reason=f"{item.version.size_bytes} bytes exceed download_bytes_max", now_ns=now_ns)
                continue
            if self._excess_bytes(item) > 0:
                victim = self._victim(item, now_ns=now_ns)
                if victim is not None:
                    self.counters["evicted"] += 1
                    return LetGo(model=victim[0], digest=victim[1])
                if item.role in _MAY_GIVE_WAY:
                    self._postpone(item, reason="memory_bytes_max leaves no room for it now", now_ns=now_ns)
                    continue
                self.counters["memory_over_budget"] += 1
            item.stage = Stage.RUNNING
            return Job(model=model, version=item.version)
        return None

    def ready(self, model: str, *, digest: str, now_ns: int) -> bool:
        """The job succeeded. False: nobody needs the result any more, so it must be dropped."""
        item = self._items.get((model, digest))
        if item is None:
            self.counters["loaded_in_vain"] += 1
            return False
        item.stage, item.reason, item.attempt_count = Stage.READY, "", 0
        return True

    def failed(self, model: str, *, digest: str, reason: str, now_ns: int) -> None:
        """The job failed, for this one-sentence reason; it is tried again after a while."""
        item = self._items.get((model, digest))
        if item is not None and item.stage is not Stage.READY:  # an earlier job on it may have succeeded since
            self._postpone(item, reason=reason, now_ns=now_ns)

    def node_found(self, *, now_ns: int) -> None:
        """A node that was not known before may have what others had not: whatever waits is due now."""
        for item in self._items.values():
            if item.stage is Stage.WAITING:
                item.due_ns = min(item.due_ns, now_ns)

    # ---- answers

    def next_deadline_ns(self) -> int | None:
        """When `next_step` next has something to do by time alone; None while as many jobs run as may."""
        if self._running_count() >= JOBS_MAX:
            return None
        waiting = [
            item.due_ns
            for (model, _), item in self._items.items()
            if item.stage is Stage.WAITING and not self._behind(model, item)
        ]
        return min(waiting, default=None)

    def reasons(self, model: str) -> dict[str, str]:
        """Digest to one sentence, for what failed."""
        return {key[1]: item.reason for key, item in self._items.items() if key[0] == model and item.reason}

    def digests(self) -> tuple[str, ...]:
        """Every digest that is needed by some model."""
        return tuple(dict.fromkeys(digest for _, digest in self._items))

    def check_invariants(self) -> None:
        assert self._running_count() <= JOBS_MAX
        for (_, digest), item in self._items.items():
            assert digest == item.version.digest
            assert item.role in ROLES
            assert len(item.reason) <= REASON_CHARS_MAX
            assert item.stage is not Stage.READY or not item.reason

    def __repr__(self) -> str:
        items = " ".join(
            f"{model}@{item.version.version}:{item.role}:{item.stage}" for (model, _), item in self._in_order()
        )
        return f"<FetchPlan {items}>"

    # ---- helpers

    def _behind(self, model: str, item: _Item) -> bool:
        """What is needed less waits until what is needed has been tried, so that no fallback overtakes the right one."""
        return item.role in _MAY_GIVE_WAY and any(
            other.stage is not Stage.READY and other.attempt_count == 0
            for key, other in self._items.items()
            if key[0] == model and other.role not in _MAY_GIVE_WAY
        )

    def _running_count(self) -> int:
        return sum(item.stage is Stage.RUNNING for item in self._items.values())

    def _in_order(self) -> list[tuple[tuple[str, str], _Item]]:
        return sorted(self._items.items(), key=lambda entry: (ROLES.index(entry[1].role), entry[0]))

    def _excess_bytes(self, item: _Item) -> int:
        held = sum(other.version.size_bytes for other in self._items.values() if other.stage is not Stage.WAITING)
        return held + item.version.size_bytes - self._memory_bytes_max

    def _victim(self, item: _Item, *, now_ns: int) -> tuple[str, str] | None:
        """What gives way to `item`: the least needed thing that is loaded and less needed than it."""
        least = max(ROLES.index(item.role), ROLES.index("pending"))
        loaded = [(key, other) for key, other in self._in_order() if other.stage is Stage.READY]
        if not loaded or ROLES.index(loaded[-1][1].role) <= least:
            return None
        key, other = loaded[-1]
        self._postpone(other, reason="gave way to a version that is needed more", now_ns=now_ns)
        return key

    def _postpone(self, item: _Item, *, reason: str, now_ns: int) -> None:
        backoff_ns = min(BACKOFF_NS_MAX, BACKOFF_NS_MIN << min(item.attempt_count, 10))
        item.stage = Stage.WAITING
        item.attempt_count += 1
        item.reason = reason[:REASON_CHARS_MAX]
        item.due_ns = now_ns + int(backoff_ns * (0.75 + 0.5 * self._rng.random()))
