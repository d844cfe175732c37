"""Invariants 1, 2 and 3 of the protocol's section 11, for the reader alone, exactly; and mutants that break them."""

from collections import Counter
from random import Random

import pytest

from edge_client.protocol import reader as reader_module
from edge_client.protocol.drift import Drift
from edge_client.protocol.messages import Beacon, ClockReply
from edge_client.protocol.models import Terms
from edge_client.protocol.position import Position
from edge_client.protocol.reader import Reader, SendClockRequest
from tests.simulation.reader.mutants import MUTANTS, Mutant
from tests.simulation.reader.world import Scene, World

BATCH = 20


def scene(seed: int) -> Scene:
    """Every seed its own stage: how much clocks drift, how long a lease is, whether readers distrust their own clock."""
    return Scene(seed=seed, rho=(50, 50, 10, 1)[seed % 4], lease_ms=(400, 400, 150)[seed % 3], distrust=seed % 5 == 0)


def play(seeds: range) -> Counter[str]:
    """Play them all; nothing may be wrong, and the sum of what was seen shows that something was tried."""
    seen: Counter[str] = Counter()
    for seed in seeds:
        verdict = World(scene(seed)).run()
        assert verdict.violations() == {}, f"seed {seed}"
        seen += verdict.seen
        seen["activations"] += len(verdict.effective_us)
        seen["bounds"] += len(verdict.bounds)
    return seen


@pytest.mark.parametrize("batch", range(8))
def test_readers_keep_their_promises(batch):
    seen = play(range(batch * BATCH, (batch + 1) * BATCH))

    assert seen["activations"] > 4 * BATCH
    assert seen["settled"] > 3 * BATCH
    assert seen["open_switches"] > 10 * BATCH
    assert seen["bounds"] > 500 * BATCH
    assert seen["strong_us"] > 0.4 * BATCH * Scene(seed=0).duration_ms * 1_000 * 4  # of all readers' time


def test_readers_keep_their_promises_in_cramped_memory(monkeypatch):
    """Forgotten clocks, beacons and requests cost liveness, never truth."""
    for limit in ("CLOCKS_MAX", "BEACONS_KEPT", "REQUESTS_MAX"):
        monkeypatch.setattr(reader_module, limit, 2)

    seen = play(range(BATCH))

    assert seen["strong_us"] > 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_readers_keep_their_promises_for_long():
    play(range(1_000, 3_000))


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_every_rule_is_needed(mutant: Mutant, monkeypatch):
    mutant.install(monkeypatch)

    assert any(
        mutant.breaks & World(Scene(seed=seed)).run().violations().keys() for seed in range(mutant.caught_within)
    ), f"{mutant} was not noticed within {mutant.caught_within} seeds"


# ---- directed: what seeds do not find


def test_the_bound_is_told_in_real_time(monkeypatch):
    """A slow service clock, sampled afresh at no distance, and a reader that has heard nothing for twenty leases.

    The rate error of the bound matters once it exceeds the lease by which every activation is late: after L / rho.
    """
    terms = Terms(lease_ms=1_000, margin_ms=110, rho_ppm=50_000)
    second_us, rate = 1_000_000, 950
    superseded_us = (terms.lease_ns + terms.margin_ns) / rate

    def shortfall_ns() -> float:
        """By how much the true staleness exceeds the bound after 30 s."""
        reader = Reader(terms=terms, rng=Random(1))
        now_ns = 30 * second_us * 1_000  # the reader's clock is right
        reader.epoch_began(Position(1, 1), terms=terms, now_ns=0)
        reader.beacon_received(
            Beacon(epoch=1, revision=1, clock_id="c", assumption=1, assumed_at_ns=0, t0_ns=0), now_ns=0
        )
        (request, *_) = (e for e in reader.started(now_ns=now_ns) if isinstance(e, SendClockRequest))
        reader.clock_reply_received(
            ClockReply(
                epoch=1,
                clock_id="c",
                nonce=request.nonce,
                stamped_at_ns=30 * second_us * rate,
                node_id="n",
                url="",
            ),
            now_ns=now_ns,
        )
        bound_ns = reader.staleness_bound_ns(None, serve_next=False, now_ns=now_ns)
        assert bound_ns is not None
        return (30 * second_us - superseded_us) * 1_000 - bound_ns

    assert shortfall_ns() <= 0
    monkeypatch.setattr(Drift, "real_ns_max", lambda _self, elapsed_ns: elapsed_ns)
    assert shortfall_ns() > 0
