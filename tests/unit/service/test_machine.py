"""The metadata state machine: who may speak, in turn, once; and what is then decided."""

from __future__ import annotations

import pytest

from consistency_service.core import commands as c
from consistency_service.core import ledger
from consistency_service.core import machine as machine_module
from consistency_service.core.machine import MetadataMachine
from consistency_service.core.outcomes import Outcome
from edge_client.protocol.models import Assignment, Policy, Terms, Version
from tests.support.region import MS, activation, assume, bootstrapped, version


def settle(
    machine: MetadataMachine, *settled: int, clock_id: str, assumption: int, number: int, t0_ns: int = 9_000 * MS
) -> Outcome:
    return machine.apply(
        c.ConfirmAuthority(clock_id=clock_id, assumption=assumption, number=number, t0_ns=t0_ns, settled=settled)
    )


def test_nothing_is_accepted_before_bootstrap() -> None:
    outcome = MetadataMachine().apply(c.CreateModel(model="m", policy=Policy()))

    assert outcome == Outcome(code="not_bootstrapped")


def test_bootstrap_happens_once_and_only_with_a_good_name() -> None:
    machine = MetadataMachine()

    assert machine.apply(c.Bootstrap(region="Bad Name", region_epoch=1, terms=Terms())).code == "invalid"
    assert machine.apply(c.Bootstrap(region="r", region_epoch=0, terms=Terms())).code == "invalid"
    assert machine.apply(c.Bootstrap(region="r", region_epoch=1, terms=Terms())).ok
    assert machine.apply(c.Bootstrap(region="r", region_epoch=2, terms=Terms())).code == "bootstrapped_already"
    assert machine.state.epoch == 1


def test_assuming_is_compare_and_set() -> None:
    machine = bootstrapped()
    first = assume(machine, clock_id="a")
    late = c.AssumeAuthority(clock_id="b", node_id="b", replaces=0)

    assert machine.apply(late) == Outcome(
        code="assumption_replaced", revision=machine.state.revision, detail={"assumption": first}
    )
    assert machine.state.authority is not None and machine.state.authority.clock_id == "a"


def test_a_deposed_authority_and_an_old_assumption_are_refused() -> None:
    machine = bootstrapped()
    old = assume(machine, clock_id="a")
    assume(machine, clock_id="b")
    mine_again = assume(machine, clock_id="a")

    assert machine.apply(activation("1.0.0", clock_id="b", assumption=mine_again, number=1)).code == "not_authority"
    assert machine.apply(activation("1.0.0", clock_id="a", assumption=old, number=1)).code == "not_authority"
    assert machine.apply(activation("1.0.0", clock_id="a", assumption=mine_again, number=1)).ok


def test_a_number_counts_once_passed_even_if_the_command_is_refused_afterwards() -> None:
    machine = bootstrapped()
    assumption = assume(machine, clock_id="a")

    assert machine.apply(activation("9.9.9", clock_id="a", assumption=assumption, number=5)).code == "unknown_version"
    refused = machine.apply(activation("1.0.0", clock_id="a", assumption=assumption, number=5))

    assert refused.code == "number_passed"
    assert machine.apply(activation("1.0.0", clock_id="a", assumption=assumption, number=6)).ok


def test_a_refusal_for_its_number_leaves_the_request_id_free() -> None:
    machine = bootstrapped()
    assumption = assume(machine, clock_id="a")
    settle(machine, clock_id="a", assumption=assumption, number=3)

    late = activation("1.0.0", clock_id="a", assumption=assumption, number=2, request_id="q", fingerprint="f")
    fresh = activation("1.0.0", clock_id="a", assumption=assumption, number=4, request_id="q", fingerprint="f")

    assert machine.apply(late).code == "number_passed"
    assert machine.apply(fresh).ok


def test_a_repeated_request_takes_effect_once_and_gets_the_same_answer() -> None:
    machine = bootstrapped()
    create = c.CreateModel(model="n", policy=Policy(), request_id="q", fingerprint="f")

    first = machine.apply(create)
    revision = machine.state.revision

    assert machine.apply(create) == first
    assert machine.state.revision == revision
    other = c.CreateModel(model="o", policy=Policy(), request_id="q", fingerprint="other")
    assert machine.apply(other).code == "request_id_reused"


