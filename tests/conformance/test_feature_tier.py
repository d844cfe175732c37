"""What every `FeatureTier` does: the fake, and Redis; and that the blocking reader sees the same."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis

from edge_client.adapters.redis_feature_tier import BlockingFeatureTier, RedisFeatureTier
from edge_client.adapters.redis_features import DAY_MS, unix_ms
from edge_client.errors import ConfigError, LocalTierError
from edge_client.protocol.feature_codec import encode_entry
from edge_client.protocol.features import Entry
from edge_client.runtime.feature_ports import FeatureTier, Held
from tests.fakes.feature_tier import FakeFeatureTier, FeatureBox
from tests.support.servers import RedisServer, start_redis


@dataclass
class WallClock:
    """The machine's wall clock and what a test adds to it; Redis goes by its own."""

    ahead_ms: int = 0

    def __call__(self) -> int:
        return unix_ms() + self.ahead_ms


@dataclass
class Rig:
    """Two processes of one box, one of the same box after a restart, and the levers to break what is under them."""

    make: Callable[[str], FeatureTier]
    stop: Callable[[], None]
    start: Callable[[], None]
    flush: Callable[[], None]
    forget_scripts: Callable[[], None]
    clock: WallClock
    made: list[FeatureTier] = field(default_factory=list)

    @property
    def tier(self) -> FeatureTier:
        return self.made[0]

    @property
    def neighbour(self) -> FeatureTier:
        """Another process's."""
        return self.made[1]

    @property
    def reborn(self) -> FeatureTier:
        """After the machine was started again."""
        return self.made[2]


@pytest.fixture(params=["fake", "redis"])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    clock, box = WallClock(), FeatureBox()
    if request.param == "fake":

        def stop() -> None:
            box.flush()
            box.away = True

        rig = Rig(
            make=lambda boot_id: FakeFeatureTier(box, boot_id=boot_id, clock_unix_ms=clock),
            stop=stop,
            start=lambda: setattr(box, "away", False),
            flush=box.flush,
            forget_scripts=lambda: None,
            clock=clock,
        )
    else:
        redis_server: RedisServer = request.getfixturevalue("redis_server")

        def forget_scripts() -> None:
            with redis.Redis(port=redis_server.port, protocol=2) as client:
                client.script_flush()

        rig = Rig(
            make=lambda boot_id: RedisFeatureTier(
                redis_server.url, region="north", boot_id=boot_id, clock_unix_ms=clock
            ),
            stop=redis_server.stop,
            start=redis_server.start,
            flush=redis_server.flush,
            forget_scripts=forget_scripts,
            clock=clock,
        )
    rig.flush()
    rig.made = [rig.make("boot-1"), rig.make("boot-1"), rig.make("boot-2")]
    await rig.tier.connect()
    yield rig
    for tier in rig.made:
        await tier.close()


def entry(stamp: int, value: bytes | None = b"value", *, writer: int = 1, expires: int = 0) -> Entry:
    return Entry(value, stamp, writer, expires)


async def test_what_is_put_is_held_for_every_process(rig: Rig) -> None:
    first, gone = entry(5, b"\x00first\r\n"), entry(6, None)
    await rig.tier.put_many([("user:1", first, 70), ("user:{2} ö", gone, 80)])

    assert Held(first, 70) == await rig.neighbour.get("user:1")
    assert [Held(gone, 80), None] == await rig.neighbour.get_many(["user:{2} ö", "user:3"])
    assert None is await rig.tier.get("user:3")
    assert [] == await rig.tier.get_many([])
    await rig.tier.put_many([])
    await rig.tier.drop_many([])


@pytest.mark.parametrize(
    "held, offered, taken",
    [
        ((7, 1), (8, 1), True),
        ((8, 1), (7, 9), False),
        ((7, 1), (7, 2), True),
        ((7, 2), (7, 1), False),
        ((9, 1), (10, 1), True),
        ((10, 1), (9, 1), False),
        ((2**53, 1), (2**53 + 1, 1), True),
        ((2**63, 2**64 - 1), (2**63, 2**64 - 2), False),
    ],
)
async def test_it_only_moves_forward_whenever_the_older_one_was_known(
    rig: Rig, held: tuple[int, int], offered: tuple[int, int], taken: bool
) -> None:
    await rig.tier.put_many([("k", Entry(b"held", *held, 0), 100)])
    await rig.neighbour.put_many([("k", Entry(b"offered", *offered, 0), 50 if taken else 200)])

    expected = Held(Entry(b"offered", *offered, 0), 50) if taken else Held(Entry(b"held", *held, 0), 100)
    assert expected == await rig.tier.get("k")


