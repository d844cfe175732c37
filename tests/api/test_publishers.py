"""Signatures and revocations by REST: kept and shown, added to, refused where a node asks for them."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consistency_service.adapters.region_key import KeyFiles
from consistency_service.runtime.keys import NodeKeys
from edge_client.protocol.models import Version
from edge_client.protocol.signatures import publisher_line, sign_version
from tests.api.served import Served
from tests.api.test_models import code_of

ALICE, BOB = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (7, 8))
ALICE_ID, BOB_ID = (publisher_line(key.public_key()).split()[2] for key in (ALICE, BOB))
CONTENT = b"weights"


def require(served: Served, directory, *, signatures: str = "require") -> None:
    file = directory / "publishers"
    file.write_text(publisher_line(ALICE.public_key(), prefixes=("m",)))
    files = KeyFiles(private=directory / "none", trust=None, publishers=file)
    served.node.keys = NodeKeys(signer=served.node.keys.signer, files=files, signatures=signatures)


async def register(served: Served, *keys: Ed25519PrivateKey, version: str = "1.0.0", model: str = "m"):
    digest = (await served.http.post("/v1/artifacts", content=CONTENT)).json()["digest"]
    asked = Version(version=version, digest=digest, size_bytes=len(CONTENT))
    lines = [sign_version(key, model="m", version=asked) for key in keys]
    body = {"version": version, "digest": digest, "signatures": lines}
    return await served.http.post(f"/v1/models/{model}/versions", json=body), lines


async def test_signatures_are_kept_shown_and_added_to(served: Served):
    await served.model()
    first, by_alice = await register(served, ALICE)
    second, by_bob = await register(served, BOB)
    again, _ = await register(served, BOB)
    listed = await served.http.get("/v1/models/m/versions")

    assert [201, 200, 200] == [first.status_code, second.status_code, again.status_code]
    assert by_alice == first.json()["signatures"]
    assert [*by_alice, *by_bob] == second.json()["signatures"] == listed.json()["items"][0]["signatures"]


@pytest.mark.parametrize(
    "lines", [["x"], ["ed25519 0 0"], ["ed25519 " + "0" * 16 + " " + "A" * 86 + "=="] * 5, "x", [None]]
)
async def test_what_is_no_signature_is_refused(served: Served, lines):
    await served.model()
    body = {"version": "1.0.0", "digest": "sha256:" + "0" * 64, "signatures": lines}

    assert (422, "invalid") == code_of(await served.http.post("/v1/models/m/versions", json=body))


@pytest.mark.parametrize(
    ("keys", "model", "reason"),
    [((), "m", "unsigned"), ((BOB,), "m", "unknown_publisher"), ((ALICE,), "other", "bad_signature")],
)
async def test_a_node_that_requires_signatures_registers_nothing_else(served: Served, tmp_path, keys, model, reason):
    await served.model("m")
    await served.model("other")
    require(served, tmp_path)
    refused, _ = await register(served, *keys, model=model)

    assert (422, "signature_refused") == code_of(refused)
    assert reason == refused.json()["reason"]
    assert 1 == served.node.counters()["keys.registrations_refused"]
    accepted, _ = await register(served, ALICE)
    assert 201 == accepted.status_code


async def test_a_revoked_key_is_told_and_registers_nothing_where_signatures_are_required(served: Served, tmp_path):
    await served.model()
    require(served, tmp_path)
    path = f"/v1/publishers/revoked/{ALICE_ID}"

    first = await served.http.put(path, json={"reason": "stolen"}, headers={"X-CCS-Author": "ana"})
    again = await served.http.put(path, json={"reason": "again"}, headers={"X-CCS-Author": "bo"})
    listed = await served.http.get("/v1/publishers/revoked")
    refused, _ = await register(served, ALICE)

    assert [200, 200] == [first.status_code, again.status_code]
    assert ("ana", "stolen") == (first.json()["author"], first.json()["reason"])
    assert [first.json()] == listed.json()["items"] and first.json() == again.json()
    assert "publisher_revoked" == refused.json()["reason"]


@pytest.mark.parametrize("key_id", ["all", ALICE_ID.upper(), ALICE_ID + "0", "%20"])
async def test_only_key_ids_are_revoked(served: Served, key_id):
    assert (422, "invalid") == code_of(await served.http.put(f"/v1/publishers/revoked/{key_id}", json={}))


async def test_the_dashboard_shows_who_signed_and_who_is_revoked(served: Served):
    await served.model()
    await register(served, ALICE)
    before = (await served.http.get("/models/m")).text
    await served.http.put(f"/v1/publishers/revoked/{ALICE_ID}", json={})
    after = (await served.http.get("/models/m")).text

    assert f"signed by <code>{ALICE_ID}</code>" in before
    assert f"by revoked <code>{ALICE_ID}</code>" in after


async def test_what_an_edge_serves_without_trust_is_seen(served: Served):
    await served.model("m", "1.0.0")
    served.report("edge-1", untrusted="publisher_revoked")

    assert "publisher_revoked" == (await served.http.get("/v1/edges")).json()["items"][0]["models"][0]["untrusted"]
    assert "not trusted any more: publisher_revoked" in (await served.http.get("/edges")).text


async def test_nodes_tell_which_keys_they_use(served: Served):
    told = (await served.http.get("/v1/cluster/self")).json()["region_keys"]

    assert [told["signing"]] == told["trusted"] and 16 == len(told["signing"])
