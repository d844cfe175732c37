"""`ccs debug bundle`: what somebody who was not there will ask for, in one archive without secrets.

Each part is asked for by itself, and what cannot be had is told in the list of contents: a region that needs looking at is
one in which something does not answer. Whatever looks like a secret is struck out of every part, though none should be there.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import re
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.metadata import distributions
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from consistency_service import __version__
from consistency_service.cli import doctor
from consistency_service.cli.client import Client
from consistency_service.cli.doctor_findings import Level
from consistency_service.cli.errors import CommandError, LocalError, RefusedError
from consistency_service.cli.render import size
from consistency_service.cli.session import Session, command, in_order
from consistency_service.errors import ServiceError

LIST_MAX: Final = 1_000
EVENTS_MAX: Final = 500
LOG_BYTES_MAX: Final = 2_000_000
"""Of the end of each log."""
NODE_TIMEOUT_S: Final = 5.0
LISTS: Final = {
    "edges.json": "/v1/edges",
    "models.json": "/v1/models",
    "rollouts.json": "/v1/rollouts",
    "audit.json": "/v1/audit",
    "webhooks.json": "/v1/webhooks",
}
STRUCK: Final = "[struck out]"
_SECRETS: Final = (
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/@\"']+@", re.IGNORECASE), rf"\1{STRUCK}@"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), STRUCK),
    (re.compile(r"-----BEGIN (?:NATS USER JWT|USER NKEY SEED)-----.*?(?:------END [A-Z ]*------|\Z)", re.DOTALL), STRUCK),
    (re.compile(r"\bccs_[A-Za-z0-9_-]{20,}"), STRUCK),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"), STRUCK),
    (re.compile(r"\bS[UAONC][A-Z2-7]{56}\b"), STRUCK),
    (re.compile(r"(?i)\b(bearer|authorization:?|password|requirepass|secret)(\s*[=:]?\s+|\s*[=:]\s*|\"\s*:\s*)(\"?)[^\s\",}]{4,}"), rf"\1\2\3{STRUCK}"),
)  # fmt: skip

app = typer.Typer(cls=in_order("bundle"), help="What others need to find out what went wrong.", no_args_is_help=True)

Part = Callable[[], bytes]


def struck_out(text: str) -> str:
    """`text` without passwords in addresses, private keys, tokens, JWTs and seeds of the bus."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


