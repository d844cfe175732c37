"""One model at one edge, read again and again, and what came of it.

The application in miniature: read, use the value while it is pinned, trust nothing. Every value carries the version and
the digest of the bytes it was made of, so a reading that names another version than its value is noticed.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final, Protocol

from consistency_service.testbed.digits import classify, load_held_out, load_onnx
from consistency_service.testbed.edge_status import Session, SwitchSeen, VersionTally
from consistency_service.testbed.errors import TestbedError
from edge_client import EdgeError, ModelNotReadyError, Reading, UnknownModelError

if TYPE_CHECKING:
    from consistency_service.testbed.recorder import Recorder

BURST_ROUNDS: Final = 20
BURST_READS: Final = 50
RATE_WINDOW_NS: Final = 1_000_000_000
GENERATIONS_KEPT: Final = 256
TEXT_LENGTH_MAX: Final = 300


class Readable(Protocol):
    """What a session needs of a model of either client."""

    def read(self) -> Reading: ...


class SwitchLike(Protocol):
    """What the client tells about a switch."""

    @property
    def model(self) -> str: ...
    @property
    def generation(self) -> int: ...
    @property
    def activation(self) -> int: ...
    @property
    def late_ns(self) -> int: ...
    @property
    def uncertainty_ns(self) -> int: ...


class ArtifactLike(Protocol):
    """What the client gives a loader."""

    @property
    def version(self) -> str: ...
    @property
    def path(self) -> Path: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What our loaders make: a usable thing, and what it was made of."""

    version: str
    digest: str
    thing: Any


