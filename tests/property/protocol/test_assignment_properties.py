"""A share covers what it says, fairly, and raising it only ever adds edges."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_client.protocol.bucketing import SHARE_BP_MAX, CohortSelector, bucket_of
from edge_client.protocol.models import Assignment

NAMES = st.text(min_size=1, max_size=20)
LABELS = st.dictionaries(st.sampled_from(["tier", "zone"]), st.sampled_from(["a", "b"]), max_size=2)
COHORTS = st.builds(CohortSelector, sites=st.lists(st.sampled_from(["x", "y"]), max_size=2).map(tuple), labels=LABELS)


@settings(derandomize=True, max_examples=300)
@given(
    edge_id=NAMES,
    salt=NAMES,
    shares=st.lists(st.integers(0, SHARE_BP_MAX), min_size=2, max_size=2).map(sorted),
    cohort=COHORTS,
    site=st.sampled_from(["x", "y", "z"]),
    labels=LABELS,
)
def test_raising_the_share_only_adds_edges(
    edge_id: str, salt: str, shares: list[int], cohort: CohortSelector, site: str, labels: dict[str, str]
) -> None:
    def serves_candidate(share_bp: int) -> bool:
        assignment = Assignment(stable="1", candidate="2", share_bp=share_bp, salt=salt, cohort=cohort)
        return assignment.version_for(edge_id=edge_id, site=site, labels=labels) == "2"

    smaller, larger = (serves_candidate(share_bp) for share_bp in shares)

    assert larger or not smaller
    assert 0 <= bucket_of(edge_id, salt=salt) < SHARE_BP_MAX
    assert serves_candidate(SHARE_BP_MAX) == cohort.matches(site=site, labels=labels)
    assert not serves_candidate(0)


@pytest.mark.parametrize("salt", ["", "2025-spring", "digits/2"])
def test_buckets_are_uniform(salt: str) -> None:
    """Chi-square over 100,000 ids in 100 cells: 99 degrees of freedom, 160 is beyond one in ten thousand."""
    cells = [0] * 100
    for count in range(100_000):
        cells[bucket_of(f"edge-{count}", salt=salt) // 100] += 1

    assert sum((observed - 1_000) ** 2 / 1_000 for observed in cells) < 160


def test_salts_are_independent() -> None:
    """Of the edges in a tenth under one salt, a tenth are in the tenth under another: 1000 of 100,000, within 5 sigma."""
    both = sum(
        bucket_of(f"edge-{count}", salt="a") < 1_000 and bucket_of(f"edge-{count}", salt="b") < 1_000
        for count in range(100_000)
    )

    assert abs(both - 1_000) < 160