async def test_the_same_write_known_later_is_known_later_and_never_earlier(rig: Rig) -> None:
    await rig.tier.put_many([("k", entry(5), 100)])
    await rig.neighbour.put_many([("k", entry(5), 99)])
    assert Held(entry(5), 100) == await rig.tier.get("k")
    await rig.neighbour.put_many([("k", entry(5), 101)])

    assert Held(entry(5), 101) == await rig.tier.get("k")


async def test_after_a_restart_of_the_machine_nobody_knows_how_old_it_is(rig: Rig) -> None:
    await rig.tier.put_many([("k", entry(5), 10**18)])
    assert Held(entry(5), None) == await rig.reborn.get("k")
    await rig.reborn.put_many([("k", entry(5), 3)])

    assert Held(entry(5), 3) == await rig.reborn.get("k")
    await rig.reborn.put_many([("k", entry(4), 4)])
    assert Held(entry(5), 3) == await rig.reborn.get("k")


async def test_what_expired_is_absent_and_not_taken(rig: Rig) -> None:
    now_ms = rig.clock()
    await rig.tier.put_many(
        [("short", entry(5, expires=now_ms + 10_000), 1), ("past", entry(5, expires=now_ms - 1), 1)]
    )
    assert None is await rig.tier.get("past")
    rig.clock.ahead_ms = 10_001

    assert None is await rig.tier.get("short")
    assert [None] == await rig.tier.get_many(["short"])


async def test_dropping_spares_what_is_as_new(rig: Rig) -> None:
    await rig.tier.put_many([("k", entry(5), 1), ("j", entry(2**53), 1)])
    await rig.neighbour.drop_many([("k", 5), ("j", 2**53 - 1), ("none", 9)])
    assert [Held(entry(5), 1), Held(entry(2**53), 1)] == await rig.tier.get_many(["k", "j"])
    await rig.neighbour.drop_many([("k", 6), ("j", 2**53 + 1)])

    assert [None, None] == await rig.tier.get_many(["k", "j"])


async def test_of_many_processes_the_greatest_order_stays(rig: Rig) -> None:
    rig.made += [rig.make("boot-1") for _ in range(4)]
    stamps = random.Random(3).sample(range(1, 201), 200)

    await asyncio.gather(
        *(
            rig.made[(0, 1, 3, 4, 5, 6)[place % 6]].put_many([("k", entry(stamp), stamp)])
            for place, stamp in enumerate(stamps)
        )
    )

    assert Held(entry(200), 200) == await rig.tier.get("k")


async def test_more_than_a_pipeline_holds(rig: Rig) -> None:
    items = [(f"k:{number}", entry(number + 1), number) for number in range(2_500)]
    await rig.tier.put_many(items)

    assert [Held(each, known) for _, each, known in items] == await rig.tier.get_many([key for key, _, _ in items])


async def test_scripts_that_the_server_forgot_are_told_again(rig: Rig) -> None:
    for stamp in (1, 2):
        rig.forget_scripts()
        await rig.tier.put_many([("k", entry(stamp), 1), ("j", entry(stamp), 1)])
        assert [Held(entry(stamp), 1)] * 2 == await rig.tier.get_many(["k", "j"])
    rig.forget_scripts()
    await rig.tier.drop_many([("k", 9)])
    assert None is await rig.tier.get("k")


async def test_away_is_an_error_at_once_and_over_when_it_is_back(rig: Rig) -> None:
    await rig.tier.put_many([("k", entry(1), 1)])
    rig.stop()
    calls: list[Callable[[], object]] = [
        rig.tier.connect,
        lambda: rig.tier.get("k"),
        lambda: rig.tier.get_many(["k"]),
        lambda: rig.tier.put_many([("k", entry(1), 1)]),
        lambda: rig.tier.drop_many([("k", 1)]),
    ]
    started = time.monotonic()
    for call in calls:
        with pytest.raises(LocalTierError):
            await call()  # type: ignore[misc]
    assert time.monotonic() - started < 2
    rig.start()

    await rig.tier.put_many([("k", entry(1), 1)])
    assert Held(entry(1), 1) == await rig.tier.get("k")


def tier_at(
    redis_server: RedisServer, *, timeout_ms: int = 1_000, clock: Callable[[], int] = unix_ms
) -> RedisFeatureTier:
    return RedisFeatureTier(
        redis_server.url, region="north", boot_id="boot", timeout_ms=timeout_ms, clock_unix_ms=clock
    )


def blocking_at(redis_server: RedisServer, *, timeout_ms: int = 1_000, threads_max: int = 64) -> BlockingFeatureTier:
    tier = BlockingFeatureTier(redis_server.url, region="north", boot_id="boot", timeout_ms=timeout_ms)
    tier.threads_max = threads_max
    return tier