def boottime_ns() -> int:
    """The clock that all processes of one machine share, and that counts suspension."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def load_carried_onnx(artifact: ArtifactLike) -> Carried:
    """An onnxruntime session."""
    content = artifact.path.read_bytes()
    return Carried(version=artifact.version, digest=_digest(content), thing=load_onnx(content))


def load_carried_bytes(artifact: ArtifactLike) -> Carried:
    """The bytes themselves."""
    content = artifact.path.read_bytes()
    return Carried(version=artifact.version, digest=_digest(content), thing=content)


LOADERS: Final[Mapping[str, Callable[[ArtifactLike], Carried]]] = {
    "onnx": load_carried_onnx,
    "bytes": load_carried_bytes,
}


class HeldOut:
    """Held-out images, one at a time."""

    def __init__(self, path: Path) -> None:
        self._images, self._labels = load_held_out(path)

    def classify(self, value: Carried, *, number: int) -> tuple[int, int]:
        """The label that the model gives image `number` (from the first again after the last), and the true one."""
        place = number % len(self._labels)
        return int(classify(value.thing, self._images[place : place + 1])[0]), int(self._labels[place])


def digests_of(manifest: Path) -> dict[str, str]:
    """Version to digest, of a manifest of `digits`. Raises `TestbedError`."""
    try:
        return {version: str(entry["digest"]) for version, entry in json.loads(manifest.read_bytes())["models"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TestbedError(f"cannot read the manifest {manifest}: {error}") from error


class ReadLoop:
    """Reads one model and keeps count. One thread at a time."""

    def __init__(
        self,
        *,
        edge_id: str,
        model: str,
        readable: Readable,
        held_out: HeldOut | None = None,
        digests: Mapping[str, str] | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.session = Session(edge_id=edge_id, model=model)
        self._readable = readable
        self._held_out = held_out
        self._digests = dict(digests or {})
        self._recorder = recorder
        self._first_seen_ns: dict[int, int] = {}
        self._generation: int | None = None
        self._counts: deque[tuple[int, int]] = deque()

    @property
    def waiting(self) -> bool:
        """Nothing could be read yet."""
        return self._generation is None

    def step(self) -> None:
        """Read once, and use what was read."""
        invoked_ns = boottime_ns()
        try:
            with self._readable.read() as reading:
                self._took(reading, invoked_ns=invoked_ns, returned_ns=boottime_ns())
                if self._held_out is not None:
                    self._use(reading, self._held_out)
        except EdgeError as error:
            self._failed(error, invoked_ns=invoked_ns)

    def _use(self, reading: Reading, held_out: HeldOut) -> None:
        """One image was classified, and the region is told how that went."""
        tally = self.session.versions.setdefault(reading.version, VersionTally())
        begun_ns = time.perf_counter_ns()
        label, truth = held_out.classify(reading.value, number=tally.classified)
        latency_ms = (time.perf_counter_ns() - begun_ns) / 1e6
        tally.correct += label == truth
        tally.classified += 1
        reading.report(ok=label == truth, latency_ms=latency_ms, label=str(label))

    def burst(self) -> None:
        """Measure what a bare `read()` costs, if it can be read at all."""
        read, rounds_ns = self._readable.read, []
        try:
            for _ in range(BURST_ROUNDS):
                begun_ns = time.perf_counter_ns()
                for _ in repeat(None, BURST_READS):
                    read()
                rounds_ns.append((time.perf_counter_ns() - begun_ns) / BURST_READS)
        except EdgeError:
            return
        self.session.bare_read_ns_p50 = round(median(rounds_ns), 1)

    def report(
        self, switches: Sequence[SwitchLike], *, lease_remaining_ms: int, uncertainty_ns: int | None, now_ns: int
    ) -> Session:
        """Everything counted so far, and what the client says of itself."""
        session = self.session
        self._counts.append((now_ns, session.read_count))
        while len(self._counts) > 2 and now_ns - self._counts[1][0] >= RATE_WINDOW_NS:
            self._counts.popleft()
        elapsed_ns = now_ns - self._counts[0][0]
        if elapsed_ns > 0:
            session.reads_per_second = round((session.read_count - self._counts[0][1]) * 1e9 / elapsed_ns, 1)
        session.switches = [
            SwitchSeen(
                generation=switch.generation,
                activation=switch.activation,
                late_ns=switch.late_ns,
                uncertainty_ns=switch.uncertainty_ns,
                at_local_ns=self._first_seen_ns.get(switch.generation),
            )
            for switch in switches
            if switch.model == session.model
        ]
        session.lease_remaining_ms, session.uncertainty_ns = lease_remaining_ms, uncertainty_ns
        return session

    def flush(self) -> None:
        """Every read is in the history."""
        if self._recorder is not None:
            self._recorder.flush()

    def _took(self, reading: Reading, *, invoked_ns: int, returned_ns: int) -> None:
        session, guarantee = self.session, str(reading.guarantee)
        session.reads[guarantee] = session.reads.get(guarantee, 0) + 1
        session.version, session.generation = reading.version, reading.generation
        session.guarantee, session.staleness_bound_ms = guarantee, reading.staleness_bound_ms
        if reading.generation != self._generation:
            self._generation = reading.generation
            self._first_seen_ns.setdefault(reading.generation, returned_ns)
            if len(self._first_seen_ns) > GENERATIONS_KEPT:
                del self._first_seen_ns[next(iter(self._first_seen_ns))]
        value: Carried = reading.value
        if value.version != reading.version or value.digest != self._digests.get(reading.version, value.digest):
            session.wrong_reads += 1
            session.last_wrong = f"{reading!r} holds {value.version} {value.digest}"[:TEXT_LENGTH_MAX]
        if self._recorder is not None:
            bound_ms = reading.staleness_bound_ms
            self._recorder.read(
                invoked_ns=invoked_ns,
                returned_ns=returned_ns,
                generation=reading.generation,
                guarantee=guarantee,
                version=reading.version,
                bound_ns=None if bound_ms is None else bound_ms * 1_000_000,
            )

    def _failed(self, error: EdgeError, *, invoked_ns: int) -> None:
        session = self.session
        session.last_error = f"{type(error).__name__}: {error}"[:TEXT_LENGTH_MAX]
        if self.waiting and isinstance(error, UnknownModelError | ModelNotReadyError):
            return  # not there yet: waited for
        session.failed_reads += 1
        session.version = session.guarantee = session.staleness_bound_ms = None
        if self._recorder is not None:
            self._recorder.read(
                invoked_ns=invoked_ns,
                returned_ns=boottime_ns(),
                generation=None,
                guarantee=None,
                version=None,
                bound_ns=None,
            )


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