@command(
    app,
    "bundle",
    examples=("ccs debug bundle", "ccs debug bundle harbour.tar.gz --config node-1.toml --log node-1.log"),
)
def bundle(
    session: Session,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]", help="Must not exist. [dim]Default: ccs-debug-TIME.tar.gz here[/dim]", dir_okay=False, show_default=False
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="Settings of the node of this machine, to be looked at as well.", dir_okay=False, show_default=False),
    ] = None,
    logs: Annotated[
        list[Path] | None,
        typer.Option("--log", metavar="FILE", help="A log whose end goes along; may be repeated.", dir_okay=False, show_default=False),
    ] = None,
) -> int:  # fmt: skip
    """Collect what is needed to find out what went wrong: the region as every node sees it, its last events, this machine.

    Changes nothing. What does not answer is left out, and named. Exit code 1 if nothing of the region could be had; the
    file is written all the same.
    """
    target = file or Path(time.strftime("ccs-debug-%Y%m%dT%H%M%SZ.tar.gz", time.gmtime()))
    contents: dict[str, dict[str, Any]] = {}
    try:
        stream = target.open("xb")
    except FileExistsError:
        raise LocalError(f"{target} exists already; nothing is overwritten") from None
    with stream, tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, part in _parts(session, config=config, logs=logs or []):
            contents[name] = _added(archive, name, part)
        about = {"made_at_unix_ms": time.time_ns() // 1_000_000, "ccs": __version__, "contents": contents}
        _add(archive, "contents.json", json.dumps(about, indent=2).encode())
    missing = {name: entry["missing"] for name, entry in contents.items() if "missing" in entry}
    size_bytes = target.stat().st_size
    if session.json:
        session.screen.document({"file": str(target), "size_bytes": size_bytes, **about})
    else:
        session.screen.text(f"{target}: {len(contents) - len(missing)} parts, {size(size_bytes)}")
        for name, reason in missing.items():
            session.screen.note(f"left out {name}: {reason}")
    return 0 if any(name.startswith("region/") and name not in missing for name in contents) else 1


def _parts(session: Session, *, config: Path | None, logs: list[Path]) -> Iterator[tuple[str, Part]]:
    """Every part and how it is had. What follows from one part is found out while it is made."""
    nodes: list[dict[str, Any]] = []

    def cluster(client: Client) -> bytes:
        answer = client.get("/v1/cluster")
        nodes.extend(answer["nodes"])
        return _json(answer)

    def asked(ask: Callable[[Client], bytes]) -> Part:
        def part() -> bytes:
            with session.client() as client:
                return ask(client)

        return part

    yield "region/cluster.json", asked(cluster)
    for name, path in LISTS.items():
        yield f"region/{name}", asked(partial(_list, path=path))
    yield "region/feature_classes.json", asked(lambda client: _json(client.get("/v1/features/classes")))
    yield "region/events.jsonl", asked(_events)
    urls = {node["node_id"]: node["url"] for node in nodes} or {f"at-{n}": url for n, url in enumerate(session.urls, 1)}
    for node_id, url in urls.items():
        yield f"region/nodes/{node_id}/self.json", partial(_of_node, session, url, "/v1/cluster/self")
        yield f"region/nodes/{node_id}/metrics.txt", partial(_of_node, session, url, "/metrics")
    yield "machine/doctor.json", lambda: _doctor(session, config)
    yield "machine/software.json", _software
    if config is not None:
        yield "machine/settings.toml", config.read_bytes
    for number, log in enumerate(logs, start=1):
        yield f"machine/logs/{number}-{log.name}", partial(_end_of, log)


def _added(archive: tarfile.TarFile, name: str, part: Part) -> dict[str, Any]:
    """What the list of contents says of a part: its size and digest, or why it is missing."""
    try:
        content = struck_out(part().decode("utf-8", "replace")).encode()
    except (CommandError, ServiceError, OSError, KeyError, TypeError, ValueError) as error:
        return {"missing": struck_out(str(error) or type(error).__name__)}
    _add(archive, name, content)
    return {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(f"ccs-debug/{name}")
    member.size, member.mtime, member.mode = len(content), int(time.time()), 0o600
    archive.addfile(member, io.BytesIO(content))


def _list(client: Client, *, path: str) -> bytes:
    return _json(client.items(path, limit=LIST_MAX))


def _events(client: Client) -> bytes:
    """The last events, as many as are kept."""
    here = client.get("/v1/cluster/self")
    end, count, lines = (here["epoch"], here["revision"]), EVENTS_MAX, []
    while True:
        begin = f"{end[0]}-{max(0, end[1] - count)}"
        try:
            for event in client.events(after=begin, on_trouble=lambda _: None):
                lines.append(json.dumps({"id": event.position, **event.data}))
                epoch, _, revision = event.position.partition("-")
                if (int(epoch), int(revision)) >= end:
                    return "\n".join([*lines, ""]).encode()
        except RefusedError as error:
            if error.code != "events_gone" or count < 2:
                raise
            count //= 2


def _of_node(session: Session, url: str, path: str) -> bytes:
    """What this node says of itself, and nobody else in its place."""
    with Session(replace(session.shared, url=(url,), timeout=NODE_TIMEOUT_S)).client() as client:
        return client.data(path)


def _doctor(session: Session, config: Path | None) -> bytes:
    findings = list(doctor.look(session, config=config, edge=None))
    return _json(doctor.document(findings, ok=all(finding.level is not Level.WRONG for finding in findings)))


def _software() -> bytes:
    return _json(
        {
            "python": sys.version,
            "platform": platform.platform(),
            "machine": platform.machine(),
            "packages": {found.metadata["Name"]: found.version for found in distributions()},
        }
    )


def _end_of(log: Path) -> bytes:
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - LOG_BYTES_MAX))
        return stream.read(LOG_BYTES_MAX)


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"
