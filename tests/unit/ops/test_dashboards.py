"""Dashboards are what their tables say, ask what Prometheus understands, of metrics that exist, and lie beside one another."""

from __future__ import annotations

import itertools
import json

import pytest
import yaml

from ops.dashboards import BOARDS, COLUMNS, DIRECTORY, board, text
from tests.unit.ops.test_alerts import faults_of, promtool

ASKS = {
    f"{name}: {panel.title}: {ask}": ask
    for name, (_, panels) in BOARDS.items()
    for panel in panels
    for ask, _ in panel.asks
}


def test_the_files_are_what_the_tables_say():
    assert {f"{name}.json": text(name) for name in BOARDS} == {
        path.name: path.read_text(encoding="utf-8") for path in DIRECTORY.iterdir()
    }


def test_prometheus_understands_every_question(tmp_path):
    rules = tmp_path / "asks.rules.yml"
    records = [{"record": f"asked:number_{number}", "expr": ask} for number, ask in enumerate(ASKS.values())]
    rules.write_text(yaml.safe_dump({"groups": [{"name": "asks", "rules": records}]}))

    assert f"{len(ASKS)} rules found" in promtool("check", "rules", rules)


@pytest.mark.parametrize("ask", ASKS)
def test_a_question_is_about_metrics_that_exist(ask):
    assert [] == faults_of(ASKS[ask])


def test_a_question_about_nothing_is_found():
    assert ["no_such_thing"] == faults_of('max(no_such_thing{job="nodes"})')
    assert ["write_behind_depth"] == faults_of('sum(write_behind_depth{job="nodes"})')


@pytest.mark.parametrize("name", BOARDS)
def test_panels_lie_beside_one_another(name):
    places = [panel["gridPos"] for panel in board(name)["panels"]]

    assert all(place["x"] + place["w"] <= COLUMNS for place in places)
    for one, other in itertools.combinations(places, 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y, (one, other)
    assert len({panel["id"] for panel in board(name)["panels"]}) == len(places)
    assert board(name) == json.loads(text(name))
