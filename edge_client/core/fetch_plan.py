"""Which artifacts must be here, in which order are they fetched and loaded, and which may go?

Picture a mechanic's list: what runs now, what is to run from an announced instant, what may come next, what ran before.
Work goes down the list; what fails is tried again later, more and more rarely; what is on no list any more is let go.
When there is not enough room, what ran before gives way first, then what may come next; what runs or is announced never
does, even above the budget, since a model that cannot be served is worse than a counted excess. What may come next
begins at a moment of its own, so that ten thousand edges that hear of it at once do not all ask at once.

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
ROLES: Final = ("current", "pending", "serving", "prefetch", "previous")
"""Most needed first; the last two give way when there is no room. What is served until `current` is here does not."""
_MAY_GIVE_WAY: Final = ("prefetch", "previous")
NO_ROOM: Final = "memory_bytes_max or download_bytes_max leaves no room for it now"
GAVE_WAY: Final = "gave way to a version that is needed more"


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
    """The items of all models of this edge. Bounded by what the region's views name: at most four a model.

    `jobs_max` artifacts are fetched or loaded at a time, and as many again while something must be served for which
    others have left no turn. What may come next waits up to `prefetch_jitter_ms` before its first attempt.
    """

    def __init__(
        self,
        *,
        memory_bytes_max: int,
        download_bytes_max: int,
        rng: Random,
        jobs_max: int = 2,
        prefetch_jitter_ms: int = 0,
    ) -> None:
        self._memory_bytes_max = memory_bytes_max
        self._download_bytes_max = download_bytes_max
        self._jobs_max = jobs_max
        self._jitter_ns = prefetch_jitter_ms * MS
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
        if unwanted:
            self._room_made(now_ns=now_ns)
        for digest, target in wanted.items():
            item = self._items.get((model, digest))
            if item is None:
                due_ns = now_ns
                if target.role == "prefetch":
                    due_ns += int(self._jitter_ns * self._rng.random())
                self._items[model, digest] = _Item(target.version, target.role, due_ns=due_ns)
            else:
                if item.version != target.version:  # the same bytes under another name, or signed once more
                    item.version = target.version
                    item.due_ns = min(item.due_ns, now_ns)
                if item.role in _MAY_GIVE_WAY and target.role not in _MAY_GIVE_WAY:
                    item.due_ns = min(item.due_ns, now_ns)
                item.role = target.role
        return tuple(gone)

    def next_step(self, *, now_ns: int) -> Job | LetGo | None:
        """What to do next: a job, whose end must be told, or something that must give way to it first. None: wait."""
        for (model, _), item in self._in_order():
            if item.stage is not Stage.WAITING or now_ns < item.due_ns or self._must_wait(model, item):
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
                    self._postpone(item, reason=NO_ROOM, now_ns=now_ns)
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

    def distrusted(self, model: str, *, digest: str, reason: str, now_ns: int) -> LetGo | None:
        """A loaded version may not be served any more, for this one-sentence reason; it is tried again after a while."""
        item = self._items.get((model, digest))
        if item is None or item.stage is not Stage.READY:
            return None
        self._postpone(item, reason=reason, now_ns=now_ns)
        return LetGo(model=model, digest=digest)

    def try_again(self, *, now_ns: int) -> None:
        """Something was found that was missing, such as a node or a key: whatever failed is due now."""
        for item in self._items.values():
            if item.stage is Stage.WAITING and item.attempt_count > 0:
                item.due_ns = min(item.due_ns, now_ns)

    # ---- answers

    def loaded(self) -> tuple[tuple[str, Version], ...]:
        """Model and version of all that is loaded."""
        return tuple((key[0], item.version) for key, item in self._items.items() if item.stage is Stage.READY)

    def next_deadline_ns(self) -> int | None:
        """When `next_step` next has something to do by time alone; None while as many jobs run as may."""
        waiting = [
            item.due_ns
            for (model, _), item in self._items.items()
            if item.stage is Stage.WAITING and not self._must_wait(model, item)
        ]
        return min(waiting, default=None)

    def reasons(self, model: str) -> dict[str, str]:
        """Digest to one sentence, for what failed."""
        return {key[1]: item.reason for key, item in self._items.items() if key[0] == model and item.reason}

    def digests(self) -> tuple[str, ...]:
        """Every digest that is needed by some model, most needed first."""
        return tuple(dict.fromkeys(key[1] for key, _ in self._in_order()))

    def held_digests(self) -> tuple[str, ...]:
        """Every digest that is loaded, or on its way: the files that must not be touched."""
        return tuple(dict.fromkeys(key[1] for key, item in self._in_order() if item.stage is not Stage.WAITING))

    def check_invariants(self) -> None:
        assert self._running_count() <= 2 * self._jobs_max
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

    def _must_wait(self, model: str, item: _Item) -> bool:
        """Others come first, or as many jobs run as may. What must be served does not queue behind what may give way."""
        if item.role in _MAY_GIVE_WAY:
            return self._running_count() >= self._jobs_max or self._behind(model, item)
        urgent = sum(other.stage is Stage.RUNNING and other.role not in _MAY_GIVE_WAY for other in self._items.values())
        return urgent >= self._jobs_max or self._running_count() >= 2 * self._jobs_max

    def _running_count(self) -> int:
        return sum(item.stage is Stage.RUNNING for item in self._items.values())

    def _in_order(self) -> list[tuple[tuple[str, str], _Item]]:
        return sorted(self._items.items(), key=lambda entry: (ROLES.index(entry[1].role), entry[0]))

    def _excess_bytes(self, item: _Item) -> int:
        """By how much memory or disk would be too small; what several models share lies on the disk once."""
        held = [other.version for other in self._items.values() if other.stage is not Stage.WAITING]
        held.append(item.version)
        on_disk = {version.digest: version.size_bytes for version in held}
        return max(
            sum(version.size_bytes for version in held) - self._memory_bytes_max,
            sum(on_disk.values()) - self._download_bytes_max,
        )

    def _victim(self, item: _Item, *, now_ns: int) -> tuple[str, str] | None:
        """What gives way to `item`: the least needed thing that is loaded and less needed than it."""
        least = max(ROLES.index(item.role), ROLES.index("serving"))
        loaded = [(key, other) for key, other in self._in_order() if other.stage is Stage.READY]
        if not loaded or ROLES.index(loaded[-1][1].role) <= least:
            return None
        key, other = loaded[-1]
        self._postpone(other, reason=GAVE_WAY, now_ns=now_ns)
        return key

    def _room_made(self, *, now_ns: int) -> None:
        """Something is needed no more: what found no room may look again."""
        for item in self._items.values():
            if item.stage is Stage.WAITING and item.reason in (NO_ROOM, GAVE_WAY):
                item.due_ns = min(item.due_ns, now_ns)

    def _postpone(self, item: _Item, *, reason: str, now_ns: int) -> None:
        backoff_ns = min(BACKOFF_NS_MAX, BACKOFF_NS_MIN << min(item.attempt_count, 10))
        item.stage = Stage.WAITING
        item.attempt_count += 1
        item.reason = reason[:REASON_CHARS_MAX]
        item.due_ns = now_ns + int(backoff_ns * (0.75 + 0.5 * self._rng.random()))
