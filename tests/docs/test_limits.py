"""docs/reference/limits.md says what the code does, and leaves no limit out."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from consistency_service.api.problems import KINDS
from tests.docs.limits import shown, value_at

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "limits.md"
ROWS = [
    [cell.strip() for cell in line.strip("|\n").split(" | ")]
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and line.rstrip(" |").endswith("`") and ":" in line
]
SEARCHED = ("edge_client", *(f"consistency_service/{room}" for room in ("core", "runtime", "adapters", "api")))
LIMIT = re.compile(r"^([A-Z][A-Z0-9_]*_(?:MAX|MIN))\b.*=", re.MULTILINE)
NO_LIMITS = {
    "what pages of the dashboard show of lists that are bounded elsewhere": {"consistency_service.api.dashboard"},
    "ranges of numbers, which take no room": {
        "consistency_service.api.schemas:MS_MAX",
        "consistency_service.api.schemas:PREFETCH_MS_MAX",
        "consistency_service.api.schemas:VERSIONS_KEPT_MAX",
        "consistency_service.core.analysis_sheet:COUNT_MAX",
        "consistency_service.core.rollout:ACCRUAL_MS_MAX",
        "consistency_service.core.rollout_steps:ACCRUE_MS_MAX",
        "consistency_service.core.strategy_faults:DURATION_MS_MAX",
        "consistency_service.core.strategy_faults:INTERVAL_MS_MIN",
        "consistency_service.core.strategy_faults:SAMPLES_MAX",
        "edge_client.protocol.bucketing:SHARE_BP_MAX",
        "edge_client.protocol.drift:RHO_PPM_MAX",
        "edge_client.protocol.feature_classes:MS_MAX",
        "edge_client.protocol.stamps:RACERS_MAX",
        "edge_client.protocol.observations:BUCKET_MAX",
        "edge_client.protocol.observations:COUNT_MAX",
        "edge_client.protocol.observations:VALUE_MAX",
    },
    "when numbers are judged, or believed at all": {
        "consistency_service.adapters.jwt_keys:RSA_BITS_MIN",
        "consistency_service.core.analysis:OTHER_SHARE_MAX",
        "consistency_service.core.analysis:WORSE_MAX",
        "consistency_service.core.analysis_findings:REASON_CHARS_MAX",
        "consistency_service.core.feature_windows:CHANGE_MIN",
        "consistency_service.core.feature_windows:READINGS_MIN",
        "consistency_service.core.feature_windows:WIDEN_MAX",
        "consistency_service.runtime.measuring:SPREAD_EDGES_MIN",
        "edge_client.protocol.clock_watch:READINGS_MAX",
        "edge_client.protocol.clock_watch:SPREAD_NS_MAX",
    },
    "how often something is tried or looked at, which is tuned, not limited": {
        "consistency_service.adapters.raft_log.elections:EARLY_SHARE_MAX",
        "consistency_service.adapters.raft_log.elections:EARLY_SHARE_MIN",
        "consistency_service.adapters.raft_log.library_parts:FROZEN_BYTES_MIN",
        "edge_client.adapters.system_clock:SLEEP_S_MAX",
        "edge_client.core.fetch_plan:BACKOFF_NS_MIN",
        "edge_client.core.follower:BACKOFF_NS_MAX",
        "edge_client.core.follower:BACKOFF_NS_MIN",
        "edge_client.core.freshness:EARLY_SHARE_MAX",
        "edge_client.core.freshness:EARLY_SHARE_MIN",
        "edge_client.runtime.supervision:BACKOFF_NS_MAX",
        "edge_client.runtime.supervision:BACKOFF_NS_MIN",
    },
    "inside the cache of features and the codec, within `feature_memory_bytes_max`": {
        "edge_client.core.frequency_sketch:COUNT_MAX",
        "edge_client.core.frequent_rival:FREQUENT_ENTRIES_MAX",
        "edge_client.core.frequent_rival:LEAD_CONTENTS_MAX",
        "edge_client.core.frequent_rival:WINDOW_SHARE_MIN",
        "edge_client.core.window_balance:FLOOR_SHARE_MAX",
        "edge_client.core.window_balance:WINDOW_SHARE_MAX",
        "edge_client.protocol.feature_codec:VALUE_LZ4_BYTES_MIN",
    },
    "an error's sentence, which is cut": {"edge_client.adapters.redis_address:TEXT_MAX"},
}


def in_code() -> set[str]:
    """Every public `*_MAX` and `*_MIN` of a module, as `module:NAME`."""
    found = set()
    for path in (path for room in SEARCHED for path in sorted((ROOT / room).rglob("*.py"))):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found |= {f"{module}:{name}" for name in LIMIT.findall(path.read_text(encoding="utf-8"))}
    return found


@pytest.mark.parametrize("row", ROWS, ids=[row[-1].strip("`") for row in ROWS])
def test_a_limit_is_what_the_code_says(row):
    reference = row[-1].strip("` ")

    assert 5 == len(row), row
    assert shown(reference.rpartition(":")[2], value_at(reference)) == row[1]


def test_no_limit_is_left_out():
    named = {row[-1].strip("` ") for row in ROWS}
    excepted = set().union(*NO_LIMITS.values())
    unnamed = {one for one in in_code() - named - excepted if not one.startswith("consistency_service.api.dashboard")}

    assert set() == unnamed, "say in docs/reference/limits.md what happens beyond these"
    assert set() == {one for one in excepted if ":" in one} - in_code(), "these are gone"
    assert len(named) == len(ROWS) > 150


def test_the_counters_and_problems_named_are_those_of_the_code():
    source = "\n".join(
        path.read_text(encoding="utf-8")
        for room in ("edge_client", "consistency_service")
        for path in (ROOT / room).rglob("*.py")
    )
    wrong: list[tuple[str, ...]] = []
    for row in ROWS:
        for word in re.findall(r"`(\w+)`", row[3]):
            code = word.removeprefix("refused_")
            known = (
                (word.startswith("refused_") and code in KINDS)
                or re.search(rf"\b{word}\b", source)
                or _by_parts(word, source=source)
            )
            wrong += [] if known or word == "NAME_unusable" else [(row[0], word)]
        for status, code in re.findall(r"\b(\d{3}) `(\w+)`", row[2]):
            wrong += [] if code in KINDS and KINDS[code].status == int(status) else [(row[0], status, code)]

    assert [] == wrong


def _by_parts(word: str, *, source: str) -> bool:
    """A counter whose name is put together, such as `region_` and a reason."""
    return any(
        re.search(rf'f"{word[:cut]}_{{', source) and re.search(rf'"{word[cut + 1 :]}"', source)
        for cut in range(len(word))
        if word[cut] == "_"
    )


def test_a_limit_that_differs_or_is_missing_is_found():
    assert "32 KiB" == shown("HEAD_BYTES_MAX", 32 * 1024) != shown("HEAD_BYTES_MAX", 32 * 1024 + 1)
    assert "consistency_service.api.guard:BODY_BYTES_MAX" in in_code()
    assert importlib.import_module("consistency_service.api.guard").BODY_BYTES_MAX == value_at(
        "consistency_service.api.guard:BODY_BYTES_MAX"
    )
