"""What the commands of rollouts ask for, print, and end with, against a region in memory."""

from __future__ import annotations

import io
import json
import tarfile
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from consistency_service.cli import rollout_watch
from consistency_service.cli.client import Client
from consistency_service.cli.commands import app
from consistency_service.cli.rollout_find import complete_pair
from consistency_service.cli.session import Shared
from tests.unit.cli.fake_region import FakeRegion, problem
from tests.unit.cli.fake_rollouts import check, move, rollout, target


@pytest.fixture
def region(monkeypatch):
    monkeypatch.setattr(rollout_watch, "LOOK_S", 0)
    made = FakeRegion()
    made.add_model("digits", "1.0.0", "2.0.0")
    return made


@pytest.fixture
def ccs(region, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("CCS_URL", "CCS_AUTHOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return lambda *args: CliRunner().invoke(
        app, [*args], obj=Shared(transport=region.transport), catch_exceptions=False
    )


def body_of(region, path="/v1/rollouts"):
    return next(json.loads(call.content) for call in region.calls if (call.method, call.url.path) == ("POST", path))


# ---- start


def test_options_become_a_strategy(ccs, region):
    done = ccs(
        *("rollout", "start", "digits", "2.0.0", "--stages", "1%,50bp,10000", "--bake", "30s", "--gate", "manual"),
        *("--analysis", "error_rate=2%", "--analysis", "latency:quantile=0.9,worse_max=1.1", "--on-failure", "pause"),
        *("--cohort", "zone=7", "--site", "dock-3", "--reason", "why", "--id", "mine", "--draft"),
    )

    assert 1 == done.exit_code, "the second stage is smaller"
    assert "stages[1].share: 0.5% is less than 1% of the stage before\n" == done.stdout

    done = ccs(
        *("rollout", "start", "digits", "2.0.0", "--stages", "1%,100bp,10000", "--bake", "30s", "--gate", "manual"),
        *("--analysis", "error_rate=2%", "--analysis", "latency:quantile=0.9,worse_max=1.1", "--on-failure", "pause"),
        *("--cohort", "zone=7", "--site", "dock-3", "--reason", "why", "--id", "mine", "--draft"),
    )

    each = {"bake": "30s", "gate": "manual"}
    assert {
        "models": {"digits": "2.0.0"},
        "strategy": {
            "stages": [{"share": "1%", **each}, {"share": "100bp", **each}, {"share": 10_000, **each}],
            "cohort": {"sites": ["dock-3"], "labels": {"zone": "7"}},
            "analysis": [
                {"metric": "error_rate", "worse_max": "2%"},
                {"metric": "latency", "quantile": 0.9, "worse_max": 1.1},
            ],
            "on_failure": "pause",
        },
        "rollout_id": "mine",
        "start": False,
        "reason": "why",
    } == body_of(region)
    assert "wrote down rollout r-1: digits 1.0.0 → 2.0.0\nbegin it with: ccs rollout start r-1\n" == done.stdout


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["digits", "2.0.0"], "say how it is to go: --stages 1%,10%,100%, or --strategy FILE"),
        (["digits", "2.0.0", "tracker", "--stages", "1%"], "name each model with its version"),
        (["--stages", "1%"], "name each model with its version"),
        (["digits", "2.0.0", "digits", "2.1.0", "--stages", "1%"], "a model is named twice"),
        (["digits", "--stages", "1%"], "digits needs a version"),
        (["digits", "2.0.0", "--strategy", "s.yaml", "--bake", "3s"], "--bake belongs into s.yaml"),
        (["digits", "2.0.0", "--stages", "1%", "--cohort", "zone"], "--cohort takes NAME=VALUE, not 'zone'"),
        (["digits", "2.0.0", "--stages", "1%", "--analysis", "error_rate=1=2"], "--analysis takes METRIC=LIMIT or"),
        (["digits", "2.0.0", "--stages", "1%", "--draft", "--watch"], "--draft and --watch exclude each other"),
    ],
)
def test_a_start_that_makes_no_sense_is_one_sentence(ccs, region, tmp_path, args, said):
    (tmp_path / "s.yaml").write_text("stages: [{share: 100%}]\n")

    done = ccs("rollout", "start", *args)

    assert (2, True) == (done.exit_code, said in done.stderr), done.stderr
    assert [] == region.calls


