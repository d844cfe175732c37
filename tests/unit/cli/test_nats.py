"""`ccs nats`: what it hands out holds one secret, what it keeps is ours alone, and nothing is destroyed."""

from __future__ import annotations

import base64
import json
import re
import stat
from pathlib import Path
from typing import Any

import nkeys
import pytest
from typer.testing import CliRunner

from consistency_service.cli import nats

RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str, code: int = 0) -> str:
    result = RUNNER.invoke(nats.app, words)
    assert code == result.exit_code, result.output
    return result.output


def claims(token: str) -> dict[str, Any]:
    """What a JWT says; its signature is its issuer's."""
    head, body, signature = (base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in token.split("."))
    assert {"typ": "JWT", "alg": "ed25519-nkey"} == json.loads(head)
    said: dict[str, Any] = json.loads(body)
    public = base64.b32decode(said["iss"] + "=" * (-len(said["iss"]) % 8))[1:33]
    nkeys.KeyPair(keys=_Verifying(public)).verify(token.rpartition(".")[0].encode(), signature)
    return said


class _Verifying:
    def __init__(self, public: bytes) -> None:
        import nacl.signing

        self.verify_key = nacl.signing.VerifyKey(public)


def token_in(path: Path) -> str:
    found = re.search(r"JWT-----\n(\S+)\n", path.read_text())
    assert found
    return found[1]


def account() -> dict[str, Any]:
    tokens = re.findall(r"^  A\S+: (\S+)$", Path("nats-keys/auth.conf").read_text(), re.MULTILINE)
    (found,) = [said for said in map(claims, tokens) if said["name"] != "SYS"]
    return found


def test_private_keys_stay_and_are_ours_alone(elsewhere: Path) -> None:
    run("init", "--region", "harbour")
    run("edge", "cam-17")
    kept = [path for path in (elsewhere / "nats-keys").iterdir() if path.name != "auth.conf"]

    assert {0o600} == {stat.S_IMODE(path.stat().st_mode) for path in (*kept, elsewhere / "cam-17.creds")}
    public = (elsewhere / "nats-keys" / "auth.conf").read_text()
    assert not re.search(r"\bS[OAU][A-Z2-7]{56}\b", public)
    secrets = {seed for path in kept for seed in re.findall(r"\bS[OAU][A-Z2-7]{56}\b", path.read_text())}
    assert not secrets & set(re.findall(r"\bS[OAU][A-Z2-7]{56}\b", (elsewhere / "cam-17.creds").read_text()))


def test_one_more_edge_changes_nothing_at_the_servers(elsewhere: Path) -> None:
    run("init")
    before = (elsewhere / "nats-keys" / "auth.conf").read_bytes()
    made = json.loads(run("edge", "dock.3", "--into", "edge.creds", "--days", "30", "--json"))
    said = claims(token_in(elsewhere / "edge.creds"))

    assert before == (elsewhere / "nats-keys" / "auth.conf").read_bytes()
    assert ("dockD3", made["key"], made["account"]) == (said["name"], said["sub"], said["nats"]["issuer_account"])
    assert said["exp"] * 1_000 == made["expires_at_unix_ms"] and said["exp"] - said["iat"] == 30 * 86_400
    scope = {scope["role"]: scope for scope in account()["nats"]["signing_keys"] if isinstance(scope, dict)}
    assert said["iss"] == scope["edge"]["key"]
    assert "ccs.default.report.{{name()}}" in scope["edge"]["template"]["pub"]["allow"]


def test_revoking_names_every_key_made_so_far_and_no_later_one(elsewhere: Path) -> None:
    run("init")
    first, other = (json.loads(run("edge", name, "--json"))["key"] for name in ("cam-1", "cam-2"))
    second = json.loads(run("edge", "cam-1", "--into", "again.creds", "--json"))["key"]
    operator = (elsewhere / "nats-keys" / "auth.conf").read_text().splitlines()[2]
    told = json.loads(run("revoke", "edge", "cam-1", "--json"))
    third = json.loads(run("edge", "cam-1", "--into", "third.creds", "--json"))["key"]

    assert [first, second] == told["revoked"]
    assert {first, second} == set(account()["nats"]["revocations"]) and not {other, third} & {first, second}
    assert operator == (elsewhere / "nats-keys" / "auth.conf").read_text().splitlines()[2]  # or no server reloads it
    run("revoke", "node", "cam-1", code=2)
    run("revoke", "edge", "nobody", code=2)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("init",), "holds the keys of a bus already"),
        (("edge", "cam-1"), "exists already; nothing is overwritten"),
        (("edge", "Cam 1"), "a name on the bus has"),
        (("leaf", "dock", "--edge", "*"), "a name on the bus has"),
        (("node", "n1", "-d", "elsewhere"), "run: ccs nats init"),
    ],
)
def test_nothing_is_overwritten_and_no_name_means_more_than_itself(words: tuple[str, ...], text: str) -> None:
    run("init")
    run("edge", "cam-1")

    assert text in " ".join(run(*words, code=2).split())


def test_a_key_that_others_may_read_is_not_used(elsewhere: Path) -> None:
    run("init")
    (elsewhere / "nats-keys" / "edge.nk").chmod(0o644)

    assert "chmod 600" in " ".join(run("edge", "cam-1", code=2).split())


def test_a_sites_credentials_name_the_edges_that_stand_there(elsewhere: Path) -> None:
    run("init", "--region", "harbour")
    told = run("leaf", "dock-3", "--edge", "cam-1", "--edge", "cam.2")
    rights = claims(token_in(elsewhere / "dock-3.creds"))["nats"]

    assert "NATS_LEAF_CREDENTIALS" in told and "NATS_ACCOUNT" in told
    assert ["LEAFNODE"] == rights["allowed_connection_types"]
    assert {"ccs.harbour.report.cam-1", "ccs.harbour.report.camD2"} == {
        subject for subject in rights["pub"]["allow"] if ".report" in subject
    }
