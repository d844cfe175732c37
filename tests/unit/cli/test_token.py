"""`ccs token`: told once, kept as a digest, appended and revoked without touching anything else; and what is never shown."""

from __future__ import annotations

import hashlib
import json
import stat
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from consistency_service.adapters import access_file
from consistency_service.cli import token
from consistency_service.cli.client import Client
from consistency_service.cli.credentials import Credentials, credentials_of
from consistency_service.cli.errors import LocalError
from consistency_service.core.access import Identity
from consistency_service.errors import ConfigError

RUNNER = CliRunner()


def run(*words):
    return RUNNER.invoke(token.app, words)


@pytest.fixture
def access(tmp_path):
    return tmp_path / "access.toml"


def test_it_is_told_once_and_kept_as_a_digest(access):
    result = run("create", "ada", "--role", "operator", "--access", str(access))
    told = result.stdout.strip()

    assert 0 == result.exit_code, result.output
    assert told.startswith("ccs_")
    assert len(told) >= 4 + 43, "256 bits"
    assert told not in access.read_text()
    assert hashlib.sha256(told.encode()).hexdigest() in access.read_text()
    assert 0o600 == stat.S_IMODE(access.stat().st_mode)
    found = access_file.load(access).token(access_file.digest_of(told), now_unix_s=0)
    assert isinstance(found, Identity)
    assert ("ada", "operator", None) == (found.name, found.role.value, found.models)


def test_without_a_file_the_table_is_shown(access):
    made = json.loads(
        run("create", "ci", "--role", "publisher", "--models", "a-,b-", "--expires", "30d", "--json").stdout
    )
    access.write_text(made["table"])
    access.chmod(0o600)
    grant = next(iter(access_file.load(access).tokens.values()))

    assert ("ci", "publisher", ("a-", "b-")) == (grant.name, grant.role.value, grant.models)
    assert grant.expires_at_unix_s is not None
    assert 29 < (grant.expires_at_unix_s - datetime.now(tz=UTC).timestamp()) / 86_400 <= 30


def test_revoking_leaves_everything_else(access):
    access.write_text('# ours\n[[certificate]]\nname = "eve"\nrole = "viewer"\n\n')
    access.chmod(0o640)
    for name in ("ada", "ci", "ada"):
        assert 0 == run("create", name, "--role", "viewer", "--access", str(access)).exit_code
    with access.open("a") as file:
        file.write('\n# last\n[[jwt]]\nissuer = "i"\naudience = "a"\njwks = "keys.json"\n')
    assert 0 == run("revoke", "ada", "--access", str(access)).exit_code
    left = access_file.load(access)

    assert {"ci"} == {grant.name for grant in left.tokens.values()}
    assert (["eve"], ["i"]) == (list(left.certificates), [issuer.issuer for issuer in left.issuers])
    assert access.read_text().startswith("# ours\n")
    assert 0o640 == stat.S_IMODE(access.stat().st_mode), "as its owner had it"
    assert 2 == run("revoke", "ada", "--access", str(access)).exit_code


def test_a_list_shows_whose_they_are_and_no_token(access):
    told = run("create", "ada", "--role", "viewer", "--models", "text-", "--access", str(access)).stdout.strip()
    shown = run("list", "--access", str(access)).stdout
    items = json.loads(run("list", "--access", str(access), "--json").stdout)["items"]

    assert "ada" in shown
    assert told not in shown
    assert [("ada", ["text-"])] == [(item["name"], item["models"]) for item in items]


@pytest.mark.parametrize(
    "words",
    [
        ("create", "ada", "--role", "node"),
        ("create", "ada", "--role", "viewer", "--expires", "soon"),
        ("create", "ada", "--role", "viewer", "--models", "UPPER"),
        ("create", "a\nb", "--role", "viewer"),
        ("create", " ", "--role", "viewer"),
        ("list", "--access", "missing.toml"),
    ],
)
def test_nonsense_is_refused(words):
    assert 2 == run(*words).exit_code


def test_names_may_contain_what_toml_escapes(access):
    name = 'Ada "the \\ first" Ω'
    assert 0 == run("create", name, "--role", "viewer", "--access", str(access)).exit_code
    assert 0 == run("revoke", name, "--access", str(access)).exit_code
    assert not access_file.load(access).tokens


def test_a_broken_file_is_not_added_to(access):
    access.write_text("[[token]]\nname = 1\n")
    access.chmod(0o600)
    result = run("create", "ada", "--role", "viewer", "--access", str(access))

    assert 2 == result.exit_code
    assert "[[token]]\nname = 1\n" == access.read_text()


def test_a_token_is_read_from_a_file_or_the_environment_and_shown_to_nobody(tmp_path, monkeypatch):
    file = tmp_path / "token"
    file.write_text("ccs_secret\n")
    file.chmod(0o600)
    nothing = {"ca": None, "certificate": None, "key": None}
    given = credentials_of(token_file=file, **nothing)
    monkeypatch.setenv("CCS_TOKEN", "ccs_other")
    from_environment = credentials_of(token_file=None, **nothing)
    monkeypatch.setenv("CCS_TOKEN_FILE", str(file))

    assert {"Authorization": "Bearer ccs_secret"} == given.headers
    assert "ccs_other" == from_environment.token
    assert "ccs_secret" == credentials_of(token_file=None, **nothing).token
    assert "secret" not in repr(given)
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        credentials_of(token_file=file, **nothing)
    file.chmod(0o600)
    file.write_text("two words")
    with pytest.raises(LocalError) as refused:
        credentials_of(token_file=file, **nothing)
    assert "two" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "sent"), [("http://10.0.0.1:8700", False), ("https://10.0.0.1:8700", True), ("http://127.0.0.1:1", True)]
)
def test_a_token_is_not_sent_where_others_read_it(url, sent):
    credentials = Credentials(token="ccs_secret")
    if sent:
        Client((url,), author="ada", credentials=credentials)
    else:
        with pytest.raises(LocalError, match="plain http"):
            Client((url,), author="ada", credentials=credentials)
        Client((url,), author="ada")


def test_a_key_goes_with_a_certificate(tmp_path):
    with pytest.raises(LocalError, match="--certificate"):
        credentials_of(token_file=None, ca=None, certificate=None, key=tmp_path / "x.key")
