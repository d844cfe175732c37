"""`ccs doctor`: looks for what usually goes wrong, and says what to do about it."""

from __future__ import annotations

import json
import time
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.text import Text

from consistency_service.cli import doctor_machine as machine
from consistency_service.cli import doctor_region as region
from consistency_service.cli.client import Client
from consistency_service.cli.doctor_findings import REMEDIES, Finding, Level, fine, wrong
from consistency_service.cli.errors import CommandError, LocalError, RefusedError
from consistency_service.cli.session import Session
from consistency_service.config import ServiceConfig, load_config
from consistency_service.errors import ConfigError

MARKS: Final = {
    Level.WRONG: ("wrong", "bold red"),
    Level.WARNING: ("warning", "yellow"),
    Level.FINE: ("fine", "green"),
}
EDGES_MAX: Final = 10_000
ROUND_TRIPS: Final = 5


def doctor(
    session: Session,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", metavar="FILE", help="Settings of the node of this machine.", dir_okay=False, show_default=False
        ),
    ] = None,
    edge: Annotated[
        Path | None,
        typer.Option(
            "--edge",
            metavar="FILE",
            help="Settings of an edge of this machine: TOML or JSON, names as in EdgeConfig.",
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Show what is fine as well.")] = False,
) -> int:
    """Look for common faults, and say what to do: of this machine, of the node or edge on it, and of the region.

    Leaves nothing behind. Exit code 1 if anything is wrong; warnings do not count. Each finding has a name that never
    changes, and a section in docs/how-to/troubleshoot.md.
    """
    findings = list(look(session, config=config, edge=edge))
    bad = [finding for finding in findings if finding.level is Level.WRONG]
    if session.json:
        session.screen.document(document(findings, ok=not bad))
    else:
        _show(session, findings, every=every)
    return 1 if bad else 0


def look(session: Session, *, config: Path | None, edge: Path | None) -> Iterator[Finding]:
    yield from machine.look_at_machine()
    settings = None
    if config is not None:
        try:
            settings = load_config(config)
            yield fine("settings", str(config))
        except ConfigError as error:
            yield wrong("settings", str(error))
    if settings is not None:
        yield from _look_at_node(settings)
    if edge is not None:
        yield from _look_at_edge(edge)
    if edge is None or session.shared.url:
        yield from _look_at_region(session, settings)


def _look_at_node(settings: ServiceConfig) -> Iterator[Finding]:
    # Not before it is needed: the bus's and Redis' libraries are a fifth of what any command takes to start.
    from consistency_service.adapters.nats_bus import nats_access_of
    from consistency_service.cli import doctor_links as links

    yield from machine.look_at_node(settings)
    yield from links.look_at_ports(settings)
    replicas = settings.stream_replicas
    yield from links.look_at_bus(
        settings.nats, access=nats_access_of(settings), region=settings.region, replicas=replicas
    )
    yield from links.look_at_artifacts(settings)


def _look_at_edge(path: Path) -> Iterator[Finding]:
    from consistency_service.adapters.nats_bus import NatsAccess
    from consistency_service.cli import doctor_links as links

    try:
        table = _table(path)
        servers = tuple(table.get("servers") or table.get("nats") or ())
        trust = str(table["trust"])
        text = Path(trust).read_text() if "ccs-region-key" not in trust else trust
        region_name = str(table.get("region", "default"))
    except (LocalError, KeyError, OSError, UnicodeDecodeError) as error:
        missing = f"{path}: {error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        yield wrong("settings", missing)
        return
    yield fine("settings", str(path))
    yield links.look_at_trust(text)
    names = {"ca": "nats_ca", "certificate": "nats_certificate", "key": "nats_key", "credentials": "nats_credentials"}
    access = NatsAccess(**{name: table.get(setting) for name, setting in names.items()})
    yield from links.look_at_bus(servers, access=access, region=region_name, replicas=None)
    for what, ca in (("local", "local_ca"), ("feature_store", "feature_store_ca")):
        if table.get(what):
            yield from links.look_at_redis(str(table[what]), what=what, ca=table.get(ca))


def _table(path: Path) -> dict[str, Any]:
    content = path.read_text()
    try:
        found = json.loads(content) if content.lstrip().startswith("{") else tomllib.loads(content)
    except ValueError as error:
        raise LocalError(f"{path} is neither TOML nor JSON: {error}") from None
    return dict(found)


def _look_at_region(session: Session, settings: ServiceConfig | None) -> Iterator[Finding]:
    if settings is not None and not session.shared.url:
        urls = tuple(peer.url for peer in settings.peers.values())
        session = Session(replace(session.shared, url=urls))
    with session.client() as client:
        try:
            cluster = client.get("/v1/cluster")
            yield from region.look_at_region(cluster, config=settings)
            yield from _round_trips(client)
            yield from region.look_at_edges(client.items("/v1/edges", limit=EDGES_MAX)["items"], cluster=cluster)
        except RefusedError as error:
            yield wrong("rest-refused", str(error))
        except CommandError as error:
            yield wrong("region-unreachable", str(error))


def _round_trips(client: Client) -> Iterator[Finding]:
    taken = []
    for _ in range(ROUND_TRIPS):
        began = time.perf_counter()
        client.get("/livez")
        taken.append((time.perf_counter() - began) * 1_000)
    yield region.round_trip(min(taken))


def document(findings: Iterable[Finding], *, ok: bool) -> dict[str, Any]:
    told = [{"id": f.id, "level": f.level.value, "text": f.text, "remedy": f.remedy, "docs": f.docs} for f in findings]
    return {"ok": ok, "findings": told}


def _show(session: Session, findings: list[Finding], *, every: bool) -> None:
    order = list(REMEDIES)
    screen = session.screen
    for level in (Level.WRONG, Level.WARNING, Level.FINE):
        if level is Level.FINE and not every:
            continue
        for finding in sorted((f for f in findings if f.level is level), key=lambda f: order.index(f.id)):
            word, style = MARKS[level]
            screen.paragraph(Text.assemble((f"{word:<8}", style), (finding.id, "bold"), f"  {finding.text}"))
            if finding.remedy:
                screen.paragraph(Text.assemble("        ", ("do: ", "cyan"), finding.remedy))
                screen.text(Text(f"        {finding.docs}", style="dim"))
    counts = {level: sum(f.level is level for f in findings) for level in Level}
    if not counts[Level.WRONG] and not counts[Level.WARNING]:
        screen.text(
            Text(f"nothing is wrong; {counts[Level.FINE]} things were looked at (--all shows them)", style="green")
        )
        return
    screen.text()
    screen.text(
        f"{counts[Level.WRONG]} wrong, {counts[Level.WARNING]} to look at, {counts[Level.FINE]} fine"
        + ("" if every else " (--all shows them)")
    )