def test_a_name_alone_begins_what_was_written_down(ccs, region):
    region.about_rollouts.add(rollout("draft"))

    done = ccs("rollout", "start", "digits", "--reason", "now")

    assert 0 == done.exit_code, done.stderr
    assert {"reason": "now"} == body_of(region, "/v1/rollouts/r-1/start")


def test_a_watched_start_tells_every_move_and_ends_as_it_ends(ccs, region):
    moves = [
        move(1, "start", "prefetching", author="ada"),
        move(2, "activate", "baking", reason="2 of 2 live edges are ready"),
        move(3, "pass", "waiting", reason="baked"),
        move(4, "complete", "completed", 3),
    ]
    phases = ["prefetching", "baking", "waiting", "completed"]
    region.about_rollouts.add(
        *(rollout(phase, step=n + 1, transitions=moves[: n + 1]) for n, phase in enumerate(phases))
    )

    done = ccs("rollout", "start", "digits", "2.0.0", "--stages", "100%", "--watch")

    assert (0, "it has passed and waits for somebody: ccs rollout promote r-1\n") == (done.exit_code, done.stderr)
    assert [
        "rollout r-1: digits 1.0.0 → 2.0.0",
        "2026-11-22T07:42:15.500Z  start     prefetching 1/3   by ada",
        "2026-11-22T07:42:17.000Z  activate  baking 1/3        by the authority: 2 of 2 live edges are ready",
        "2026-11-22T07:42:18.500Z  pass      waiting 1/3       by the authority: baked",
        "2026-11-22T07:42:20.000Z  complete  completed         by the authority",
    ] == done.stdout.splitlines()


@pytest.mark.parametrize(("phase", "code"), [("completed", 0), ("aborted", 4), ("failed", 5)])
def test_the_exit_code_says_how_it_ended(ccs, region, phase, code):
    region.about_rollouts.add(rollout("baking", active_stage=0), rollout(phase, step=1, active_stage=0))

    assert code == ccs("rollout", "status", "r-1", "--watch").exit_code


def test_an_abort_that_is_watched_is_well_done(ccs, region):
    region.about_rollouts.add(rollout("aborting", active_stage=0), rollout("aborted", step=1, active_stage=0))

    assert 0 == ccs("rollout", "abort", "r-1", "--watch").exit_code


def test_watching_in_json_is_a_document_a_step(ccs, region):
    moves = [move(1, "start", "prefetching"), move(2, "activate", "baking")]
    region.about_rollouts.add(
        rollout("prefetching", step=1, transitions=moves[:1]),
        rollout("prefetching", step=1, transitions=moves[:1]),
        rollout("failed", step=2, transitions=moves),
    )

    done = ccs("rollout", "status", "r-1", "--watch", "--json")

    assert (5, ["prefetching", "failed"]) == (
        done.exit_code,
        [json.loads(line)["phase"] for line in done.stdout.splitlines()],
    )


def test_a_watch_outlives_a_region_that_cannot_say(ccs, region):
    region.about_rollouts.add(rollout("baking", active_stage=0), rollout("completed", step=1))
    troubles = [problem(503, "no_leader", "no node can decide just now")] * 3

    def interfere(request):
        asked = request.url.path == "/v1/rollouts/r-1" and region.calls
        return troubles.pop() if asked and troubles else None

    region.interfere = interfere

    assert (0, []) == (ccs("rollout", "status", "r-1", "--watch").exit_code, troubles)


