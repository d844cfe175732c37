"""What commands print and how they end, against a region in memory."""

from __future__ import annotations

import json
import uuid

import httpx
import pytest
from typer.testing import CliRunner

from consistency_service.cli.commands import app
from consistency_service.cli.session import Shared
from tests.unit.cli.fake_region import FakeRegion, problem

DIGEST = "sha256:" + "0" * 64


@pytest.fixture
def region():
    return FakeRegion()


@pytest.fixture
def ccs(region, monkeypatch, tmp_path):
    """Runs `ccs` with these arguments; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    for name in ("CCS_URL", "CCS_AUTHOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)

    def run(*args: str, environment: dict[str, str] | None = None):
        shared = Shared(transport=region.transport)
        return CliRunner().invoke(app, [*args], obj=shared, env=environment, catch_exceptions=False)

    return run


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "det.onnx"
    path.write_bytes(b"weights" * 1_000)
    return path


# ---- models


def test_push_creates_uploads_registers_and_activates(ccs, region, file):
    done = ccs("model", "push", "digits", "1.0.0", str(file), "--create", "--activate", "--metadata", "commit=4f2")

    assert (0, "") == (done.exit_code, done.stderr.replace("created digits\n", ""))
    assert [file.read_bytes()] == list(region.artifacts.values())
    assert {"commit": "4f2"} == region.models["digits"]["versions"][0]["metadata"]
    assert "digits 1.0.0 is active for everybody since 2026-11-22T03:46:30.043Z (generation 1)" in done.stdout
    assert 4 == len(set(region.keys)), "each step has a key of its own"
    assert 1 == len({key.partition(".")[0] for key in region.keys}), "made from one"


def test_a_file_that_is_stored_already_is_not_sent_again(ccs, region, file):
    region.add_model("digits")
    assert 0 == ccs("model", "push", "digits", "1.0.0", str(file)).exit_code
    region.calls.clear()

    done = ccs("model", "push", "digits", "1.0.1", str(file))

    assert "already stored: det.onnx" in done.stdout
    assert not [call for call in region.calls if call.url.path == "/v1/artifacts"]


def test_nothing_is_uploaded_for_a_model_that_does_not_exist(ccs, region, file):
    done = ccs("model", "push", "digits", "1.0.0", str(file))

    assert (1, {}) == (done.exit_code, region.artifacts)
    assert "error: there is no model digits\nhint: `ccs model list` shows what there is\n" == done.stderr


def test_pushing_what_is_active_already_is_no_failure(ccs, region, file):
    region.add_model("digits", "1.0.0")

    done = ccs("model", "push", "digits", "1.0.0", str(file), "--activate")

    assert (0, "generation 1 is just this already\n") == (done.exit_code, done.stderr)


def test_push_in_json_is_one_document(ccs, region, file):
    done = ccs("--json", "model", "push", "digits", "1.0.0", str(file), "--create", "--activate")

    document = json.loads(done.stdout)
    assert ("1.0.0", True, 1) == (
        document["version"]["version"],
        document["uploaded"],
        document["activation"]["generation"],
    )


def test_no_wait_says_when_it_will_take_effect(ccs, region):
    region.add_model("digits", "1.0.0")

    done = ccs("model", "activate", "digits", "1.1.0", "--no-wait", "--force", "--if-generation", "1")

    assert "digits 1.1.0 is decided, effective at 2026-11-22T03:46:30.043Z (generation 2)\n" == done.stdout
    call = region.calls[-1]
    assert ("accepted", '"1"') == (call.url.params["wait"], call.headers["If-Match"])
    assert {"version": "1.1.0", "force": True, "immediate": False} == json.loads(call.content)


def test_a_generation_that_moved_on_is_refused(ccs, region):
    region.add_model("digits", "1.0.0", "1.1.0")

    done = ccs("rollback", "digits", "--if-generation", "1")

    assert 1 == done.exit_code
    assert 'error: model is at 2, not "1"\n' in done.stderr


def test_rollback_goes_to_the_version_before(ccs, region):
    region.add_model("digits", "1.0.0", "1.1.0")

    assert ccs("rollback", "digits").stdout.startswith("digits 1.0.0 is active for everybody since ")


def test_tables_do_not_fold_in_a_pipe(ccs, region):
    region.add_model("a-model-with-a-name-that-is-longer-than-most-terminals-are-wide-" + "x" * 60, "1.0.0")

    lines = ccs("model", "list").stdout.splitlines()

    assert 2 == len(lines)
    assert ["MODEL", "ACTIVE", "GENERATION", "VERSIONS", "NEXT"] == lines[0].split()
    assert ["1.0.0", "1", "1", "-"] == lines[1].split()[1:]


def test_an_empty_list_prints_nothing_on_stdout_and_a_hint_on_stderr(ccs):
    done = ccs("model", "list")

    assert (0, "") == (done.exit_code, done.stdout)
    assert "ccs model create NAME" in done.stderr


def test_lists_go_through_all_pages_and_say_what_is_missing(ccs, region):
    for number in range(5):
        region.add_model(f"m{number}")

    done = ccs("model", "list", "--limit", "3")

    assert (4, "only the first 3 are shown; more with --limit\n") == (len(done.stdout.splitlines()), done.stderr)


@pytest.mark.parametrize(
    "at, code",
    [
        ("2026-11-20T14:00Z", 0),
        ("2026-11-20T15:00+01:00", 0),
        ("1795319190043", 0),
        ("2026-11-20T14:00", 2),
        ("yesterday", 2),
    ],
)
def test_history_takes_an_instant_with_a_zone(ccs, region, at, code):
    region.add_model("digits", "1.0.0")

    assert code == ccs("model", "history", "digits", "--at", at).exit_code
    if at.startswith("2026") and code == 0:
        assert "1795183200000" == region.calls[-1].url.params["at"]


@pytest.mark.parametrize(
    "args",
    [
        ("model", "create", "Bad_NAME"),
        ("model", "push", "digits", "1", "det.onnx"),
        ("model", "push", "digits", "1.0.0", "no-such-file"),
        ("model", "push", "digits", "1.0.0", "det.onnx", "--metadata", "no-equals-sign"),
        ("model", "policy", "digits", "--any-staleness", "--staleness-max-ms", "5"),
        ("edges", "--url", "ftp://node"),
        ("edges", "--author", "line\nbreak"),
        ("rollback", "digits", "--idempotency-key", "with space"),
        ("edges", "--limit", "0"),
        ("no-such-command",),
        ("testbed", "status"),
        ("serve", "--config", "no-such-file"),
    ],
)
def test_what_cannot_be_meant_ends_with_2_and_asks_nothing_of_the_region(ccs, region, file, args):
    done = ccs(*args)

    assert (2, "", []) == (done.exit_code, done.stdout, region.calls)
    assert done.stderr


def test_policy_changes_only_what_is_given(ccs, region):
    region.add_model("digits")

    done = ccs("--json", "model", "policy", "digits", "--no-fallback", "--staleness-max-ms", "500")

    expected = {"staleness_max_ms": 500, "fallback_allowed": False, "versions_kept": 10, "prefetch_ms": 30_000}
    assert expected == json.loads(done.stdout)
    assert {"staleness_max_ms": 500, "fallback_allowed": False} == json.loads(region.calls[0].content)


def test_a_name_is_one_segment_of_the_path_whatever_it_contains(ccs, region):
    ccs("model", "show", "../cluster?x=1")

    assert b"/v1/models/..%2Fcluster%3Fx%3D1" == region.calls[-1].url.raw_path


def test_active_says_how_it_is_known(ccs, region):
    region.add_model("digits", "1.0.0")

    assert "digits 1.0.0  (generation 1, strong, by lease, at 1-42)\n" == ccs("model", "active", "digits").stdout
    assert "local, no promise" in ccs("model", "active", "digits", "--local").stdout


# ---- errors and retries


def test_a_refusal_in_json_is_the_problem_document(ccs):
    done = ccs("model", "show", "digits", "--json")

    document = json.loads(done.stdout)
    assert (1, "", "urn:ccs:problem:unknown_model", 404) == (
        done.exit_code,
        done.stderr,
        document["type"],
        document["status"],
    )


def test_a_node_that_refuses_connections_is_passed_over(ccs, region):
    region.add_model("digits")
    region.interfere = lambda request: httpx.ConnectError("refused") if request.url.host == "one" else None

    done = ccs("--url", "http://one:1,http://two:2", "model", "show", "digits")

    assert (0, "two") == (done.exit_code, region.calls[-1].url.host)


def test_a_change_keeps_its_key_across_nodes_and_happens_once(ccs, region):
    region.add_model("digits", "1.0.0")

    def lose_the_first_answer(request):
        if request.url.host == "one" and request.method == "POST":
            region.interfere = lambda _request: None
            region.handle(request)
            return httpx.ReadError("reset")
        return None

    region.interfere = lose_the_first_answer

    done = ccs("--url", "http://one:1", "--url", "http://two:2", "model", "activate", "digits", "1.1.0")

    assert (0, 1, 1) == (done.exit_code, len(set(region.keys)), len(region.changes))
    assert ["one", "two"] == [call.url.host for call in region.calls if call.method == "POST"]
    assert region.keys[0] == str(uuid.UUID(region.keys[0]))


def test_an_unknown_outcome_ends_with_3_and_the_key_to_ask_again_with(ccs, region):
    region.add_model("digits", "1.0.0")
    region.interfere = lambda request: (
        problem(503, "unknown_outcome", "the change may or may not take effect") if request.method == "POST" else None
    )

    done = ccs("model", "activate", "digits", "1.1.0", "--timeout", "0.3")

    assert 3 == done.exit_code
    assert f"repeating is safe with  --idempotency-key {region.keys[0]}" in done.stderr
    assert len(region.keys) > 1 and 1 == len(set(region.keys))

    region.interfere = lambda _request: None
    again = ccs("model", "activate", "digits", "1.1.0", "--idempotency-key", region.keys[0])
    assert (0, 1) == (again.exit_code, len(region.changes))


def test_unreachable_in_json_is_a_problem_document_too(ccs, region):
    region.interfere = lambda _request: httpx.ConnectError("Connection refused")

    done = ccs("edges", "--json", "--timeout", "0.2")

    assert (3, "urn:ccs:problem:unreachable") == (done.exit_code, json.loads(done.stdout)["type"])


def test_what_is_no_node_is_said_to_be_none(ccs, region):
    region.interfere = lambda _request: httpx.Response(200, text="<html>")

    done = ccs("edges")

    assert 3 == done.exit_code
    assert "is it a node of a region?" in done.stderr


def test_an_internal_error_is_not_asked_again_and_nobody_knows(ccs, region):
    region.interfere = lambda request: (
        problem(500, "internal", "an error of ours") if request.method == "POST" else None
    )

    done = ccs("model", "create", "digits")

    assert (3, 1) == (done.exit_code, len(region.keys))


def test_who_asks_comes_from_option_environment_or_user(ccs, region):
    ccs("model", "create", "a", "--author", "José")
    ccs("model", "create", "b", environment={"CCS_AUTHOR": "ci"})

    authors = [
        call.headers.raw[[name.lower() for name, _ in call.headers.raw].index(b"x-ccs-author")][1]
        for call in region.calls
    ]
    assert ["José".encode(), b"ci"] == authors


def test_nodes_come_from_the_environment_too(ccs, region):
    ccs("edges", environment={"CCS_URL": "http://one:1/,http://two:2"})

    assert "http://one:1/v1/edges?limit=1000" == str(region.calls[-1].url)


# ---- the region


def edge(name: str, **changes):
    served = {
        "model": "digits",
        "version": "1.0.0",
        "generation": 1,
        "guarantee": "strong",
        "staleness_bound_ms": None,
        "ready": [DIGEST],
        "failed": {},
        "fetched_bytes": {},
    }
    about = {"edge_id": name, "site": "dock-3", "live": True, "leaving": False, "heard_ms_ago": 250, "models": [served]}
    return about | changes


def test_edges_show_what_a_read_is_worth(ccs, region):
    bounded = edge("b")["models"][0] | {"guarantee": "bounded", "staleness_bound_ms": 4_200}
    region.edges = [
        edge("a"),
        edge("b", models=[bounded]),
        edge("c", live=False, heard_ms_ago=400_000),
        edge("d", models=[], site=""),
    ]

    rows = [line.split() for line in ccs("edges").stdout.splitlines()[1:]]

    assert [
        ["a", "dock-3", "digits", "1.0.0", "strong", "0", "ms", "250", "ms", "ago"],
        ["b", "dock-3", "digits", "1.0.0", "bounded", "4.2", "s", "250", "ms", "ago"],
        ["c", "dock-3", "digits", "1.0.0", "silent", "unknown", "7", "min", "ago"],
        ["d", "-", "-", "-", "-", "-", "250", "ms", "ago"],
    ] == rows


def test_edges_can_be_chosen_by_site_and_model(ccs, region):
    region.edges = [edge("a"), edge("b", site="dock-4"), edge("c", models=[])]

    document = json.loads(ccs("edges", "--json", "--site", "dock-3", "--model", "digits").stdout)

    assert ["a"] == [item["edge_id"] for item in document["items"]]


def test_names_from_outside_cannot_move_the_cursor(ccs, region):
    region.edges = [edge("a", site="\x1b[2J\u202eevil\nline")]

    out = ccs("edges").stdout

    assert "\x1b" not in out and "\u202e" not in out
    assert 2 == len(out.splitlines())


def event(name: str, **changes):
    return {
        "name": name,
        "at_unix_ms": 1_795_319_190_043,
        "author": "ada",
        "detail": {},
        "models": [],
        "removed": [],
    } | changes


def test_events_end_at_the_present_unless_followed(ccs, region):
    region.events = [event("ModelCreated"), event("ModelDeleted", removed=["digits"], at_unix_ms=0)]

    assert [
        "1-1      2026-11-22T03:46:30.043Z  ModelCreated           by ada",
        "1-2      -                         ModelDeleted         digits is gone  by ada",
    ] == ccs("events").stdout.splitlines()


def test_events_in_json_are_one_a_line(ccs, region):
    region.events = [event("ModelCreated"), event("ModelDeleted")]

    lines = ccs("events", "--after", "1-1", "--json").stdout.splitlines()

    assert [("1-2", "ModelDeleted")] == [(line["id"], line["name"]) for line in map(json.loads, lines)]


def test_events_that_are_not_kept_are_left_out_unless_asked_for(ccs, region):
    region.events = [event(f"E{number}") for number in range(1, 41)]

    def keep_the_last_ten(request):
        if request.url.path == "/v1/events" and int(request.url.params["after"].partition("-")[2]) < 30:
            return problem(410, "events_gone", "not kept any more")
        return None

    region.interfere = keep_the_last_ten

    shown = ccs("events").stdout.splitlines()
    assert "1-40" == shown[-1].split()[0] and 0 < len(shown) <= 10
    assert 1 == ccs("events", "--after", "1-3").exit_code


def test_audit_shows_refusals(ccs, region):
    region.audit = [
        {
            "revision": 3,
            "at_unix_ms": 0,
            "author": "ada",
            "command": "CreateModel",
            "subject": "digits",
            "code": "model_exists",
        }
    ]

    assert ["3", "1970-01-01T00:00:00.000Z", "ada", "CreateModel", "digits", "model_exists"] == (
        ccs("audit").stdout.splitlines()[1].split()
    )


def test_version_and_help_end_well(ccs):
    assert (0, "ccs 0.1.0\n") == (ccs("--version").exit_code, ccs("--version").stdout)
    assert (0, 0) == (ccs("--help").exit_code, ccs("model", "push", "-h").exit_code)
