"""The list of those that are known, the leash of models, and how often somebody may ask."""

from __future__ import annotations

import hashlib
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consistency_service.core.access import (
    LADDER,
    Denial,
    Identity,
    Models,
    Role,
    Rule,
    Unknown,
    access_of,
    denial,
    may,
)
from consistency_service.core.rate_limits import NS_PER_S, RateLimits
from consistency_service.errors import ConfigError

DIGEST = hashlib.sha256(b"ccs_token").digest()
OTHER = hashlib.sha256(b"ccs_other").hexdigest()


def listed(text: str):
    return access_of(tomllib.loads(text))


def token(**more: str) -> str:
    lines = {"name": '"ada"', "role": '"viewer"', "sha256": f'"{DIGEST.hex()}"'} | more
    return "[[token]]\n" + "".join(f"{name} = {value}\n" for name, value in lines.items() if value) + "\n"


def test_a_token_lets_in_until_it_expires():
    found = listed(token(expires="2027-01-01T00:00:00Z", models='["a-"]'))
    at = 1_798_761_600  # 2027-01-01

    assert ("ada", ("a-",), at) == (
        (known := found.token(DIGEST, now_unix_s=at - 1)).name,
        known.models,
        known.expires_at_unix_s,
    )
    assert Unknown.EXPIRED is found.token(DIGEST, now_unix_s=at)
    assert Unknown.NOT_KNOWN is found.token(hashlib.sha256(b"x").digest(), now_unix_s=0)


def test_the_first_bytes_of_a_digest_are_not_enough():
    assert Unknown.NOT_KNOWN is listed(token()).token(DIGEST[:8] + bytes(24), now_unix_s=0)


def test_one_name_may_have_two_tokens_for_a_while():
    found = listed(token() + token(sha256=f'"{OTHER}"'))

    assert {"ada"} == {grant.name for grant in found.tokens.values()}
    assert DIGEST.hex() not in repr(found) + repr(list(found.tokens.values()))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (token(role='"node"'), "raft certificates"),
        (token(role='"root"'), "role"),
        (token(role=""), "role"),
        (token(name='""'), "name"),
        (token(name='"a\\nb"'), "name"),
        (token(name='" a"'), "name"),
        (token(sha256='"abc"'), "sha256"),
        (token(sha256=f'"{DIGEST.hex().upper()}"'), "sha256"),
        (token(sha256=""), "sha256"),
        (token() + token(), "another token"),
        (token(models="[]"), "prefixes"),
        (token(models='[""]'), "prefixes"),
        (token(models='["A"]'), "prefixes"),
        (token(models='"a"'), "prefixes"),
        (token(expires='"2027-01-01"'), "expires"),
        (token(expires="2027-01-01T00:00:00"), "offset"),
        (token(rolle='"x"'), "rolle"),
        ("[tokens]\n", "tokens"),
        ('token = "x"\n', "written as"),
        ('[[jwt]]\nissuer = "i"\n', "audience"),
        ('[[jwt]]\nissuer = "i"\naudience = "a"\njwks = "http://x"\n', "https"),
        ('[[jwt]]\nissuer = "i"\naudience = "a"\njwks = "x"\nrole_claim = 1\n', "text"),
        ('[[jwt]]\nissuer = "i"\naudience = "a"\njwks = "x"\n' * 2, "same issuer"),
        ('[[certificate]]\nname = "a"\nrole = "viewer"\n' * 2, "again"),
    ],
)
def test_a_file_that_makes_no_sense_says_where(text, why):
    with pytest.raises(ConfigError, match=why) as refused:
        listed(text)
    assert DIGEST.hex() not in str(refused.value)


def test_there_is_a_limit():
    entries = [{"name": "a", "role": "viewer", "sha256": f"{n:064x}"} for n in range(10_001)]
    with pytest.raises(ConfigError, match="10000"):
        access_of({"token": entries})


def test_the_first_name_that_is_listed_counts():
    found = listed(
        '[[certificate]]\nname = "ada@example.org"\nrole = "admin"\n[[certificate]]\nname = "ada"\nrole = "viewer"\n'
    )

    assert "viewer" == found.certificate(("ada", "ada@example.org"), expires_at_unix_s=1).role
    assert None is found.certificate(("eve",), expires_at_unix_s=1)


@given(
    role=st.sampled_from(list(Role)),
    needed=st.sampled_from(LADDER),
    also=st.sets(st.sampled_from(list(Role))),
    span=st.sampled_from(list(Models)),
    prefixes=st.none() | st.lists(st.sampled_from(["a", "b-", "ab"]), min_size=1).map(tuple),
    model=st.none() | st.sampled_from(["a", "ab", "b", "b-1", "c"]),
)
def test_who_may_is_what_the_words_say(role, needed, also, span, prefixes, model):
    """Against the rule said otherwise: one set of roles, then prefixes."""
    rule = Rule(role=needed, also=tuple(also), models=span)
    identity = Identity(name="x", role=role, kind="token", models=prefixes)
    allowed = set(LADDER[LADDER.index(needed) :]) | also
    within = (
        prefixes is None
        or {
            Models.NONE: True,
            Models.CHECKED: True,
            Models.ALL: False,
            Models.PATH: model is not None and any(model[: len(prefix)] == prefix for prefix in prefixes),
        }[span]
    )
    found = denial(identity, rule, model=model)

    assert (role in allowed) == may(role, rule) == (found is not Denial.ROLE)
    assert (role in allowed and within) == (found is None)


@given(st.lists(st.sampled_from(["a-1", "a-2", "b"])))
def test_something_of_several_models_is_for_those_who_see_all_of_them(models):
    identity = Identity(name="x", role=Role.VIEWER, kind="token", models=("a-",))

    assert identity.sees_all(models) == (bool(models) and "b" not in models)


# ---- how often


def test_a_burst_and_then_a_steady_pace():
    limits = RateLimits(per_s=2, burst=3)
    taken = [limits.take("a", now_ns=0) == 0 for _ in range(5)]
    wait_ns = limits.take("a", now_ns=0)

    assert [True, True, True, False, False] == taken
    assert NS_PER_S // 2 == wait_ns
    assert 0 < limits.take("a", now_ns=wait_ns - 1)
    assert 0 == limits.take("a", now_ns=wait_ns)
    assert 0 == limits.take("b", now_ns=0)


def test_the_table_is_bounded_and_says_whom_it_forgot():
    limits = RateLimits(per_s=1, burst=1, keys_max=2)
    for key in ("a", "b", "c"):
        assert 0 == limits.take(key, now_ns=0)
    limits.check_invariants()

    assert (2, 1) == (len(limits), limits.forgotten_count)
    assert 0 < limits.take("c", now_ns=0)


@given(st.lists(st.integers(0, 3 * NS_PER_S), max_size=60).map(sorted), st.integers(1, 20), st.integers(1, 10))
def test_never_more_than_burst_and_pace_allow(instants, per_s, burst):
    limits = RateLimits(per_s=per_s, burst=burst)
    taken = [now_ns for now_ns in instants if limits.take("a", now_ns=now_ns) == 0]

    for first in range(len(taken)):
        for last in range(first, len(taken)):
            assert last - first + 1 <= burst + (taken[last] - taken[first]) / (NS_PER_S // per_s)
