"""The pure parts: problems, pages, ranges, semantic versions, keys and conditions."""

from __future__ import annotations

import json
import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consistency_service import errors as e
from consistency_service.api.depends import author_of, generation_of, request_id_of
from consistency_service.api.pages import decode_cursor, encode_cursor, page_of
from consistency_service.api.problems import KINDS, TYPE_PREFIX, Problem, ProblemError, problem_of
from consistency_service.api.ranges import Span, span_of
from consistency_service.api.reads import unix_ms_of
from consistency_service.api.semver import SEMVER
from consistency_service.core.refusals import REFUSALS

# ---- problems


def test_every_refusal_of_the_state_machine_is_in_the_table():
    assert set() == REFUSALS.keys() - KINDS.keys()


@pytest.mark.parametrize("code", sorted(KINDS))
def test_a_problem_is_complete_without_any_field(code):
    response = Problem(code=code).response()
    document = json.loads(bytes(response.body))

    assert "application/problem+json" == response.media_type
    assert (TYPE_PREFIX + code, KINDS[code].status) == (document["type"], document["status"])
    assert document["title"]
    assert document["detail"]
    assert (response.status_code == 503) == ("retry-after" in response.headers)


def test_fields_never_replace_the_standard_members():
    document = Problem(code="unchanged", fields={"status": 200, "type": "x", "model": "m", "generation": 3}).document()

    assert (409, "urn:ccs:problem:unchanged") == (document["status"], document["type"])
    assert "generation 3 of m is just this already" == document["detail"]


def test_a_refusal_nobody_foresaw_is_a_conflict():
    problem = problem_of(e.RefusedError(code="too_purple", detail={"hue": 1}, revision=3))

    assert problem is not None
    assert (409, "Too purple") == (problem.status, problem.document()["title"])


@pytest.mark.parametrize(
    "error,code",
    [
        (e.NotStrongError("late"), "not_strong"),
        (e.UnknownOutcomeError("?"), "unknown_outcome"),
        (e.UnknownModelError("m"), "unknown_model"),
        (e.NotLeaderError(leader_id="n2"), "no_leader"),
        (e.NotAuthorityError(leader_id="n2"), "no_leader"),
        (e.BusUnavailableError("gone"), "bus_unavailable"),
        (e.ArtifactTooLargeError("big"), "too_large"),
        (e.DigestMismatchError("other", digest="d"), "digest_mismatch"),
        (e.ArtifactMissingError("none", digest="d"), "unknown_artifact"),
        (e.ArtifactCorruptError("bad", digest="d"), "artifact_corrupt"),
        (e.StoreFullError("full"), "store_full"),
        (e.StoreUnavailableError("away"), "store_unavailable"),
    ],
)
def test_each_error_of_ours_has_its_problem(error, code):
    problem = problem_of(error)

    assert problem is not None
    assert code == problem.code


def test_other_errors_have_none():
    assert problem_of(ZeroDivisionError("1/0")) is None
    assert problem_of(e.LogStorageError("disk")) is None


# ---- pages


@given(st.lists(st.integers(0, 1_000), unique=True), st.integers(1, 7), st.booleans())
def test_pages_put_together_are_the_list(numbers, limit, newest_first):
    pages, cursor = [], None
    while True:
        page, cursor = page_of(numbers, key=lambda n: (n,), limit=limit, cursor=cursor, newest_first=newest_first)
        pages += page
        if cursor is None:
            break

    assert sorted(numbers, reverse=newest_first) == pages


def test_a_cursor_survives_the_deletion_of_its_item():
    page, cursor = page_of(["a", "b", "c"], key=lambda s: (s,), limit=2, cursor=None)

    assert ["a", "b"] == page
    assert (["c"], None) == page_of(["a", "c"], key=lambda s: (s,), limit=2, cursor=cursor)


@given(st.lists(st.one_of(st.text(), st.integers()), min_size=1, max_size=3).map(tuple))
def test_cursors_there_and_back(key):
    assert key == decode_cursor(encode_cursor(key))


@pytest.mark.parametrize("cursor", ["", "!", "e30", "W10", "bnVsbA", "W1tdXQ", "W251bGxd", "Ww" * 400, "\u00e9"])
def test_a_cursor_of_somebody_else_is_refused(cursor):
    with pytest.raises(ProblemError, match="invalid"):
        page_of(["a"], key=lambda s: (s,), limit=1, cursor=cursor)


def test_a_cursor_of_another_list_is_refused():
    with pytest.raises(ProblemError, match="invalid"):
        page_of(["a"], key=lambda s: (s,), limit=1, cursor=encode_cursor((1,)))


@given(st.text(max_size=40))
def test_no_cursor_ends_in_anything_but_a_refusal(text):
    with suppress(ProblemError):
        decode_cursor(text)


# ---- ranges


