"""The library is the one we know, and only one module knows it."""

from __future__ import annotations

import ast
import gc
import re
from pathlib import Path
from typing import Any

import pysyncobj.syncobj
import pytest

from consistency_service.adapters.raft_log import RaftLog, RaftLogConfig, library
from consistency_service.adapters.raft_log.library_parts import FROZEN_BYTES_MIN, kept_from_collector
from consistency_service.errors import ConfigError

PACKAGE = Path(library.__file__).parent
PRIVATE = re.compile(r"\b(_SyncObj__\w+|_onTick|_poller|_checkCommandsToApply)\b")


def config(directory: Path, **changes) -> RaftLogConfig:
    settings: dict[str, Any] = {
        "node_id": "n1",
        "listen": "127.0.0.1:4000",
        "peers": {"n1": "127.0.0.1:4000"},
        "data_dir": directory,
    }
    return RaftLogConfig(**(settings | changes))


def test_another_release_of_the_library_is_refused_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(library, "SYNCOBJ_SHA256", "0" * 64)

    with pytest.raises(ConfigError, match=r"install pysyncobj==0\.3\.17"):
        RaftLog(config(tmp_path))


def test_the_private_names_in_use_are_exactly_those_listed():
    tree = ast.parse((PACKAGE / "library.py").read_text())
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}

    used_private = {name for name in used if PRIVATE.fullmatch(name)}
    assert set(library.PRIVATE_NAMES) <= used_private
    assert used_private <= {*library.PRIVATE_NAMES, *library.OVERRIDDEN_NAMES}
    assert {name for name in defined if PRIVATE.fullmatch(name)} == set(library.OVERRIDDEN_NAMES)


def test_every_private_name_exists_in_the_library():
    source = Path(pysyncobj.syncobj.__file__).read_text()
    for name in (*library.PRIVATE_NAMES, *library.OVERRIDDEN_NAMES):
        assert name.replace("_SyncObj", "") in source


def test_no_other_module_of_the_package_touches_the_library():
    for path in PACKAGE.glob("*.py"):
        if not path.name.startswith("library"):
            assert "pysyncobj." not in path.read_text()
        if path.name != "library.py":
            assert PRIVATE.search(path.read_text()) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"node_id": "n2"},
        {"listen": "4000"},
        {"listen": "127.0.0.1:70000"},
        {"cluster_id": ""},
        {"heartbeat_ms": 100},
        {"election_timeout_max_ms": 300},
        {"connection_timeout_ms": 500},
        {"compaction_min_entries": 2},
        {"compaction_min_bytes": 1 << 19},
        {"command_bytes_max": 5 << 20},
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, changes):
    with pytest.raises(ConfigError):
        config(tmp_path, **changes)


@pytest.mark.parametrize(("size_bytes", "frozen"), [(FROZEN_BYTES_MIN - 1, False), (FROZEN_BYTES_MIN, True)])
def test_a_large_state_is_not_looked_through_for_garbage_and_the_collector_goes_on(size_bytes, frozen):
    try:
        with kept_from_collector(size_bytes=size_bytes):
            assert gc.isenabled() is not frozen
            made: list[list[int]] = [[] for _ in range(100)]
        assert gc.isenabled()
        assert frozen is (gc.get_freeze_count() >= len(made))
    finally:
        gc.unfreeze()


def test_a_state_that_cannot_be_read_leaves_the_collector_on():
    with pytest.raises(ValueError, match="no state"), kept_from_collector(size_bytes=FROZEN_BYTES_MIN):
        raise ValueError("no state")

    assert gc.isenabled()
