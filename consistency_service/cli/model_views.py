"""The commands that look at models, put beside those that change them: what is active, what was, what there is."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer

from consistency_service.cli.arguments import LIST_LIMIT, LimitOption, ModelArgument, note_truncated, path_of
from consistency_service.cli.errors import LocalError
from consistency_service.cli.models import app as model_app
from consistency_service.cli.render import duration, instant, size, yes
from consistency_service.cli.session import Session, command

__all__ = ["model_app"]


@command(model_app, "list", examples=("ccs model list", "ccs model list --json | jq -r '.items\\[].name'"))
def list_models(session: Session, limit: LimitOption = LIST_LIMIT) -> None:
    """List models, with the version that is active and what is about to be."""
    with session.client() as client:
        page = client.items("/v1/models", limit=limit)
    if session.json:
        session.screen.document(page)
        return
    rows = [
        (m["name"], _version_of(m["assignment"]), str(m["generation"]), str(m["version_count"]), _next_of(m))
        for m in page["items"]
    ]
    columns = ("MODEL", "ACTIVE", ">GENERATION", ">VERSIONS", "NEXT")
    session.screen.table(columns, rows, empty="no models yet; create one with: ccs model create NAME")
    note_truncated(session, page)


@command(model_app, "show", examples=("ccs model show text-detector",))
def show(session: Session, name: ModelArgument) -> None:
    """Show one model: what is active, what was before, what comes next, its policy."""
    with session.client() as client:
        model = client.get(path_of(name))
    if session.json:
        session.screen.document(model)
        return
    policy = model["policy"]
    session.screen.fields(
        [
            ("model", model["name"]),
            ("active", _version_of(model["assignment"])),
            ("generation", str(model["generation"])),
            ("before", _version_of(model["previous"])),
            ("next", _next_of(model)),
            (
                "versions",
                f"{model['version_count']}, in use: {', '.join(v['version'] for v in model['versions']) or '-'}",
            ),
            (
                "staleness",
                "any" if policy["staleness_max_ms"] is None else f"at most {duration(policy['staleness_max_ms'])}",
            ),
            ("fallback", "allowed" if policy["fallback_allowed"] else "not allowed"),
            ("kept", f"{policy['versions_kept']} versions beside those in use"),
            ("prefetch", f"at most {duration(policy['prefetch_ms'])}"),
            ("created", instant(model["created_at_unix_ms"])),
        ]
    )


@command(model_app, "versions", examples=("ccs model versions text-detector",))
def versions(session: Session, name: ModelArgument, limit: LimitOption = 100) -> None:
    """List the versions of a model, newest first."""
    with session.client() as client:
        page = client.items(path_of(name, "versions"), limit=limit)
    if session.json:
        session.screen.document(page)
        return
    rows = [
        (
            v["version"],
            yes(v["in_use"]),
            size(v["size_bytes"]),
            instant(v["registered_at_unix_ms"])[:19] + "Z",
            session.screen.shortened(v["digest"], 19),
            " ".join(line.split()[1] for line in v.get("signatures", [])) or "-",
            " ".join(f"{key}={value}" for key, value in v["metadata"].items()),
        )
        for v in page["items"]
    ]
    columns = ("VERSION", "IN USE", ">SIZE", "REGISTERED", "DIGEST", "SIGNED BY", "METADATA")
    session.screen.table(columns, rows, empty=f"no versions yet; push one with: ccs model push {name} 1.0.0 FILE")
    note_truncated(session, page)


@command(model_app, "active", examples=("ccs model active text-detector",))
def active(
    session: Session,
    name: ModelArgument,
    local: Annotated[bool, typer.Option("--local", help="What the node knows, at once and without a promise.")] = False,
) -> None:
    """Say which version is active right now: a linearizable read.

    Exit code 3 if nobody can say so strongly within the timeout.
    """
    with session.client() as client:
        answer = client.get(path_of(name, "active"), consistency="local" if local else "strong")
    if session.json:
        session.screen.document(answer)
        return
    how = {"lease": "strong, by lease", "log": "strong, through the log", "local": "local, no promise"}
    known = how.get(answer["consistency"], answer["consistency"])
    position = f"{answer['epoch']}-{answer['revision']}"
    session.screen.text(
        f"{name} {answer['version'] or 'has no active version'}  (generation {answer['generation']}, {known}, at {position})"
    )


@command(
    model_app,
    "history",
    examples=("ccs model history text-detector", "ccs model history text-detector --at 2026-11-20T14:00Z"),
)
def history(
    session: Session,
    name: ModelArgument,
    at: Annotated[
        str | None,
        typer.Option(
            "--at",
            metavar="INSTANT",
            help="What was live then: RFC 3339 with a zone, or Unix milliseconds.",
            show_default=False,
        ),
    ] = None,
    limit: LimitOption = 100,
) -> None:
    """Show what was live when, newest first."""
    moment = None if at is None else _unix_ms(at)
    with session.client() as client:
        page = client.items(path_of(name, "history"), limit=limit, at=moment)
    if session.json:
        session.screen.document(page)
        return
    rows = [
        (
            str(h["generation"]),
            _version_of(h["assignment"]),
            instant(h["effective_at_unix_ms"]),
            h["author"],
            str(h["activation"]),
        )
        for h in page["items"]
    ]
    columns = (">GENERATION", "VERSION", "LIVE FROM", "BY", ">ACTIVATION")
    empty = f"{name} had no active version" + ("" if moment is None else f" at {instant(moment)}")
    session.screen.table(columns, rows, empty=empty)
    note_truncated(session, page)


def _unix_ms(text: str) -> int:
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise LocalError(f"--at takes an instant such as 2026-11-20T14:00Z, not {text!r}") from None
    if moment.tzinfo is None:
        raise LocalError(f"--at needs a zone: {text}Z for UTC, or {text}+01:00")
    return round(moment.timestamp() * 1_000)


def _version_of(assignment: dict[str, Any] | None) -> str:
    if assignment is None:
        return "-"
    if assignment.get("candidate") is None:
        return str(assignment["stable"])
    return f"{assignment['stable']}, {assignment['share_bp'] / 100:g} % {assignment['candidate']}"


def _next_of(model: dict[str, Any]) -> str:
    if model["pending"] is not None:
        return f"{_version_of(model['pending']['assignment'])} from {instant(model['pending']['effective_at_unix_ms'])}"
    return f"{_version_of(model['prefetch'])} (edges get ready)" if model["prefetch"] is not None else "-"
