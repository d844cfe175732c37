"""What a rollout looks like, phase by phase: transcripts made from what a region tells."""

from __future__ import annotations

import io
from textwrap import dedent
from typing import Any

import pytest
from rich.console import Console

from consistency_service.cli.rollout_view import check_text, line_of, view_of
from consistency_service.core.strategy import Check, Metric
from tests.unit.cli.fake_rollouts import AT, check, finding, live, move, rollout, target


def drawn(told, *, width: int = 100, freeze=None) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False, emoji=False)
    for part in view_of(told, freeze=freeze):
        console.print(part)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


STARTED = [move(1, "start", "prefetching", author="ada", reason="retrained")]
BAKING = [*STARTED, move(2, "activate", "baking", reason="stage 1 of 3: 2 of 2 live edges are ready")]


def test_edges_get_ready():
    failed = {"edge-7": "the disk is full"}
    told = rollout(
        "prefetching",
        transitions=STARTED,
        live=live(ready_count=1, waiting_count=2, failed_count=1, waiting=["edge-1", "edge-2"], failed=failed),
    )

    assert drawn(told) == dedent(
        """\
        model    digits 1.0.0 → 2.0.0
        rollout  r-1  by ada, 2026-11-22T07:42:14Z
        phase    prefetching, stage 1 of 3
                 edges get ready for 1 %

        STAGE  SHARE  COHORT      BAKE  GATE    STATE
            1    1 %  every edge  30s   auto    gets ready
            2   10 %  every edge  30s   auto    -
            3  100 %  every edge  -     manual  -

        ready   1 of 4 live edges with the candidate loaded, 2 not yet, 1 cannot
        behind  edge-7: the disk is full

        AT        MOVE   LED TO           BY   WHY
        07:42:15  start  prefetching 1/3  ada  retrained
        """
    )


def test_a_stage_bakes_and_is_compared():
    rates: dict[str, Any] = {"value_candidate": 0.12, "value_stable": 0.021, "difference": 0.099}
    slow: dict[str, Any] = {"value_candidate": 48.21, "value_stable": 40.0, "difference": 1.205}
    told = rollout(
        "baking",
        active_stage=0,
        baked_ms=12_000,
        transitions=BAKING,
        live=live(
            ready_count=2,
            switched_count=1,
            straggler_count=1,
            stragglers={"edge-2": "serves 1.0.0, generation 3, not 2.0.0"},
            findings=[
                finding("failed", found=check(worse_max=0.02), samples_candidate=210, samples_stable=600, **rates),
                finding("inconclusive", found=check("latency", worse_max=1.25), samples_candidate=90, **slow),
                finding("successful", found=check("label_drift", worse_max=0.2), difference=0.013),
                finding("inconclusive", found=check("external", url="https://check.example.org")),
            ],
            exposure={"digits": {"readings": 1_204, "edges": 1}},
        ),
    )

    assert drawn(told) == dedent(
        """\
        model    digits 1.0.0 → 2.0.0
        rollout  r-1  by ada, 2026-11-22T07:42:14Z
        phase    baking, stage 1 of 3
                 healthy for 12 s of 30 s
        exposed  1,204 readings of digits 2.0.0 on 1 edge

        STAGE  SHARE  COHORT      BAKE  GATE    STATE
            1    1 %  every edge  30s   auto    baking 40 %
            2   10 %  every edge  30s   auto    -
            3  100 %  every edge  -     manual  -

        ready     2 of 2 live edges with the candidate loaded
        switched  1 of 2 serve what is active for them
        behind    edge-2: serves 1.0.0, generation 3, not 2.0.0

        CHECK        CANDIDATE  STABLE  WORSE BY  LIMIT  READINGS  RESULT
        error rate        12 %   2.1 %    9.9 pt   2 pt   210/600  failed
        latency p99    48.2 ms   40 ms     ×1.21  ×1.25      90/0  inconclusive
        label drift          -       -     0.013    0.2       0/0  successful
        external             -       -         -      -         -  inconclusive

        AT        MOVE      LED TO           BY             WHY
        07:42:15  start     prefetching 1/3  ada            retrained
        07:42:17  activate  baking 1/3       the authority  stage 1 of 3: 2 of 2 live edges are ready
        """
    )


