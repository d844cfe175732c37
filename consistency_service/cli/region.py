"""Commands that look at a region, and the one that runs a node of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer
from rich.text import Text

from consistency_service.cli.arguments import LimitOption, note_truncated
from consistency_service.cli.errors import LocalError, RefusedError
from consistency_service.cli.render import duration, guarantee, instant
from consistency_service.cli.session import Session, command
from consistency_service.errors import ServiceError

EVENTS_SHOWN: Final = 50

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]

cluster_app = typer.Typer(help="The nodes that decide.", no_args_is_help=True)


def serve(
    _session: Session,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            metavar="FILE",
            help="TOML; $CCS_SETTING overrides a setting. [dim]Default: the environment alone[/dim]",
            show_default=False,
        ),
    ] = None,
    log_level: Annotated[LogLevel, typer.Option("--log-level", help="What goes to stderr.")] = "info",
    log_format: Annotated[
        LogFormat | None,
        typer.Option("--log-format", help="For people or, a JSON object a line, for machines.", show_default=False),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            help="Listen beyond loopback without TLS or without `access`: whoever reaches the port may do everything.",
        ),
    ] = False,
) -> None:
    """Run a node until SIGTERM or Ctrl-C.

    Ends with exit code 2 and one sentence if the configuration makes no sense or the node cannot start.
    """
    from consistency_service import app
    from consistency_service.config import load_config
    from consistency_service.runtime import logs

    settings = load_config(config)
    if insecure:
        settings = replace(settings, insecure=True)
    logs.set_up(log_format or settings.log_format, level=log_level)
    for chatty in ("httpx", "httpcore"):  # every call of one node to another
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLogger().level))
    try:
        asyncio.run(app.serve(settings))
    except (ExceptionGroup, OSError) as error:
        reason = _reason(error) if isinstance(error, ExceptionGroup) else error
        if isinstance(reason, OSError) and reason.filename is None:
            where = f"http {settings.http}, raft {settings.peers[settings.node_id].raft}"
            raise LocalError(f"node {settings.node_id} cannot run ({where}): {reason.strerror or reason}") from None
        raise reason from None


def _reason(group: ExceptionGroup[Exception]) -> Exception:
    """The first error in a group that says what to do; the group itself if there is none."""
    foreseen = group.subgroup(lambda error: isinstance(error, ServiceError | OSError))
    found: Exception = foreseen or group
    while isinstance(found, ExceptionGroup) and foreseen is not None:
        found = found.exceptions[0]
    return found


def edges(
    session: Session,
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="Only this model.", show_default=False)
    ] = None,
    site: Annotated[
        str | None, typer.Option("--site", metavar="NAME", help="Only edges of this site.", show_default=False)
    ] = None,
    limit: LimitOption = 1_000,
) -> None:
    """List the edges heard within the hour: who serves what, under which guarantee, how old.

    `strong` is linearizable, `bounded` is at most so old, `fallback` is the version before because the right one is not
    usable there. All as each edge said when it was last heard; one not heard for ten seconds is `silent`, and nobody knows
    what it serves.
    """
    with session.client() as client:
        page = client.items("/v1/edges", limit=limit)
    found = [edge for edge in page["items"] if site is None or edge["site"] == site]
    if model is not None:
        found = [edge for edge in found if any(served["model"] == model for served in edge["models"])]
    if session.json:
        session.screen.document({**page, "items": found})
        return
    rows = [row for edge in found for row in _edge_rows(edge, model=model)]
    columns = ("EDGE", "SITE", "MODEL", "VERSION", "GUARANTEE", ">STALENESS", ">HEARD")
    session.screen.table(
        columns, rows, empty="no edge was heard within the hour" + (" that fits" if page["items"] else "")
    )
    note_truncated(session, page)


def _edge_rows(edge: dict[str, Any], *, model: str | None) -> list[tuple[str | Text, ...]]:
    heard = f"{duration(edge['heard_ms_ago'])} ago"
    who = (edge["edge_id"], edge["site"] or "-")
    silent = "left" if edge["leaving"] else "silent"
    rows: list[tuple[str | Text, ...]] = []
    for served in edge["models"]:
        if model is not None and served["model"] != model:
            continue
        strong, bound = served["guarantee"] == "strong", served["staleness_bound_ms"]
        rows.append(
            (
                *who,
                served["model"],
                f"{served['version'] or '-'}{' (' + served['untrusted'] + ')' if served.get('untrusted') else ''}",
                guarantee(served["guarantee"] or "-") if edge["live"] else Text(silent, style="red"),
                (duration(0 if strong else bound) if served["version"] else "-") if edge["live"] else "unknown",
                heard,
            )
        )
    return rows or [(*who, "-", "-", "-" if edge["live"] else Text(silent, style="red"), "-", heard)]


@command(cluster_app, "status", examples=("ccs cluster status",))
def status(session: Session) -> None:
    """Show the nodes: who leads, who has authority, how far each is, whether it can answer strongly by lease."""
    with session.client() as client:
        cluster = client.get("/v1/cluster")
    if session.json:
        session.screen.document(cluster)
        return
    authority, terms = cluster["authority"], cluster["terms"]
    session.screen.fields(
        [
            ("region", cluster["region"] or "not begun yet"),
            ("position", f"{cluster['epoch']}-{cluster['revision']}"),
            ("leader", cluster["leader_id"] or Text("none", style="red")),
            ("authority", authority["node_id"] if authority else Text("none", style="red")),
            ("lease", f"{duration(terms['lease_ms'])}, margin {duration(terms['margin_ms'])}"),
        ]
    )
    session.screen.text()
    columns = ("NODE", "STATE", "BUS", ">LEASE", ">COMMIT", ">APPLIED", ">EDGES", "URL")
    session.screen.table(columns, [_node_row(node) for node in cluster["nodes"]], empty="no nodes")


def _node_row(node: dict[str, Any]) -> tuple[str | Text, ...]:
    if not node["reachable"]:
        return (node["node_id"], Text("not reachable", style="red"), "-", "-", "-", "-", "-", node["url"])
    lease_ms = node["lease_remaining_ms"]
    return (
        node["node_id"],
        _state(node),
        "up" if node["bus_connected"] else Text("lost", style="red"),
        duration(lease_ms) if lease_ms and lease_ms > 0 else Text("none", style="yellow"),
        str(node["commit_index"]),
        str(node["applied_index"]),
        str(node["edges_live"]),
        node["url"],
    )


def _state(node: dict[str, Any]) -> str | Text:
    if node["leading"]:
        return Text("leads", style="green")
    if node.get("standing") == "removed":
        return Text("was removed", style="red")
    if node.get("storage_fault") is not None:
        return Text("disk at fault", style="yellow")
    return "joins" if node.get("standing") == "joining" else "follows"


def events(
    session: Session,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C; survives the loss of a node.")
    ] = False,
    after: Annotated[
        str | None,
        typer.Option("--after", metavar="EPOCH-REVISION", help="Begin behind this position.", show_default=False),
    ] = None,
    last: Annotated[
        int | None,
        typer.Option(
            "--last",
            metavar="N",
            min=0,
            help="Begin so many events ago. [dim]Default: 50, or 0 with --follow[/dim]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Print what happened in the region, in order, one event a line.

    Each line begins with its position; a position goes to --after to continue behind it.
    """
    show = _shower(session)
    with session.client() as client:
        here = client.get("/v1/cluster/self")
        epoch, revision = here["epoch"], here["revision"]
        count = last if last is not None else 0 if follow else EVENTS_SHOWN
        begin = after or f"{epoch}-{max(0, revision - count)}"
        while True:
            try:
                if not follow and _revision(begin) >= (epoch, revision):
                    return
                for event in client.events(
                    after=begin, on_trouble=lambda trouble: session.screen.note(f"{trouble}; asking the next node")
                ):
                    show(event)
                    begin = event.position
                    if not follow and _revision(begin) >= (epoch, revision):
                        return
            except RefusedError as error:
                if error.code != "events_gone" or after is not None or count == 0:
                    raise
                count //= 2  # so many are not kept any more
                begin = f"{epoch}-{max(0, revision - count)}"


