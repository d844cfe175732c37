"""How a generation is spread over shards and encoded: in small steps, so that nobody waits for a flush.

A generator that is paused between steps; whoever runs it decides what happens meanwhile. A step is some tens of
microseconds of spreading, or one block's encoding.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final, cast

from edge_client.core.generation import FOREVER_MS, Row
from edge_client.protocol.feature_classes import MS_MAX, FeatureClass, FeatureCodec
from edge_client.protocol.feature_codec import encode_block
from edge_client.protocol.features import Entry, key_mark

STEP_COUNT: Final = 256
"""How many entries are spread in one step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardCut:
    """What one shard gets of one generation."""

    shard: int
    marks: bytes
    payload: bytes
    count: int
    expires_at_unix_ms: int


def cut(
    rows: Mapping[str, Row], *, feature_class: FeatureClass, unix_ms: int
) -> Generator[None, None, tuple[ShardCut, ...]]:
    """What each shard of the class gets, in the order of shards; what has expired is left out.

    Raises `FeatureValueError` for entries that no block can hold.
    """
    shards = feature_class.shards
    spread: dict[int, tuple[list[int], dict[str, Row]]] = {}
    entries = iter(rows.items())
    while step := tuple(islice(entries, STEP_COUNT)):
        for key, row in step:
            if 0 < row[3] <= unix_ms:
                continue
            mark = key_mark(key)
            shard = spread.get(mark % shards)
            if shard is None:
                shard = spread[mark % shards] = ([], {})
            shard[0].append(mark)
            shard[1][key] = row
        yield
    cuts: list[ShardCut] = []
    for number in sorted(spread):
        marks, own = spread.pop(number)
        cuts.append(
            ShardCut(
                shard=number,
                marks=struct.pack(f">{len(marks)}I", *marks),
                payload=block(own, codec=feature_class.codec),
                count=len(own),
                expires_at_unix_ms=min(unix_ms + MS_MAX, max(row[3] or FOREVER_MS for row in own.values())),
            )
        )
        yield
    return tuple(cuts)


def block(rows: Mapping[str, Row], *, codec: FeatureCodec) -> bytes:
    """`encode_block`, which reads entries by position and so takes rows as they are."""
    return encode_block(cast("Mapping[str, Entry]", rows), codec=codec)
