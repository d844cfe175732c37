"""Pages that are made from the code are what the code says, and leave nothing out."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from typing import get_args

import pytest

import edge_client
from consistency_service.api.problems import KINDS
from consistency_service.config import ServiceConfig, config_of
from edge_client import EdgeConfig
from edge_client.protocol import messages
from edge_client.protocol.subjects import Subjects
from ops.site.__main__ import PAGES, REFERENCE
from ops.site.configuration import configuration
from ops.site.events import event_names, events
from ops.site.problems import problems
from ops.site.python_api import python_api
from ops.site.wire import wire
from tests.docs.pages import snippets


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_the_code_says(name):
    """If this fails: python -m ops.site."""
    assert PAGES[name]() == (REFERENCE / name).read_text(encoding="utf-8")


def test_every_setting_is_there_with_a_meaning():
    rows = [line for line in configuration().splitlines() if line.startswith("| `")]
    named = {row.split("`")[1]: row for row in rows}

    assert {item.name for kind in (ServiceConfig, EdgeConfig) for item in fields(kind)} <= named.keys()
    assert [] == [row for row in rows if row.rstrip().endswith("|  |")]


def test_the_shown_configuration_is_one():
    (shown,) = [snippet for snippet in snippets(REFERENCE / "configuration.md") if snippet.language == "toml"]

    assert "harbour" == config_of(tomllib.loads(shown.text), environ={}, origin="the page").region


def test_every_exported_name_message_field_event_and_problem_is_there():
    unions = (*get_args(messages._RegionUnion), *get_args(messages._EdgeUnion))
    page, python, told = wire(), python_api(), events()
    assert [] == [name for name in edge_client.__all__ if f"`{name}`" not in python and f"### {name}" not in python]
    for kind in unions:
        section = page.partition(f"### {kind.__name__}\n")[2].partition("\n### ")[0]
        assert [] == [name for name in kind.__struct_fields__ if f"| `{name}` |" not in section], kind
    assert Subjects("region").beacon.replace("region", "REGION") in page
    names = event_names()
    assert 20 < len(names)
    assert [] == [name for name in names if f"| `{name}` |" not in told]
    codes = problems()
    assert [] == [code for code in KINDS if f"| `{code}` |" not in codes]
