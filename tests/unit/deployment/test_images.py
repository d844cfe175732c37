"""Dockerfile and what lies beside the compose file: pinned, unprivileged, without secrets, and naming what exists."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from ops.compose import file

ROOT = Path(__file__).parents[3]
DOCKERFILE = file.DOCKERFILE.read_text(encoding="utf-8")
PROMETHEUS = ROOT / "ops" / "compose" / "prometheus.yml"


def stage_of(name: str) -> str:
    return re.split(r"^FROM ", DOCKERFILE.partition(f" AS {name}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def test_the_images_begin_with_a_version():
    bases = re.findall(r"^FROM (\S+) AS (\S+)", DOCKERFILE, re.MULTILINE)
    names = {name for _, name in bases}

    foreign = {base for base, _ in bases if base not in names}
    assert all(re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base) for base in foreign) and len(foreign) == 1


@pytest.mark.parametrize("target", ["service", "edge"])
def test_an_image_runs_as_nobody_in_particular_and_is_watched(target):
    stage = file.stages_of(file.DOCKERFILE)[target]

    assert "10001:10001" == stage.user
    assert stage.entrypoint
    assert "HEALTHCHECK" in stage_of(target)
    assert all(source.is_file() for source in stage.files.values())


def test_everything_installed_is_named_in_constraints():
    installs = re.findall(r"pip (?:install|wheel) (.*?)(?=&&|\n[A-Z#\n])", DOCKERFILE, re.DOTALL)

    assert len(installs) == 5
    assert all("-c constraints.txt" in words or words.strip().endswith("--wheel-dir /wheels .") for words in installs)


def test_what_is_copied_is_allowed_into_the_context_and_nothing_else_is():
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    sources = {
        word for line in re.findall(r"^COPY (?!--)(.+)$", DOCKERFILE, re.MULTILINE) for word in line.split()[:-1]
    }

    assert "*" == rules[0]
    assert sources == {rule[1:] for rule in rules if rule.startswith("!")}


def test_empty_volumes_find_their_owner():
    """Each volume that `prepare` is shown is a directory of the image, owned by the user of all containers."""
    made = set(re.findall(r"/volumes/([\w-]+)", stage_of("service")))
    shown = {mount.target for mount in file.read()["prepare"].mounts if mount.target.startswith("/volumes/")}

    assert {f"/volumes/{name}" for name in made} == shown
    assert {mount.source for each in file.read().values() for mount in each.mounts if mount.kind == "volume"} == {
        *made,
        "secrets",
    }


def test_prometheus_asks_services_where_they_answer():
    services = file.read()
    jobs = yaml.safe_load(PROMETHEUS.read_text(encoding="utf-8"))["scrape_configs"]
    targets = [target for job in jobs for each in job["static_configs"] for target in each["targets"]]

    for host, port in (target.split(":") for target in targets):
        service = services["prometheus" if host == "127.0.0.1" else host]
        assert int(port) in service.expose
        assert set(service.networks) & set(services["prometheus"].networks)
    assert {name for name in services if name.startswith(("node-", "edge-"))} <= {t.split(":")[0] for t in targets}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
def test_prometheus_understands_its_file():
    command = ["promtool", "check", "config", "--syntax-only", str(PROMETHEUS)]

    assert 0 == subprocess.run(command, capture_output=True, timeout=50).returncode


def test_the_collector_names_what_it_has():
    content = yaml.safe_load((ROOT / "ops/compose/otel-collector.yaml").read_text(encoding="utf-8"))
    service = file.read()["collector"]

    for pipeline in content["service"]["pipelines"].values():
        for kind in ("receivers", "processors", "exporters"):
            assert set(pipeline[kind]) <= content[kind].keys()
    assert set(content["service"]["extensions"]) == content["extensions"].keys()
    ports = {int(port) for port in re.findall(r"0\.0\.0\.0:(\d+)", yaml.safe_dump(content))}
    assert set(service.expose) <= ports


def test_grafana_finds_prometheus_and_its_dashboards():
    here = ROOT / "ops" / "compose" / "grafana"
    (source,) = yaml.safe_load((here / "datasources" / "prometheus.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((here / "dashboards" / "files.yaml").read_text())["providers"]
    services = file.read()

    assert f"http://prometheus:{services['prometheus'].expose[0]}" == source["url"]
    assert provider["options"]["path"] in {mount.target for mount in services["grafana"].mounts}
    assert set(services["grafana"].networks) & set(services["prometheus"].networks)
