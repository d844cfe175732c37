"""What a node gives to whoever backs the region up."""

from __future__ import annotations

import dataclasses
import hashlib

import msgspec

from consistency_service.core.restoring import restored
from consistency_service.core.state import decode_state
from tests.api.served import Served


async def test_everything_acknowledged_is_in_a_backup(served: Served):
    await served.model("m", "1.0.0", "2.0.0")
    await served.activate("1.0.0")
    answer = await served.http.get("/v1/backup")
    backup = msgspec.msgpack.decode(answer.content)
    about, state = backup["about"], decode_state(backup["state"])

    assert 200 == answer.status_code and "application/msgpack" == answer.headers["content-type"]
    assert answer.headers["cache-control"] == "no-store"
    assignment = state.models["m"].assignment
    assert state.models["m"].generation == 1 and assignment is not None and assignment.stable == "1.0.0"
    assert about["state"] == {"sha256": hashlib.sha256(backup["state"]).hexdigest(), "size_bytes": len(backup["state"])}
    assert (about["format"], about["epoch"], about["revision"]) == (1, state.epoch, state.revision)
    digests = {v.digest for v in state.models["m"].versions.values()}
    assert {one["digest"] for one in about["artifacts"]} == digests and len(digests) == 2
    assert restored(backup["state"], epoch=2, author="o", at_unix_ms=1).state.epoch == 2


async def test_no_path_key_or_password_is_in_a_backup(served: Served):
    node = served.node
    node.config = dataclasses.replace(
        node.config, nats=("nats://user:hunter2@127.0.0.1:4222",), artifacts="s3://key:hunter2@bucket/prefix"
    )
    payload = (await served.http.get("/v1/backup?consistency=local")).content
    settings = msgspec.msgpack.decode(payload)["about"]["settings"]

    assert b"hunter2" not in payload and str(node.config.region_key).encode() not in payload
    assert (settings["nats"], settings["artifacts"]) == (["nats://127.0.0.1:4222"], "s3://bucket/prefix")
    assert {"region", "lease_ms"} <= settings.keys() and not [name for name in settings if "key" in name]