PLANTED = {
    "empty": b"",
    "short": b"123",
    "text": b"x" * 200,
    "digits": b"9" * 200,
    "another's": b"%020d%020d%020d" % (9, 1, 1) + b"a" * 16 + encode_entry(entry(8)),
    "cut": b"%020d%020d%020d" % (8, 1, 1) + b"a" * 16 + encode_entry(entry(8))[:-1],
    "no instant": b"%020d%020d" % (8, 1) + b" " * 19 + b"1" + b"a" * 16 + encode_entry(entry(8)),
}


async def test_strange_strings_are_absent_and_counted(redis_server: RedisServer, redis_raw: redis.Redis) -> None:
    tier, blocking = tier_at(redis_server), blocking_at(redis_server)
    for name, planted in PLANTED.items():
        redis_raw.set(f"ccs:north:t:{name}", planted)

    assert [None] * 7 == [await tier.get(name) for name in PLANTED] == await tier.get_many(list(PLANTED))
    assert [None] * 7 == blocking.get_many(list(PLANTED))
    assert (14, 7) == (tier.unreadable_count, blocking.unreadable_count)
    await tier.put_many([("text", entry(1), 1), ("short", entry(1), 1)])
    assert [Held(entry(1), 1)] * 2 == await tier.get_many(["text", "short"])
    await tier.drop_many([("empty", 1), ("text", 2)])
    assert 0 == redis_raw.exists("ccs:north:t:empty", "ccs:north:t:text")

    redis_raw.rpush("ccs:north:t:list", b"a")
    with pytest.raises(LocalTierError, match="WRONGTYPE"):
        await tier.get("list")
    with pytest.raises(LocalTierError, match="WRONGTYPE"):
        blocking.get("list")
    assert Held(entry(1), 1) == await tier.get("short") == blocking.get("short")
    blocking.close()
    await tier.close()


async def test_nothing_stays_longer_than_it_lives_or_a_day(redis_server: RedisServer, redis_raw: redis.Redis) -> None:
    tier = tier_at(redis_server)
    now_ms = unix_ms()
    await tier.put_many(
        [
            ("ever", entry(1), 1),
            ("gone", entry(1, None), 1),
            ("week", entry(1, expires=now_ms + 7 * DAY_MS), 1),
            ("soon", entry(1, expires=now_ms + 300), 1),
        ]
    )
    await tier.close()

    lives = {name: redis_raw.pttl(f"ccs:north:t:{name}") for name in ("ever", "gone", "week", "soon")}
    assert all(DAY_MS - 10_000 < lives[name] <= DAY_MS for name in ("ever", "gone", "week"))
    assert 0 < lives["soon"] <= 300


async def test_a_redis_that_hangs_is_given_up_in_time(redis_server: RedisServer, redis_raw: redis.Redis) -> None:
    tier, blocking = tier_at(redis_server, timeout_ms=200), blocking_at(redis_server, timeout_ms=200)
    await tier.put_many([("k", entry(1), 1)])
    assert Held(entry(1), 1) == blocking.get("k")
    redis_server.pause()
    started = time.monotonic()
    try:
        for _ in range(2):
            with pytest.raises(LocalTierError, match="in time"):
                await tier.get("k")
            with pytest.raises(LocalTierError, match="in time"):
                blocking.get("k")
        waited = await asyncio.gather(*(tier.get("k") for _ in range(30)), return_exceptions=True)
        assert all(isinstance(each, LocalTierError) for each in waited)
    finally:
        redis_server.resume()
    assert time.monotonic() - started < 2.5

    assert Held(entry(1), 1) == await tier.get("k") == blocking.get("k")
    blocking.close()
    await tier.close()


async def test_a_call_given_up_leaves_nothing_for_the_next(redis_server: RedisServer, redis_raw: redis.Redis) -> None:
    tier = tier_at(redis_server)
    await tier.put_many([(f"k:{number}", entry(number + 1), number) for number in range(50)])

    async def interrupted(number: int) -> Held | None:
        call = asyncio.ensure_future(tier.get(f"k:{number}"))
        for _ in range(number % 5):
            await asyncio.sleep(0)
        call.cancel()
        return await tier.get(f"k:{number}")

    found = await asyncio.gather(*(interrupted(number) for number in range(50)))
    await tier.close()

    assert [Held(entry(number + 1), number) for number in range(50)] == found


async def test_closed_connections_are_made_again_without_an_error(
    redis_server: RedisServer, redis_raw: redis.Redis
) -> None:
    tier, blocking = tier_at(redis_server), blocking_at(redis_server)
    await tier.put_many([("k", entry(1), 1)])
    assert Held(entry(1), 1) == blocking.get("k")
    for _ in range(3):
        redis_raw.client_kill_filter(_type="normal", skipme=True)

        assert Held(entry(1), 1) == await tier.get("k") == blocking.get("k")
    blocking.close()
    await tier.close()


