"""Availability over time, torn histories, and the page they end up on."""

import itertools
import re
from html.parser import HTMLParser
from typing import Any

import msgspec

from consistency_service.testbed.chaos.availability import Stretch, share_by_bucket, stretches_of, worst_of
from consistency_service.testbed.chaos.harvest import read_histories
from consistency_service.testbed.chaos.page import page_of
from consistency_service.testbed.chaos.report import ChaosReport, FaultDone, Row
from consistency_service.testbed.chaos.verdict import Check
from consistency_service.testbed.history import Operation
from consistency_service.testbed.recorder import line_of

S = 10**9


def read(at_s, state, *, process="e", model="m", lasts_s=0.0):
    return Operation(
        process=process,
        op="read",
        invoked_ns=int(at_s * S),
        returned_ns=int((at_s + lasts_s) * S),
        model=model,
        generation=None if state is None else 1,
        guarantee=state,
        outcome="failed" if state is None else "ok",
    )


def spans(stretches):
    return [(s.begin_ns / S, s.end_ns / S, s.state) for s in stretches]


def test_reads_become_stretches_and_silence_a_hole():
    reads = [read(t / 2, "strong") for t in range(5)] + [read(2.5, "bounded"), read(3, None), read(9, "strong")]

    made = stretches_of(reads)["e", "m"]

    assert [(0, 2.5, "strong"), (2.5, 3, "bounded"), (3, 3, "failed"), (9, 9, "strong")] == spans(made)


def test_the_worst_of_several_models_counts():
    one = [Stretch(begin_ns=0, end_ns=10 * S, state="strong")]
    other = [
        Stretch(begin_ns=2 * S, end_ns=4 * S, state="bounded"),
        Stretch(begin_ns=4 * S, end_ns=12 * S, state="strong"),
    ]

    assert [(0, 2, "strong"), (2, 4, "bounded"), (4, 12, "strong")] == spans(worst_of([one, other]))


def test_shares_count_every_reader_in_every_part_of_the_time():
    rows = [[Stretch(begin_ns=0, end_ns=5 * S, state="strong")], [Stretch(begin_ns=0, end_ns=10 * S, state="strong")]]

    assert [1.0, 0.5] == share_by_bucket(rows, begin_ns=0, end_ns=10 * S, buckets=2)
    assert [0.0] == share_by_bucket([], begin_ns=0, end_ns=10 * S, buckets=1)


def test_a_torn_line_is_cut_and_counted(tmp_path):
    whole = [line_of(read(t, "strong")) for t in range(3)]
    path = tmp_path / "edge-1.jsonl"
    path.write_bytes(whole[0] + whole[1][:40] + whole[1] + whole[2] + whole[2][:17])

    operations, torn = read_histories([path])

    assert [0, S, 2 * S] == [operation.invoked_ns for operation in operations]
    assert {"edge-1": 2} == torn


def report(**changes):
    values: dict[str, Any] = {
        "ok": True,
        "seed": 7,
        "minutes": 1.0,
        "kinds": ["kill"],
        "beyond": None,
        "nodes": 3,
        "edges": 1,
        "begun_at": "then",
        "checks": [Check(name="reads", promise="a < b", ok=True, text="fine")],
        "converged_ms": 100,
        "requests": {"CreateModel": {"done": 2}},
        "faults": [FaultDone(number=1, kind="kill", words="kill leader", target="node-2", begin_ms=0, end_ms=900)],
        "rows": [Row(reader="edge-1", strong_share=1.0, spans=[(0, 59_000, "strong"), (59_000, 60_000, "bounded")])],
        "strong_edges": [1.0, 0.5],
        "strong_nodes": [1.0, 1.0],
        "end_ms": 60_000,
        "notes": [],
    }
    return ChaosReport(**(values | changes))


class Tags(HTMLParser):
    """Every tag is closed in its turn."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        """Closed already."""

    def handle_endtag(self, tag):
        assert tag == self.open.pop()


def test_the_page_is_whole_alone_and_escapes_what_it_shows():
    breach = Check(name="state", promise="a < b", ok=False, text="<script>", breaches=1, details=["<img src=x>"])
    page = page_of(report(ok=False, checks=[breach], beyond="clock-rate", notes=["disks & more"]))
    tags = Tags()
    tags.feed(page)

    assert [] == tags.open
    assert "<script>" not in page and "<img" not in page and "&lt;img" in page
    assert not re.search(r"<(?:script|link|img|iframe)|url[(]", page)
    assert "kill leader (node-2)" in page and "broken ×1" in page


def test_an_hour_of_changes_makes_a_page_of_bearable_size():
    edges = itertools.pairwise(range(0, 3_600_001, 100))
    spans_of_an_hour = [(begin, end, ("strong", "bounded")[number % 2]) for number, (begin, end) in enumerate(edges)]
    page = page_of(report(end_ms=3_600_000, rows=[Row(reader="e", strong_share=0.5, spans=spans_of_an_hour)]))

    assert len(page) < 400_000


def test_the_report_is_a_document():
    assert report() == msgspec.json.decode(msgspec.json.encode(report()), type=ChaosReport)
