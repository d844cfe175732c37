"""What containers are given before they start: made once, closed to others, and to each what is theirs."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from consistency_service.adapters.certificates import load_certificate
from consistency_service.core.access import access_of

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {
    "PREPARE_REGION": "harbour",
    "PREPARE_NATS": str(ROOT / "ops" / "nats"),
    "PREPARE_REDIS": str(ROOT / "ops" / "redis"),
    "PREPARE_NODES": "node-1,node-2",
    "PREPARE_SERVERS": "nats-1",
    "PREPARE_SITES": "site-1",
    "PREPARE_EDGES": "site-1/edge-1",
    "PREPARE_REDIS_REGION": "redis-region/redis-region:6379",
    "PREPARE_REDIS_SITES": "redis-1/redis-1:6379",
}


def prepare(directory: Path, **more: str) -> dict[str, bytes]:
    """Every file there is afterwards."""
    result = subprocess.run(
        [sys.executable, ROOT / "ops" / "compose" / "prepare.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PREPARE_SECRETS": str(directory), **ENVIRONMENT, **more},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert 0 == result.returncode, result.stderr
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_nothing_is_made_twice(tmp_path):
    assert prepare(tmp_path) == prepare(tmp_path)


def test_what_is_missing_is_made_again_and_nothing_else(tmp_path):
    before = prepare(tmp_path)
    (tmp_path / "nats-1" / "tls.crt").unlink()
    (tmp_path / "nats-1" / "tls.key").unlink()

    after = prepare(tmp_path)

    changed = {name for name in before if before[name] != after[name]}
    assert {"nats-1/tls.crt", "nats-1/tls.key"} == changed


def test_one_more_edge_leaves_the_others_alone(tmp_path):
    before = prepare(tmp_path)

    after = prepare(tmp_path, PREPARE_EDGES="site-1/edge-1,site-1/edge-2")

    assert {name for name in before if name.startswith("edge-1/") and before[name] != after[name]} == set()
    assert {name.replace("edge-1/", "edge-2/") for name in before if name.startswith("edge-1/")} <= after.keys()
    # The site's server may carry its words, both Redis know it, and so do the nodes.
    assert before["leaf-1/leaf.creds"] != after["leaf-1/leaf.creds"]
    assert b"user edge-2 on #" in after["redis-1/users.acl"] and b"user edge-2 on #" in after["redis-region/users.acl"]
    access = access_of(tomllib.loads(after["node-2/access.toml"].decode()))
    assert {"admin": "admin", "edge-1": "edge", "edge-2": "edge", "operator": "operator", "prometheus": "viewer"} == {
        grant.name: str(grant.role) for grant in access.tokens.values()
    }


def test_tokens_that_somebody_added_stay(tmp_path):
    prepare(tmp_path)
    file = tmp_path / "authority" / "access.toml"
    added = '[[token]]\nname = "ci"\nrole = "publisher"\nsha256 = "' + "0" * 64 + '"\n\n'
    file.write_text(file.read_text() + added)

    after = prepare(tmp_path, PREPARE_EDGES="site-1/edge-1,site-1/edge-2")

    assert added.encode() in after["node-1/access.toml"] and b'"edge-2"' in after["node-1/access.toml"]


def test_every_secret_is_its_owners_alone(tmp_path):
    prepare(tmp_path)

    open_ones = [
        path
        for path in tmp_path.rglob("*")
        if path.suffix in {".key", ".creds", ".url", ".nk", ".acl", ".toml"} or path.name in {"token", "admin"}
        if path.name != "account.key" and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    assert [] == open_ones


@pytest.mark.parametrize("place", ["node-1", "nats-1", "leaf-1", "redis-1", "edge-1", "prometheus", "grafana"])
def test_nobody_is_given_an_authority_or_a_password_of_others(tmp_path, place):
    files = prepare(tmp_path)

    given = b"".join(content for name, content in files.items() if name.startswith(f"{place}/"))
    kept = [files[f"authority/{name}"] for name in ("raft/ca.key", "links/ca.key", "nats/edge.nk", "nats/node.nk")]
    assert not any(secret.strip() in given for secret in kept)
    assert (files["authority/region.key"].strip() in given) is place.startswith("node")
    others = [content for name, content in files.items() if name.startswith("people/")]
    assert not any(token.strip() in given for token in others) or place in {"edge-1", "prometheus"}


def test_no_server_passes_for_a_node(tmp_path):
    prepare(tmp_path)

    raft, links = (load_certificate(tmp_path / "authority" / name / "ca.crt") for name in ("raft", "links"))
    server = load_certificate(tmp_path / "nats-1" / "tls.crt")
    server.verify_directly_issued_by(links)
    with pytest.raises(ValueError, match="issuer"):
        server.verify_directly_issued_by(raft)
