"""What all edges told of their readings, added up by version and generation.

Picture a treasurer with one ledger a version and, for each life of an edge, the last slip it handed in. A slip says what
was taken in altogether, so only the difference to the last one is added: slips may be lost, repeated or late, and each
costs the same whether ten edges report or ten thousand. An edge that starts again begins with an empty slip. A slip that
says less than the one before is old or false, and is refused; a sketch left out for want of room says nothing.

Nothing here is replicated. Every node hears every edge, and each adds up for itself.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

import msgspec

from edge_client.protocol.messages import EdgeReport
from edge_client.protocol.observations import OTHER, Observations, observations_fault

TOTALS_MAX: Final = 256
"""When there are more, the one to which nothing was added for longest is forgotten."""
TOTAL_LABELS_MAX: Final = 1_024
"""Labels of all edges together that are counted by themselves."""
TOTAL_EDGES_MAX: Final = 100_000
SHEETS_PER_LIFE_MAX: Final = 1_024
"""More than an honest edge keeps at a time; the one told of longest ago is forgotten."""
LIVES_BYTES_MAX: Final = 256 * 1024 * 1024
"""For the last sheets of all lives; beyond it those of the life unheard for longest are forgotten."""
LIVES_FORGOTTEN_MAX: Final = 200_000
"""Of so many lives it is remembered that they were forgotten, so that nothing of theirs is added twice."""
_LIFE_BYTES: Final = 512
"""What a life costs besides its sheets, roughly."""

_Key = tuple[str, str, int]
_K = TypeVar("_K", int, str)
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Observations)


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """Everything that was told of one version under one generation, as far as this node heard it."""

    observations: Observations
    """The sums, in the form in which one edge tells its own."""
    edge_count: int
    """Edges that contributed: so many were exposed to this version, and said so."""
    first_at_ns: int
    last_at_ns: int
    """When something was added first and last, by this node's clock."""


@dataclass(slots=True)
class _Ledger:
    first_at_ns: int
    last_at_ns: int
    count: int = 0
    judged_count: int = 0
    failed_count: int = 0
    score_sum: float = 0.0
    score_square_sum: float = 0.0
    latencies: Counter[int] = field(default_factory=Counter)
    scores: Counter[int] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    edges: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Life:
    """The last sheet of each version and generation, encoded: a tenth of what it takes as objects."""

    sheets: OrderedDict[_Key, bytes] = field(default_factory=OrderedDict)
    size_bytes: int = _LIFE_BYTES


