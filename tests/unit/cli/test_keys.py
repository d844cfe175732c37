"""`ccs keys`, and what is signed with them on its way into a region."""

from __future__ import annotations

import base64
import json
import subprocess

import httpx
import pytest
from typer.testing import CliRunner

from consistency_service.adapters import region_key
from consistency_service.cli.bundle_archive import opened
from consistency_service.cli.commands import app
from consistency_service.cli.errors import LocalError
from consistency_service.cli.session import Shared
from edge_client.protocol.envelope import Signer, Verifier
from edge_client.protocol.models import Version
from edge_client.protocol.signatures import Publishers, statement
from tests.unit.cli.fake_region import FakeRegion

RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CCS_SIGNING_KEY", raising=False)
    (tmp_path / "det.onnx").write_bytes(b"weights")
    return tmp_path


def run(*words, region: FakeRegion | None = None):
    shared = Shared(transport=region.transport) if region else None
    return RUNNER.invoke(app, words, obj=shared)


def made(*words) -> dict:
    result = run(*words, "--json")
    assert 0 == result.exit_code, result.output
    told: dict = json.loads(result.stdout)
    return told


def sent(region: FakeRegion) -> dict:
    """What the last registration said."""
    calls = [call for call in region.calls if call.method == "POST" and call.url.path.endswith("/versions")]
    body: dict = json.loads(calls[-1].content)
    return body


def version_of(body: dict) -> Version:
    return Version(
        version=body["version"],
        digest=body["digest"],
        size_bytes=7,
        metadata=body["metadata"],
        signatures=tuple(body["signatures"]),
    )


def test_a_publisher_is_a_guarded_key_and_a_line(elsewhere):
    told = made("keys", "publisher", "ana", "--models", "ocr-,plates")

    assert (elsewhere / "ana.key").stat().st_mode & 0o777 == 0o600
    assert (elsewhere / "ana.pub").read_text() == told["line"] + "\n"
    (key,) = Publishers.parse(told["line"]).keys.values()
    assert key.prefixes == ("ocr-", "plates")
    assert 2 == run("keys", "publisher", "ana").exit_code  # never overwritten
    assert (elsewhere / "ana.pub").read_text() == told["line"] + "\n"


@pytest.mark.parametrize("words", [("Ana",), ("../ana",), ("ana", "--models", "a b"), ("ana", "--models", "ä")])
def test_names_and_prefixes_that_make_no_sense_are_refused(elsewhere, words):
    assert 2 == run("keys", "publisher", *words).exit_code
    assert not list(elsewhere.glob("*.key"))


@pytest.mark.parametrize("named_by", ["option", "environment"])
def test_what_is_pushed_with_a_key_is_vouched_for(elsewhere, monkeypatch, named_by):
    publishers = Publishers.parse(made("keys", "publisher", "ana")["line"])
    region = FakeRegion()
    words = ["model", "push", "det", "2.3.0", "det.onnx", "--create", "--metadata", "commit=4f2"]
    if named_by == "environment":
        monkeypatch.setenv("CCS_SIGNING_KEY", "ana.key")
    else:
        words += ["--sign", "ana.key"]
    result = run(*words, region=region)

    assert 0 == result.exit_code, result.output
    assert publishers.fault("det", version_of(sent(region))) is None
    assert publishers.fault("other", version_of(sent(region))) == "bad_signature"


def test_without_a_key_nothing_is_signed():
    region = FakeRegion()

    assert 0 == run("model", "push", "det", "2.3.0", "det.onnx", "--create", region=region).exit_code
    assert [] == sent(region)["signatures"]


def test_a_key_open_to_others_is_not_used_and_nothing_is_sent(elsewhere):
    made("keys", "publisher", "ana")
    (elsewhere / "ana.key").chmod(0o644)
    region = FakeRegion()
    result = run("model", "push", "det", "2.3.0", "det.onnx", "--sign", "ana.key", "--create", region=region)

    assert 2 == result.exit_code and "chmod 600" in result.output
    assert not region.calls


def test_signing_apart_from_pushing_gives_the_same_line(elsewhere):
    publishers = Publishers.parse(made("keys", "publisher", "ana")["line"])
    told = made("keys", "sign", "det", "2.3.0", "det.onnx", "--sign", "ana.key", "--metadata", "a=b")
    asked = Version(
        version="2.3.0", digest=told["digest"], size_bytes=7, metadata={"a": "b"}, signatures=(told["signature"],)
    )

    assert publishers.fault("det", asked) is None
    assert 2 == run("keys", "sign", "det", "2.3.0", "det.onnx").exit_code


