"""What docker-compose.yml and Dockerfile say, as values: the part of both that a process has to do with.

Reads what the files say and knows nothing of engines: variables and merged keys are put in, a service's command is what its
image and the file make together. Who runs it is another's business (`local`), who judges it too (tests).
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[2]
COMPOSE: Final = ROOT / "docker-compose.yml"
DOCKERFILE: Final = ROOT / "Dockerfile"
_VARIABLE: Final = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """Something of the host at a place in the container. `source` is a path beside the file, or the name of a volume."""

    kind: str
    source: str
    target: str
    subpath: str = ""
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    name: str
    image: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    healthcheck: tuple[str, ...] | None
    expose: tuple[int, ...]
    names: tuple[str, ...]
    """What it is called on some network: its name, and its aliases."""
    networks: tuple[str, ...]
    mounts: tuple[Mount, ...]
    tmpfs: tuple[str, ...]
    depends_on: Mapping[str, str]
    profiles: tuple[str, ...]
    image_files: Mapping[str, Path]
    """Paths in an image of ours, and the files here that lie there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The last stage of an image: what it starts, and which files of ours it holds where."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    files: Mapping[str, Path] = field(default_factory=dict)
    user: str = "root"


def read(path: Path = COMPOSE, *, environment: Mapping[str, str] | None = None) -> dict[str, Service]:
    """Every service by its name. `environment` is what `${NAME:-…}` is looked up in."""
    document = document_of(path, environment=environment or {})
    stages = stages_of(DOCKERFILE)
    return {name: _service(name, table, stages) for name, table in document["services"].items()}


def document_of(path: Path = COMPOSE, *, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The whole file, merged keys and variables put in."""
    found = _interpolated(yaml.safe_load(path.read_text(encoding="utf-8")), environment or {})
    assert isinstance(found, dict)
    return found


def stages_of(path: Path) -> dict[str, Stage]:
    """The stages of a Dockerfile by name; each knows what those it is built from say."""
    stages: dict[str, Stage] = {}
    name = ""
    for line in _instructions(path.read_text(encoding="utf-8")):
        word, _, rest = line.partition(" ")
        match word, shlex.split(rest):
            case "FROM", [base, "AS", name]:
                stages[name] = stages.get(base, Stage())
            case "COPY", [source, target] if target.startswith("/") and not source.startswith("--"):
                stages[name] = replace(stages[name], files={**stages[name].files, target: ROOT / source})
            case "USER", [user]:
                stages[name] = replace(stages[name], user=user)
            case "ENTRYPOINT", _:
                stages[name] = replace(stages[name], entrypoint=tuple(json.loads(rest)))
            case "CMD", _:
                stages[name] = replace(stages[name], command=tuple(json.loads(rest)))
    return stages


def _instructions(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return [line for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines() if line.strip()]


def _service(name: str, table: Mapping[str, Any], stages: Mapping[str, Stage]) -> Service:
    stage = stages[table["build"]["target"]] if "build" in table else None
    entrypoint, command = table.get("entrypoint"), table.get("command")
    if stage is not None and entrypoint is None:
        entrypoint, command = stage.entrypoint, stage.command if command is None else command
    networks = table.get("networks") or {}
    aliases = [alias for more in _tables(networks).values() for alias in more.get("aliases", ())]
    check = table.get("healthcheck", {}).get("test")
    return Service(
        name=name,
        image=table["image"],
        argv=(*_argv(entrypoint), *_argv(command)),
        environment={key: str(value) for key, value in (table.get("environment") or {}).items()},
        healthcheck=tuple(check[1:]) if check else None,
        expose=tuple(int(port) for port in table.get("expose", ())),
        names=(name, *aliases),
        networks=tuple(networks),
        mounts=tuple(_mount(each) for each in table.get("volumes", ())),
        tmpfs=tuple(each.partition(":")[0] for each in table.get("tmpfs", ())),
        depends_on={other: how["condition"] for other, how in (table.get("depends_on") or {}).items()},
        profiles=tuple(table.get("profiles", ())),
        image_files={} if stage is None else stage.files,
    )


def _mount(table: Mapping[str, Any]) -> Mount:
    return Mount(
        kind=table["type"],
        source=table["source"],
        target=table["target"],
        subpath=table.get("volume", {}).get("subpath", ""),
        read_only=table.get("read_only", False),
    )


def _tables(networks: Sequence[str] | Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: dict(networks[name] or {}) if isinstance(networks, Mapping) else {} for name in networks}


def _argv(value: Sequence[str] | str | None) -> tuple[str, ...]:
    return () if value is None else tuple(shlex.split(value)) if isinstance(value, str) else tuple(value)


def _interpolated(value: Any, environment: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return _VARIABLE.sub(
            lambda found: (
                "$" if found["name"] is None else environment.get(found["name"], "") or (found["default"] or "")
            ),
            value,
        )
    if isinstance(value, dict):
        return {key: _interpolated(each, environment) for key, each in value.items()}
    if isinstance(value, list):
        return [_interpolated(each, environment) for each in value]
    return value