async def test_calls_share_few_connections(redis_server: RedisServer, redis_raw: redis.Redis) -> None:
    before = len(redis_raw.client_list())
    tier = tier_at(redis_server)
    await asyncio.gather(*(tier.get("k") for _ in range(500)))

    assert len(redis_raw.client_list()) - before <= 8
    await tier.close()


def test_the_blocking_reader_sees_what_processes_hold(redis_server: RedisServer, redis_raw: redis.Redis) -> None:
    clock = WallClock()
    held = entry(5, expires=unix_ms() + 10_000)

    async def put() -> None:
        tier = tier_at(redis_server, clock=clock)
        await tier.put_many([("k", held, 7)])
        await tier.close()

    asyncio.run(put())
    tier = BlockingFeatureTier(redis_server.url, region="north", boot_id="boot", clock_unix_ms=clock)
    reborn = BlockingFeatureTier(redis_server.url, region="north", boot_id="later", clock_unix_ms=clock)

    assert Held(held, 7) == tier.get("k")
    assert Held(held, None) == reborn.get("k")
    assert [None, Held(held, 7)] == tier.get_many(["j", "k"])
    clock.ahead_ms = 10_001
    assert None is tier.get("k")
    tier.close()
    reborn.close()
    with pytest.raises(LocalTierError, match="closed"):
        tier.get("k")


def test_each_thread_has_a_connection_and_gives_it_back_at_its_end(
    redis_server: RedisServer, redis_raw: redis.Redis
) -> None:
    before = len(redis_raw.client_list())
    tier = blocking_at(redis_server, threads_max=4)
    release, refused = threading.Event(), []
    begun = threading.Barrier(7)

    def read() -> None:
        try:
            tier.get("k")
        except LocalTierError as error:
            refused.append(str(error))
        begun.wait(timeout=10)
        release.wait(timeout=10)

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    begun.wait(timeout=10)
    assert 4 == len(redis_raw.client_list()) - before
    assert 2 == len(refused) and "more than 4 threads" in refused[0]
    release.set()
    for thread in threads:
        thread.join(timeout=10)
    del threads, thread

    assert None is tier.get("k")
    assert 1 == len(redis_raw.client_list()) - before
    tier.close()


def test_a_child_process_makes_its_own_connection(redis_server: RedisServer, redis_raw: redis.Redis) -> None:
    redis_raw.set("ccs:north:t:k", b"%020d%020d%020d" % (5, 1, 3) + b"a" * 16 + encode_entry(entry(5)))
    tier = blocking_at(redis_server)
    assert Held(entry(5), None) == tier.get("k")
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            answers = {tier.get("k") for _ in range(300)}
            os._exit(0 if answers == {Held(entry(5), None)} else 1)
        children.append(child)
    answers = {tier.get("k") for _ in range(300)}

    assert {Held(entry(5), None)} == answers
    assert [0] * 3 == [os.waitpid(child, 0)[1] for child in children]
    assert Held(entry(5), None) == tier.get("k")
    tier.close()


async def test_a_full_redis_says_so_and_still_reads(tmp_path: Path) -> None:
    with start_redis(tmp_path, maxmemory="3mb") as redis_server:
        tier = tier_at(redis_server)
        await tier.put_many([("k", entry(1), 1)])
        with pytest.raises(LocalTierError, match="full"):
            await tier.put_many([(f"k:{number}", entry(1, bytes(100_000)), 1) for number in range(100)])

        assert Held(entry(1), 1) == await tier.get("k")
        await tier.close()


async def test_a_socket_of_the_file_system_will_do(
    tmp_path: Path, redis_server: RedisServer, redis_raw: redis.Redis
) -> None:
    path = tmp_path / "s"
    forward = await asyncio.start_unix_server(lambda r, w: _pump_both(r, w, port=redis_server.port), path)
    tier = RedisFeatureTier(f"unix://{path}", region="north", boot_id="boot")
    await tier.put_many([("k", entry(1), 1)])
    blocking = BlockingFeatureTier(f"unix://{path}", region="north", boot_id="boot")

    assert Held(entry(1), 1) == await tier.get("k") == await asyncio.to_thread(blocking.get, "k")
    assert f"<RedisFeatureTier unix://{path}>" == repr(tier)
    blocking.close()
    await tier.close()
    forward.close()


async def _pump_both(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, port: int) -> None:
    behind = await asyncio.open_connection("127.0.0.1", port)

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65_536):
            target.write(data)
        target.close()

    await asyncio.gather(pump(reader, behind[1]), pump(behind[0], writer))


@pytest.mark.parametrize("url", ["", "http://127.0.0.1", "unix://", "redis://h?decode_responses=1", "redis://h:x"])
def test_a_url_that_makes_no_sense_is_refused(url: str) -> None:
    for kind in (RedisFeatureTier, BlockingFeatureTier):
        with pytest.raises(ConfigError, match="local tier URL"):
            kind(url, region="north", boot_id="boot")
