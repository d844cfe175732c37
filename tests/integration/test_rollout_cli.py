"""`ccs rollout` as a program, on a real region with edges: to completion, back, and not even started."""

from __future__ import annotations

import json
import os
import tarfile

import pytest

from tests.support.ccs import on_terminal, run

WIDTH = 100

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with a testbed of three nodes and three edges in it, which serve digits 1.0.0."""
    directory = tmp_path_factory.mktemp("rollouts")
    try:
        started = run("testbed", "up", "--edges", "3", cwd=directory)
        assert 0 == started.returncode, started.stderr
        for version in ("1.0.0", "2.0.0", "3.0.0"):
            (directory / version).write_bytes(os.urandom(100_000))
            pushed = run("model", "push", "digits", version, version, "--create", cwd=directory)
            assert 0 == pushed.returncode, pushed.stderr
        assert 0 == run("model", "activate", "digits", "1.0.0", cwd=directory).returncode
        yield directory
    finally:
        run("testbed", "down", cwd=directory)


@pytest.fixture
def ccs(place):
    return lambda *args: run(*args, cwd=place)


def test_a_rollout_is_watched_to_completion_and_rolled_back(ccs, place):
    (place / "s.yaml").write_text("stages:\n  - {share: 50%, bake: 1s}\n  - {share: 100%}\n")
    planned = json.loads(ccs("rollout", "plan", "digits", "2.0.0", "-f", "s.yaml", "--json").stdout)
    assert (3, 3) == (planned["edge_count"], planned["stages"][-1]["edge_count"])

    args = ("rollout", "start", "digits", "2.0.0", "-f", "s.yaml", "--id", planned["rollout_id"], "--watch")
    code, shown = on_terminal(*args, cwd=place, width=WIDTH)

    assert 0 == code, shown
    assert "switched  3 of 3 serve what is active for them" in shown
    assert not [line for line in shown.splitlines() if len(line.rstrip()) > WIDTH]
    assert "digits 2.0.0  (generation 4, strong" in ccs("model", "active", "digits").stdout
    moves = json.loads(ccs("rollout", "history", "digits", "--json").stdout)["items"]
    assert ["start", "activate", "pass", "activate", "pass", "complete"] == [item["move"] for item in moves]
    assert ["ada", ""] == [item["author"] for item in moves[:2]]

    assert "digits 1.0.0 is active for everybody" in ccs("rollback", "digits").stdout


def test_an_abort_takes_everybody_back_and_a_rollback_is_one(ccs):
    started = ccs("rollout", "start", "digits", "3.0.0", "--stages", "100%", "--gate", "manual", "--json")
    assert 0 == started.returncode, started.stderr
    again = ccs("rollout", "start", "digits", "2.0.0", "--stages", "100%")
    assert (1, True) == (again.returncode, "hint: `ccs rollout status MODEL` shows it" in again.stderr)

    aborted = ccs("rollout", "abort", "digits", "--reason", "wrong labels", "--watch")
    assert 0 == aborted.returncode, aborted.stderr
    assert "by ada: wrong labels" in aborted.stdout
    assert 4 == ccs("rollout", "status", "digits", "--watch").returncode
    assert 1 == ccs("rollout", "pause", "digits").returncode

    assert 0 == ccs("rollout", "retry", "digits").returncode
    assert "is under way: this aborts it" in ccs("rollback", "digits").stderr
    assert "rollback by ada" in ccs("rollout", "status", "digits").stdout
    assert "digits 1.0.0 " in ccs("model", "active", "digits").stdout


def test_what_cannot_work_is_told_with_its_line_by_lint_and_by_start(ccs, place):
    (place / "bad.yaml").write_text("stages:\n  - share: 10%\n  - share: 5%\ncohort:\n  sites: [mars]\n")

    for args in (("lint", "bad.yaml", "digits", "1.0.0"), ("start", "digits", "1.0.0", "-f", "bad.yaml")):
        done = ccs("rollout", *args)
        assert (1, "error: bad.yaml has 3 faults\n") == (done.returncode, done.stderr)
        assert [
            "models.digits: version 1.0.0 is stable already",
            "bad.yaml:3:5: stages[1].share: 5% is less than 10% of the stage before",
            "bad.yaml:5:11: cohort.sites[0]: no live edge is at site mars",
        ] == done.stdout.splitlines()


def test_a_freeze_and_a_bundle(ccs, place):
    (place / "bundle.json").write_text('{"models": {"digits": {"version": "4.0.0", "file": "3.0.0"}}}')
    with tarfile.open(place / "b.tar.gz", "w:gz") as archive:
        archive.add(place / "bundle.json", "bundle.json")
        archive.add(place / "3.0.0", "3.0.0")
    assert 0 == ccs("freeze", "on", "--reason", "stock-taking").returncode

    frozen = ccs("rollout", "start", "--bundle", "b.tar.gz", "--stages", "100%")
    assert (1, True) == (frozen.returncode, "error: ada froze all starts and promotions: stock-taking" in frozen.stderr)
    assert "already stored: 3.0.0" in frozen.stdout
    assert 0 == ccs("freeze", "off").returncode
    done = ccs("rollout", "start", "--bundle", "b.tar.gz", "--stages", "100%", "--watch")
    assert 0 == done.returncode, (done.stdout, done.stderr)


def test_webhooks_are_kept_and_their_secret_is_shown_once(ccs):
    added = ccs("webhook", "add", "http://127.0.0.1:9/never", "--event", "fail")
    assert 0 == added.returncode, added.stderr
    webhook_id, secret = added.stdout.split()[0], added.stdout.split()[-1]

    assert secret.startswith("whsec_") and secret not in ccs("webhook", "list", "--json").stdout
    assert "it was told everything\n" == ccs("webhook", "deliveries", webhook_id).stderr
    assert "0 will be told again\n" == ccs("webhook", "replay", webhook_id).stdout
    assert 0 == ccs("webhook", "remove", webhook_id).returncode
    assert 1 == ccs("webhook", "remove", webhook_id).returncode