def test_refusals_are_remembered_too_and_old_requests_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = bootstrapped()
    monkeypatch.setattr(machine_module, "REQUESTS_MAX", 2)
    for request_id in ("a", "b", "c"):
        machine.apply(c.CreateModel(model="m", policy=Policy(), request_id=request_id))

    assert list(machine.state.requests) == ["b", "c"]
    assert machine.state.counters["requests_forgotten"] == 1
    too_long = c.CreateModel(model="n", policy=Policy(), request_id="x" * 300)
    assert machine.apply(too_long).code == "invalid"


def test_an_activation_is_pending_until_settled_by_name() -> None:
    machine = bootstrapped()
    assumption = assume(machine, clock_id="a")
    decided = machine.apply(activation("1.0.0", clock_id="a", assumption=assumption, number=1))
    model = machine.state.models["m"]

    assert model.pending is not None and model.pending.revision == decided.revision
    assert (model.generation, model.assignment) == (0, None)
    again = machine.apply(activation("2.0.0", clock_id="a", assumption=assumption, number=2))
    assert again.code == "activation_pending" and again.detail["activation"] == decided.revision

    unsettled = settle(machine, decided.revision + 1, clock_id="a", assumption=assumption, number=3)
    assert unsettled.revision == decided.revision and model.pending is not None

    early = settle(machine, decided.revision, clock_id="a", assumption=assumption, number=4, t0_ns=4_999 * MS)
    assert early.revision == decided.revision and model.pending is not None

    done = settle(machine, decided.revision, clock_id="a", assumption=assumption, number=5, t0_ns=5_000 * MS)
    assert done.revision == decided.revision + 1
    assert machine.state.models["m"].view().pending is None
    assert (model.generation, model.assignment) == (1, Assignment(stable="1.0.0"))
    machine.check_invariants()


def test_a_foreign_activation_is_settled_only_by_settle_pending() -> None:
    machine = bootstrapped()
    first = assume(machine, clock_id="a")
    decided = machine.apply(activation("1.0.0", clock_id="a", assumption=first, number=1))
    second = assume(machine, clock_id="b")

    confirmed = settle(machine, decided.revision, clock_id="b", assumption=second, number=1)
    assert confirmed.revision == second and machine.state.pendings()

    foreign = c.SettlePending(clock_id="b", assumption=second, number=2, activation=decided.revision)
    assert machine.apply(foreign).ok and not machine.state.pendings()
    again = c.SettlePending(clock_id="b", assumption=second, number=3, activation=decided.revision)
    assert machine.apply(again).code == "nothing_pending"


def test_the_own_activation_is_not_settled_as_foreign() -> None:
    machine = bootstrapped()
    assumption = assume(machine, clock_id="a")
    decided = machine.apply(activation("1.0.0", clock_id="a", assumption=assumption, number=1))
    command = c.SettlePending(clock_id="a", assumption=assumption, number=2, activation=decided.revision)

    assert machine.apply(command).code == "own_activation"


def test_changes_of_one_activation_apply_all_or_none() -> None:
    machine = bootstrapped()
    machine.apply(c.CreateModel(model="n", policy=Policy()))
    assumption = assume(machine, clock_id="a")
    stable = Assignment(stable="1.0.0")
    both = (c.Change(model="m", assignment=stable), c.Change(model="n", assignment=stable))
    command = c.ActivateGeneration(
        clock_id="a", assumption=assumption, number=1, changes=both, effective_at_ns=1, lead_ns=1
    )

    assert machine.apply(command).code == "unknown_version"
    assert not machine.state.pendings()

    machine.apply(c.RegisterVersion(model="n", version=version("1.0.0")))
    command = c.ActivateGeneration(
        clock_id="a", assumption=assumption, number=2, changes=both, effective_at_ns=1, lead_ns=1
    )
    assert machine.apply(command).detail["generations"] == {"m": 1, "n": 1}
    settle(machine, machine.state.revision, clock_id="a", assumption=assumption, number=3)
    assert [machine.state.models[name].generation for name in ("m", "n")] == [1, 1]


