"""What a walk over the fleet counts: who gets the candidate is what edges themselves compute, and each counts once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from consistency_service.core.fleet import LIVE_NS, Fleet
from consistency_service.core.rollout import Phase
from consistency_service.core.strategy import Stage, Strategy
from consistency_service.runtime import rollout_facts
from consistency_service.runtime.rollout_facts import Buckets, Share, Tally, readiness_of
from edge_client.protocol.bucketing import CohortSelector, bucket_of
from edge_client.protocol.messages import EdgeReport, ServedModel
from edge_client.protocol.models import Assignment
from tests.support.rollouts import RolloutRegion

sites = st.sampled_from(["", "north", "south"])
labels = st.dictionaries(st.sampled_from(["ring", "os"]), st.sampled_from(["a", "b"]), max_size=2)


def served(model: str, *, ready: tuple[str, ...] = (), failed: dict[str, str] | None = None) -> ServedModel:
    return ServedModel(
        model=model,
        version="1.0.0",
        generation=1,
        guarantee="strong",
        staleness_bound_ms=None,
        ready=ready,
        failed=failed or {},
    )


def report(edge_id: str, *models: ServedModel, **more) -> EdgeReport:
    return EdgeReport(edge_id=edge_id, life_id="1", epoch=1, revision=1, models=models, **more)


@given(
    share_bp=st.integers(0, 10_000),
    cohort=st.builds(
        CohortSelector, sites=st.lists(st.sampled_from(["north", "south"]), max_size=2).map(tuple), labels=labels
    ),
    edges=st.lists(st.tuples(st.integers(0, 50), sites, labels), min_size=1, max_size=20),
)
def test_who_gets_the_candidate_is_what_the_edge_computes(share_bp, cohort, edges):
    assignment = Assignment(stable="1", candidate="2", share_bp=share_bp, salt="s", cohort=cohort)
    share = Share(assignment, buckets=Buckets())

    for number, site, its_labels in edges:
        edge = report(f"e{number}", site=site, labels=its_labels)
        version = assignment.version_for(edge_id=edge.edge_id, site=site, labels=its_labels)
        assert (version == "2") == share.includes(edge)


def test_buckets_are_bounded_over_all_rollouts_and_right_when_they_were_forgotten(monkeypatch):
    monkeypatch.setattr(rollout_facts, "BUCKETS_MAX", 30)
    monkeypatch.setattr(rollout_facts, "SALTS_MAX", 3)
    buckets, computed = Buckets(), []

    def counted(edge_id, *, salt):
        computed.append(edge_id)
        return bucket_of(edge_id, salt=salt)

    monkeypatch.setattr(rollout_facts, "bucket_of", counted)
    assignments = [Assignment(stable="1", candidate="2", share_bp=5_000, salt=f"s{n}") for n in range(4)]
    shares = [Share(assignment, buckets=buckets) for assignment in assignments]

    for _ in range(3):
        for number in range(10):
            edge = report(f"e{number}")
            for assignment, share in zip(assignments[1:], shares[1:], strict=True):
                wanted = assignment.version_for(edge_id=edge.edge_id, site="", labels={})
                assert share.includes(edge) == (wanted == "2")
    assert len(computed) == 30, "what is known is not computed again"

    for number in range(100):
        for share in shares:
            share.includes(report(f"f{number}"))
        assert sum(len(buckets.of(f"s{n}")) for n in (1, 2, 3)) <= 30


def test_an_edge_is_as_far_as_the_last_of_its_models_and_the_dead_do_not_count():
    region = RolloutRegion()
    region.create(models={"m": "2.0.0", "n": "2.0.0"}, strategy=Strategy(stages=(Stage(share_bp=10_000),)))
    m, n = (region.state.models[name].versions["2.0.0"].digest for name in ("m", "n"))
    fleet = Fleet()
    for said in (
        report("both", served("m", ready=(m,)), served("n", ready=(n,))),
        report("half", served("m", ready=(m,)), served("n", ready=("other",))),
        report("broken", served("m", failed={m: "no memory"}), served("n")),
        report("one", served("m", ready=(m,))),
        report("other", served("x", ready=(m,))),
        report("leaving", served("m", ready=(m,)), leaving=True),
    ):
        fleet.report_received(said, unix_ms=0, now_ns=0)
    rollout = region.rollout()

    def tally(now_ns: int) -> Tally:
        found = readiness_of([rollout], state=region.state, views=fleet.views(), buckets=Buckets(), now_ns=now_ns)
        return found["r"]

    assert rollout.phase is Phase.PREFETCHING
    assert Tally(ready=2, waiting=1, failed=1) == tally(0)
    assert Tally() == tally(LIVE_NS + 1)
