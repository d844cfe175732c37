"""On which side of a rollout an edge falls: recorded, because it must never change."""

import msgspec
import pytest

from edge_client.protocol.bucketing import CohortSelector, bucket_of
from edge_client.protocol.models import Assignment, ModelView, Pending, Policy, Terms, Version

GOLDEN = {
    ("", ""): 3_192,
    ("", "edge-1"): 2_776,
    ("2025-spring", "edge-1"): 1_921,
    ("2025-spring", "edge-2"): 3_029,
    ("2025-spring", "store-0042.till-3"): 9_531,
    ("2025-autumn", "edge-1"): 8_458,
    ("salz", "kante-ü"): 1_381,
    ("s", "x" * 128): 16,
}


@pytest.mark.parametrize("salt, edge_id", GOLDEN)
def test_buckets_never_change(salt, edge_id):
    assert GOLDEN[salt, edge_id] == bucket_of(edge_id, salt=salt)


@pytest.mark.parametrize(
    "selector, expected",
    [
        (CohortSelector(), True),
        (CohortSelector(sites=("berlin",)), True),
        (CohortSelector(sites=("paris", "berlin")), True),
        (CohortSelector(sites=("paris",)), False),
        (CohortSelector(labels={"tier": "canary"}), True),
        (CohortSelector(labels={"tier": "canary", "gpu": "yes"}), False),
        (CohortSelector(labels={"tier": "stable"}), False),
        (CohortSelector(sites=("paris",), labels={"tier": "canary"}), False),
        (CohortSelector(sites=("berlin",), labels={"tier": "canary"}), True),
    ],
)
def test_a_cohort_is_any_of_the_sites_and_all_of_the_labels(selector, expected):
    assert expected == selector.matches(site="berlin", labels={"tier": "canary", "zone": "b"})


def test_an_assignment_without_candidate_is_stable_for_everybody():
    assignment = Assignment(stable="1.0.0")

    assert assignment.version_for(edge_id="e", site="", labels={}) == "1.0.0"
    assert assignment.versions() == ("1.0.0",)


@pytest.mark.parametrize("share_bp, expected", [(0, "1.0.0"), (10_000, "2.0.0")])
def test_the_ends_of_the_share_are_nobody_and_everybody(share_bp, expected):
    assignment = Assignment(stable="1.0.0", candidate="2.0.0", share_bp=share_bp, salt="s")

    assert {assignment.version_for(edge_id=f"e{i}", site="", labels={}) for i in range(500)} == {expected}
    assert assignment.versions() == ("1.0.0", "2.0.0")


def test_the_share_covers_the_buckets_below_it():
    bucket = bucket_of("edge-1", salt="2025-spring")

    for share_bp, expected in ((bucket, "1.0.0"), (bucket + 1, "2.0.0")):
        assignment = Assignment(stable="1.0.0", candidate="2.0.0", share_bp=share_bp, salt="2025-spring")
        assert expected == assignment.version_for(edge_id="edge-1", site="", labels={})


def test_outside_the_cohort_nobody_serves_the_candidate():
    assignment = Assignment(
        stable="1.0.0", candidate="2.0.0", share_bp=10_000, salt="s", cohort=CohortSelector(sites=("berlin",))
    )

    assert assignment.version_for(edge_id="e", site="paris", labels={}) == "1.0.0"
    assert assignment.version_for(edge_id="e", site="berlin", labels={}) == "2.0.0"


@pytest.mark.parametrize("share_bp", [-1, 10_001])
def test_a_share_outside_its_range_is_refused(share_bp):
    with pytest.raises(ValueError, match="share_bp"):
        Assignment(stable="1.0.0", share_bp=share_bp)


def test_terms_default_to_two_seconds():
    terms = Terms()

    assert (terms.lease_ns, terms.margin_ns) == (2_000_000_000, 6_000_000)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"lease_ms": 0}, "lease_ms and margin_ms"),
        ({"margin_ms": 0}, "lease_ms and margin_ms"),
        ({"margin_ms": 2}, "lease_ms \\* \\(kappa - 1\\) = 2.001"),
        ({"rho_ppm": -1}, "rho_ppm"),
        ({"rho_ppm": 200_001, "margin_ms": 10_000}, "rho_ppm"),
        ({"rho_ppm": 1_000_000, "margin_ms": 10_000}, "rho_ppm"),
        ({"rho_ppm": 2_000_000}, "rho_ppm"),
    ],
)
def test_terms_that_break_the_proof_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Terms(**fields)


def test_views_come_back_from_their_bytes_as_they_were():
    old, new = Assignment(stable="1.0.0"), Assignment(stable="2.0.0")
    view = ModelView(
        name="digits",
        policy=Policy(staleness_max_ms=500),
        generation=3,
        assignment=old,
        versions={"1.0.0": Version(version="1.0.0", digest="sha256:" + "0" * 64, size_bytes=1)},
        previous=None,
        pending=Pending(
            revision=9, generation=4, assignment=new, effective_at_ns=5, lead_ns=4, clock_id="c", assumption=2
        ),
    )

    assert view == msgspec.msgpack.decode(msgspec.msgpack.encode(view), type=ModelView)
