"""Bad input to a running region: a problem document, nothing left behind, and the region goes on."""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.bed import CONTENT, MODEL, Bed, running

pytestmark = pytest.mark.timeout(120)
LIMIT = 1_000_000
DISK = 3_000_000


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    """A region that takes artifacts of at most a megabyte, onto a disk of three where mounting one is allowed."""
    directory = tmp_path_factory.mktemp("region")
    store = directory / "store"
    store.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    mounted = libc.mount(b"tmpfs", os.fsencode(store), b"tmpfs", 0, f"size={DISK}".encode()) == 0
    try:
        options = {"artifact_bytes_max": LIMIT, "artifacts": store.as_uri()}
        with running(directory, edges=1, node_options=options) as bed:
            yield bed
    finally:
        if mounted:
            libc.umount2(os.fsencode(store), 2)


def refused(response: httpx.Response, *, status: int, code: str) -> None:
    """It is a problem document of this kind."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"].startswith("application/problem+json")
    problem = response.json()
    assert (problem["type"], problem["status"]) == (f"urn:ccs:problem:{code}", status)
    assert problem["title"] and problem["detail"]


def test_a_version_registered_again_with_other_bytes(bed: Bed) -> None:
    other = b"other bytes"
    digest = "sha256:" + hashlib.sha256(other).hexdigest()
    bed.region.call("POST", "/v1/artifacts", content=other).raise_for_status()

    answer = bed.region.call("POST", f"/v1/models/{MODEL}/versions", json={"version": "1.0.0", "digest": digest})

    refused(answer, status=409, code="version_conflict")
    same = "sha256:" + hashlib.sha256(CONTENT["1.0.0"]).hexdigest()
    again = bed.region.call("POST", f"/v1/models/{MODEL}/versions", json={"version": "1.0.0", "digest": same})
    assert again.status_code == 200


def test_an_unknown_model_version_and_artifact(bed: Bed) -> None:
    refused(bed.region.call("GET", "/v1/models/nowhere"), status=404, code="unknown_model")
    refused(bed.region.call("GET", "/v1/models/nowhere/active"), status=404, code="unknown_model")
    answer = bed.region.call("POST", f"/v1/models/{MODEL}/activations", json={"version": "9.9.9"})
    refused(answer, status=404, code="unknown_version")
    refused(bed.region.call("GET", f"/v1/artifacts/sha256:{'0' * 64}"), status=404, code="unknown_artifact")


def test_an_artifact_above_the_limit_announced_or_not(bed: Bed) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(LIMIT // 10_000 + 1):
            yield b"x" * 10_000

    announced = bed.region.call("POST", "/v1/artifacts", content=b"x" * (LIMIT + 1))
    refused(announced, status=413, code="too_large")
    url = bed.testbed.state.urls("node-")[0]
    streamed = httpx.post(f"{url}/v1/artifacts", content=chunks(), timeout=20, trust_env=False)
    refused(streamed, status=413, code="too_large")


def test_a_full_disk_refuses_uploads_and_nothing_else(bed: Bed) -> None:
    store = Path(bed.config.directory).parent / "store"
    if os.statvfs(store).f_blocks * os.statvfs(store).f_frsize > 2 * DISK:
        pytest.skip("a small disk cannot be mounted here")
    answers = [bed.region.call("POST", "/v1/artifacts", content=bytes([n]) * (LIMIT - 1)) for n in range(5)]
    stored = [answer.json()["digest"] for answer in answers if answer.status_code == 201]

    refused(answers[-1], status=507, code="store_full")
    before = "2.0.0" if bed.edge("edge-1").version == "1.0.0" else "1.0.0"
    bed.swap(before)
    assert bed.region.call("GET", f"/v1/artifacts/{stored[0]}").status_code == 200


def test_the_same_key_means_the_same_request(bed: Bed) -> None:
    headers = {"Idempotency-Key": "once"}
    first = bed.region.call("POST", "/v1/models", json={"name": "once"}, headers=headers)
    again = bed.region.call("POST", "/v1/models", json={"name": "once"}, headers=headers)
    other = bed.region.call("POST", "/v1/models", json={"name": "twice"}, headers=headers)

    assert (first.status_code, again.status_code) == (201, 201)
    refused(other, status=422, code="request_id_reused")