def test_openssl_signs_the_statement_just_so(elsewhere):
    """Whoever keeps keys in other tools can do without ours: the statement is text."""
    told = made("keys", "publisher", "ana")
    asked = Version(version="2.3.0", digest="sha256:" + "0" * 64, size_bytes=7)
    (elsewhere / "statement").write_bytes(statement("det", asked))
    signed = subprocess.run(
        ["openssl", "pkeyutl", "-sign", "-rawin", "-inkey", "ana.key", "-in", "statement"],
        check=True,
        capture_output=True,
        timeout=20,
    ).stdout
    line = f"ed25519 {told['key_id']} {base64.b64encode(signed).decode()}"

    by_openssl = Version(version="2.3.0", digest=asked.digest, size_bytes=7, signatures=(line,))
    assert Publishers.parse(told["line"]).fault("det", by_openssl) is None


def test_a_bundle_carries_signatures_and_takes_one_more(elsewhere):
    publishers = [Publishers.parse(made("keys", "publisher", name)["line"]) for name in ("ana", "bo")]
    told = made("keys", "sign", "det", "2.3.0", "det.onnx", "--sign", "ana.key")
    entry = {"version": "2.3.0", "file": "det.onnx", "signatures": [told["signature"]]}
    (elsewhere / "bundle.json").write_text(json.dumps({"models": {"det": entry}}))
    region = FakeRegion()

    assert 0 == run("bundle", "push", ".", "--create", region=region).exit_code
    assert [told["signature"]] == sent(region)["signatures"]
    assert 0 == run("bundle", "push", ".", "--sign", "bo.key", region=region).exit_code
    assert [None, None] == [each.fault("det", version_of(sent(region))) for each in publishers]
    assert 0 == run("bundle", "push", ".", "--sign", "ana.key", region=region).exit_code
    assert 1 == len(sent(region)["signatures"])


@pytest.mark.parametrize("lines", [["nonsense"], ["twice"], ["x"] * 5])
def test_a_bundle_with_signatures_that_are_none_is_refused(elsewhere, lines):
    made("keys", "publisher", "ana")
    good = made("keys", "sign", "det", "2.3.0", "det.onnx", "--sign", "ana.key")["signature"]
    entry = {"version": "2.3.0", "file": "det.onnx", "signatures": [good, good] if lines == ["twice"] else lines}
    (elsewhere / "bundle.json").write_text(json.dumps({"models": {"det": entry}}))

    with pytest.raises(LocalError, match="signature"), opened(elsewhere):
        pass


def test_a_key_is_revoked_by_its_id_alone():
    region = FakeRegion()
    region.interfere = lambda request: (
        httpx.Response(200, json={"key_id": "0" * 16}) if request.method == "PUT" else None
    )

    assert 2 == run("keys", "revoke", "ana", region=region).exit_code
    assert not [call for call in region.calls if call.method == "PUT"]
    assert 0 == run("keys", "revoke", "0" * 16, "--reason", "stolen", region=region).exit_code
    (call,) = [call for call in region.calls if call.method == "PUT"]
    assert call.url.path == f"/v1/publishers/revoked/{'0' * 16}" and json.loads(call.content) == {"reason": "stolen"}


# ---- the region's key


@pytest.fixture
def region_files(elsewhere):
    for name in ("region", "region-2", "region-3"):
        made("keys", "region", "new", name)
    (elsewhere / "region.trust").write_text(
        (elsewhere / "region.pub").read_text() + (elsewhere / "region-2.pub").read_text()
    )
    return elsewhere


def rotate(key: str, new: str):
    return run("keys", "region", "rotate", "--key", key, "--new", new, "--trust", "region.trust")


def test_the_new_key_takes_the_place_of_the_old_one(region_files):
    old = (region_files / "region.key").read_bytes()
    result = rotate("region.key", "region-2.key")

    assert 0 == result.exit_code, result.output
    assert (region_files / "region.key").read_bytes() == (region_files / "region-2.key").read_bytes()
    assert (region_files / "region.key").stat().st_mode & 0o777 == 0o600
    assert (region_files / "region.key.retired").read_bytes() == old
    frame = Signer(region_key.load_private(region_files / "region.key")).sign(b"x")
    assert b"x" == Verifier.from_trust((region_files / "region-2.pub").read_text()).open(frame, bytes_max=len(frame))
    assert sorted(p.name for p in region_files.iterdir() if p.name.startswith(".")) == []


@pytest.mark.parametrize("new", ["region-3.key", "region.key"])
def test_a_key_that_nobody_believes_yet_is_not_put_there(region_files, new):
    before = (region_files / "region.key").read_bytes()

    assert 2 == rotate("region.key", new).exit_code
    assert (region_files / "region.key").read_bytes() == before and not (region_files / "region.key.retired").exists()


def test_a_retired_key_from_another_time_is_not_overwritten(region_files):
    (region_files / "region.key.retired").write_text("precious")

    assert 2 == rotate("region.key", "region-2.key").exit_code
    assert (region_files / "region.key.retired").read_text() == "precious"