def test_a_watch_gives_up_when_nobody_can_say_for_as_long_as_was_asked(ccs, region):
    region.about_rollouts.add(rollout("baking", active_stage=0))
    gone = problem(503, "no_leader", "no node can decide just now")
    region.interfere = lambda request: gone if request.url.path == "/v1/rollouts/r-1" and region.calls else None

    done = ccs("rollout", "status", "r-1", "--watch", "--timeout", "0.2")

    assert (3, True) == (done.exit_code, "no node can decide just now" in done.stderr)


# ---- faults


FAULTY = """\
stages:
  - share: 10%
    bake: half an hour
  - share: 5%
  - share: 100%
    gaet: manual
cohort: {sites: [mars]}
on_failure: explode
"""


def test_lint_says_everything_at_once_with_its_line(ccs, region, tmp_path):
    """What has no meaning, what cannot work, and what this region does not know."""
    (tmp_path / "s.yaml").write_text(FAULTY)
    region.about_rollouts.faults = [{"place": "cohort.sites[0]", "message": "no live edge is at site mars"}]

    done = ccs("rollout", "lint", "s.yaml")

    assert 1 == done.exit_code
    assert [
        's.yaml:3:5: stages[0].bake: a duration is written as "500ms", "30s", "5m", "1h", "2d" or a number of milliseconds',
        "s.yaml:4:5: stages[1].share: 5% is less than 10% of the stage before",
        "s.yaml:6:5: stages[2].gaet: there is no such field",
        "s.yaml:7:18: cohort.sites[0]: no live edge is at site mars",
        "s.yaml:8:1: on_failure: Input should be 'abort' or 'pause'",
    ] == done.stdout.splitlines()
    assert "error: s.yaml has 5 faults\n" == done.stderr


def test_a_start_tells_the_same_and_changes_nothing(ccs, region, tmp_path):
    (tmp_path / "s.yaml").write_text(FAULTY)
    region.about_rollouts.faults = [{"place": "models.digits", "message": "there is no version 9.9.9"}]

    done = ccs("rollout", "start", "digits", "9.9.9", "--strategy", "s.yaml")

    assert (1, 5) == (done.exit_code, len(done.stdout.splitlines()))
    assert "models.digits: there is no version 9.9.9" == done.stdout.splitlines()[0]
    assert "/v1/rollouts" not in {call.url.path for call in region.calls}


def test_what_the_region_alone_knows_has_its_line_too(ccs, region, tmp_path):
    (tmp_path / "s.yaml").write_text("cohort:\n  labels:\n    zone: '7'\nstages: [{share: 100%}]\n")
    region.about_rollouts.faults = [{"place": "cohort.labels.zone", "message": "no live edge has the label zone=7"}]

    done = ccs("rollout", "start", "digits", "2.0.0", "-f", "s.yaml", "--json")

    assert 1 == done.exit_code
    assert [
        {"line": 3, "column": 5, "place": "cohort.labels.zone", "message": "no live edge has the label zone=7"}
    ] == json.loads(done.stdout)["faults"]


def test_lint_alone_asks_nobody(ccs, region, tmp_path):
    (tmp_path / "s.yaml").write_text("stages: [{share: 100%}]\n")

    assert "s.yaml: no faults in the file itself\n" == ccs("rollout", "lint", "s.yaml", "--offline").stdout
    assert [] == region.calls
    assert "s.yaml: no faults\n" == ccs("rollout", "lint", "s.yaml").stdout


