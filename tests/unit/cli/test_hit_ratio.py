"""`ccs bench hit-ratio`: every kind of trace is read, hostile ones are refused with a sentence, and the figures are right."""

from __future__ import annotations

import gzip
import itertools
import json
import lzma
from array import array
from random import Random

import pytest
import zstandard
from typer.testing import CliRunner

from consistency_service.cli import commands, hit_ratio
from consistency_service.cli.errors import LocalError
from consistency_service.cli.traces import LINE_BYTES_MAX, TraceFormat, read_trace

RUNNER = CliRunner()
KEYS = b"camera:1\ncamera:2\r\n\ncamera:1\n"
LIRS = b"*\n0\n7\n*\n0\n"
ARC = b"100 3 0 0\n101 1 0 1\n"


def written(tmp_path, content, name="a.trace"):
    path = tmp_path / name
    path.write_bytes(content)
    return path


def read(path, trace_format=TraceFormat.AUTO, requests_max=1_000):
    return read_trace(path, trace_format=trace_format, requests_max=requests_max)


def run(*words):
    return RUNNER.invoke(commands.app, ["bench", "hit-ratio", *map(str, words)])


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress, zstandard.ZstdCompressor().compress])
@pytest.mark.parametrize(
    ("content", "requests"), [(KEYS, [0, 1, 0]), (LIRS, [0, 1, 0]), (ARC, [0, 1, 2, 1])], ids=["keys", "lirs", "arc"]
)
def test_every_kind_is_recognised_however_it_is_packed(tmp_path, pack, content, requests):
    trace = read(written(tmp_path, pack(content)))

    assert (requests, max(requests) + 1, False) == (trace.requests.tolist(), trace.keys, trace.cut)


def test_several_frames_are_one_trace(tmp_path):
    pack = zstandard.ZstdCompressor().compress
    many = b"".join(b"%d\n" % number for number in range(50_000))
    trace = read(written(tmp_path, pack(many) + pack(many)), requests_max=200_000)

    assert (100_000, 50_000) == (len(trace.requests), trace.keys)


def test_a_format_that_is_named_is_not_guessed(tmp_path):
    assert [0, 1] == read(written(tmp_path, ARC), TraceFormat.KEYS).requests.tolist()


def test_a_long_trace_is_cut_and_says_so(tmp_path):
    trace = read(written(tmp_path, ARC), requests_max=2)

    assert ([0, 1], True) == (trace.requests.tolist(), trace.cut)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "holds no request"),
        (b"\n\n", "holds no request"),
        (b"*\n*\n", "holds no request"),
        (b"1\nbanana\n", "line 2 is not a number"),
        (b"100 3 0 0\n100 3 0\n", "line 2 is not `start count"),
        (b"100 3 0 0\n1 -3 0 0\n", "line 2 is not `start count"),
        (b"1 99999999999 0 0\n", "asks for 99,999,999,999 blocks at once"),
        (b"1\n" + b"9" * 40 + b"\n", "line 2 is not a number"),
        (b"k\n" + b"x" * LINE_BYTES_MAX + b"\n", "line 2 of"),
        (b"\x7fELF\0\0\0\1\n", "is no line of text"),
        (gzip.compress(Random(1).randbytes(900).hex("\n").encode())[:-90], "is cut or damaged"),
        (gzip.compress(b"1\n" * 1_000)[:-8] + b"\0" * 8, "is cut or damaged"),
        (b"\x1f\x8bnot gzip at all", "is cut or damaged"),
        (lzma.compress(b"1\n" * 1_000)[:-20], "is cut or damaged"),
        (
            zstandard.ZstdCompressor().compress(Random(1).randbytes(900).hex().encode() + b"\n")[:-9],
            "is cut or damaged",
        ),
        (b"\x28\xb5\x2f\xfdno zstd", "is cut or damaged"),
        (gzip.compress(b"\n" * 1_100_000), "a million empty lines"),
    ],
)
def test_hostile_files_are_refused_with_a_sentence(tmp_path, content, told):
    with pytest.raises(LocalError, match=told):
        read(written(tmp_path, content))


def test_the_command_says_so_too(tmp_path):
    for path in (written(tmp_path, b"1\nbanana\n"), tmp_path / "none", tmp_path):
        result = run("--trace", path)
        assert (2, "") == (result.exit_code, result.stdout)
        assert result.stderr.startswith("error: ") and "Traceback" not in result.stderr


def brute_force_optimum(requests, size):
    """The best that any choice of what to hold can reach."""
    states: dict[frozenset, int] = {frozenset(): 0}
    for key in requests:
        following: dict[frozenset, int] = {}
        for held, hits in states.items():
            wider, gained = held | {key}, hits + (key in held)
            kept = [wider] if len(wider) <= size else map(frozenset, itertools.combinations(wider, size))
            for state in kept:
                following[state] = max(following.get(state, 0), gained)
        states = following
    return max(states.values())


@pytest.mark.parametrize("seed", range(8))
def test_the_optimum_is_what_trying_everything_finds(seed):
    random = Random(seed)
    requests = array("I", random.choices(range(6), k=25))

    for size in (1, 2, 3):
        assert brute_force_optimum(requests, size) == hit_ratio.optimum_hits(requests, size=size, step=lambda _: None)


def test_lru_by_hand():
    requests = array("I", [0, 1, 0, 2, 1, 0])  # with room for two: 0 is found once, then 2 drives out 1, 1 drives out 0

    assert 1 == hit_ratio.lru_hits(requests, size=2, step=lambda _: None)


def test_the_document_has_all_figures(tmp_path):
    path = written(tmp_path, "".join(f"{n % 100}\n" for n in range(3_000)).encode())
    result = run("--trace", path, "--size", 50, "--size", 100, "--json")
    document = json.loads(result.stdout)
    small, large = document.pop("sizes")

    assert {"trace": "a.trace", "requests": 3_000, "keys": 100, "cut": False} == document
    assert 0 == small["lru"] < small["ours"] <= small["optimum"]
    assert large["lru"] == large["ours"] == large["optimum"] == large["w_tinylfu"]
    assert (0, True) == (result.exit_code, small["kept"] and large["kept"])


def test_people_see_a_table_and_which_sizes_are_worth_a_look(tmp_path):
    result = run("--trace", written(tmp_path, ARC), "--requests", 3)

    assert 0 == result.exit_code
    assert "a.trace: 3 requests, 3 different keys" in result.stdout
    assert "only the first 3 requests" in result.stderr
    assert {"SIZE", "LRU", "OURS", "W-TINYLFU", "OPTIMUM", "BOUND", "kept"} <= set(result.stdout.split())


@pytest.mark.parametrize(
    ("lru", "ours", "peer", "kept"),
    [
        (50.0, 49.5, 40.0, True),
        (50.0, 49.4, 40.0, False),
        (50.0, 51.0, 53.0, True),
        (50.0, 50.9, 53.0, False),
        (50.0, 49.6, None, True),
    ],
)
def test_a_broken_bound_is_said_and_ends_with_exit_code_1(tmp_path, monkeypatch, lru, ours, peer, kept):
    ratios = hit_ratio.HitRatios(size=1, lru=lru, ours=ours, w_tinylfu=peer, optimum=90.0)
    monkeypatch.setattr(hit_ratio, "compare", lambda *_arguments, **_named: ratios)
    result = run("--trace", written(tmp_path, ARC), "--size", 1)

    assert (0 if kept else 1, kept) == (result.exit_code, "kept" in result.stdout)
    assert ("-" in result.stdout.split()) == (peer is None)
    assert ("200 times the size" in result.stderr) == (not kept)
