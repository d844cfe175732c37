"""One message of each type, every field set; `wire_v1.json` records their bytes."""

from typing import Any

from edge_client.protocol.bucketing import CohortSelector
from edge_client.protocol.feature_classes import FeatureClass, FeatureCodec, FeatureKind, WhenFull
from edge_client.protocol.messages import (
    Beacon,
    ClockReply,
    ClockRequest,
    EdgeReport,
    Event,
    FeatureChanges,
    FeatureObservations,
    ReportReply,
    ServedModel,
    Snapshot,
    SnapshotChunk,
    SnapshotRefused,
    SnapshotRequest,
    Switch,
    Verdict,
)
from edge_client.protocol.models import Assignment, ModelView, Pending, Policy, Terms, Version
from edge_client.protocol.observations import Observations

NONCE = bytes(range(16))
_STABLE = Assignment(stable="1.0.0")
_CANARY = Assignment(
    stable="1.0.0",
    candidate="1.1.0",
    share_bp=500,
    salt="s",
    cohort=CohortSelector(sites=("berlin",), labels={"tier": "canary"}),
)
VIEW = ModelView(
    name="digits",
    policy=Policy(staleness_max_ms=500, fallback_allowed=False, versions_kept=5, prefetch_ms=1_000),
    generation=3,
    assignment=_STABLE,
    versions={
        "1.0.0": Version(
            version="1.0.0",
            digest="sha256:" + "0" * 64,
            size_bytes=1_024,
            metadata={"k": "v"},
            signatures=("ed25519 139e3940e64b5491 AAAA",),
        )
    },
    previous=_STABLE,
    pending=Pending(
        revision=42,
        generation=4,
        assignment=_CANARY,
        effective_at_ns=7_000_000_000,
        lead_ns=2_006_000_000,
        clock_id="c1",
        assumption=40,
        immediate=True,
        early_at_ns=5_000_000_000,
    ),
    prefetch=_CANARY,
    created=17,
)
FEATURE_CLASS = FeatureClass(
    name="track",
    kind=FeatureKind.CRITICAL,
    window_base_ms=4_000,
    window_floor_ms=400,
    window_ms=1_500,
    expire_ms=None,
    codec=FeatureCodec.SHUFFLE,
    flush_ms=250,
    shards=16,
    spool=True,
    when_full=WhenFull.BLOCK,
    announced=True,
)

REGION_MESSAGES: dict[str, Any] = {
    "beacon": Beacon(
        epoch=1_700_000_000,
        revision=42,
        clock_id="c1",
        assumption=40,
        assumed_at_ns=1_000,
        t0_ns=2_000,
        verdicts=(Verdict(revision=42, go=True),),
    ),
    "clock": ClockReply(epoch=2, clock_id="c1", nonce=NONCE, stamped_at_ns=3_000, node_id="n1", url="http://n1:80"),
    "event": Event(
        epoch=2,
        revision=42,
        name="ActivationScheduled",
        at_unix_ms=1_700_000_000_000,
        author="ci",
        detail={"model": "digits", "generation": 4},
        models=(VIEW,),
        removed=("old",),
        feature_classes=(FEATURE_CLASS,),
        feature_classes_removed=("plate",),
        publishers_revoked=("139e3940e64b5491",),
    ),
    "snapshot_chunk": SnapshotChunk(epoch=2, nonce=NONCE, revision=42, index=0, count=1, data=b"\x00\xff"),
    "snapshot_refused": SnapshotRefused(epoch=2, nonce=NONCE, revision=41, reason="behind"),
    "report_reply": ReportReply(epoch=2, edge_id="edge-1", life_id="l1", accepted=False, reason="taken"),
}
EDGE_MESSAGES: dict[str, Any] = {
    "clock_request": ClockRequest(nonce=NONCE),
    "snapshot_request": SnapshotRequest(nonce=NONCE, epoch_min=2, revision_min=42),
    "edge_report": EdgeReport(
        edge_id="edge-1",
        life_id="l1",
        site="berlin",
        labels={"tier": "canary"},
        epoch=2,
        revision=42,
        source="gossip",
        models=(
            ServedModel(
                model="digits",
                version="1.0.0",
                generation=3,
                guarantee="strong",
                staleness_bound_ms=0,
                ready=("sha256:" + "0" * 64,),
                failed={"sha256:" + "1" * 64: "corrupt"},
                fetched_bytes={"sha256:" + "2" * 64: 10},
                untrusted="publisher_revoked",
            ),
        ),
        switches=(
            Switch(model="digits", generation=3, activation=30, clock_id="c1", late_ns=-5, uncertainty_ns=300_000),
        ),
        reads={"strong": 1_000},
        uncertainty_ns=300_000,
        leaving=True,
    ),
    "edge_report_observed": EdgeReport(
        edge_id="edge-1",
        life_id="l1",
        epoch=2,
        revision=42,
        observations=(
            Observations(
                model="digits",
                version="1.0.0",
                generation=3,
                count=9,
                judged_count=5,
                failed_count=1,
                latencies={0: 1, 409: 8},
                scores={-329: 1, 346: 2},
                score_sum=1.5,
                score_square_sum=2.25,
                labels={"7": 8, "": 1},
            ),
        ),
    ),
    "edge_report_features": EdgeReport(
        edge_id="edge-1",
        life_id="l1",
        epoch=2,
        revision=42,
        features=(
            FeatureObservations(class_name="track", judged_count=7, failed_count=1, fetched_count=300, drift_sum=1.25),
        ),
    ),
    "feature_changes": FeatureChanges(
        writer=(1 << 64) - 1,
        changes=((1 << 63, 1_700_000_000_000 << 20), (17, (1_700_000_000_000 << 20) + 1)),
        patterns=(("track:*", 1_700_000_000_000 << 20),),
    ),
}
SNAPSHOT = Snapshot(
    epoch=2,
    revision=42,
    region="eu",
    terms=Terms(lease_ms=1_000, margin_ms=9, rho_ppm=400, fast_barrier=True),
    models=(VIEW,),
    feature_classes=(FEATURE_CLASS,),
    publishers_revoked=("139e3940e64b5491",),
)
