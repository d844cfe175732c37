"""ops/kubernetes: valid for the API, and saying what nodes, edges and servers really understand."""

from __future__ import annotations

import copy
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml
from cryptography import x509

from consistency_service.adapters.certificates import load_certificate
from consistency_service.api import health
from consistency_service.app import SHUTDOWN_S
from consistency_service.config import ServiceConfig, config_of
from consistency_service.errors import ConfigError
from edge_client.config import EdgeConfig
from edge_client.errors import EdgeError
from ops.compose import file
from ops.edge.app import PREFIX, settings_of

ROOT = Path(__file__).parents[3]
HERE = ROOT / "ops" / "kubernetes"
FOREIGN = {"ServiceMonitor", "Kustomization"}
Object = dict[str, Any]


def objects() -> list[Object]:
    paths = [path for path in sorted(HERE.glob("*.yaml")) if path.name != "kustomization.yaml"]
    return [each for path in paths for each in yaml.safe_load_all(path.read_text(encoding="utf-8"))]


def named(everything: list[Object], kind: str, name: str) -> Object:
    return next(each for each in everything if (each["kind"], each["metadata"]["name"]) == (kind, name))


def workloads(everything: list[Object]) -> list[Object]:
    return [each for each in everything if each["kind"] in ("StatefulSet", "DaemonSet")]


def pod(workload: Object) -> Object:
    return dict(workload["spec"]["template"]["spec"])


def containers(everything: list[Object], *, initial: bool = True) -> Iterator[tuple[str, Object]]:
    for workload in workloads(everything):
        spec = pod(workload)
        for each in [*(spec.get("initContainers", []) if initial else []), *spec["containers"]]:
            yield f"{workload['metadata']['name']}/{each['name']}", each


