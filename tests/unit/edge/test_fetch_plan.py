"""What is fetched, in which order, and what gives way."""

from __future__ import annotations

from random import Random

import pytest

from edge_client.core.fetch_plan import FetchPlan, Job, LetGo
from edge_client.core.served import Target
from edge_client.protocol.models import Version

MS = 1_000_000


def version(name: str, size_bytes: int = 10) -> Version:
    return Version(version=name, digest=f"sha256:{name}", size_bytes=size_bytes)


def target(name: str, role: str = "current", size_bytes: int = 10) -> Target:
    return Target(version=version(name, size_bytes), role=role)


class Plan:
    def __init__(self, *, memory: int = 100, download: int = 1_000) -> None:
        self.core = FetchPlan(memory_bytes_max=memory, download_bytes_max=download, rng=Random(3))

    def want(self, model: str, *targets: Target, now_ns: int = 0) -> tuple[LetGo, ...]:
        gone = self.core.targets_changed(model, targets=targets, now_ns=now_ns)
        self.core.check_invariants()
        return gone

    def step(self, now_ns: int = 0) -> str | None:
        step = self.core.next_step(now_ns=now_ns)
        self.core.check_invariants()
        if isinstance(step, Job):
            return f"load {step.model}@{step.version.version}"
        return None if step is None else f"drop {step.model}@{step.digest.removeprefix('sha256:')}"

    def ready(self, model: str, name: str) -> bool:
        return self.core.ready(model, digest=f"sha256:{name}", now_ns=0)

    def failed(self, model: str, name: str, *, now_ns: int = 0) -> None:
        self.core.failed(model, digest=f"sha256:{name}", reason="because", now_ns=now_ns)

    def get(self, *names: str) -> None:
        for name in names:
            assert self.step() == f"load m@{name}"
            assert self.ready("m", name)


def test_goes_by_need_and_two_at_a_time():
    plan = Plan()
    plan.want("m", target("prev", "previous"), target("next", "prefetch"), target("pend", "pending"), target("cur"))
    plan.want("a", target("a1"))

    assert [plan.step(), plan.step(), plan.step()] == ["load a@a1", "load m@cur", None]
    assert plan.core.next_deadline_ns() is None
    assert plan.ready("m", "cur")
    assert plan.step() == "load m@pend"
    assert repr(plan.core) == (
        "<FetchPlan a@a1:current:running m@cur:current:ready m@pend:pending:running"
        " m@next:prefetch:waiting m@prev:previous:waiting>"
    )


def test_what_nobody_needs_is_let_go_and_what_comes_too_late_is_dropped():
    plan = Plan()
    plan.want("m", target("1"), target("2", "pending"))
    plan.get("1")
    assert plan.step() == "load m@2"

    assert plan.want("m", target("3")) == (LetGo(model="m", digest="sha256:1"),)
    assert not plan.ready("m", "2")
    assert plan.core.counters["loaded_in_vain"] == 1
    plan.failed("m", "2")
    assert plan.core.digests() == ("sha256:3",)