@pytest.mark.parametrize(
    "header,expected",
    [
        (None, None),
        ("bytes=0-9", Span(0, 10)),
        ("bytes=0-0", Span(0, 1)),
        ("bytes=4-", Span(4, 6)),
        ("bytes=-3", Span(7, 3)),
        ("bytes=-30", Span(0, 10)),
        ("bytes=5-999999999999999", Span(5, 5)),
        ("Bytes=9-9", Span(9, 1)),
        ("bytes=0-1,3-4", None),
        ("bytes=-", None),
        ("bytes=5-2", None),
        ("bytes=a-b", None),
        ("bytes=\u0663-", None),
        ("lines=1-2", None),
        ("bytes=99999999999999999999999-", None),
    ],
)
def test_which_bytes_a_header_asks_for(header, expected):
    assert expected == span_of(header, size_bytes=10)


@pytest.mark.parametrize(
    "header,size_bytes", [("bytes=10-", 10), ("bytes=11-20", 10), ("bytes=-0", 10), ("bytes=0-", 0)]
)
def test_a_range_outside_is_an_error(header, size_bytes):
    with pytest.raises(ProblemError) as caught:
        span_of(header, size_bytes=size_bytes)

    assert {"Content-Range": f"bytes */{size_bytes}"} == caught.value.problem.headers


# ---- semantic versions: the lists of semver.org


@pytest.mark.parametrize(
    "version",
    [
        "0.0.4",
        "1.2.3",
        "10.20.30",
        "1.1.2-prerelease+meta",
        "1.1.2+meta",
        "1.0.0-alpha",
        "1.0.0-alpha.0valid",
        "1.0.0-alpha-a.b-c-somethinglong+build.1-aef.1-its-okay",
        "1.0.0-0A.is.legal",
        "1.0.0+0.build.1-rc.10000aaa-kk-0.1",
        "2.0.0-rc.1+build.123",
        "1.2.3----RC-SNAPSHOT.12.9.1--.12+788",
        "1.2.3----R-S.12.9.1--.12+meta",
        "99999999999999999999999.999999999999999999.99999999999999999",
    ],
)
def test_a_semantic_version(version):
    assert re.fullmatch(SEMVER, version)


@pytest.mark.parametrize(
    "version",
    [
        "1",
        "1.2",
        "1.2.3-0123",
        "1.2.3-0123.0123",
        "1.1.2+.123",
        "+invalid",
        "-invalid",
        "alpha",
        "1.0.0-alpha_beta",
        "1.0.0-alpha..",
        "1.0.0-alpha..1",
        "01.1.1",
        "1.01.1",
        "1.1.01",
        "1.2.3.DEV",
        "v1.2.3",
        "1.2.31.2.3----RC-SNAPSHOT.12.09.1--..12+788",
        "1.2.3+a+b",
        "9.8.7-whatever+meta+meta",
    ],
)
def test_not_a_semantic_version(version):
    assert re.fullmatch(SEMVER, version) is None


# ---- keys, conditions, names, instants


def test_a_key_becomes_a_request_id():
    assert "rest:abc def" == request_id_of("abc def")
    assert request_id_of(None) != request_id_of(None)


@pytest.mark.parametrize("key", ["", "x" * 201, "a\tb", "\u00e9", "a\n"])
def test_a_key_of_other_characters_is_refused(key):
    with pytest.raises(ProblemError, match="Idempotency-Key"):
        request_id_of(key)


def test_conditions():
    assert [None, None, 3, 0] == [generation_of(text) for text in (None, " * ", '"3"', '"0"')]


@pytest.mark.parametrize("text", ["3", '"x"', 'W/"3"', '"1", "2"', '""', '"-1"', '"\u0663"', '"9999999999999999999"'])
def test_a_condition_that_cannot_be_kept_is_refused(text):
    with pytest.raises(ProblemError, match="If-Match"):
        generation_of(text)


def test_authors():
    assert "anonymous" == author_of(None)
    assert "J\u00fcrgen" == author_of("J\u00fcrgen".encode().decode("latin-1"))
    assert "J\u00fcrgen" == author_of("J\u00fcrgen")
    for text in ("", "x" * 129, "a\x07b", "a\nb"):
        with pytest.raises(ProblemError, match="X-CCS-Author"):
            author_of(text)


def test_instants():
    assert [5, 1_794_355_200_000] == [unix_ms_of(text) for text in ("5", "2026-11-11T00:00:00Z")]
    assert unix_ms_of("2026-11-11T02:00:00+02:00") == unix_ms_of("2026-11-11T00:00:00Z")
    for text in ("", "yesterday", "2026-11-11T00:00:00", "-5", "1" * 16, "\u0663", "9999-12-31T23:59:59-23:59x"):
        with pytest.raises(ProblemError, match="at takes"):
            unix_ms_of(text)