@pytest.mark.parametrize(
    ("changes", "lead_ns", "code"),
    [
        ((), 1, "invalid"),
        ((c.Change(model="m", assignment=Assignment(stable="1.0.0")),) * 2, 1, "invalid"),
        ((c.Change(model="m", assignment=Assignment(stable="1.0.0")),), 0, "invalid"),
        ((c.Change(model="m", assignment=Assignment(stable="1.0.0", salt="x" * 9_000)),), 1, "invalid"),
        ((c.Change(model="x", assignment=Assignment(stable="1.0.0")),), 1, "unknown_model"),
        (
            (c.Change(model="m", assignment=Assignment(stable="1.0.0"), generation_expected=4),),
            1,
            "generation_mismatch",
        ),
    ],
)
def test_nonsense_activations_are_refused(changes: tuple[c.Change, ...], lead_ns: int, code: str) -> None:
    machine = bootstrapped()
    assumption = assume(machine, clock_id="a")
    command = c.ActivateGeneration(
        clock_id="a", assumption=assumption, number=1, changes=changes, effective_at_ns=1, lead_ns=lead_ns
    )

    assert machine.apply(command).code == code


def test_activating_what_is_active_changes_nothing() -> None:
    machine = bootstrapped()
    assumption = assume(machine, clock_id="a")
    decided = machine.apply(activation("1.0.0", clock_id="a", assumption=assumption, number=1))
    settle(machine, decided.revision, clock_id="a", assumption=assumption, number=2)

    assert machine.apply(activation("1.0.0", clock_id="a", assumption=assumption, number=3)).code == "unchanged"


def test_versions_are_immutable() -> None:
    machine = bootstrapped()
    revision = machine.state.revision

    same = machine.apply(c.RegisterVersion(model="m", version=version("1.0.0")))
    other = machine.apply(c.RegisterVersion(model="m", version=version("1.0.0", filler="f")))
    bad = Version(version="4.0.0", digest="md5:0", size_bytes=1)
    fat = Version(version="4.0.0", digest=version("x").digest, size_bytes=1, metadata={"k": "v" * 9_000})

    assert same.detail == {"existed": True} and machine.state.revision == revision
    assert other.code == "version_conflict"
    assert machine.apply(c.RegisterVersion(model="m", version=bad)).code == "invalid"
    assert machine.apply(c.RegisterVersion(model="m", version=fat)).code == "invalid"


def test_what_is_used_is_not_deleted() -> None:
    machine = bootstrapped()
    assumption = assume(machine, clock_id="a")
    decided = machine.apply(activation("1.0.0", clock_id="a", assumption=assumption, number=1))

    assert machine.apply(c.DeleteVersion(model="m", version="1.0.0")).code == "version_in_use"
    assert machine.apply(c.DeleteModel(model="m")).code == "activation_pending"
    settle(machine, decided.revision, clock_id="a", assumption=assumption, number=2)
    assert machine.apply(c.DeleteVersion(model="m", version="2.0.0")).ok
    assert machine.apply(c.DeleteVersion(model="m", version="2.0.0")).code == "unknown_version"
    assert machine.apply(c.DeleteModel(model="m", generation_expected=7)).code == "generation_mismatch"
    assert machine.apply(c.DeleteModel(model="m", generation_expected=1)).ok
    assert machine.state.outbox[-1].removed == ("m",)


def test_models_have_names_limits_and_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = bootstrapped()
    monkeypatch.setattr(machine_module, "MODELS_MAX", 1)
    monkeypatch.setattr(machine_module, "VERSIONS_MAX", 3)

    assert machine.apply(c.CreateModel(model="No", policy=Policy())).code == "invalid"
    assert machine.apply(c.CreateModel(model="m", policy=Policy())).code == "model_exists"
    assert machine.apply(c.CreateModel(model="n", policy=Policy())).code == "limit_reached"
    assert machine.apply(c.RegisterVersion(model="m", version=version("4.0.0"))).code == "limit_reached"
    revision = machine.state.revision
    assert machine.apply(c.ChangePolicy(model="m", policy=Policy())).revision == revision
    assert machine.apply(c.ChangePolicy(model="m", policy=Policy(staleness_max_ms=5))).revision == revision + 1


