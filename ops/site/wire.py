"""The page of the wire protocol, made from the types that both sides encode and decode."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, Final, get_args

import msgspec

from edge_client.protocol import (
    bucketing,
    envelope,
    feature_classes,
    features,
    messages,
    models,
    observations,
    subjects,
)
from ops.site.sources import cell, code, fields_of, members_of, methods_of, text_of
from ops.site.wire_meanings import MEANINGS

PARTS: Final = (
    messages.Verdict,
    models.ModelView,
    models.Policy,
    models.Version,
    models.Assignment,
    bucketing.CohortSelector,
    models.Pending,
    models.Terms,
    feature_classes.FeatureClass,
    messages.ServedModel,
    messages.Switch,
    observations.Observations,
    messages.FeatureObservations,
)
LIMITS: Final = {
    messages: ("REGION_FRAME_BYTES_MAX", "EDGE_FRAME_BYTES_MAX", "SNAPSHOT_CHUNK_BYTES"),
    features: ("KEY_BYTES_MAX", "VALUE_BYTES_MAX"),
    observations: ("LABELS_MAX", "LABEL_CHARS_MAX", "VERSION_CHARS_MAX"),
    feature_classes: ("CLASSES_MAX", "SHARDS_MAX", "MS_MAX"),
    subjects: ("TOKEN_CHARS_MAX",),
}

HEAD: Final = f"""# Wire protocol

<!-- Generated: python -m ops.site -->

For whoever writes another client, reads a packet dump, or wonders what a message costs. Why it is like this:
[the protocol, with pictures](../explanation/protocol.md). Who may say and hear what: [bus access](bus-access.md).

## Frames

What the **region** says is signed. A frame is

| bytes | are |
| --- | --- |
| 1 | {envelope.FRAME_VERSION}, the version of the frame |
| 8 | the key's id: the first 8 bytes of SHA-256 over the raw public key |
| 64 | an Ed25519 signature (RFC 8032) over `ccs-region-frame`, NUL, version, key id and payload |
| the rest | the payload |

What an **edge** says is one byte, {messages.EDGE_FRAME_VERSION}, and the payload; nobody trusts it.

A payload is a msgpack map. `type` names the message; field names are text, times end in their unit. Fields that are not known are
ignored and fields with a default may be absent, so that a newer side may say more. What cannot be read is dropped and counted, under
one of: `oversized`, `truncated`, `unknown_version`, `unknown_key`, `bad_signature`, `undecodable`.

A revision and an epoch make a position; positions are ordered by epoch, then revision. `clock_id` names the life of one service process,
and every `…_at_ns` or `t0_ns` beside one is nanoseconds of that process's `CLOCK_BOOTTIME`.
"""


def wire() -> str:
    """The whole page."""
    region = get_args(messages._RegionUnion)  # noqa: SLF001 -- the one list of what there is
    edge = get_args(messages._EdgeUnion)  # noqa: SLF001
    parts = [HEAD, "## Subjects\n", "| subject | carries |", "| --- | --- |", *_subjects(), ""]
    parts += ["## What the region says\n", *(part for kind in (*region, messages.Snapshot) for part in _struct(kind))]
    parts += ["## What edges say\n", *(part for kind in edge for part in _struct(kind))]
    parts += ["## What is in them\n", *(part for kind in PARTS for part in _struct(kind))]
    parts += ["## Limits\n", "| name | value |", "| --- | --- |"]
    for module, names in LIMITS.items():
        parts += [f"| `{module.__name__.rpartition('.')[2]}.{name}` | {getattr(module, name):,} |" for name in names]
    parts += ["", f"Names of models, edges, sites and feature classes match `{models.NAME_PATTERN.pattern}`;"]
    parts += [f"names of regions match `{subjects.REGION_PATTERN.pattern}`.", ""]
    return "\n".join(parts)


def _subjects() -> Iterator[str]:
    of = subjects.Subjects("region")
    for method in methods_of(subjects.Subjects):
        value = getattr(of, method.name)
        if callable(value):
            (argument,) = inspect.signature(value).parameters
            value = value("x").removesuffix("x") + argument.upper()
        value = value.replace("region", "REGION", 1)
        yield f"| `{value}` | {cell(method.text)} |"


def _struct(kind: Any) -> Iterator[str]:
    tag = msgspec.inspect.type_info(kind).tag  # type: ignore[union-attr]
    yield f"### {kind.__name__}\n"
    yield (f'`type` is `"{tag}"`. ' if tag else "") + text_of(kind) + "\n"
    own = {
        item.name: item
        for base in reversed(kind.__mro__[:-2])
        if base.__module__.startswith("edge_client")
        for item in fields_of(base)
    }
    yield "| field | type | |\n| --- | --- | --- |"
    for name in kind.__struct_fields__:
        item = own[name]
        text = item.text or MEANINGS.get(f"{kind.__name__}.{name}") or MEANINGS.get(name)
        if text is None:
            raise ValueError(f"{kind.__name__}.{name} says nothing of itself; nor does MEANINGS in {__name__}")
        absent = "" if item.default is None else f" Absent: {code(item.default)}."
        yield f"| `{name}` | {code(item.type)} | {cell(text)}{absent} |"
    yield ""
    for enum in (feature_classes.FeatureKind, feature_classes.FeatureCodec, feature_classes.WhenFull):
        if kind is feature_classes.FeatureClass:
            values = "; ".join(
                f"`{member.default}`" + (f": {member.text}" if member.text else "") for member in members_of(enum)
            )
            yield f"`{enum.__name__}`: {values}\n"
