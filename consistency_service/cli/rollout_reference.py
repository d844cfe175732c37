"""The page about rollouts, made from the table that the region goes by, so that the diagram cannot lie.

`python -m consistency_service.cli.rollout_reference` prints what `docs/reference/rollouts.md` must hold; a test compares.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from enum import StrEnum
from itertools import pairwise

from consistency_service.core import rollout
from consistency_service.core.refusals import REFUSALS
from consistency_service.core.rollout import CALLERS, TRANSITIONS, Move, Phase

_HEAD = """# Rollouts

<!-- Generated: python -m consistency_service.cli.rollout_reference > docs/reference/rollouts.md -->

A rollout moves one model, or several as one unit, from the stable version to a candidate, stage by stage. Each stage gets
ready first (edges fetch, verify, load and warm up), is activated at one instant, and must then stay healthy. What is not in
this diagram does not happen: the region refuses it, whoever asks.
"""

_TAIL = """## Rules

- One rollout per model at a time. While it runs, nobody else activates, prefetches or deletes what it holds.
- The region computes what a stage assigns; an order only says "go on". A stage always follows the one before it.
- An order of the authority names the step it was decided at, and is refused at any other. After an abort nothing applies
  but the return, so an abort wins over every promotion under way.
- A freeze refuses starts, promotions, retries, and the activation of stages. Aborts, pauses and returns pass.
- Bake times and deadlines count on the authority's clock and stand still in a pause; a failover loses at most a second.
- A rollback leads to what was assigned before the rollout, during it (as an abort) and after its completion, and takes the
  models along that changed with this one. After an abort it leads where it did before the rollout.
- Of a region {rollouts:,} rollouts are kept, {running} of them may run; each keeps its last {transitions} moves.
"""

_REFUSED = (
    *("frozen", "move_refused", "not_baked", "rollout_exists", "rollout_running", "step_mismatch", "step_passed"),
    *("strategy_invalid", "unknown_rollout"),
)


def rollout_reference() -> str:
    """The whole document."""
    tail = _TAIL.format(rollouts=rollout.ROLLOUTS_MAX, running=rollout.RUNNING_MAX, transitions=rollout.TRANSITIONS_MAX)
    return "\n".join([_HEAD, *_diagram(), *_phases(), *_moves(), tail, *_refusals()]).rstrip() + "\n"


def _diagram() -> Iterator[str]:
    """An arrow for every pair of phases, with all the moves that lead from the one to the other."""
    yield "```mermaid\nstateDiagram-v2\n    [*] --> draft"
    for phase, moves in TRANSITIONS.items():
        arrows: dict[Phase, list[str]] = {}
        for move, targets in moves.items():
            for target in targets:
                arrows.setdefault(target, []).append(move.value)
        yield from (f"    {phase.value} --> {target.value}: {', '.join(names)}" for target, names in arrows.items())
        if not moves:
            yield f"    {phase.value} --> [*]"
    yield "```\n"


def _phases() -> Iterator[str]:
    texts = _texts(Phase)
    yield "## Phases\n\n| phase | what it means | moves there are |\n| --- | --- | --- |"
    for phase, moves in TRANSITIONS.items():
        yield f"| `{phase.value}` | {texts[phase.name]} | {', '.join(f'`{move.value}`' for move in moves) or 'none'} |"
    yield ""


def _moves() -> Iterator[str]:
    texts = _texts(Move)
    yield "## Moves\n\n| move | who | what it does | from | to |\n| --- | --- | --- | --- | --- |"
    for move in Move:
        sources = [phase.value for phase, moves in TRANSITIONS.items() if move in moves]
        found = {target for moves in TRANSITIONS.values() for target in moves.get(move, ())}
        targets = [phase.value for phase in Phase if phase in found]
        who = "callers" if move in CALLERS else "the authority"
        yield f"| `{move.value}` | {who} | {texts[move.name]} | {', '.join(sources)} | {', '.join(targets)} |"
    yield ""


def _refusals() -> Iterator[str]:
    yield "## Refusals\n\n| code | what it means |\n| --- | --- |"
    yield from (f"| `{code}` | {REFUSALS[code]} |" for code in _REFUSED)


def _texts(kind: type[StrEnum]) -> dict[str, str]:
    """What the source says beneath each member."""
    body = next(
        node.body
        for node in ast.parse(inspect.getsource(rollout)).body
        if isinstance(node, ast.ClassDef) and node.name == kind.__name__
    )
    return {
        node.targets[0].id: " ".join(text.value.value.split())
        for node, text in pairwise(body)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


if __name__ == "__main__":
    sys.stdout.write(rollout_reference())