def test_a_bundle_that_failed_says_why_and_what_was_exposed():
    why = "error rate 12 % against 2.1 %: worse by at least 7 points (limit 2)"
    told = rollout(
        "failed",
        targets=[target("detector"), target("tracker", "1.3.0", "1.4.0")],
        active_stage=1,
        stage=1,
        transitions=[*BAKING, move(3, "fail", "aborting", 1, reason=why), move(4, "return", "failed", 1, reason=why)],
        live=live(
            ready_count=3,
            switched_count=3,
            exposure={"detector": {"readings": 90, "edges": 2}, "tracker": {"readings": 0, "edges": 0}},
        ),
    )

    assert drawn(told, width=80) == dedent(
        """\
        models   detector 1.0.0 → 2.0.0
                 tracker 1.3.0 → 1.4.0
        rollout  r-1  by ada, 2026-11-22T07:42:14Z
        phase    failed
                 everybody is back on 1.0.0, 1.3.0: error rate 12 % against 2.1 %: worse
                 by at least 7 points (limit 2)
        exposed  90 readings of detector 2.0.0 on 2 edges

        STAGE  SHARE  COHORT      BAKE  GATE    STATE
            1    1 %  every edge  30s   auto    taken back
            2   10 %  every edge  30s   auto    taken back
            3  100 %  every edge  -     manual  -

        ready     3 of 3 live edges with stable loaded
        switched  3 of 3 serve what is active for them

        AT        MOVE      LED TO           BY             WHY
        07:42:15  start     prefetching 1/3  ada            retrained
        07:42:17  activate  baking 1/3       the authority  stage 1 of 3: 2 of 2 live
                                                            edges are ready
        07:42:18  fail      aborting         the authority  error rate 12 % against 2.1
                                                            %: worse by at least 7
                                                            points (limit 2)
        07:42:20  return    failed           the authority  error rate 12 % against 2.1
                                                            %: worse by at least 7
                                                            points (limit 2)
        """
    )


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (rollout("draft"), "nothing has begun; begin with: ccs rollout start r-1"),
        (rollout("prefetching", stage=3, active_stage=2), "edges get ready; then the candidate becomes stable"),
        (rollout("baking", active_stage=0, baked_ms=30_000), "healthy for 30 s of 30 s; waits for its activation"),
        (rollout("baking", active_stage=0, to_end=True), "promoted to the end"),
        (rollout("waiting", stage=2, active_stage=2), "it has passed and waits for somebody: ccs rollout promote r-1"),
        (
            rollout("paused", transitions=[move(1, "pause", "paused", reason="rain")]),
            "held: rain; go on with: ccs rollout",
        ),
        (rollout("aborting", active_stage=0), "everybody goes back to 1.0.0"),
        (rollout("aborted"), "nothing was activated"),
        (rollout("completed", stage=3, active_stage=2), "stable for everybody; ccs rollback goes back at once"),
    ],
)
def test_every_phase_says_what_is_going_on(told, says):
    assert says in drawn(told)


def test_a_freeze_is_shown_where_it_matters():
    freeze = {"frozen": True, "author": "bob", "reason": "stock-taking", "since_unix_ms": AT}

    assert "frozen   by bob since 2026-11-22T07:42:14Z: stock-taking" in drawn(rollout("prefetching"), freeze=freeze)
    assert "frozen" not in drawn(rollout("aborted"), freeze=freeze)


def test_what_will_be_looked_at_is_shown_before_anything_was_found():
    told = rollout("prefetching")
    told["strategy"] = told["strategy"] | {"analysis": [check(worse_max=0.02), check("score", bound=0.7)]}

    assert "checks   error rate worse by at most 2 pt; score at least 0.7\n" in drawn(told)


def test_many_stragglers_do_not_fill_the_window():
    stragglers = {f"edge-{number:03}": "silent" for number in range(100)}
    told = rollout("baking", active_stage=0, live=live(ready_count=1, straggler_count=500, stragglers=stragglers))

    shown = drawn(told)

    assert 8 == shown.count(": silent") and "and 492 more" in shown


def test_words_from_outside_cannot_move_the_cursor():
    evil = "\x1b[2J\u202eevil\n\n"
    told = rollout(
        "paused",
        author=evil,
        targets=[target(candidate=evil)],
        transitions=[move(1, "pause", "paused", author=evil, reason=evil)],
        live=live(failed_count=1, failed={evil: evil}),
    )

    shown = drawn(told, freeze={"frozen": True, "author": evil, "reason": evil, "since_unix_ms": 0})

    assert "\x1b" not in shown and "\u202e" not in shown
    assert "\x1b" not in line_of(told, told["transitions"][0]).plain


def test_checks_in_words():
    assert [
        "error rate worse by at most 2 pt",
        "latency p90 worse by at most ×1.25",
        "latency p99 at most 250 ms",
        "score at least 0.7",
    ] == [
        check_text(Check(metric=Metric.ERROR_RATE, worse_max=0.02)),
        check_text(Check(metric=Metric.LATENCY, worse_max=1.25, quantile=0.9)),
        check_text(Check(metric=Metric.LATENCY, bound=250)),
        check_text(Check(metric=Metric.SCORE, bound=0.7)),
    ]
