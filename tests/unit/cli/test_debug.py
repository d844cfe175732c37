"""What `ccs debug bundle` takes along: what answers, the reasons for what does not, and no secret."""

from __future__ import annotations

import hashlib
import json
import tarfile

import httpx
import pytest
from typer.testing import CliRunner

from consistency_service.cli.commands import app
from consistency_service.cli.debug import struck_out
from consistency_service.cli.session import Shared

PASSWORD = "hunter2hunter2"
TOKEN = "ccs_" + "t" * 43
SEED = "SU" + "A" * 56
JWT = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl"
KEY = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA\n-----END PRIVATE KEY-----"
ANSWERS = {
    "/v1/cluster": {"nodes": [{"node_id": "node-1", "url": "http://one"}, {"node_id": "node-2", "url": "http://two"}]},
    "/v1/cluster/self": {"epoch": 1, "revision": 2},
    "/v1/edges": {"items": [{"edge_id": "cam-1"}], "next_cursor": None},
    "/v1/audit": {"items": [{"subject": f"nats://ada:{PASSWORD}@bus"}], "next_cursor": None},
}


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """Makes a bundle of a region that answers some things; its exit code, its parts, its list of contents."""
    monkeypatch.chdir(tmp_path)

    def make(*words: str, answers=ANSWERS):
        def answer(request: httpx.Request) -> httpx.Response:
            if request.url.path == "/metrics" and request.url.host == "one":
                return httpx.Response(200, text="up 1\n")
            if request.url.path in answers:
                return httpx.Response(200, json=answers[request.url.path])
            return httpx.Response(
                404, json={"type": "urn:ccs:problem:not_found", "title": "x", "detail": "nothing there"}
            )

        shared = Shared(url=("http://one",), timeout=0.5, transport=httpx.MockTransport(answer))
        result = CliRunner().invoke(app, ["--json", "debug", "bundle", "b.tar.gz", *words], obj=shared)
        with tarfile.open("b.tar.gz") as archive:
            streams = {m.name.removeprefix("ccs-debug/"): archive.extractfile(m) for m in archive.getmembers()}
            parts = {name: stream.read() for name, stream in streams.items() if stream is not None}
        assert streams.keys() == parts.keys(), "files only"
        return result.exit_code, parts, json.loads(parts["contents.json"])["contents"]

    return make


def test_what_answers_is_taken_and_the_rest_is_named(bundle):
    code, parts, contents = bundle()

    assert code == 0
    assert b"cam-1" in parts["region/edges.json"]
    assert b"up 1\n" == parts["region/nodes/node-1/metrics.txt"]
    assert "region/nodes/node-2/metrics.txt" not in parts
    assert "nothing there" in contents["region/nodes/node-2/metrics.txt"]["missing"]
    assert "nothing there" in contents["region/models.json"]["missing"]
    assert "machine/software.json" in parts
    for name, entry in contents.items():
        assert "missing" in entry or hashlib.sha256(parts[name]).hexdigest() == entry["sha256"]


def test_a_region_that_does_not_answer_leaves_the_machine(bundle):
    code, parts, contents = bundle(answers={})

    assert code == 1 or any(name.startswith("region/") for name in parts)
    assert "missing" in contents["region/cluster.json"]
    assert "machine/software.json" in parts


def test_no_secret_goes_along(bundle, tmp_path):
    (tmp_path / "node.log").write_text(
        f"Authorization: Bearer {TOKEN}\n{JWT}\n{SEED}\n{KEY}\npassword={PASSWORD}\nlast line\n"
    )
    (tmp_path / "node.toml").write_text(f'nats = ["nats://ada:{PASSWORD}@bus:4222"]\n')
    _, parts, _ = bundle("--log", "node.log", "--config", "node.toml")
    every = b"".join(parts.values()).decode()

    assert b"last line" in parts["machine/logs/1-node.log"]
    assert b"@bus:4222" in parts["machine/settings.toml"]
    for secret in (PASSWORD, TOKEN, JWT, SEED, "MC4CAQAwBQYDK2VwBCIEIA"):
        assert secret not in every


def test_nothing_is_overwritten(bundle, tmp_path):
    (tmp_path / "b.tar.gz").write_bytes(b"dear to somebody")
    shared = Shared(url=("http://one",), transport=httpx.MockTransport(lambda _: httpx.Response(404)))
    result = CliRunner().invoke(app, ["debug", "bundle", "b.tar.gz"], obj=shared)

    assert (2, b"dear to somebody") == (result.exit_code, (tmp_path / "b.tar.gz").read_bytes())


@pytest.mark.parametrize("innocent", ["ccs token create ada", 'region_key = "keys/region.key"', "nats://bus:4222"])
def test_what_is_no_secret_stays(innocent):
    assert innocent == struck_out(innocent)