class ObservedTotals:
    """Totals by `(model, version, generation)`. Everything is bounded, what overflows is counted; not thread-safe.

    `known` says whether a version and generation exist at all, so that no false report makes true ones be forgotten.
    """

    def __init__(
        self, *, known: Callable[[str, str, int], bool] | None = None, counters: Counter[str] | None = None
    ) -> None:
        self._known = known
        self._ledgers: OrderedDict[_Key, _Ledger] = OrderedDict()
        self._lives: OrderedDict[tuple[str, str], _Life] = OrderedDict()
        self._forgotten: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._lives_bytes = 0
        self.counters: Counter[str] = Counter() if counters is None else counters

    # ---- inputs

    def report_received(self, report: EdgeReport, *, now_ns: int) -> None:
        """What this life of this edge told beyond what it had told before is in the totals. Never raises."""
        if not report.observations:
            return
        name = (report.edge_id, report.life_id)
        life = self._lives.get(name)
        unknown_past = life is None and name in self._forgotten
        if life is None:
            life = self._lives[name] = _Life()
            self._lives_bytes += life.size_bytes
            self._forgotten.pop(name, None)
        self._lives.move_to_end(name)
        for sheet in report.observations:
            self._sheet_received(life, sheet, edge_id=report.edge_id, counts=not unknown_past, now_ns=now_ns)
        self._forget_lives()

    # ---- answers

    def total(self, model: str, version: str, generation: int) -> Total | None:
        """What was told of this version under this generation; None if nothing was."""
        key = (model, version, generation)
        ledger = self._ledgers.get(key)
        return None if ledger is None else _total(key, ledger)

    def totals(self, model: str) -> tuple[Total, ...]:
        """Every total of a model, by generation and version."""
        keys = sorted((generation, version) for name, version, generation in self._ledgers if name == model)
        return tuple(
            _total(key, self._ledgers[key]) for key in ((model, version, generation) for generation, version in keys)
        )

    def check_invariants(self) -> None:
        assert len(self._ledgers) <= TOTALS_MAX
        assert len(self._forgotten) <= LIVES_FORGOTTEN_MAX
        assert self._lives_bytes == sum(life.size_bytes for life in self._lives.values())
        assert self._lives_bytes <= LIVES_BYTES_MAX or len(self._lives) == 1
        assert not self._lives.keys() & self._forgotten.keys()
        for ledger in self._ledgers.values():
            assert 0 <= ledger.failed_count <= ledger.judged_count <= ledger.count
            assert len(ledger.labels) <= TOTAL_LABELS_MAX + 1
            assert ledger.first_at_ns <= ledger.last_at_ns

    def __repr__(self) -> str:
        sums = " ".join(
            f"{model}@{version}:g{g}={ledger.count}" for (model, version, g), ledger in self._ledgers.items()
        )
        return f"<ObservedTotals lives={len(self._lives)} {sums}>"

    # ---- helpers

    def _sheet_received(self, life: _Life, sheet: Observations, *, edge_id: str, counts: bool, now_ns: int) -> None:
        if observations_fault(sheet) is not None:
            self.counters["observations_invalid"] += 1
            return
        key = (sheet.model, sheet.version, sheet.generation)
        if self._known is not None and not self._known(*key):
            self.counters["observations_unknown"] += 1
            return
        encoded = life.sheets.get(key)
        last = _nothing(key) if encoded is None else _decoder.decode(encoded)
        sheet = _filled(sheet, last=last)
        if not _grew(sheet, last=last):
            self.counters["observations_shrunk"] += 1
            return
        if sheet != last:
            self._remember(life, key, _encoder.encode(sheet))
            if counts:
                self._add(key, sheet, last=last, edge_id=edge_id, now_ns=now_ns)
            else:
                self.counters["observations_of_forgotten_lives"] += 1

    def _add(self, key: _Key, sheet: Observations, *, last: Observations, edge_id: str, now_ns: int) -> None:
        ledger = self._ledgers.get(key)
        if ledger is None:
            ledger = self._ledgers[key] = _Ledger(now_ns, now_ns)
        self._ledgers.move_to_end(key)
        while len(self._ledgers) > TOTALS_MAX:
            self._ledgers.popitem(last=False)
            self.counters["observation_totals_forgotten"] += 1
        ledger.last_at_ns = now_ns
        ledger.count += sheet.count - last.count
        ledger.judged_count += sheet.judged_count - last.judged_count
        ledger.failed_count += sheet.failed_count - last.failed_count
        ledger.score_sum += sheet.score_sum - last.score_sum
        ledger.score_square_sum += sheet.score_square_sum - last.score_square_sum
        _add_counts(ledger.latencies, sheet.latencies, last=last.latencies)
        _add_counts(ledger.scores, sheet.scores, last=last.scores)
        for label, count in sheet.labels.items():
            grown_count = count - last.labels.get(label, 0)
            if label in ledger.labels or len(ledger.labels) < TOTAL_LABELS_MAX:
                ledger.labels[label] += grown_count
            elif grown_count:
                ledger.labels[OTHER] += grown_count
                self.counters["observation_labels_beyond_max"] += 1
        if edge_id not in ledger.edges:
            if len(ledger.edges) < TOTAL_EDGES_MAX:
                ledger.edges.add(edge_id)
            else:
                self.counters["observation_edges_beyond_max"] += 1

    def _remember(self, life: _Life, key: _Key, encoded: bytes) -> None:
        grown_bytes = len(encoded) - len(life.sheets.pop(key, b""))
        life.sheets[key] = encoded
        while len(life.sheets) > SHEETS_PER_LIFE_MAX:
            grown_bytes -= len(life.sheets.popitem(last=False)[1])
            self.counters["observation_sheets_forgotten"] += 1
        life.size_bytes += grown_bytes
        self._lives_bytes += grown_bytes

    def _forget_lives(self) -> None:
        """Those unheard for longest; never the one heard just now."""
        while self._lives_bytes > LIVES_BYTES_MAX and len(self._lives) > 1:
            name, life = self._lives.popitem(last=False)
            self._lives_bytes -= life.size_bytes
            self._forgotten[name] = None
            self.counters["observation_lives_forgotten"] += 1
            while len(self._forgotten) > LIVES_FORGOTTEN_MAX:
                self._forgotten.popitem(last=False)


def _nothing(key: _Key) -> Observations:
    return Observations(model=key[0], version=key[1], generation=key[2])


def _filled(sheet: Observations, *, last: Observations) -> Observations:
    """The sheet, with the sketches of the last one where it has none."""
    scored = sheet if sheet.scores else last
    return msgspec.structs.replace(
        sheet,
        latencies=sheet.latencies or last.latencies,
        scores=scored.scores,
        score_sum=scored.score_sum,
        score_square_sum=scored.score_square_sum,
        labels=sheet.labels or last.labels,
    )


def _grew(sheet: Observations, *, last: Observations) -> bool:
    """Nothing is less than it was, so that each difference is something that happened."""
    return (
        sheet.count >= last.count
        and sheet.judged_count >= last.judged_count
        and sheet.failed_count >= last.failed_count
        and sheet.count - last.count >= sheet.judged_count - last.judged_count >= sheet.failed_count - last.failed_count
        and sheet.score_square_sum >= last.score_square_sum
        and _holds(sheet.latencies, last.latencies)
        and _holds(sheet.scores, last.scores)
        and _holds(sheet.labels, last.labels)
    )


def _holds(counts: Mapping[_K, int], before: Mapping[_K, int]) -> bool:
    return all(counts.get(name, 0) >= count for name, count in before.items())


def _add_counts(into: Counter[int], counts: Mapping[int, int], *, last: Mapping[int, int]) -> None:
    for bucket, count in counts.items():
        into[bucket] += count - last.get(bucket, 0)


def _total(key: _Key, ledger: _Ledger) -> Total:
    model, version, generation = key
    return Total(
        observations=Observations(
            model=model,
            version=version,
            generation=generation,
            count=ledger.count,
            judged_count=ledger.judged_count,
            failed_count=ledger.failed_count,
            latencies=dict(ledger.latencies),
            scores=dict(ledger.scores),
            score_sum=ledger.score_sum,
            score_square_sum=ledger.score_square_sum,
            labels=dict(ledger.labels),
        ),
        edge_count=len(ledger.edges),
        first_at_ns=ledger.first_at_ns,
        last_at_ns=ledger.last_at_ns,
    )