def test_lint_without_a_region_still_says_what_it_sees(ccs, region, tmp_path):
    (tmp_path / "good.yaml").write_text("stages: [{share: 100%}]\n")
    (tmp_path / "bad.yaml").write_text("stages: []\n")
    region.interfere = lambda _request: problem(503, "no_leader", "no node can decide just now")

    assert 1 == ccs("rollout", "lint", "bad.yaml", "--timeout", "0.2").exit_code
    good = ccs("rollout", "lint", "good.yaml", "--timeout", "0.2")
    assert (3, True) == (good.exit_code, "no fault in the file itself; --offline asks no region" in good.stderr)


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("stages: [{}]\n", ["stages[0].share"]),
        ("stages: [{share: a lot}, {share: 5%}, {share: 2%}]\n", ["stages[0].share", "stages[2].share"]),
        ("stages: 3\n", ["stages"]),
        ("stages: [{share: 100%}]\nanalysis: [{}, {metric: latency}]\n", ["analysis[0].metric"]),
        ("stages: [{share: 200%}]\nanalysis: 7\nprefetch: []\n", ["stages[0].share", "analysis", "prefetch"]),
        ("{}", ["stages"]),
    ],
)
def test_faults_do_not_hide_each_other_nor_make_up_others(ccs, tmp_path, text, places):
    (tmp_path / "s.yaml").write_text(text)

    done = ccs("rollout", "lint", "s.yaml", "--offline", "--json")

    assert places == [fault["place"] for fault in json.loads(done.stdout)["faults"]]


# ---- looking


def test_a_model_means_its_running_rollout_else_its_newest(ccs, region):
    region.about_rollouts.add(rollout("completed", rollout_id="r-old"))
    region.about_rollouts.add(rollout("baking", rollout_id="r-run"))
    region.about_rollouts.add(rollout("draft", rollout_id="r-new"))
    assert "r-run" in ccs("rollout", "status", "digits").stdout
    del region.about_rollouts.rollouts["r-run"]
    assert "r-new" in ccs("rollout", "status", "digits").stdout

    done = ccs("rollout", "status", "nothing")

    assert (1, True) == (
        done.exit_code,
        "there is no rollout nothing, and no rollout of a model nothing" in done.stderr,
    )


def test_lists_and_history(ccs, region):
    first = [move(1, "start", "prefetching", author="ada"), move(2, "abort", "aborted", author="bob", reason="rain")]
    region.about_rollouts.add(rollout("aborted", rollout_id="r-old", transitions=first))
    region.about_rollouts.add(rollout("baking", stage=1, transitions=[move(3, "start", "prefetching", author="ada")]))

    listed = ccs("rollout", "list").stdout.splitlines()
    assert ["r-1", "digits", "1.0.0", "→", "2.0.0", "baking,", "stage", "2", "of", "3"] == listed[1].split()[:10]
    assert 2 == len(ccs("rollout", "list", "--running").stdout.splitlines())
    assert [
        "rollout r-old: digits 1.0.0 → 2.0.0",
        "2026-11-22T07:42:15.500Z  start     prefetching 1/3   by ada",
        "2026-11-22T07:42:17.000Z  abort     aborted           by bob: rain",
        "rollout r-1: digits 1.0.0 → 2.0.0",
        "2026-11-22T07:42:18.500Z  start     prefetching 1/3   by ada",
    ] == ccs("rollout", "history", "digits").stdout.splitlines()
    assert ["r-old", "r-old"] == [
        item["rollout_id"] for item in json.loads(ccs("rollout", "history", "r-old", "--json").stdout)["items"]
    ]


def test_a_plan_says_who_and_how_much(ccs, region):
    region.about_rollouts.plan = {
        "rollout_id": "r-9",
        "as_of_unix_ms": 0,
        "edge_count": 30,
        "download_count": 30,
        "download_bytes": 90_000_000,
        "stages": [
            {
                "stage": index,
                "share_bp": share_bp,
                "cohort": {"sites": ["dock-3"] if index == 0 else [], "labels": {}},
                "edge_count": count,
                "added_count": new,
                "added": [f"edge-{n}" for n in range(new)][:20],
                "download_count": new,
                "download_bytes": new * 3_000_000,
            }
            for index, share_bp, count, new in ((0, 1_000, 2, 2), (None, 10_000, 30, 28))
        ],
    }

    shown = ccs("rollout", "plan", "digits", "2.0.0", "--stages", "10%").stdout.splitlines()

    assert ["1", "10", "%", "site", "dock-3", "2", "+2", "2", "6.0", "MB", "edge-0,", "edge-1"] == shown[1].split()
    assert shown[2].split()[:5] == ["stable", "100", "%", "every", "edge"] and shown[2].endswith("edge-4 and 23 more")
    assert "30 live edges follow what is rolled out; 30 downloads, 90.0 MB in all" == shown[4]
    assert shown[5].endswith("--id r-9")


