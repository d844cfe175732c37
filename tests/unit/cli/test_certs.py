"""`ccs certs`: what it makes a node starts with, and it never destroys anything."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from consistency_service.adapters.raft_log import RaftTls, tls
from consistency_service.cli import certs

RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words):
    return RUNNER.invoke(certs.app, words)


def test_what_is_issued_a_node_starts_with(elsewhere):
    assert 0 == run("init", "--region", "harbour").exit_code
    result = run("issue", "node-1", "--host", "node-1.example.org", "--host", "10.0.0.1", "--json")
    made = json.loads(result.stdout)
    files = RaftTls(
        ca=elsewhere / made["authority"], certificate=elsewhere / made["certificate"], key=elsewhere / made["key"]
    )
    identity = tls.TlsFiles(files, cluster_id="harbour", node_id="node-1").identity

    assert identity.expires_at_unix_s * 1_000 == made["expires_at_unix_ms"]
    assert 397 < (made["expires_at_unix_ms"] / 1_000 - datetime.now(tz=UTC).timestamp()) / 86_400 <= 398


def test_people_see_the_lines_for_the_nodes_settings(elsewhere):
    run("init")
    told = "".join(run("issue", "node-1", "--days", "30").stdout.split())

    for setting, name in (("raft_ca", "ca.crt"), ("raft_certificate", "node-1.crt"), ("raft_key", "node-1.key")):
        assert f"{setting}{elsewhere}/certs/{name}" in told


@pytest.mark.parametrize(
    "words", [("init",), ("issue", "node-1"), ("issue", "node/1"), ("issue", "n2", "--host", "a b")]
)
def test_nothing_is_overwritten_and_nonsense_is_refused(elsewhere, words):
    run("init")
    run("issue", "node-1")
    before = {path.name: path.read_bytes() for path in (elsewhere / "certs").iterdir()}
    result = run(*words)

    assert 2 == result.exit_code
    assert before == {path.name: path.read_bytes() for path in (elsewhere / "certs").iterdir()}


def test_a_renewal_lies_elsewhere_until_it_is_moved(elsewhere):
    run("init")
    run("issue", "node-1")

    assert 0 == run("issue", "node-1", "--into", "renewed").exit_code
    assert ["node-1.crt", "node-1.key"] == sorted(path.name for path in (elsewhere / "renewed").iterdir())


def test_without_an_authority_one_is_told_which_file_is_missing():
    result = run("issue", "node-1")

    assert 2 == result.exit_code
    assert "ca.crt" in result.output