def test_prefetch_is_announced_once_and_ends_with_the_settlement() -> None:
    machine = bootstrapped()
    assumption = assume(machine, clock_id="a")
    wanted = Assignment(stable="2.0.0")
    request = c.RequestPrefetch(model="m", assignment=wanted)

    assert machine.apply(c.RequestPrefetch(model="m", assignment=Assignment(stable="8.0.0"))).code == "unknown_version"
    revision = machine.apply(request).revision
    assert machine.apply(request).revision == revision
    assert "2.0.0" in machine.state.outbox[-1].models[0].versions
    decided = machine.apply(activation("2.0.0", clock_id="a", assumption=assumption, number=1))
    settle(machine, decided.revision, clock_id="a", assumption=assumption, number=2)
    assert machine.state.models["m"].prefetch is None
    assert machine.apply(c.RequestPrefetch(model="m", assignment=None)).revision == machine.state.revision


def test_the_outbox_holds_each_revision_once_and_is_trimmed_by_the_authority(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = bootstrapped()
    assumption = assume(machine, clock_id="a")
    assert [event.revision for event in machine.state.outbox] == list(range(1, machine.state.revision + 1))

    trim = c.ConfirmAuthority(clock_id="a", assumption=assumption, number=1, t0_ns=0, published_through=4)
    machine.apply(trim)
    assert [event.revision for event in machine.state.outbox] == list(range(5, machine.state.revision + 1))

    beyond = c.ConfirmAuthority(clock_id="a", assumption=assumption, number=2, t0_ns=0, published_through=999)
    machine.apply(beyond)
    assert machine.state.outbox == [] and machine.state.published_through == machine.state.revision

    monkeypatch.setattr(ledger, "OUTBOX_MAX", 2)
    for name in ("x", "y", "z"):
        machine.apply(c.CreateModel(model=name, policy=Policy()))
    assert len(machine.state.outbox) == 2 and machine.state.counters["outbox_overflowed"] == 1


def test_history_and_audit_tell_who_did_what(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = bootstrapped()
    assumption = assume(machine, clock_id="a")
    machine.apply(
        activation("1.0.0", clock_id="a", assumption=assumption, number=1, author="ann", proposed_at_unix_ms=1_000)
    )

    entry = machine.state.models["m"].history[0]
    assert (entry.author, entry.generation, entry.effective_at_unix_ms) == ("ann", 1, 3_006)
    assert machine.state.audit[-1].subject == "m" and machine.state.audit[-1].code == "ok"
    monkeypatch.setattr(machine_module, "AUDIT_MAX", 1)
    machine.apply(c.ChangePolicy(model="m", policy=Policy(), author="bob"))
    assert [entry.author for entry in machine.state.audit] == ["bob"]


def test_snapshot_and_restore_give_an_equal_machine() -> None:
    machine = bootstrapped()
    assumption = assume(machine, clock_id="a")
    machine.apply(activation("1.0.0", clock_id="a", assumption=assumption, number=1, request_id="q"))
    copy = MetadataMachine()

    copy.restore(machine.snapshot())

    assert copy.state == machine.state and copy.snapshot() == machine.snapshot()
    with pytest.raises(ValueError, match="not a state"):
        copy.restore(b"\xc1")
    machine.state.version = 99
    with pytest.raises(ValueError, match="state version 99"):
        copy.restore(machine.snapshot())


def test_bytes_that_are_no_command_are_none_and_big_ones_are_refused() -> None:
    command = c.CreateModel(model="m", policy=Policy())

    assert c.decode_command(c.encode_command(command)) == command
    for junk in (b"", b"\x02", b"\x01\xc1", b"\x01" + b"\x91" * 100_000):
        assert c.decode_command(junk) is None
    with pytest.raises(ValueError, match="limit"):
        c.encode_command(c.CreateModel(model="m" * (1 << 20), policy=Policy()))