def test_strategies_are_compared_as_people_write_them(ccs, region, tmp_path):
    told = rollout("baking")
    told["strategy"] = told["strategy"] | {"analysis": [check(worse_max=0.02)]}
    region.about_rollouts.add(told)
    (tmp_path / "s.yaml").write_text(
        "stages: [{share: 1%, bake: 30s}, {share: 10%, bake: 1m}, {share: 100%, gate: manual}]\n"
        "prefetch: {ready_min: 95%}\nanalysis: [{metric: error_rate, worse_max: 2%}]\ncohort: {sites: [dock-3]}\n"
    )

    done = ccs("rollout", "diff", "digits", "s.yaml")

    assert ["- stages[1].bake: 30s", "+ stages[1].bake: 1m", "+ cohort.sites[0]: dock-3"] == done.stdout.splitlines()
    assert "no difference\n" == ccs("rollout", "diff", "s.yaml", "s.yaml").stderr
    assert {"place": "stages[1].bake", "left": "1m", "right": "30s"} in json.loads(
        ccs("rollout", "diff", "s.yaml", "r-1", "--json").stdout
    )["differences"]


@pytest.mark.parametrize(
    ("args", "asked"),
    [
        (["pause", "digits", "--reason", "rain"], {"reason": "rain"}),
        (["resume", "digits"], {"reason": ""}),
        (["promote", "digits", "--to-end"], {"reason": "", "to_end": True}),
        (["abort", "digits", "--if-step", "4"], {"reason": ""}),
        (["retry", "digits"], {"reason": ""}),
    ],
)
def test_orders_say_where_it_is_then(ccs, region, args, asked):
    region.about_rollouts.add(rollout("paused", stage=1, active_stage=0))

    done = ccs("rollout", *args)

    assert asked == body_of(region, f"/v1/rollouts/r-1/{args[0]}")
    assert ('"4"' if "--if-step" in args else None) == region.calls[-1].headers.get("If-Match")
    assert "rollout r-1, digits 1.0.0 → 2.0.0: paused, stage 2 of 3" == done.stdout.splitlines()[0]


def test_the_schema_is_the_published_one(ccs):
    from tests.unit.cli.test_reference import ROOT

    published = ROOT / "docs" / "reference" / "strategy.schema.json"

    assert json.loads(published.read_text()) == json.loads(ccs("rollout", "schema").stdout)


# ---- beside them


def test_a_freeze(ccs, region):
    assert "not frozen: rollouts may start and go on\n" == ccs("freeze", "status").stdout
    assert (
        "frozen by ada since 2026-11-22T07:42:14.000Z: stock-taking\n"
        == ccs("freeze", "on", "--reason", "stock-taking").stdout
    )
    assert not json.loads(ccs("freeze", "off", "--json").stdout)["frozen"]


