"""Which version of one model is to be served now, and what is that answer worth?

Picture a shop window with one place. The region's view says which version belongs there and which is to take its place
at which instant; the reader's standing says how far the clocks allow a statement; the shelf holds what is loaded. From
these three follows one `Choice`, anew for each instant. Two things are remembered: that the instant of an activation
was passed (then there is no way back, whatever happens to the samples), and what stood in the window last, which is the
fallback when the right one is not on the shelf (protocol, sections 5 and 8).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from edge_client.core.reading import MS_NS, Guarantee, Loaded
from edge_client.errors import FallbackRefusedError, ModelNotReadyError, TooStaleError, UnknownModelError
from edge_client.protocol.messages import Switch
from edge_client.protocol.models import Assignment, ModelView, Pending, Version
from edge_client.protocol.position import ORIGIN, Position
from edge_client.protocol.reader import NEVER_NS, Reader

SWITCHES_MAX: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What to serve at one instant."""

    loaded: Loaded
    generation: int
    guarantee: Guarantee
    strong_until_ns: int
    """Strong strictly before this local instant; `NEVER_NS` if not at all."""
    bound_ns: int | None
    """The staleness bound; 0 when strong, None when none is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A version this edge should have of this model, and why: a role of `fetch_plan`."""

    version: Version
    role: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What the pending rule asks for, before anybody looks at the shelf."""

    assignment: Assignment
    generation: int
    next_served: bool
    strong_until_ns: int
    activation: Pending | None
    """The activation by which this generation came, while it is known."""


class Served:
    """One model at one edge. Not thread-safe; every call is one synchronous step."""

    def __init__(
        self, *, model: str, edge_id: str, site: str, labels: Mapping[str, str], counts_suspension: bool = True
    ) -> None:
        self.model = model
        self._edge_id = edge_id
        self._site = site
        self._labels = dict(labels)
        self._counts_suspension = counts_suspension
        self._view: ModelView | None = None
        self._position: Position = ORIGIN
        self._shelf: dict[str, tuple[Loaded, int]] = {}
        self._activation: tuple[Pending, int] | None = None  # the last one known, and when it was applied here
        self._crossed: int | None = None  # the revision of the activation whose instant was passed
        self._switched: int | None = None  # the revision of the activation whose generation was served
        self._last: tuple[Loaded, int] | None = None  # what was served last, and its generation
        self.switches: deque[Switch] = deque(maxlen=SWITCHES_MAX)
        self.counters: Counter[str] = Counter()

    # ---- inputs

    def view_applied(self, view: ModelView | None, *, position: Position, now_ns: int) -> None:
        """The model looks like this at `position`; None: the region knows no such model."""
        if position.epoch != self._position.epoch:
            self._crossed = self._switched = self._activation = self._last = None
        elif view is None or (self._view is not None and view.created != self._view.created):
            # Deleted, perhaps created anew: what was served last belongs to no generation that now counts.
            self._activation = self._last = None
        self._view, self._position = view, position
        pending = view.pending if view else None
        if pending is not None and (self._activation is None or self._activation[0].revision != pending.revision):
            self._activation = (pending, now_ns)

    def loaded(self, loaded: Loaded, *, now_ns: int) -> None:
        """This version is verified, loaded and warm."""
        self._shelf[loaded.version.digest] = (loaded, now_ns)

    def let_go(self, digest: str, *, now_ns: int) -> None:
        """This version is needed no more; readings that refer to it keep it alive by themselves."""
        self._shelf.pop(digest, None)
        if self._last is not None and self._last[0].version.digest == digest:
            self._last = None

    def emptied(self, *, now_ns: int) -> None:
        """The client is closed: let go of everything."""
        self._shelf.clear()
        self._last = None

    # ---- answers

    def choose(self, reader: Reader, *, epoch_current: bool, strong_only: bool = False, now_ns: int) -> Choice:
        """What to serve at `now_ns`. Raises the typed errors of `read`.

        With `strong_only` the serving of immediate activations before their instant is left out, as `read_strong` asks.
        """
        view = self._require_view()
        wanted = self._wanted(view, reader, strong_only=strong_only, now_ns=now_ns)
        version = self._version(wanted.assignment)
        entry = self._shelf.get(version.digest) if version else None
        if entry is None:
            return self._fallback(view, wanted, reader, epoch_current=epoch_current, now_ns=now_ns)
        if wanted.activation is not None:
            self._note_switch(wanted.activation, reader, ready_at_ns=entry[1], now_ns=now_ns)
        self._last = (entry[0], wanted.generation)
        trusted = reader.trusted and self._counts_suspension and epoch_current
        if trusted and reader.position.epoch == self._position.epoch and now_ns < wanted.strong_until_ns:
            return Choice(
                loaded=entry[0],
                generation=wanted.generation,
                guarantee=Guarantee.STRONG,
                strong_until_ns=wanted.strong_until_ns,
                bound_ns=0,
            )
        bound_ns = None
        if epoch_current:  # nothing bounds how old the history itself is, once a greater epoch is heard of
            bound_ns = reader.staleness_bound_ns(view.pending, serve_next=wanted.next_served, now_ns=now_ns)
        return self._admitted(
            view, entry[0], generation=wanted.generation, guarantee=Guarantee.BOUNDED, bound_ns=bound_ns
        )

    def changes_at_ns(self, reader: Reader, *, now_ns: int) -> int | None:
        """The next local instant at which the choice becomes another by time alone, leases aside."""
        if self._view is None or self._view.pending is None or self._view.pending.revision == self._crossed:
            return None
        return reader.standing(self._view.pending, now_ns=now_ns).changes_at_ns

    def targets(self) -> tuple[Target, ...]:
        """The versions to have here, most needed first, each once."""
        view = self._view
        if view is None:
            return ()
        wishes: tuple[tuple[str, Assignment | None], ...] = (
            ("current", view.assignment),
            ("pending", view.pending.assignment if view.pending else None),
            ("prefetch", view.prefetch),
            ("previous", view.previous),
        )
        targets: dict[str, Target] = {}
        for role, assignment in wishes:
            version = self._version(assignment) if assignment else None
            if version is not None and version.digest not in targets:
                targets[version.digest] = Target(version=version, role=role)
        if self._last is not None and next(iter(targets), None) not in self._shelf:
            # Whatever the view says: the last usable version stays until a right one is there.
            version = self._last[0].version
            if targets.get(version.digest) is None or targets[version.digest].role != "pending":
                targets[version.digest] = Target(version=version, role="serving")
        return tuple(targets.values())

    def ready(self) -> tuple[str, ...]:
        """The digests on the shelf."""
        return tuple(self._shelf)

    @property
    def served_digest(self) -> str | None:
        """What was served last, if it is still here."""
        return None if self._last is None else self._last[0].version.digest

    @property
    def activation(self) -> tuple[Pending, int] | None:
        """The activation known last, and when it was applied here."""
        return self._activation

    def check_invariants(self) -> None:
        assert len(self.switches) <= SWITCHES_MAX
        assert self._switched is None or self._crossed is None or self._switched <= self._crossed
        for digest, (loaded, _) in self._shelf.items():
            assert digest == loaded.version.digest
        assert self._last is None or self._last[0].version.digest in self._shelf

    def __repr__(self) -> str:
        view = self._view
        state = "unknown" if view is None else f"g{view.generation}"
        pending = f" pending=g{view.pending.generation}@r{view.pending.revision}" if view and view.pending else ""
        crossed = f" crossed=r{self._crossed}" if self._crossed is not None else ""
        shelf = ",".join(loaded.version.version for loaded, _ in self._shelf.values())
        return f"<Served {self.model} {state}{pending}{crossed} shelf=[{shelf}]>"

    # ---- helpers

    def _require_view(self) -> ModelView:
        if self._view is not None:
            return self._view
        if self._position == ORIGIN:
            raise ModelNotReadyError(f"{self.model}: nothing is known of the region yet; wait with wait_ready")
        raise UnknownModelError(f"the region knows no model {self.model!r}; create it, or check the name")

    def _wanted(self, view: ModelView, reader: Reader, *, strong_only: bool, now_ns: int) -> _Wanted:
        pending = view.pending
        if pending is None:
            return self._settled(view, reader)
        standing = reader.standing(pending, now_ns=now_ns)
        if standing.serve_next:
            self._crossed = pending.revision
        if self._crossed == pending.revision:
            # Served once, it is served on; but when the samples that said so were voided, it is not strong.
            return _next(pending, strong_until_ns=standing.strong_until_ns if standing.serve_next else NEVER_NS)
        if pending.immediate and not strong_only:
            version = self._version(pending.assignment)
            if version is not None and version.digest in self._shelf:
                return _next(pending, strong_until_ns=NEVER_NS)
        return self._present(view, strong_until_ns=standing.strong_until_ns, activation=None)

    def _settled(self, view: ModelView, reader: Reader) -> _Wanted:
        """Nothing is pending. What was pending when this generation came has passed its instant, by settlement."""
        activation = None
        if self._activation is not None and self._activation[0].generation == view.generation:
            activation = self._activation[0]
            self._crossed = activation.revision
        return self._present(view, strong_until_ns=reader.lease_until_ns, activation=activation)

    def _present(self, view: ModelView, *, strong_until_ns: int, activation: Pending | None) -> _Wanted:
        if view.assignment is None:
            raise UnknownModelError(f"{self.model!r} has no active version; activate one")
        return _Wanted(
            assignment=view.assignment,
            generation=view.generation,
            next_served=False,
            strong_until_ns=strong_until_ns,
            activation=activation,
        )

    def _version(self, assignment: Assignment) -> Version | None:
        name = assignment.version_for(edge_id=self._edge_id, site=self._site, labels=self._labels)
        return self._view.versions.get(name) if self._view else None

    def _fallback(
        self, view: ModelView, wanted: _Wanted, reader: Reader, *, epoch_current: bool, now_ns: int
    ) -> Choice:
        """The newest generation whose version is here, of those before the wanted one and what was served last.

        What is served so is kept until something newer is here, so that no later fallback is older.
        """
        crossed_pending = wanted.activation is not None and view.pending is not None
        befores = [(view.previous, view.previous_generation or view.generation - 1)]
        if crossed_pending:
            befores.append((view.assignment, view.generation))
        candidates: list[tuple[Loaded, int]] = []
        for before, generation in befores:
            version = self._version(before) if before else None
            if version is not None and version.digest in self._shelf:
                candidates.append((self._shelf[version.digest][0], generation))
        if self._last is not None:
            candidates.append(self._last)
        if not candidates:
            raise ModelNotReadyError(f"{self.model}: no version that should be served is loaded here yet")
        if not view.policy.fallback_allowed:
            raise FallbackRefusedError(
                f"{self.model}: the version to be served is not usable here, and its policy allows no fallback"
            )
        loaded, generation = self._last = max(candidates, key=_generation_of)
        bound_ns = None
        superseded = wanted.activation is not None and generation == wanted.activation.generation - 1
        if superseded and epoch_current:
            bound_ns = reader.staleness_bound_ns(wanted.activation, serve_next=False, now_ns=now_ns)
        return self._admitted(view, loaded, generation=generation, guarantee=Guarantee.FALLBACK, bound_ns=bound_ns)

    def _admitted(
        self, view: ModelView, loaded: Loaded, *, generation: int, guarantee: Guarantee, bound_ns: int | None
    ) -> Choice:
        """The choice, unless the policy calls it too stale."""
        limit_ms = view.policy.staleness_max_ms
        if limit_ms is not None and (bound_ns is None or bound_ns > limit_ms * MS_NS):
            stated = "no bound is known" if bound_ns is None else f"the bound is {-(-bound_ns // MS_NS)} ms"
            raise TooStaleError(f"{self.model}: {stated}, and its policy allows {limit_ms} ms; wait for the region")
        return Choice(
            loaded=loaded, generation=generation, guarantee=guarantee, strong_until_ns=NEVER_NS, bound_ns=bound_ns
        )

    def _note_switch(self, activation: Pending, reader: Reader, *, ready_at_ns: int, now_ns: int) -> None:
        """Record, once, when this edge began to serve the generation, by the middle of its bounds on that clock."""
        if self._switched == activation.revision or self._crossed != activation.revision:
            return
        self._switched = activation.revision
        samples = reader.samples_of(activation.clock_id)
        known_at_ns = self._activation[1] if self._activation else now_ns
        begun_ns = samples.surely_reached_from_ns(activation.effective_at_ns) if samples else None
        at_ns = now_ns if begun_ns is None else min(now_ns, max(begun_ns, ready_at_ns, known_at_ns))
        lo_ns = samples.lo_ns(now_ns=at_ns) if samples else None
        hi_ns = samples.hi_ns(now_ns=at_ns) if samples else None
        if lo_ns is None or hi_ns is None:
            self.counters["switches_unmeasured"] += 1
            return
        self.switches.append(
            Switch(
                model=self.model,
                generation=activation.generation,
                activation=activation.revision,
                clock_id=activation.clock_id,
                late_ns=(lo_ns + hi_ns) // 2 - activation.effective_at_ns,
                uncertainty_ns=hi_ns - lo_ns,
                at_ns=at_ns,
            )
        )


def _generation_of(candidate: tuple[Loaded, int]) -> int:
    return candidate[1]


def _next(pending: Pending, *, strong_until_ns: int) -> _Wanted:
    return _Wanted(
        assignment=pending.assignment,
        generation=pending.generation,
        next_served=True,
        strong_until_ns=strong_until_ns,
        activation=pending,
    )
