"""How many bytes what is said on the bus takes: `python -m ops.bench.wire_sizes`. Exact, and the same on every machine."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_client.protocol.envelope import Signer
from edge_client.protocol.messages import (
    Beacon,
    ClockReply,
    ClockRequest,
    EdgeReport,
    Event,
    ServedModel,
    encode_edge,
    encode_region,
)
from edge_client.protocol.models import Assignment, ModelView, Pending, Policy, Version
from edge_client.protocol.observations import Observations

DIGEST = "sha256:" + "5a" * 32
NOW_NS = 9_000_000_000_000_000
NATS_LINE_BYTES = 30
"""`MSG`, a subscription's number, a reply subject now and then, sizes and line ends, beside the subject itself."""


def view(name: str) -> ModelView:
    versions = {
        version: Version(version=version, digest=DIGEST, size_bytes=80_000_000, metadata={"commit": "4f2a91c"})
        for version in ("2.3.0", "2.2.0", "2.4.0")
    }
    pending = Pending(
        revision=1_000,
        generation=8,
        assignment=Assignment(stable="2.4.0"),
        effective_at_ns=NOW_NS,
        lead_ns=2_006_000_000,
        clock_id="c" * 32,
        assumption=900,
    )
    return ModelView(
        name=name,
        policy=Policy(),
        generation=7,
        assignment=Assignment(stable="2.3.0"),
        versions=versions,
        previous=Assignment(stable="2.2.0"),
        pending=pending,
    )


def report(model_count: int, *, observed: bool) -> bytes:
    served = ServedModel(
        model="text-detector",
        version="2.3.0",
        generation=7,
        guarantee="strong",
        staleness_bound_ms=0,
        ready=(DIGEST,) * 2,
    )
    sheet = Observations(
        model="text-detector",
        version="2.3.0",
        generation=7,
        count=30_000,
        judged_count=300,
        failed_count=3,
        latencies=dict.fromkeys(range(500, 550), 600),
        scores=dict.fromkeys(range(600, 650), 600),
        score_sum=27_000.0,
        score_square_sum=25_000.0,
        labels={f"label-{number}": 3_000 for number in range(10)},
    )
    return encode_edge(
        EdgeReport(
            edge_id="dock-3-camera-17",
            life_id="0123456789abcdef",
            site="dock-3",
            labels={"gpu": "orin"},
            epoch=1,
            revision=1_000,
            models=(served,) * model_count,
            reads={"strong": 30_000},
            uncertainty_ns=400_000,
            observations=(sheet,) * (model_count if observed else 0),
        )
    )


def sizes() -> dict[str, int]:
    """What to its bytes, the line of NATS and its subject included."""
    signer = Signer(Ed25519PrivateKey.generate())
    beacon = Beacon(epoch=1, revision=1_000, clock_id="c" * 32, assumption=900, assumed_at_ns=NOW_NS, t0_ns=NOW_NS)
    reply = ClockReply(
        epoch=1, clock_id="c" * 32, nonce=b"n" * 16, stamped_at_ns=NOW_NS, node_id="node-1", url="http://10.0.0.1:8700"
    )
    event = Event(
        epoch=1, revision=1_000, name="ActivationScheduled", at_unix_ms=NOW_NS // 10**6, models=(view("text-detector"),)
    )
    around = NATS_LINE_BYTES + len("ccs.harbour.report.dock-3-camera-17")
    frames = {
        "a beacon": encode_region(beacon, signer=signer),
        "a clock request": encode_edge(ClockRequest(nonce=b"n" * 16)),
        "a clock reply": encode_region(reply, signer=signer),
        "an event with one model, pending": encode_region(event, signer=signer),
        "a report, one model": report(1, observed=False),
        "a report, one model, with what came of its readings": report(1, observed=True),
        "a report, five models, likewise": report(5, observed=True),
    }
    return {what: len(frame) + around for what, frame in frames.items()}


def main() -> None:
    """Print them."""
    for what, size_bytes in sizes().items():
        print(f"{size_bytes:>6,} B  {what}")


if __name__ == "__main__":
    main()
