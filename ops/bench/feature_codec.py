"""What feature encodings cost and save: `python -m ops.bench.feature_codec`

First the codecs by themselves, on real embeddings and on records: how large a value is alone and as one of 65 in a block
(what one gateway writes into one of 64 shards within 5 s), and what encoding and decoding take. The lossy codecs are held
to their stated error. Then a replay: what one gateway of the case writes in a minute, through the feature store's adapter into
a real Redis, which counts what it reads from its socket; beside it one `SET … EX 30` for each entry, msgpack as the value.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from time import thread_time_ns
from typing import Any

import numpy as np

from edge_client.protocol.feature_classes import FeatureCodec
from edge_client.protocol.feature_codec import (
    VALUE_LZ4_BYTES_MIN,
    decode_block,
    decode_value,
    encode_block,
    encode_value,
    find_in_block,
)
from edge_client.protocol.features import Entry
from ops.bench.feature_data import embeddings, records, tracks
from ops.bench.feature_replay import replay
from ops.bench.figures import Figure, median

SHARE = 65
"""Entries of a block: 833 a second for 5 s over 64 shards."""
ROUNDS = 7
START_MS = 1_795_000_000_000
PLAIN = FeatureCodec.PLAIN


def measure() -> list[Figure]:
    """The codecs by themselves."""
    figures = []
    for kind, rows in embeddings().items():
        figures += _kind(f"embedding, {kind}", rows, codecs=list(FeatureCodec))
        figures += _errors(f"embedding, {kind}", rows)
    for kind, values in records().items():
        figures += _kind(kind, values, codecs=[PLAIN, FeatureCodec.LZ4])
    return figures + _threshold([write.value for write in tracks(seconds=5)])


def _kind(kind: str, values: list[Any], *, codecs: list[FeatureCodec]) -> list[Figure]:
    plain_bytes = sum(len(encode_value(value, codec=PLAIN)) for value in values) / len(values)
    figures = [Figure(name=f"{kind}: plain, alone", value=plain_bytes, unit="B")]
    for codec in codecs:
        encoded = [encode_value(value, codec=codec) for value in values]
        blocks = list(_blocks(encoded))
        payloads = [encode_block(block, codec=codec) for block in blocks]
        block_bytes = sum(map(len, payloads)) / sum(map(len, blocks))
        wanted = [list(block)[SHARE // 2 : SHARE // 2 + 1] for block in blocks]
        many = SHARE * len(blocks)
        timings = {
            "encode": _ns(partial(encode_value, codec=codec), values) / len(values),
            "decode": _ns(decode_value, encoded) / len(values),
            "encode in a block": _ns(partial(encode_block, codec=codec), blocks) / many,
            "decode in a block": _ns(decode_block, payloads) / many,
            "find one in a block": _ns(find_in_block, payloads, wanted) / len(blocks),
        }
        alone_bytes = sum(map(len, encoded)) / len(encoded)
        figures.append(Figure(name=f"{kind}: {codec}, alone / plain", value=alone_bytes / plain_bytes, unit="x"))
        figures.append(Figure(name=f"{kind}: {codec}, in a block / plain", value=block_bytes / plain_bytes, unit="x"))
        figures += [Figure(name=f"{kind}: {codec}, {what}", value=ns, unit="ns") for what, ns in timings.items()]
    return figures


def _blocks(encoded: list[bytes]) -> Iterator[dict[str, Entry]]:
    """The values in blocks of `SHARE`, under keys and stamps such as those of a replay; what is left over is left out."""
    for first in range(0, len(encoded) - SHARE + 1, SHARE):
        written_ms = [START_MS + (first + place) * 77 for place in range(SHARE)]
        yield {
            f"track:cam-{place % 4:02d}:{1_000 + first + place}": Entry(
                encoded[first + place], written_ms[place] << 20, 0xC0FFEE << 32, written_ms[place] + 30_000
            )
            for place in range(SHARE)
        }


def _ns(work: Callable[..., object], *inputs: list[Any]) -> float:
    """Processor time of all inputs together, once; the turns of the loop are in it."""
    samples = []
    for _ in range(ROUNDS):
        began = thread_time_ns()
        for each in zip(*inputs, strict=True):
            work(*each)
        samples.append(float(thread_time_ns() - began))
    return median(samples)


def _errors(kind: str, rows: list[Any]) -> list[Figure]:
    """The largest errors of the lossy codecs, as parts of what is stated."""
    half = [decode_value(encode_value(row, codec=FeatureCodec.FLOAT16)) for row in rows]
    scaled = [decode_value(encode_value(row, codec=FeatureCodec.INT8)) for row in rows]
    half_error = max(
        float(np.max(abs(row - back) / np.maximum(abs(row) * 2.0**-11, 2.0**-25)))
        for row, back in zip(rows, half, strict=True)
    )
    scaled_error = max(
        float(np.max(abs(row - back)) / (np.max(abs(row)) / 254)) for row, back in zip(rows, scaled, strict=True)
    )
    cosine = min(
        float(np.dot(row, back) / (np.linalg.norm(row) * np.linalg.norm(back)))
        for row, back in zip(rows, scaled, strict=True)
    )
    return [
        Figure(name=f"{kind}: float16, error / stated", value=half_error, unit="x", limit=1.0),
        Figure(name=f"{kind}: int8, error / stated", value=scaled_error, unit="x", limit=1.0 + 1e-4),
        Figure(name=f"{kind}: int8, 1 - cosine at worst", value=1 - cosine, unit=""),
    ]


def _threshold(detections: list[dict[str, Any]]) -> list[Figure]:
    """Why values are compressed by themselves from `VALUE_LZ4_BYTES_MIN` on: what that saves alone, and costs in a block."""
    figures = []
    for count in (2, 4, 8, 16, 32, 64):
        lists = [{"objects": detections[first : first + count]} for first in range(0, SHARE * count, count)]
        plain = [encode_value(value, codec=PLAIN) for value in lists]
        alone = [_compressed(data) for data in plain]
        size = sum(map(len, plain)) / len(plain)
        blocks = [
            len(encode_block(next(_blocks(each)), codec=FeatureCodec.LZ4)) / SHARE / size for each in (plain, alone)
        ]
        name = f"value of {size:.0f} B compressed first"
        figures.append(
            Figure(name=f"{name}: alone / plain", value=sum(map(len, alone)) / sum(map(len, plain)), unit="x")
        )
        figures.append(Figure(name=f"{name}: in a block, not so", value=blocks[0], unit="x"))
        figures.append(Figure(name=f"{name}: in a block, so", value=blocks[1], unit="x"))
    return figures


def _compressed(data: bytes) -> bytes:
    import lz4.block

    compressed: bytes = lz4.block.compress(data)
    return compressed


def main() -> int:
    """Exit code 0 if every limit held."""
    parser = argparse.ArgumentParser(prog="python -m ops.bench.feature_codec", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of lines")
    parser.add_argument("--replay", action="store_true", help="only what is sent to the feature store")
    arguments = parser.parse_args()
    parts = {} if arguments.replay else {"codecs": measure()}
    parts["bytes to the feature store"] = asyncio.run(replay())
    if arguments.json:
        print(json.dumps({name: [asdict(figure) for figure in figures] for name, figures in parts.items()}))
    else:
        print(f"values are compressed by themselves from {VALUE_LZ4_BYTES_MIN} B on")
        for name, figures in parts.items():
            print("\n".join([f"{name}:", *(figure.line() for figure in figures)]))
    return 0 if all(figure.holds for figures in parts.values() for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
