"""Which rollout is meant: by its id, or by a model's name; and the words that the shell offers for it."""

from __future__ import annotations

from typing import Annotated, Any, Final
from urllib.parse import quote

import typer

from consistency_service.cli.arguments import complete_model, path_of
from consistency_service.cli.client import Client
from consistency_service.cli.errors import RefusedError
from consistency_service.cli.session import completing

ROLLOUTS: Final = "/v1/rollouts"
LOOK_LIMIT: Final = 1_000


def rollout_path(rollout_id: str, *rest: str) -> str:
    return "/".join((ROLLOUTS, *(quote(part, safe="") for part in (rollout_id, *rest))))


def find_rollout(client: Client, name: str) -> dict[str, Any]:
    """The rollout of this id, else the running or else the newest one of this model. Raises `RefusedError`."""
    if name not in {".", "..", "strategy-schema"}:
        try:
            found: dict[str, Any] = client.get(rollout_path(name))
        except RefusedError as error:
            if error.code not in {"unknown_rollout", "not_found"}:
                raise
        else:
            return found
    chosen = newest_rollout(client, name)
    if chosen is None:
        detail = f"there is no rollout {name}, and no rollout of a model {name}"
        raise RefusedError({"type": "urn:ccs:problem:unknown_rollout", "title": "Unknown rollout", "detail": detail})
    answer: dict[str, Any] = client.get(rollout_path(chosen["rollout_id"]))
    return answer


def newest_rollout(client: Client, model: str) -> dict[str, Any] | None:
    """The running or else the newest rollout of a model; None: it has none."""
    listed = newest_first(client, model=model)
    return next((rollout for rollout in listed if rollout["running"]), listed[0] if listed else None)


def newest_first(client: Client, *, model: str | None, limit: int = LOOK_LIMIT) -> list[dict[str, Any]]:
    """Rollouts of a model."""
    return list(client.items(ROLLOUTS, limit=limit, model=model)["items"])


def complete_rollout(incomplete: str) -> list[str]:
    """Ids of rollouts and names of models for the shell; nothing if no node answers at once."""
    try:
        with completing() as client:
            names = [str(item["rollout_id"]) for item in client.get(ROLLOUTS, limit=50)["items"]]
    except Exception:  # a shell that waits for words has no use for an error
        names = []
    return [*(name for name in names if name.startswith(incomplete)), *complete_model(incomplete)]


def complete_pair(context: typer.Context, incomplete: str) -> list[str]:
    """Models and versions in turn."""
    before = list(context.params.get("what") or [])
    if len(before) % 2 == 0:
        return complete_model(incomplete)
    try:
        with completing() as client:
            names = [str(item["version"]) for item in client.get(path_of(before[-1], "versions"), limit=100)["items"]]
    except Exception:  # as above
        return []
    return [name for name in names if name.startswith(incomplete)]


RolloutArgument = Annotated[
    str,
    typer.Argument(
        metavar="ROLLOUT",
        help="A rollout's id, or a model's name: its running or newest rollout.",
        autocompletion=complete_rollout,
        show_default=False,
    ),
]
PairsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="MODEL VERSION",
        help="Each model with its candidate; several change together, at the same instants.",
        autocompletion=complete_pair,
        show_default=False,
    ),
]