def _revision(position: str) -> tuple[int, int]:
    epoch, _, revision = position.partition("-")
    return (int(epoch), int(revision)) if epoch.isdigit() and revision.isdigit() else (0, 0)


def _shower(session: Session) -> Callable[[Any], None]:
    def show(event: Any) -> None:
        if session.json:
            session.screen.line({"id": event.position, **event.data})
            return
        data = event.data
        when = instant(data["at_unix_ms"]) if data.get("at_unix_ms") else "-"
        by = f"  by {data['author']}" if data.get("author") else ""
        name = data.get("name", event.name)
        session.screen.text(f"{event.position:<8} {when:<24}  {name:<20} {_told(data)}{by}".rstrip())

    return show


def _told(event: dict[str, Any]) -> str:
    """What happened to what: models as they are after the event, and the details that they do not tell already."""
    detail = dict(event.get("detail", {}))
    effective_at = detail.pop("effective_at_unix_ms", None)
    if "rollout_id" in detail and "move" in detail:
        return _moved(detail) + ("" if effective_at is None else f", effective at {instant(effective_at)}")
    words = [_subject(view) for view in event.get("models", ())]
    words += [f"{name} is gone" for name in event.get("removed", ())]
    if "model" in detail:
        words.append(" ".join(str(detail.pop(key)) for key in ("model", "version") if key in detail))
    if words:
        for told in ("generations", "activations"):
            detail.pop(told, None)
    words += [f"{key}={value}" for key, value in detail.items()]
    return ", ".join(words) + ("" if effective_at is None else f", effective at {instant(effective_at)}")


def _moved(detail: dict[str, Any]) -> str:
    """A move of a rollout: of what, where it led, why."""
    models = ", ".join(f"{name} {version}" for name, version in detail.get("models", {}).items())
    stage = (
        f", stage {detail['stage'] + 1}" if detail["phase"] in {"prefetching", "baking", "waiting", "paused"} else ""
    )
    why = f": {detail['reason']}" if detail.get("reason") else ""
    return f"{detail['rollout_id']} ({models}) {detail['move']} → {detail['phase']}{stage}{why}"


def _subject(view: dict[str, Any]) -> str:
    name, assignment, pending, prefetch = view["name"], view["assignment"], view["pending"], view["prefetch"]
    if pending:
        return f"{name} {pending['assignment']['stable']} (generation {pending['generation']})"
    if prefetch:
        return f"{name}, edges get ready for {prefetch['stable']}"
    return f"{name} {assignment['stable']} (generation {view['generation']})" if assignment else str(name)


def audit(session: Session, limit: LimitOption = 50) -> None:
    """List who asked for what and what came of it, newest first. Refusals are listed too."""
    with session.client() as client:
        page = client.items("/v1/audit", limit=limit)
    if session.json:
        session.screen.document(page)
        return
    rows = [
        (
            str(entry["revision"]),
            instant(entry["at_unix_ms"]),
            entry["author"],
            entry["command"],
            entry["subject"],
            Text("ok", style="green") if entry["code"] == "ok" else Text(entry["code"], style="red"),
        )
        for entry in page["items"]
    ]
    columns = (">REVISION", "AT", "BY", "ASKED FOR", "ON", "OUTCOME")
    session.screen.table(columns, rows, empty="nobody asked for anything yet")
    note_truncated(session, page)
