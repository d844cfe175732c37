"""Each alert fires for what it is about and for nothing else, knows its runbook, and asks for metrics that exist."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from consistency_service.core.metrics import NODE_METRICS
from edge_client.core.metrics import EDGE_METRICS

ROOT = Path(__file__).resolve().parents[3]
RULES = ROOT / "ops" / "alerts" / "ccs.rules.yml"
RUNBOOKS = ROOT / "docs" / "how-to" / "runbooks"
PROMTOOL = shutil.which("promtool")
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
}
NODES = ("node-1", "node-2", "node-3")
NAMES = {
    "nodes": {metric.name for metric in NODE_METRICS}
    | {"up", "process_open_fds", "process_max_fds", "process_resident_memory_bytes"},
    "edges": {metric.name for metric in EDGE_METRICS} | {"up"},
}
WORDS = re.compile(r'"[^"]*"|\b(?:sum|max|min|count|rate|increase|histogram_quantile|by|and|or|le)\b')

Series = dict[str, str]
"""Series to their values, one for each half minute, as promtool writes them."""


def on_nodes(name: str, *values: str, labels: str = "") -> Series:
    """One series for each node; the last value does for the rest."""
    shown = [*values, *[values[-1]] * (len(NODES) - len(values))]
    return {
        f'{name}{{job="nodes",instance="{node}"{labels}}}': f"{v}x100" for node, v in zip(NODES, shown, strict=True)
    }


def at_edge(name: str, value: str, labels: str = "") -> Series:
    return {f'{name}{{job="edges",instance="cam-1"{labels}}}': f"{value}x100"}


def histogram(name: str, quick: float, *, le: tuple[str, str, str]) -> Series:
    """A hundred more at every look, `quick` of them in the first bucket, the rest in the third."""
    series: Series = {}
    for bound, count in zip((*le, "+Inf"), (quick, quick, 100, 100), strict=True):
        series |= on_nodes(name, f"0+{count}", "0+0", labels=f',le="{bound}"')
    return series


MODEL = ',model="det"'
REFUSED = ',part="api",event="refused_unauthenticated"'
HEALTHY: Series = {
    **on_nodes("up", "1+0"),
    **on_nodes("raft_leading", "1+0", "0+0"),
    **on_nodes("authority_held", "1+0", "0+0"),
    **on_nodes("raft_leader_changes_total", "1+0"),
    **on_nodes("raft_storage_fault", "0+0"),
    **on_nodes("outbox_depth", "2+0", "0+0"),
    **on_nodes("bus_connected", "1+0"),
    **on_nodes("clock_trusted", "1+0"),
    **on_nodes("clock_uncertainty_seconds", "0+0", "0.002+0"),
    **on_nodes("event_loop_lag_seconds", "0.02+0"),
    **on_nodes("process_open_fds", "60+0"),
    **on_nodes("process_max_fds", "1024+0"),
    **histogram("raft_commit_seconds_bucket", 99.5, le=("0.01", "0.25", "0.5")),
    **histogram("switch_spread_seconds_bucket", 99.5, le=("0.05", "0.25", "0.5")),
    **on_nodes("ccs_events_total", "0+1", labels=REFUSED),
    **on_nodes("edges_behind", "0+0", labels=MODEL),
    **on_nodes("model_version_lag_seconds", "0+0", labels=MODEL),
    **on_nodes("rollouts", "0+0", labels=',phase="paused"'),
    **on_nodes("webhook_deliveries_given_up", "0+0"),
    **on_nodes("edges_live", "100+0"),
    **on_nodes("edges_known", "104+0"),
    **at_edge("strong_seconds_total", "0+5", MODEL),
    **at_edge("followed_seconds_total", "0+5", MODEL),
    **at_edge("staleness_age_seconds", "0+0", MODEL),
    **at_edge("edge_id_refused", "0+0"),
    **at_edge("write_behind_age_seconds", "3+0"),
    **at_edge("write_behind_total", "4+0", ',outcome="dropped"'),
    **at_edge("breaker_open", "0+0", ',breaker="store"'),
    **at_edge("bus_connected", "1+0"),
    **at_edge("clock_trusted", "1+0"),
    **at_edge("clock_uncertainty_seconds", "0.003+0"),
    **at_edge("event_loop_lag_seconds", "0.01+0"),
}
CASES: dict[str, tuple[Series, dict[str, int]]] = {
    "nothing": ({}, {}),
    "QuorumLost": (on_nodes("up", "0+0", "0+0", "1+0"), {"QuorumLost": 1, "NodeDown": 2}),
    "NodeDown": (on_nodes("up", "1+0", "1+0", "0+0"), {"NodeDown": 1}),
    "NoLeader": (on_nodes("raft_leading", "0+0"), {"NoLeader": 1}),
    "NoAuthority": (on_nodes("authority_held", "0+0"), {"NoAuthority": 1}),
    "LeaderChangesOften": (on_nodes("raft_leader_changes_total", "1+0.2"), {"LeaderChangesOften": 1}),
    "StorageFault": (on_nodes("raft_storage_fault", "0+0", "1+0", "0+0"), {"StorageFault": 1}),
    "CommitSlow": (histogram("raft_commit_seconds_bucket", 90, le=("0.01", "0.25", "0.5")), {"CommitSlow": 1}),
    "OutboxGrows": (on_nodes("outbox_depth", "0+50"), {"OutboxGrows": 1}),
    "BusLost": (on_nodes("bus_connected", "1+0", "0+0", "1+0"), {"BusLost": 1}),
    "ClockDistrusted": (on_nodes("clock_trusted", "1+0", "0+0", "1+0"), {"ClockDistrusted": 1}),
    "ClockUncertain": (at_edge("clock_uncertainty_seconds", "0.5+0"), {"ClockUncertain": 1}),
    "EventLoopLags": (on_nodes("event_loop_lag_seconds", "0+0", "0.9+0", "0+0"), {"EventLoopLags": 1}),
    "DescriptorsNearLimit": (on_nodes("process_open_fds", "60+0", "900+0", "60+0"), {"DescriptorsNearLimit": 1}),
    "CallersRefused": (on_nodes("ccs_events_total", "0+0", "0+300", "0+0", labels=REFUSED), {"CallersRefused": 1}),
    "EdgesBehind": (
        on_nodes("edges_behind", "3+0", labels=MODEL) | on_nodes("model_version_lag_seconds", "0+5", labels=MODEL),
        {"EdgesBehind": 1},
    ),
    "SwitchSpread": (histogram("switch_spread_seconds_bucket", 90, le=("0.05", "0.25", "0.5")), {"SwitchSpread": 1}),
    "RolloutWaits": (on_nodes("rollouts", "1+0", labels=',phase="paused"'), {"RolloutWaits": 1}),
    "WebhooksGivenUp": (on_nodes("webhook_deliveries_given_up", "1+0"), {"WebhooksGivenUp": 1}),
    "StrongReadsLost": (at_edge("strong_seconds_total", "0+4.5", MODEL), {"StrongReadsLost": 1}),
    "ReadingsStale": (at_edge("staleness_age_seconds", "0+5", MODEL), {"ReadingsStale": 1}),
    "EdgesSilent": (on_nodes("edges_live", "60+0"), {"EdgesSilent": 1}),
    "EdgeIdTaken": (at_edge("edge_id_refused", "1+0"), {"EdgeIdTaken": 1}),
    "WriteBehindLate": (at_edge("write_behind_age_seconds", "0+5"), {"WriteBehindLate": 1}),
    "FeaturesDropped": (at_edge("write_behind_total", "4+1", ',outcome="dropped"'), {"FeaturesDropped": 1}),
    "BreakerOpen": (at_edge("breaker_open", "1+0", ',breaker="store"'), {"BreakerOpen": 1}),
}


def promtool(*arguments: str | Path) -> str:
    """What it says. Fails where it is not content; skips where there is none."""
    if PROMTOOL is None:
        pytest.skip("needs promtool, of Debian's package prometheus")
    done = subprocess.run([PROMTOOL, *map(str, arguments)], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def rule_tests(rules: Path) -> str:
    """Promtool's own kind of file: every case, and how many alerts of which name fire after 45 minutes of it."""
    tests = [
        {
            "name": name,
            "interval": "30s",
            "input_series": [{"series": s, "values": v} for s, v in {**HEALTHY, **changed}.items()],
            "promql_expr_test": [
                {
                    "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                    "eval_time": "45m",
                    "exp_samples": [{"labels": f'{{alertname="{a}"}}', "value": n} for a, n in sorted(fired.items())],
                }
            ],
        }
        for name, (changed, fired) in CASES.items()
    ]
    text: str = yaml.safe_dump({"rule_files": [str(rules)], "evaluation_interval": "30s", "tests": tests})
    return text


