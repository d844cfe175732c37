"""Cuts the reader snapshot of this node's state into signed chunks."""

from __future__ import annotations

from consistency_service.runtime.metadata import Metadata
from edge_client.protocol.envelope import Signer
from edge_client.protocol.messages import SNAPSHOT_CHUNK_BYTES, SnapshotChunk, encode_region, encode_snapshot
from edge_client.protocol.position import Position


class Snapshots:
    """Encodes the snapshot once per position, however many ask for it."""

    def __init__(self, *, metadata: Metadata, signer: Signer) -> None:
        self._metadata = metadata
        self._signer = signer
        self._encoded: tuple[Position, bytes] | None = None

    def frames(self, *, nonce: bytes) -> list[bytes]:
        """Signed frames of at most 256 KiB of payload each, for the request that carried `nonce`."""
        state = self._metadata.state
        if self._encoded is None or self._encoded[0] != state.position:
            self._encoded = (state.position, encode_snapshot(state.reader_snapshot()))
        payload = self._encoded[1]
        pieces = [payload[i : i + SNAPSHOT_CHUNK_BYTES] for i in range(0, len(payload), SNAPSHOT_CHUNK_BYTES)]
        return [
            encode_region(
                SnapshotChunk(
                    epoch=state.epoch,
                    nonce=nonce,
                    revision=state.revision,
                    index=index,
                    count=len(pieces),
                    data=piece,
                ),
                signer=self._signer,
            )
            for index, piece in enumerate(pieces)
        ]
