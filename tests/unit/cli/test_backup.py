"""`ccs backup`: a region that deletes while it is backed up, and machines on which nothing can be restored."""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from typer.testing import CliRunner

from consistency_service.cli.backup_archive import verify
from consistency_service.cli.commands import app
from consistency_service.cli.session import Shared
from consistency_service.core import commands as c
from consistency_service.core.machine import MetadataMachine
from consistency_service.core.state import decode_state
from edge_client.protocol.models import Policy, Version
from tests.support.region import TERMS

ONE, TWO = b"one" * 5_000_000, b"two"


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Region:
    """A region with two versions; the second is deleted when its bytes are first asked for, if `deletes`."""

    def __init__(self, *, deletes: bool = False, lies: bool = False) -> None:
        self.machine = MetadataMachine()
        self.machine.apply(c.Bootstrap(region="r", region_epoch=1, terms=TERMS))
        self.machine.apply(c.CreateModel(model="m", policy=Policy()))
        self.stored = {digest(ONE): ONE, digest(TWO): TWO}
        for name, data in (("1.0.0", ONE), ("2.0.0", TWO)):
            version = Version(version=name, digest=digest(data), size_bytes=len(data))
            self.machine.apply(c.RegisterVersion(model="m", version=version))
        self.deletes, self.lies = deletes, lies
        self.asked: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self.asked.append(path)
        if path == "/livez":
            return httpx.Response(200)
        if path == "/v1/backup":
            return httpx.Response(200, content=msgspec.msgpack.encode(self._backup()))
        wanted = path.rpartition("/")[2]
        if wanted == digest(TWO) and self.deletes:
            self.machine.apply(c.DeleteVersion(model="m", version="2.0.0"))
            self.stored.pop(wanted, None)
        if wanted not in self.stored:
            document = {"type": "urn:ccs:problem:unknown_artifact", "title": "Unknown artifact", "status": 404}
            return httpx.Response(404, json=document)
        first, _, last = request.headers["range"].removeprefix("bytes=").partition("-")
        data = self.stored[wanted][int(first) : int(last) + 1]
        return httpx.Response(206, content=data[::-1] if self.lies else data)

    def _backup(self) -> dict[str, Any]:
        state, snapshot = self.machine.state, self.machine.snapshot()
        versions = [v for model in state.models.values() for v in model.versions.values()]
        about = {
            "format": 1,
            "region": "r",
            "epoch": state.epoch,
            "revision": state.revision,
            "made_at_unix_ms": 1_000,
            "made_by_node": "node-1",
            "made_by_version": "0",
            "artifacts": [{"digest": v.digest, "size_bytes": v.size_bytes} for v in versions],
            "state": {"sha256": hashlib.sha256(snapshot).hexdigest(), "size_bytes": len(snapshot)},
        }
        return {"about": about, "state": snapshot}


def ccs(*words: str, region: Region | None = None) -> Any:
    shared = Shared(transport=httpx.MockTransport(region or Region()))
    return CliRunner().invoke(app, ["--json", *words], obj=shared)


def made(path: Path, *words: str, region: Region | None = None) -> dict[str, Any]:
    result = ccs("backup", "create", str(path), "--url", "http://n", *words, region=region)
    assert 0 == result.exit_code, result.output
    return dict(json.loads(result.stdout))


def settings(directory: Path, **more: Any) -> Path:
    values = {
        "node_id": "node-1",
        "region": "r",
        "data_dir": str(directory / "data"),
        "region_key": str(directory / "key"),
    } | more
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
    peers = "".join(
        f'[peers.node-{n}]\nraft = "127.0.0.1:870{n}"\nurl = "http://127.0.0.1:880{n}"\n' for n in (1, 2, 3)
    )
    path = directory / "node-1.toml"
    path.write_text(text + peers)
    assert tomllib.loads(path.read_text())
    return path


def test_a_backup_holds_state_and_artifacts(tmp_path: Path) -> None:
    answer = made(tmp_path / "b")
    contents = verify(tmp_path / "b")

    assert {digest(ONE): len(ONE), digest(TWO): len(TWO)} == contents.artifacts
    assert ("r", 1, 4) == (answer["region"], answer["epoch"], answer["revision"])
    assert list(decode_state(contents.state).models["m"].versions) == ["1.0.0", "2.0.0"]
    assert verify(tmp_path / "b").missing == ()
    made(tmp_path / "c", "--no-artifacts")
    assert len(verify(tmp_path / "c").missing) == 2


def test_an_artifact_deleted_meanwhile_is_in_neither_part(tmp_path: Path) -> None:
    region = Region(deletes=True)
    made(tmp_path / "b", region=region)
    contents = verify(tmp_path / "b")

    assert region.asked.count("/v1/backup") == 2
    assert list(decode_state(contents.state).models["m"].versions) == ["1.0.0"]
    assert digest(ONE) in contents.artifacts


def test_what_the_region_lost_or_damaged_is_no_backup(tmp_path: Path) -> None:
    region = Region()
    del region.stored[digest(TWO)]
    lost = ccs("backup", "create", str(tmp_path / "b"), "--url", "http://n", region=region)
    damaged = ccs("backup", "create", str(tmp_path / "b"), "--url", "http://n", region=Region(lies=True))

    assert (2, 2) == (lost.exit_code, damaged.exit_code)
    assert "does not have" in lost.stdout and "do not match" in damaged.stdout
    assert [] == list(tmp_path.iterdir())


def test_a_restored_directory_begins_a_new_epoch(tmp_path: Path) -> None:
    made(tmp_path / "b")
    config = settings(tmp_path)
    result = ccs("backup", "restore", str(tmp_path / "b"), "--config", str(config), "--epoch-min", "4000000000")
    answer = json.loads(result.stdout)

    assert 0 == result.exit_code and ("4000000000-5", "1-4") == (answer["position"], answer["restored_from"])
    assert (2, []) == (answer["artifacts_stored"], answer["artifacts_absent"])
    assert {"journal", "lock", "snapshot", "vote"} == {file.name for file in (tmp_path / "data" / "raft").iterdir()}
    again = ccs("backup", "restore", str(tmp_path / "b"), "--config", str(config))
    assert 2 == again.exit_code and "holds a log already" in again.stdout


@pytest.mark.parametrize(
    ("more", "reason"), [({"region": "other"}, "is of the region 'r'"), ({"log": "memory", "peers": 1}, "in memory")]
)
def test_where_nothing_can_be_restored(more: dict[str, Any], reason: str, tmp_path: Path) -> None:
    made(tmp_path / "b")
    config = settings(tmp_path, **{name: value for name, value in more.items() if name != "peers"})
    if "peers" in more:
        config.write_text(config.read_text().partition("[peers.node-2]")[0])
    result = ccs("backup", "restore", str(tmp_path / "b"), "--config", str(config))

    assert 2 == result.exit_code and reason in result.stdout
    assert not (tmp_path / "data").exists()


def test_absent_artifacts_are_named(tmp_path: Path) -> None:
    made(tmp_path / "b", "--no-artifacts")
    result = ccs("backup", "restore", str(tmp_path / "b"), "--config", str(settings(tmp_path)))

    assert sorted([digest(ONE), digest(TWO)]) == sorted(json.loads(result.stdout)["artifacts_absent"])


def test_people_read_what_is_in_it(tmp_path: Path) -> None:
    made(tmp_path / "b")
    result = CliRunner().invoke(app, ["backup", "verify", str(tmp_path / "b")])

    assert 0 == result.exit_code
    assert "region" in result.stdout and "r at 1-4" in result.stdout and "1, with 2 versions" in result.stdout
