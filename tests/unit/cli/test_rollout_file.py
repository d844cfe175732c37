"""Strategy files: what words mean, and where each part of a file stands."""

from __future__ import annotations

import json

import pytest

from consistency_service.cli.errors import LocalError
from consistency_service.cli.rollout_file import parse_strategy, read_strategy

TEXT = """\
# Carefully.
stages:
  - share: 1%
    bake: 30s
    gate: auto
  - {share: 10%, cohort: {sites: [dock-3, dock-4], labels: {a.b: "7"}}}
  - share: 10000
analysis:
- metric: latency
  worse_max: 1.25
"""


def parsed(text: str):
    return parse_strategy(text.encode(), name="s.yaml")


def told(text: str) -> list[str]:
    return [fault.told("s.yaml") for fault in parsed(text).faults]


def test_a_file_says_what_it_looks_like():
    assert {
        "stages": [
            {"share": "1%", "bake": "30s", "gate": "auto"},
            {"share": "10%", "cohort": {"sites": ["dock-3", "dock-4"], "labels": {"a.b": "7"}}},
            {"share": 10_000},
        ],
        "analysis": [{"metric": "latency", "worse_max": 1.25}],
    } == parsed(TEXT).value


@pytest.mark.parametrize(
    ("place", "position"),
    [
        ("stages", (2, 1)),
        ("stages[0]", (3, 5)),
        ("stages[0].bake", (4, 5)),
        ("stages[1].share", (6, 6)),
        ("stages[1].cohort.sites[1]", (6, 43)),
        ("stages[1].cohort.labels.a.b", (6, 61)),
        ("analysis[0].worse_max", (10, 3)),
        ("stages[0].cohort.sites[0]", (3, 5)),  # is not there: the smallest part round it
        ("prefetch.deadline", (1, 1)),
        ("models.digits", (0, 0)),  # is in no file
        ("", (1, 1)),
    ],
)
def test_places_are_found_in_the_file(place, position):
    fault = parsed(TEXT).fault(place, "is odd")

    assert position == (fault.line, fault.column)


def test_json_is_understood():
    value = {"stages": [{"share": "100%", "bake": "1s"}], "on_failure": "pause"}

    assert value == parsed(json.dumps(value, indent=2)).value


@pytest.mark.parametrize(
    ("word", "value"),
    [
        *(
            ("yes", "yes"),
            ("on", "on"),
            ("NO", "NO"),
            ("12:30", "12:30"),
            ("2026-11-20", "2026-11-20"),
            ("0x10", "0x10"),
        ),
        *(("true", True), ("null", None), ("~", None), ("7", 7), ("-7", -7), ("1.5", 1.5), ("1e3", 1_000.0)),
        *(("'7'", "7"), ("1%", "1%"), ("100bp", "100bp"), ("1_000", "1_000"), (".inf", ".inf"), ("", None)),
        *(("&a [1, 2]", [1, 2]), ("9" * 30, 1e30)),
    ],
)
def test_words_mean_what_they_look_like(word, value):
    found = parsed(f"x: {word}\n")

    assert ({"x": value}, []) == (found.value, found.faults)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stages: [\n", ["s.yaml:2:1: expected the node content, but found '<stream end>', while parsing a flow node"]),
        ("a: b: c\n", ["s.yaml:1:5: mapping values are not allowed here"]),
        ("a: 1\n\tb: 2\n", ["s.yaml:2:1: found character '\\t' that cannot start any token, while scanning for the next token"]),
        ("", ["s.yaml:1:1: a strategy is a mapping, such as `stages: [{share: 100%}]`"]),
        ("- 1\n", ["s.yaml:1:1: a strategy is a mapping, such as `stages: [{share: 100%}]`"]),
        ("a: 1\nb: 2\na: 3\n", ["s.yaml:3:1: a: a is there twice"]),
        ("a: *b\n", ["s.yaml:1:4: found undefined alias 'b'"]),
        ("a: !!python/object/apply:os.system [id]\n", ["s.yaml:1:4: a: the tag tag:yaml.org,2002:python/object/apply:os.system has no meaning here"]),
        ("a: !!binary aGk=\n", ["s.yaml:1:4: a: 'aGk=' has no meaning as binary"]),
        ("a: !!int x\nb: 1e999\n", ["s.yaml:1:4: a: 'x' has no meaning as int", "s.yaml:2:4: b: 1e999 is no number that can be counted with"]),
        ("? [a]\n: 1\n", ["s.yaml:1:3: a key is a word"]),
        ("a: 1\n--- \nb: 2\n", ["s.yaml:2:1: but found another document, expected a single document in the stream"]),
    ],
)  # fmt: skip
def test_what_has_no_meaning_is_told_with_its_line(text, said):
    assert said == told(text)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a: \x00"])
def test_what_is_no_text_is_told(content):
    assert 1 == len(parse_strategy(content, name="s.yaml").faults)


def test_a_short_file_cannot_be_a_long_one():
    """Aliases of aliases: a million parts in ten lines."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]" for n in range(1, 8)]

    faults = told("\n".join(lines))

    assert 1 == len(faults) and "it is too large" in faults[0]


@pytest.mark.parametrize("text", ["a: &a [*a]\n", "a: " + "[" * 200 + "]" * 200, "a: " + "[" * 50_000])
def test_depth_has_an_end(text):
    assert "nested deeper than 30" in told(text)[0]


def test_a_file_that_is_no_strategy_is_not_read_to_its_end(tmp_path):
    (tmp_path / "big").write_bytes(b"x" * 300_000)

    with pytest.raises(LocalError, match="that is no strategy"):
        read_strategy(tmp_path / "big")
    with pytest.raises(LocalError, match="No such file"):
        read_strategy(tmp_path / "missing")