def test_failures_are_stated_and_tried_again_more_and_more_rarely():
    plan = Plan()
    plan.want("m", target("1"))
    now_ns, waits = 0, []
    for _ in range(10):
        assert plan.step(now_ns) == "load m@1"
        plan.failed("m", "1", now_ns=now_ns)
        assert plan.core.reasons("m") == {"sha256:1": "because"} and plan.core.reasons("x") == {}
        due_ns = plan.core.next_deadline_ns()
        assert due_ns is not None and plan.step(due_ns - 1) is None
        waits.append((due_ns - now_ns) // MS)
        now_ns = due_ns

    assert 187 <= waits[0] <= 313
    assert 22_500 <= waits[-1] <= 37_500
    plan.core.try_again(now_ns=now_ns - 1)
    assert plan.step(now_ns - 1) == "load m@1"
    assert plan.ready("m", "1") and plan.core.reasons("m") == {}
    plan.core.try_again(now_ns=0)


def test_the_one_before_gives_way_to_what_may_come_next():
    plan = Plan(memory=25)
    plan.want("m", target("1"), target("0", "previous"))
    plan.get("1", "0")
    plan.want("m", target("1"), target("2", "prefetch"), target("0", "previous"))

    assert plan.step() == "drop m@0"
    plan.get("2")
    assert "gave way" in plan.core.reasons("m")["sha256:0"]
    later_ns = plan.core.next_deadline_ns()
    assert later_ns is not None and plan.step(later_ns) is None
    assert "no room" in plan.core.reasons("m")["sha256:0"]


def test_what_runs_never_gives_way_even_above_the_budget():
    plan = Plan(memory=15)
    plan.want("m", target("1"), target("2", "pending"))
    plan.get("1", "2")
    assert plan.core.counters["memory_over_budget"] == 1
    plan.want("n", target("3"))
    assert plan.step() == "load n@3"


def test_what_may_come_next_waits_for_room_but_is_due_once_it_is_needed():
    plan = Plan(memory=15)
    plan.want("m", target("1"), target("2", "prefetch"))
    plan.get("1")
    assert plan.step() is None
    assert "no room" in plan.core.reasons("m")["sha256:2"]
    plan.want("m", target("1"), target("2", "pending"), now_ns=1)
    assert plan.step(1) == "load m@2"


def test_only_what_is_loaded_can_give_way():
    plan = Plan(memory=25)
    plan.want("m", target("0", "previous"))
    assert plan.step() == "load m@0"
    plan.want("m", target("0", "previous"), target("2", "pending", 20))
    assert plan.step() == "load m@2"
    assert plan.core.counters["memory_over_budget"] == 1


def test_a_previous_that_waits_gives_way_to_nobody_and_is_passed_over():
    plan = Plan(memory=40)
    plan.want("m", target("1", size_bytes=20), target("2", "prefetch", 20), target("0", "previous"))
    plan.get("1", "2")
    assert plan.step() is None
    plan.want("n", target("9", size_bytes=20))
    assert plan.step() == "drop m@2"
    assert plan.step() == "load n@9"


def test_an_artifact_beyond_the_limit_is_refused_with_a_reason():
    plan = Plan(download=5)
    plan.want("m", target("1"))
    assert plan.step() is None
    assert plan.core.reasons("m")["sha256:1"] == "10 bytes exceed download_bytes_max"


def test_reasons_are_bounded():
    plan = Plan()
    plan.want("m", target("1"))
    plan.step()
    plan.core.failed("m", digest="sha256:1", reason="x" * 1_000, now_ns=0)
    plan.core.check_invariants()
    assert len(plan.core.reasons("m")["sha256:1"]) == 300


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_needed_things_get_ready_and_nothing_is_lost(seed):
    rng = Random(seed)
    plan = Plan(memory=40)
    ready: set[tuple[str, str]] = set()
    running: list[tuple[str, str]] = []
    wanted: dict[str, tuple[Target, ...]] = {}
    now_ns = 0
    for _ in range(400):
        now_ns += rng.randrange(3_000 * MS)
        if rng.random() < 0.2:
            model = rng.choice("ab")
            names = rng.sample("12345", 4)
            roles = ("current", "pending", "prefetch", "previous")
            wanted[model] = tuple(target(n, r) for n, r in zip(names, roles, strict=True) if rng.random() < 0.7)
            for gone in plan.want(model, *wanted[model], now_ns=now_ns):
                ready.remove((gone.model, gone.digest))
        step = plan.core.next_step(now_ns=now_ns)
        plan.core.check_invariants()
        if isinstance(step, Job):
            running.append((step.model, step.version.digest))
        elif step is not None:
            ready.remove((step.model, step.digest))
        if running and rng.random() < 0.6:
            model, digest = running.pop(rng.randrange(len(running)))
            if rng.random() < 0.3:
                plan.core.failed(model, digest=digest, reason="x", now_ns=now_ns)
            elif plan.core.ready(model, digest=digest, now_ns=now_ns):
                ready.add((model, digest))
        needed = {(m, t.version.digest) for m, targets in wanted.items() for t in targets}
        assert ready <= needed


def test_no_fallback_overtakes_the_version_that_is_tried_first():
    plan = Plan()
    plan.want("m", target("1"), target("0", "previous"))
    assert [plan.step(), plan.step()] == ["load m@1", None]
    assert plan.core.next_deadline_ns() is None
    plan.failed("m", "1")
    assert plan.step() == "load m@0"
