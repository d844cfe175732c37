"""Readings never change and pin what they name; the configuration refuses nonsense and names it."""

from __future__ import annotations

import gc
import weakref

import pytest

from edge_client.config import EdgeConfig
from edge_client.core.reading import Guarantee, Loaded, Reading, bound_ms
from edge_client.errors import ConfigError
from edge_client.protocol.models import Version
from edge_client.protocol.position import Position

VERSION = Version(version="1.0.0", digest="sha256:0123456789abcdef", size_bytes=1)


def reading(loaded: Loaded | None = None, **changes: object) -> Reading:
    values: dict = {
        "model": "m",
        "generation": 3,
        "guarantee": Guarantee.BOUNDED,
        "staleness_bound_ms": 12,
        "position": Position(5, 9),
    }
    return Reading(loaded or Loaded("value", version=VERSION), **{**values, **changes})


def test_a_reading_never_changes():
    held = reading()
    for name in ("value", "guarantee", "anything"):
        with pytest.raises(AttributeError, match="never changes"):
            setattr(held, name, 1)
    with pytest.raises(AttributeError, match="never changes"):
        del held.value


def test_repr_says_what_it_is_worth():
    assert repr(reading()) == "<Reading m 1.0.0 g3 bounded bound=12ms e5 r9 MEMORY>"
    aged = reading(staleness_bound_ms=None, age_estimate_ms=70)
    assert repr(aged) == "<Reading m 1.0.0 g3 bounded bound=? age~70ms e5 r9 MEMORY>"
    assert repr(Loaded(1, version=VERSION)) == "<Loaded 1.0.0 sha256:0123456>"


def test_with_gives_the_reading_itself_even_if_nobody_else_holds_it_and_lets_exceptions_pass():
    with reading() as held:
        assert held.value == "value"
    with pytest.raises(ZeroDivisionError), reading():
        raise ZeroDivisionError


def test_unload_is_called_once_when_the_last_reading_is_gone():
    unloaded: list[object] = []
    loaded = Loaded({"big"}, version=VERSION, unload=unloaded.append)
    held = weakref.ref(loaded)
    first, second = reading(loaded), reading(loaded)
    del loaded, first
    gc.collect()
    assert held() is not None and unloaded == []
    del second
    gc.collect()
    assert held() is None and unloaded == [{"big"}]


def test_bounds_round_up():
    assert [bound_ms(None), bound_ms(0), bound_ms(1), bound_ms(1_000_000), bound_ms(1_000_001)] == [None, 0, 1, 1, 2]


def config(**changes: object) -> EdgeConfig:
    values: dict = {"servers": ["nats://h:4222"], "trust": "ccs-region-key ed25519 x y", "edge_id": "cam-17"}
    return EdgeConfig(**{**values, **changes})


def test_defaults_are_acceptable():
    made = config(labels={"gpu": "orin"}, local="redis://localhost", site="dock-3")
    assert (made.region, made.report_interval_ms, made.servers) == ("default", 1_000, ("nats://h:4222",))


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"servers": []}, "servers"),
        ({"servers": ["nats://h"] * 17}, "servers"),
        ({"servers": ["h:4222"]}, "servers"),
        ({"servers": ["nats://[h"]}, "servers"),
        ({"local": "postgres://h"}, "local"),
        ({"edge_id": "Cam 17"}, "edge_id"),
        ({"region": ""}, "region"),
        ({"site": "Dock"}, "site"),
        ({"trust": " "}, "trust"),
        ({"labels": {str(n): "" for n in range(65)}}, "labels"),
        ({"labels": {"a": 1}}, "labels"),
        ({"labels": {"": "a"}}, "labels"),
        ({"labels": {"a": "x" * 257}}, "labels"),
        ({"report_interval_ms": 49}, "report_interval_ms"),
        ({"report_interval_ms": 2_001}, "report_interval_ms"),
        ({"memory_bytes_max": 0}, "memory_bytes_max"),
        ({"download_bytes_max": -1}, "download_bytes_max"),
        ({"downloads_max": 0}, "downloads_max"),
        ({"downloads_max": 17}, "downloads_max"),
        ({"download_bytes_per_s_max": 0}, "download_bytes_per_s_max"),
        ({"prefetch_jitter_ms": -1}, "prefetch_jitter_ms"),
        ({"prefetch_jitter_ms": 3_600_001}, "prefetch_jitter_ms"),
    ],
)
def test_nonsense_is_refused_by_name(changes, names):
    with pytest.raises(ConfigError, match=names):
        config(**changes)


def test_a_password_in_an_address_is_not_repeated():
    with pytest.raises(ConfigError) as refusal:
        config(local="http://user:secret@h")
    assert "secret" not in str(refusal.value)


def test_trust_is_a_text_or_a_file(tmp_path):
    path = tmp_path / "region.pub"
    path.write_text("ccs-region-key ed25519 a b\n")
    assert config(trust=str(path)).trust_text() == "ccs-region-key ed25519 a b\n"
    assert config().trust_text().startswith("ccs-region-key")
    with pytest.raises(ConfigError, match="trust: cannot read"):
        config(trust=str(tmp_path / "absent")).trust_text()
