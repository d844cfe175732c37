"""`ccs features`: what it asks for and what it prints, against an answer that tests make."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from consistency_service.cli import features
from consistency_service.cli.commands import app
from consistency_service.cli.session import Shared
from tests.unit.cli.fake_region import FakeRegion, problem

OBSERVED = {
    "span_ms": 20_000,
    "edge_count": 3,
    "judged_count": 400,
    "failed_count": 160,
    "fetched_count": 10,
    "failed_share": 0.4,
    "drift": 0.1,
    "error_rate": 0.4,
}
TRACK: dict[str, Any] = {
    "name": "track",
    "kind": "bulk",
    "window_ms": 3_000,
    "window_base_ms": 5_000,
    "window_floor_ms": 500,
    "expire_ms": 30_000,
    "codec": "shuffle",
    "flush_ms": 5_000,
    "shards": 64,
    "spool": True,
    "when_full": "drop",
    "announced": False,
    "revision": 42,
    "author": "ann",
    "set_at_unix_ms": 1_795_319_190_043,
    "window_reason": "160 of 400 judged readings wrong in 20 s: 5000 ms to 3000 ms",
    "window_at_unix_ms": 1_795_319_190_043,
    "observed": OBSERVED,
}


class Region(FakeRegion):
    """Answers what concerns feature classes with `looks`, one after the other, and keeps the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[list[dict[str, Any]] | httpx.Response] = [[TRACK]]

    def _route(self, request: httpx.Request) -> httpx.Response:
        if not request.url.path.startswith(features.CLASSES):
            return super()._route(request)
        if request.method == "PATCH":
            return httpx.Response(200, json=TRACK)
        if request.method == "DELETE":
            return httpx.Response(204)
        look = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        return (
            look if isinstance(look, httpx.Response) else httpx.Response(200, json={"items": look, "next_cursor": None})
        )

    @property
    def asked(self) -> tuple[str, str, Any]:
        call = self.calls[-1]
        return call.method, call.url.path, json.loads(call.content or "null")


@pytest.fixture
def region() -> Region:
    return Region()


@pytest.fixture
def ccs(region, monkeypatch):
    monkeypatch.setattr(features, "LOOK_S", 0.01)

    def run(*args: str):
        return CliRunner().invoke(
            app, ["features", *args], obj=Shared(transport=region.transport), catch_exceptions=False
        )

    return run


def test_classes_lists_what_is_promised(ccs):
    done = ccs("classes")

    assert done.stdout.splitlines() == [
        "CLASS  KIND  WINDOW   BASE   FLOOR  EXPIRE  CODEC    BULK                  ANNOUNCED  BY",
        "track  bulk   3.0 s  5.0 s  500 ms    30 s  shuffle  5.0 s x64 drop spool  no         ann",
    ]
    assert json.loads(ccs("classes", "--json").stdout)["items"] == [TRACK]


def test_set_asks_for_what_was_given_and_nothing_else(ccs, region):
    done = ccs(
        *(
            "set",
            "track",
            "--kind",
            "critical",
            "--window",
            "5s",
            "--floor",
            "500ms",
            "--expire",
            "30s",
            "--codec",
            "int8",
        ),
        *("--flush", "250", "--shards", "8", "--no-spool", "--when-full", "raise", "--announced", "--if-revision", "7"),
    )

    assert done.exit_code == 0, done.stderr
    body = {
        "kind": "critical",
        "window_base_ms": 5_000,
        "window_floor_ms": 500,
        "expire_ms": 30_000,
        "codec": "int8",
        "flush_ms": 250,
        "shards": 8,
        "spool": False,
        "when_full": "raise",
        "announced": True,
    }
    assert region.asked == ("PATCH", "/v1/features/classes/track", body)
    assert region.calls[-1].headers["If-Match"] == '"7"'
    assert done.stdout == "track is bulk from revision 42 on: window 3.0 s, from 500 ms to 5.0 s\n"


def test_never_is_a_time_for_expiry_alone(ccs, region):
    assert ccs("set", "track", "--expire", "never").exit_code == 0
    assert region.asked[2] == {"expire_ms": None}
    assert ccs("set", "track", "--window", "never").exit_code == 2


@pytest.mark.parametrize("text", ["fast", "5 years", "-5s", "0", "1e3"])
def test_what_is_no_duration_is_refused_here(ccs, region, text):
    done = ccs("set", "track", f"--window={text}")

    assert (done.exit_code, region.calls) == (2, [])
    assert "--window" in done.stderr


def test_remove(ccs, region):
    assert ccs("remove", "a.b", "--if-revision", "0").stdout == "removed a.b\n"
    assert region.asked[:2] == ("DELETE", "/v1/features/classes/a.b")
    assert region.calls[-1].headers["If-Match"] == '"0"'


def test_watch_tells_each_change_of_a_window_and_why(ccs, region):
    wide = TRACK | {"window_ms": 5_000, "window_reason": ""}
    region.looks = [[wide], [wide], problem(503, "no_leader", "no node can decide"), [TRACK], [TRACK], []]

    done = ccs("watch", "--for", "300ms")

    assert done.stdout.splitlines() == [
        "track: window 5.0 s",
        "track: window 3.0 s (160 of 400 judged readings wrong in 20 s: 5000 ms to 3000 ms)",
    ]


def test_watch_in_json_is_a_line_for_whatever_is_new(ccs, region):
    other = TRACK | {"name": "plate"}
    newer = TRACK | {"observed": OBSERVED | {"edge_count": 4}}
    region.looks = [[other, TRACK], [other, TRACK], [other, newer], [newer]]

    done = ccs("watch", "--for", "300ms", "--json")

    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        other,
        TRACK,
        newer,
        {"name": "plate", "removed": True},
    ]


def test_the_moving_table_shows_windows_errors_drift_and_edges(region):
    from consistency_service.cli.render import Screen
    from consistency_service.cli.session import Session

    shown = features._Shown(Session(Shared()))
    shown.show([TRACK, TRACK | {"name": "quiet", "observed": OBSERVED | {"failed_share": None, "drift": None}}])
    screen = Screen(json_output=False, color=False)
    with screen._out.capture() as capture:
        screen._out.print(shown.table("nobody answers"))
    lines = capture.get().splitlines()

    assert lines[1].split()[:12] == ["track", "bulk", "3.0", "s", "5.0", "s", "500", "ms", "40.0%", "0.100", "410", "3"]
    assert lines[2].split()[8:10] == ["-", "-"]
    assert "not up to date: nobody answers" in lines[3]