def environment(container: Object, everything: list[Object], *, name: str) -> dict[str, str]:
    """What a container is told; what its pod is called is put in by the cluster, here by us."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        if "configMapRef" in source:
            found |= named(everything, "ConfigMap", source["configMapRef"]["name"])["data"]
    for each in container.get("env", []):
        value = each.get("value", name)
        found[each["name"]] = re.sub(r"\$\((\w+)\)", lambda match: found[match[1]], value)
    return found


def pods_are_restricted(everything: list[Object]) -> list[str]:
    wrong = []
    for workload in workloads(everything):
        context = pod(workload).get("securityContext", {})
        if not context.get("runAsNonRoot") or context.get("seccompProfile") != {"type": "RuntimeDefault"}:
            wrong.append(workload["metadata"]["name"])
        if pod(workload).get("automountServiceAccountToken") is not False:
            wrong.append(f"{workload['metadata']['name']} token")
    return wrong + [
        name
        for name, container in containers(everything)
        if container.get("securityContext")
        != {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    ]


def namespaces_enforce_that(everything: list[Object]) -> list[str]:
    return [
        each["metadata"]["name"]
        for each in everything
        if each["kind"] == "Namespace"
        if each["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce") != "restricted"
    ]


def resources_are_limited(everything: list[Object]) -> list[str]:
    return [
        name
        for name, container in containers(everything)
        if {"cpu", "memory"} != container.get("resources", {}).get("limits", {}).keys()
        or not container.get("resources", {}).get("requests")
    ]


def everybody_is_probed(everything: list[Object]) -> list[str]:
    return [
        f"{name} {probe}"
        for name, container in containers(everything, initial=False)
        for probe in ("startupProbe", "livenessProbe", "readinessProbe")
        if probe not in container
    ]


def probes_are_routes(everything: list[Object]) -> list[str]:
    """Of a node: what it is asked exists, on a port that it has, by TLS as it serves; alive and ready are two questions."""
    routes = {getattr(route, "path", "") for route in health.router.routes}
    node = dict(containers(everything))["ccs-node/node"]
    asked = {probe: node.get(probe, {}).get("httpGet", {}) for probe in ("livenessProbe", "readinessProbe")}
    ports = {port["name"] for port in node["ports"]}
    wrong = [
        probe
        for probe, get in asked.items()
        if get.get("path") not in routes or get.get("port") not in ports or get.get("scheme") != "HTTPS"
    ]
    return (
        wrong
        + ["same"] * (asked["livenessProbe"].get("path") != "/livez")
        + ["same"] * (asked["readinessProbe"].get("path") != "/readyz")
    )


def images_are_those_of_compose(everything: list[Object]) -> list[str]:
    known = {service.image for service in file.read().values()}
    return [name for name, container in containers(everything) if container["image"] not in known]


def nodes_understand_it(everything: list[Object]) -> list[str]:
    """Every variable is a setting; every pod of the set is a peer, at the ports and the service that it has."""
    workload = named(everything, "StatefulSet", "ccs-node")
    node = dict(containers(everything))["ccs-node/node"]
    ports = {port["name"]: port["containerPort"] for port in node["ports"]}
    known = {f"CCS_{field.name.upper()}" for field in fields(ServiceConfig)}
    names = [f"ccs-node-{number}" for number in range(workload["spec"]["replicas"])]
    wrong: list[str] = []
    for name in names:
        told = environment(node, everything, name=name)
        wrong += [key for key in told if key.startswith("CCS_") and key not in known]
        try:
            config = config_of({}, environ=told, origin=name)
        except ConfigError as error:
            wrong.append(str(error))
            continue
        host = f"{name}.{workload['spec']['serviceName']}.ccs.svc.cluster.local"
        own = config.peers[name]
        wrong += [name] * (own.raft != f"{host}:{ports['raft']}" or own.url != f"https://{host}:{ports['https']}")
        wrong += [name] * (config.http != f"0.0.0.0:{ports['https']}" or sorted(config.peers) != names)
        wrong += [name] * (config.access is None or config.http_certificate is None or config.insecure)
        mounted = {mount["mountPath"] for mount in node["volumeMounts"]}
        paths = [getattr(config, field.name) for field in fields(config)]
        wrong += [
            f"{name} {path}"
            for path in paths
            if isinstance(path, Path) and not any(path.is_relative_to(root) for root in mounted)
        ]
    return wrong


def edges_understand_it(everything: list[Object]) -> list[str]:
    app = dict(containers(everything))["ccs-edge/app"]
    told = environment(app, everything, name="machine-7")
    try:
        config = EdgeConfig(**settings_of(told))
    except (ValueError, EdgeError) as error:
        return [str(error)]
    return [] if config.edge_id == "machine-7" and PREFIX + "MODELS" in told else [config.edge_id]


def the_bus_understands_it(everything: list[Object]) -> list[str]:
    told = {each["name"] for each in dict(containers(everything))["ccs-bus/nats"]["env"]}
    lines = (ROOT / "ops" / "nats" / "server.conf").read_text(encoding="utf-8").splitlines()
    asked = set(re.findall(r"\$(NATS_\w+)", "\n".join(line for line in lines if not line.startswith("#"))))
    return sorted(told ^ asked)


def a_majority_stays(everything: list[Object]) -> list[str]:
    wrong = []
    for name in ("ccs-node", "ccs-bus"):
        workload = named(everything, "StatefulSet", name)
        labels = workload["spec"]["template"]["metadata"]["labels"]
        budget = named(everything, "PodDisruptionBudget", name)["spec"]
        spread = pod(workload)["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0]
        if (
            (workload["spec"]["replicas"], budget["minAvailable"]) != (3, 2)
            or budget["selector"]["matchLabels"] != labels
            or workload["spec"]["selector"]["matchLabels"] != labels
            or spread["labelSelector"]["matchLabels"] != labels
            or spread["topologyKey"] != "kubernetes.io/hostname"
        ):
            wrong.append(name)
    return wrong


def there_is_time_to_leave(everything: list[Object]) -> list[str]:
    grace_s = pod(named(everything, "StatefulSet", "ccs-node"))["terminationGracePeriodSeconds"]
    duck = re.search(r'lame_duck_duration: "(\d+)s"', (ROOT / "ops/nats/limits.conf").read_text(encoding="utf-8"))
    assert duck is not None
    bus_s = pod(named(everything, "StatefulSet", "ccs-bus"))["terminationGracePeriodSeconds"]
    return ["ccs-node"] * (grace_s < 2 * SHUTDOWN_S) + ["ccs-bus"] * (bus_s <= int(duck[1]))


def services_reach_ports(everything: list[Object]) -> list[str]:
    wrong = []
    for service in (each for each in everything if each["kind"] == "Service"):
        app = service["spec"]["selector"]["app.kubernetes.io/name"]
        found = [c for name, c in containers(everything, initial=False) if name.startswith(f"{app}/")]
        names = {port["name"] for container in found for port in container.get("ports", [])}
        wrong += [
            f"{service['metadata']['name']} {port}"
            for port in service["spec"]["ports"]
            if port["targetPort"] not in names
        ]
    return wrong


def policies_name_ports(everything: list[Object]) -> list[str]:
    """What may come in is what somebody listens on; and whoever is in the namespace is named by some policy."""
    wrong = []
    for policy in (each for each in everything if each["kind"] == "NetworkPolicy"):
        app = policy["spec"]["podSelector"].get("matchLabels", {}).get("app.kubernetes.io/name")
        found = [c for name, c in containers(everything, initial=False) if name.startswith(f"{app}/")]
        numbers = {port["containerPort"] for container in found for port in container.get("ports", [])}
        allowed = {port["port"] for rule in policy["spec"].get("ingress", []) for port in rule["ports"]}
        wrong += [f"{app} {port}" for port in sorted(allowed - numbers)]
    denial = named(everything, "NetworkPolicy", "nobody")["spec"]
    return wrong + ["nobody"] * (denial != {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})


def no_secret_is_written_down(everything: list[Object]) -> list[str]:
    return [each["metadata"]["name"] for each in everything if each["kind"] == "Secret"] + [
        f"{name} {each['name']}"
        for name, container in containers(everything)
        for each in container.get("env", [])
        if re.search(r"PASSWORD|TOKEN|SECRET|_KEY$|CREDENTIALS", each["name"])
        and not str(each.get("value", "/")).startswith("/")
    ]


def break_(kind: str, name: str, path: str, value: Any) -> Callable[[list[Object]], None]:
    def change(everything: list[Object]) -> None:
        *way, last = [int(part) if part.isdigit() else part for part in path.split("/")]
        found: Any = named(everything, kind, name)
        for part in way:
            found = found[part]
        if value is None:
            del found[last]
        else:
            found[last] = value

    return change


NODE = "spec/template/spec/containers/0"
RULES: list[tuple[Callable[[list[Object]], list[str]], Callable[[list[Object]], None]]] = [
    (pods_are_restricted, break_("StatefulSet", "ccs-bus", "spec/template/spec/securityContext/runAsNonRoot", False)),
    (pods_are_restricted, break_("StatefulSet", "ccs-node", f"{NODE}/securityContext", {})),
    (namespaces_enforce_that, break_("Namespace", "ccs", "metadata/labels", {})),
    (resources_are_limited, break_("StatefulSet", "ccs-node", f"{NODE}/resources/limits/memory", None)),
    (everybody_is_probed, break_("DaemonSet", "ccs-edge", f"{NODE}/startupProbe", None)),
    (probes_are_routes, break_("StatefulSet", "ccs-node", f"{NODE}/readinessProbe/httpGet/path", "/healthz")),
    (probes_are_routes, break_("StatefulSet", "ccs-node", f"{NODE}/livenessProbe/httpGet/path", "/readyz")),
    (images_are_those_of_compose, break_("StatefulSet", "ccs-bus", f"{NODE}/image", "nats:latest")),
    (nodes_understand_it, break_("ConfigMap", "ccs-node", "data/CCS_HTPP", "x")),
    (nodes_understand_it, break_("ConfigMap", "ccs-node", "data/CCS_HTTP", "0.0.0.0:8800")),
    (nodes_understand_it, break_("StatefulSet", "ccs-node", "spec/replicas", 5)),
    (nodes_understand_it, break_("ConfigMap", "ccs-node", "data/CCS_REGION_KEY", "/nowhere/region.key")),
    (edges_understand_it, break_("DaemonSet", "ccs-edge", f"{NODE}/env/1/name", "CCS_EDGE_NAME")),
    (the_bus_understands_it, break_("StatefulSet", "ccs-bus", f"{NODE}/env/1/name", "NATS_CLUSTER")),
    (a_majority_stays, break_("PodDisruptionBudget", "ccs-node", "spec/minAvailable", 1)),
    (a_majority_stays, break_("PodDisruptionBudget", "ccs-bus", "spec/selector/matchLabels", {"app": "other"})),
    (there_is_time_to_leave, break_("StatefulSet", "ccs-node", "spec/template/spec/terminationGracePeriodSeconds", 5)),
    (services_reach_ports, break_("Service", "ccs", "spec/ports/0/targetPort", "http")),
    (policies_name_ports, break_("NetworkPolicy", "ccs-node", "spec/ingress/1/ports/0/port", 8080)),
    (policies_name_ports, break_("NetworkPolicy", "nobody", "spec/policyTypes", ["Ingress"])),
    (
        no_secret_is_written_down,
        break_("DaemonSet", "ccs-edge", f"{NODE}/env/1", {"name": "CCS_EDGE_HTTP_TOKEN", "value": "word"}),
    ),
]


@pytest.mark.parametrize("rule", dict.fromkeys(rule for rule, _ in RULES), ids=lambda rule: rule.__name__)
def test_the_manifests_keep_every_rule(rule):
    assert [] == rule(objects())


@pytest.mark.parametrize(("rule", "change"), RULES, ids=lambda value: getattr(value, "__name__", ""))
def test_every_rule_notices(rule, change):
    everything = copy.deepcopy(objects())
    change(everything)

    assert [] != rule(everything)


def test_the_manifests_are_what_the_api_takes():
    for each in objects():
        if each["kind"] not in FOREIGN:
            kubernetes_validate.validate(each, kubernetes_validate.latest_version(), strict=True)


def test_a_field_that_does_not_exist_is_refused():
    broken = named(objects(), "StatefulSet", "ccs-node")
    broken["spec"]["replica"] = 3

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, kubernetes_validate.latest_version(), strict=True)


def test_kustomize_finds_what_it_names():
    for path in (HERE / "kustomization.yaml", ROOT / "ops" / "nats" / "kustomization.yaml"):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        for name in content.get("resources", []):
            found = path.parent / name
            assert found.is_file() or (found / "kustomization.yaml").is_file(), name
        for generator in content.get("configMapGenerator", []):
            assert all((path.parent / name).is_file() for name in generator["files"])


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_the_secrets_have_every_file_that_is_mounted(tmp_path):
    """The script is run; its files are those that nodes and servers are told of, and name the hosts they are called by."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["sh", str(HERE / "secrets.sh"), "harbour"]
    result = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, timeout=180)
    assert 0 == result.returncode, result.stderr

    everything = objects()
    found = dict(containers(everything))
    for number in range(3):
        told = environment(found["ccs-node/node"], everything, name=f"ccs-node-{number}")
        for value in told.values():
            assert not value.startswith("/secrets/") or (tmp_path / "nodes" / Path(value).name).is_file(), value
        told = environment(found["ccs-bus/nats"], everything, name=f"ccs-bus-{number}")
        for value in told.values():
            assert not value.startswith("/etc/nats/") or (tmp_path / "bus" / Path(value).name).is_file(), value
        certificate = load_certificate(tmp_path / "nodes" / f"ccs-node-{number}.tls.crt")
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        config = config_of({}, environ=environment(found["ccs-node/node"], everything, name="ccs-node-0"), origin="x")
        url = urlsplit(config.peers[f"ccs-node-{number}"].url)
        assert {url.hostname, "ccs.ccs.svc.cluster.local"} == set(names.get_values_for_type(x509.DNSName))
    assert (tmp_path / "bus" / "auth.conf").is_file()
    assert 0o600 == stat.S_IMODE((tmp_path / "nodes" / "region.key").stat().st_mode)


def test_prometheus_asks_what_a_node_has():
    monitor = named(objects(), "ServiceMonitor", "ccs-node")

    service = named(objects(), "Service", "ccs-nodes")
    assert monitor["spec"]["selector"]["matchLabels"] == service["metadata"]["labels"]
    assert {"https"} == {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]}
    assert "https" in {port["name"] for port in service["spec"]["ports"]}
