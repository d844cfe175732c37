"""What every test may rely on: properties are tried in the same order every time, and long enough to mean something."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    import redis

    from tests.support.redis_kinds import RedisCluster
    from tests.support.servers import RedisServer

# A machine shared by many makes a deadline per example a coin toss; pytest-timeout bounds the whole test.
settings.register_profile(
    "default", deadline=None, derandomize=True, max_examples=100, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("long", parent=settings.get_profile("default"), derandomize=False, max_examples=5_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that the tests of one module share."""
    from tests.support.servers import start_redis

    with start_redis(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture(scope="module")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Three primaries that the tests of one module share."""
    from tests.support.redis_kinds import start_redis_cluster

    with start_redis_cluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture
def redis_raw(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """A client of that Redis, which is empty."""
    import redis

    redis_server.flush()
    with redis.Redis(port=redis_server.port, protocol=2) as client:
        yield client