def test_prometheus_reads_the_rules():
    assert f"{len(ALERTS)} rules found" in promtool("check", "rules", RULES)


def test_each_alert_fires_for_what_it_is_about_and_nothing_else_does(tmp_path):
    tests = tmp_path / "ccs.test.yml"
    tests.write_text(rule_tests(RULES))

    assert "SUCCESS" in promtool("test", "rules", tests)


def test_an_alert_that_cannot_fire_is_found(tmp_path):
    """One threshold is put out of reach."""
    if PROMTOOL is None:
        pytest.skip("needs promtool, of Debian's package prometheus")
    rules, tests = tmp_path / "ccs.rules.yml", tmp_path / "ccs.test.yml"
    rules.write_text(
        RULES.read_text().replace(
            'write_behind_age_seconds{job="edges"} > 60', 'write_behind_age_seconds{job="edges"} > 60e9'
        )
    )
    tests.write_text(rule_tests(rules))

    assert subprocess.run([PROMTOOL, "test", "rules", str(tests)], capture_output=True, timeout=50).returncode != 0


def test_each_alert_has_a_case():
    assert {*ALERTS} == {*CASES} - {"nothing"}


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_leads_to_its_runbook(alert):
    runbook = RUNBOOKS / f"{ALERTS[alert]['annotations']['runbook']}.md"

    assert runbook.read_text().startswith(f"# {alert}\n")
    assert ALERTS[alert]["labels"]["severity"] in {"page", "ticket", "info"}


def test_each_runbook_is_of_an_alert():
    named = {rule["annotations"]["runbook"] for rule in ALERTS.values()} | {"index"}

    assert named == {path.stem for path in RUNBOOKS.glob("*.md")}


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_asks_for_metrics_that_exist(alert):
    assert [] == faults_of(ALERTS[alert]["expr"])


def faults_of(expression: str) -> list[str]:
    """What is asked for and told by nobody, or not by that job. Raises where nothing is asked for."""
    kept = WORDS.sub(" ", re.sub(r'job="(\w+)"', r"job=\1", expression))
    asked = re.findall(r"\b([a-z_]{2,})(?:\{([^}]*)\})?(?=[\s\[)<>=]|$)", kept)
    metrics = [(name, labels) for name, labels in asked if labels or "_" in name]
    assert metrics, expression
    faults = []
    for name, labels in metrics:
        job = re.search(r"job=(nodes|edges)", labels)
        known = NAMES[job[1]] if job else NAMES["nodes"] & NAMES["edges"]
        if re.sub("_(?:bucket|count|sum)$", "", name) not in known:
            faults.append(name)
    return faults