def test_webhooks(ccs, region, tmp_path):
    added = ccs("webhook", "add", "https://hooks.example.org/x", "--event", "fail", "--event", "hold")
    lines = added.stdout.splitlines()
    assert "w-1 is told of fail, hold from now on: https://hooks.example.org/x" == lines[0]
    secret = body_of(region, "/v1/webhooks")["secret"]
    assert f"its secret, shown this once: {secret}" == lines[1] and secret.startswith("whsec_")

    (tmp_path / "s").write_text(secret + "\n")
    assert secret not in ccs("webhook", "add", "https://b.example.org/", "--secret-file", "s").stdout
    (tmp_path / "s").write_text("no secret")
    assert 2 == ccs("webhook", "add", "https://b.example.org/", "--secret-file", "s").exit_code

    assert ["w-1", "https://hooks.example.org/x", "fail,", "hold", "4", "0", "1", "ada"] == (
        ccs("webhook", "list").stdout.splitlines()[1].split()
    )
    region.about_rollouts.deliveries = [
        {"delivery_id": "r-1-4", "state": "dead", "at_unix_ms": 0, "attempts": 8, "reason": "status 500"}
    ]
    assert (
        "r-1-4     dead   1970-01-01T00:00:00Z         8  status 500"
        == (ccs("webhook", "deliveries", "w-1").stdout.splitlines()[1])
    )
    assert "7 will be told again\n" == ccs("webhook", "replay", "w-1").stdout
    assert "1 will be told again\n" == ccs("webhook", "replay", "w-1", "r-1-4").stdout
    assert "removed w-1\n" == ccs("webhook", "remove", "w-1").stdout


def bundle(path, models):
    manifest = {name: {"version": version, "file": f"{name}.bin"} for name, version in models.items()}
    with tarfile.open(path, "w:gz") as archive:
        for name, content in (
            ("bundle.json", json.dumps({"models": manifest}).encode()),
            *((f"{model}.bin", model.encode() * 100) for model in models),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_a_bundle_is_pushed_as_one_and_twice_for_nothing(ccs, region, tmp_path):
    bundle(tmp_path / "b.tar.gz", {"digits": "3.0.0", "tracker": "1.4.0"})

    refused = ccs("bundle", "push", "b.tar.gz")
    assert (1, {}) == (refused.exit_code, region.artifacts), "no model tracker"

    done = ccs("bundle", "push", "b.tar.gz", "--create")
    assert [
        "registered digits 3.0.0  (uploaded digits.bin, 600 B)",
        "registered tracker 1.4.0  (uploaded tracker.bin, 700 B)",
        "roll them out together with: ccs rollout start digits 3.0.0 tracker 1.4.0 --stages 10%,100%",
    ] == done.stdout.splitlines()
    assert 2 == len(region.artifacts)
    again = json.loads(ccs("bundle", "push", "b.tar.gz", "--json").stdout)
    assert [False, False] == [entry["uploaded"] for entry in again["models"].values()]


def test_a_bundle_is_rolled_out_as_one(ccs, region, tmp_path):
    region.add_model("tracker", "1.3.0")
    bundle(tmp_path / "b.tar.gz", {"digits": "3.0.0", "tracker": "1.4.0"})

    done = ccs("rollout", "start", "--bundle", "b.tar.gz", "--stages", "50%,100%")

    assert 0 == done.exit_code, done.stderr
    assert {"digits": "3.0.0", "tracker": "1.4.0"} == body_of(region)["models"]
    assert len(region.keys) == len(set(region.keys))


def test_a_rollback_says_that_it_aborts_and_who_went_along(ccs, region):
    region.add_model("tracker", "1.3.0", "1.4.0", "1.4.0", "1.4.0", "1.4.0", "1.4.0", "1.4.0")
    region.about_rollouts.add(rollout("baking", targets=[target(), target("tracker", "1.3.0", "1.4.0")]))

    done = ccs("rollback", "digits")

    assert (0, "rollout r-1 is under way: this aborts it\n") == (done.exit_code, done.stderr)
    assert "tracker went back together with it" == done.stdout.splitlines()[1]


def test_the_shell_offers_models_and_versions_in_turn(monkeypatch, region):
    from consistency_service.cli import session

    real = Client

    def client(urls, **given):
        return real(urls, transport=region.transport, **given)

    monkeypatch.setattr(session, "Client", client)

    context: Any = SimpleNamespace(params={"what": ["digits"]})
    assert ["2.0.0"] == complete_pair(context, "2")
    context.params = {"what": None}
    assert ["digits"] == complete_pair(context, "d")
    region.interfere = lambda _request: problem(503, "no_leader", "no")
    assert [] == complete_pair(context, "d")
