"""The page of events, made from the places where the state machine makes them."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Final

from ops.site.sources import cell

CORE: Final = Path(__file__).resolve().parents[2] / "consistency_service" / "core"

HEAD: Final = """# Events

<!-- Generated: python -m ops.site -->

For whoever follows a region from outside: `ccs events`, `GET /v1/events` ([REST](rest.md)), or the bus ([wire protocol](wire-protocol.md#event)).
Every applied command that changes what readers may see advances the revision by one and is one event, in the order of revisions,
without gaps. An event says who asked (`author`), when by wall clock (`at_unix_ms`, for people), which models it changed (whole, as they
are afterwards), and in `detail` what is particular to it. By server-sent events each has the id `EPOCH-REVISION`, from which a stream resumes.

| name | what happened | in `detail` |
| --- | --- | --- |
"""

MEANINGS: Final = {
    "ActivationScheduled": "A version (or an assignment) becomes active at an instant that is decided now.",
    "ActivationSettled": "An activation's instant has passed on any clock; it is pending no more.",
    "AuthorityAssumed": "A node took authority over clocks, beacons and rollouts.",
    "FeatureClassRemoved": "A feature class was removed; its keys belong to `default`.",
    "FeatureClassSet": "A feature class was made or changed.",
    "FeatureWindowSet": "The region moved the staleness window of a feature class; `reason` says why.",
    "ModelCreated": "A model was created; it has no version yet.",
    "ModelDeleted": "A model was deleted.",
    "PolicyChanged": "What `read` may return for a model, or how much of its past is kept, changed.",
    "PrefetchRequested": "Edges get a version ready that may be activated next, or need not any more.",
    "PublisherRevoked": "A publisher's key is believed no more; what it alone signed is not loaded again.",
    "RegionBootstrapped": "The first entry of a region's history.",
    "RegionFrozen": "Starts and promotions of rollouts are frozen.",
    "RegionRestored": "The region was restored from a backup: a new epoch begins.",
    "RegionUnfrozen": "They are not any more.",
    "RolloutCreated": "A rollout was written down, and begun unless it is a draft.",
    "RolloutMoved": "A rollout made a move; `move` names it, `phase` where it led.",
    "VersionDeleted": "A version was deleted.",
    "VersionRegistered": "Stored bytes have a version of a model as their name.",
    "VersionSigned": "A publisher's signature was added to a version.",
    "WebhookCreated": "An address is told of moves of rollouts.",
    "WebhookDeleted": "It is not any more.",
}


def event_names() -> dict[str, list[str]]:
    """Every name that the state machine gives an event, and the keys of its detail where they are written there."""
    found: dict[str, list[str]] = {}
    for path in sorted(CORE.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in ast.walk(tree):
            for call in ast.walk(function) if isinstance(function, ast.FunctionDef) else ():
                if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("_changed") and call.args:
                    for name in _names(call.args[0], function):
                        found.setdefault(name, []).extend(
                            key for key in _keys(call, function) if key not in found.get(name, [])
                        )
        for node in tree.body:
            if (
                isinstance(node, ast.AnnAssign)
                and ast.unparse(node.target) == "EVENT"
                and isinstance(node.value, ast.Constant)
            ):
                found.setdefault(str(node.value.value), [])
    return dict(sorted(found.items()))


def _names(node: ast.expr, function: ast.FunctionDef) -> list[str]:
    """The name, or both sides of the conditional that a local name stands for."""
    if isinstance(node, ast.Name):
        node = _assigned(node.id, function) or node
    sides = (node.body, node.orelse) if isinstance(node, ast.IfExp) else (node,)
    return [str(side.value) for side in sides if isinstance(side, ast.Constant)]


def _keys(call: ast.Call, function: ast.FunctionDef) -> list[str]:
    detail: ast.expr | None = next((word.value for word in call.keywords if word.arg in {"detail", "more"}), None)
    if isinstance(detail, ast.Name):
        detail = _assigned(detail.id, function)
    return (
        [str(key.value) for key in detail.keys if isinstance(key, ast.Constant)] if isinstance(detail, ast.Dict) else []
    )


def _assigned(name: str, function: ast.FunctionDef) -> ast.expr | None:
    """What a local name is first set to."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return node.value
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name:
            return node.value
    return None


def events() -> str:
    """The whole page. Raises `ValueError` when an event has no meaning here, or a meaning no event."""
    names = event_names()
    if astray := set(names) ^ set(MEANINGS):
        raise ValueError(f"{__name__}.MEANINGS and the state machine differ in {', '.join(sorted(astray))}")
    rows = [
        f"| `{name}` | {cell(MEANINGS[name])} | {', '.join(f'`{key}`' for key in keys)} |"
        for name, keys in names.items()
    ]
    return HEAD + "\n".join(rows) + "\n"
