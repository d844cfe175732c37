"""Puts a snapshot together from signed pieces, and takes no more of them than a snapshot may have.

Pieces arrive in any order, repeated, and perhaps from two nodes at two revisions: those are kept apart, and the first
set that is complete wins. Whoever asks the question compares the nonce; see `follower`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from edge_client.protocol.messages import MessageError, Snapshot, SnapshotChunk, decode_snapshot

CHUNKS_MAX: Final = 256
SNAPSHOT_BYTES_MAX: Final = 64 * 1024 * 1024
VARIANTS_MAX: Final = 4


@dataclass(frozen=True, slots=True)
class Assembled:
    """A snapshot, and the signed frames of which it was made, in order."""

    snapshot: Snapshot
    frames: tuple[bytes, ...]


@dataclass(slots=True)
class _Variant:
    pieces: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    size_bytes: int = 0


class Assembler:
    """The pieces for one request. What does not fit is counted in `counters` and dropped."""

    def __init__(self, *, counters: Counter[str]) -> None:
        self._counters = counters
        self._variants: dict[tuple[int, int, int], _Variant] = {}

    def add(self, chunk: SnapshotChunk, *, frame: bytes) -> Assembled | None:
        """Take a piece; the snapshot, once one is complete and decodes."""
        if not 1 <= chunk.count <= CHUNKS_MAX or not 0 <= chunk.index < chunk.count:
            self._counters["snapshot_chunks_out_of_range"] += 1
            return None
        key = (chunk.epoch, chunk.revision, chunk.count)
        variant = self._variants.setdefault(key, _Variant())
        if len(self._variants) > VARIANTS_MAX:
            del self._variants[next(iter(self._variants))]
            self._counters["snapshot_variants_dropped"] += 1
        if chunk.index in variant.pieces:
            self._counters["snapshot_chunks_repeated"] += 1
            return None
        if variant.size_bytes + len(chunk.data) > SNAPSHOT_BYTES_MAX:
            self._counters["snapshots_oversized"] += 1
            del self._variants[key]
            return None
        variant.pieces[chunk.index] = (chunk.data, frame)
        variant.size_bytes += len(chunk.data)
        if len(variant.pieces) < chunk.count:
            return None
        del self._variants[key]
        return self._decoded(variant, epoch=chunk.epoch, revision=chunk.revision)

    def _decoded(self, variant: _Variant, *, epoch: int, revision: int) -> Assembled | None:
        pieces = [variant.pieces[index] for index in range(len(variant.pieces))]
        try:
            snapshot = decode_snapshot(b"".join(data for data, _ in pieces))
        except MessageError:
            self._counters["snapshots_undecodable"] += 1
            return None
        if (snapshot.epoch, snapshot.revision) != (epoch, revision):
            self._counters["snapshots_mislabelled"] += 1
            return None
        return Assembled(snapshot, tuple(frame for _, frame in pieces))

    def check_invariants(self) -> None:
        assert len(self._variants) <= VARIANTS_MAX
        for variant in self._variants.values():
            assert variant.size_bytes == sum(len(data) for data, _ in variant.pieces.values()) <= SNAPSHOT_BYTES_MAX
