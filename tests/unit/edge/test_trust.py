"""Whom an edge believes: publishers that must have signed, keys that are revoked, region keys that change while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from random import Random

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_client.client import AsyncEdgeClient
from edge_client.config import EdgeConfig
from edge_client.core.fetch_plan import FetchPlan
from edge_client.errors import ConfigError, ModelNotReadyError
from edge_client.protocol.envelope import trust_line
from edge_client.protocol.messages import EdgeReport
from edge_client.protocol.models import Version
from edge_client.protocol.signature_policy import KNOWN_MAX, SignatureMode, SignaturePolicy
from edge_client.protocol.signatures import Publishers, publisher_line, sign_version
from tests.fakes.artifact_source import FakeArtifactSource
from tests.unit.edge.test_client import World
from tests.unit.edge.worlds import until

ALICE, BOB = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (7, 8))
ALICE_LINE, BOB_LINE = (publisher_line(key.public_key()) for key in (ALICE, BOB))
ALICE_ID = ALICE_LINE.split()[2]


@pytest.fixture
async def world() -> World:
    world = World()
    await world.region.start()
    return world


def signed(version: Version, *keys: Ed25519PrivateKey, model: str = "det") -> Version:
    return msgspec.structs.replace(
        version, signatures=tuple(sign_version(key, model=model, version=version) for key in keys)
    )


class GatedSource(FakeArtifactSource):
    """Holds every answer back until its gate is open."""

    def __init__(self, *, artifacts: dict[str, bytes]) -> None:
        super().__init__(artifacts=artifacts)
        self.gate = asyncio.Event()

    async def fetch(self, *, url: str, digest: str, offset: int) -> AsyncIterator[bytes]:
        async for chunk in super().fetch(url=url, digest=digest, offset=offset):
            await self.gate.wait()
            yield chunk


async def pass_time(world: World, ms: int) -> None:
    for _ in range(ms // 500):
        await world.region.run(500)
        await asyncio.sleep(0.002)


async def ready(world: World, edge: AsyncEdgeClient, *, count: int) -> None:
    """Run until so many versions of the first model are loaded."""
    for _ in range(20):
        if len(edge.status().models[0].ready) == count:
            return
        await pass_time(world, 500)
    raise AssertionError(edge.status())


def last_report(world: World) -> EdgeReport:
    return world.region.reports[-1]


async def activate(world: World, view: object) -> None:
    """The region settles on this view at once; the edge hears of it."""
    world.region.event(view)  # type: ignore[arg-type]
    await pass_time(world, 3_000)


# ---- what is loaded


@pytest.mark.parametrize(
    ("mode", "keys", "loaded"),
    [
        ("off", (), True),
        ("off", (BOB,), True),
        ("check", (), True),
        ("check", (ALICE,), True),
        ("check", (BOB,), False),
        ("require", (), False),
        ("require", (ALICE,), True),
        ("require", (BOB,), False),
        ("require", (BOB, ALICE), True),
    ],
)
async def test_a_version_is_loaded_only_as_signatures_says(world, mode, keys, loaded):
    version = signed(world.v1, *keys)
    world.region.model("det", version, stable="1.0.0")

    async with world.edge(signatures=mode, publishers=ALICE_LINE) as edge:
        model = edge.model("det", loader=world.load)
        if loaded:
            await world.strong(edge)
        else:
            await pass_time(world, 2_000)
            with pytest.raises(ModelNotReadyError):
                model.read()
            word = "unknown_publisher" if keys else "unsigned"
            (reason,) = edge.status().models[0].failed.values()
            assert reason.startswith(f"signature refused: {word}: ")
            assert last_report(world).models[0].failed == {version.digest: reason}
            assert edge.status().counters["signatures_refused"] > 0
            assert not world.source.fetches and not world.loads  # not one byte of it is fetched


async def test_an_edge_goes_on_with_what_it_has_when_the_next_version_is_unsigned(world):
    good = signed(world.v1, ALICE)
    world.region.model("det", good, stable="1.0.0")

    async with world.edge(signatures="require", publishers=ALICE_LINE) as edge:
        model = edge.model("det", loader=world.load)
        await world.strong(edge)
        await activate(world, world.region.model("det", good, world.v2, stable="2.0.0", generation=2))

        reading = model.read()
        assert (reading.value, reading.version, reading.guarantee) == ("one", "1.0.0", "fallback")
        assert "signature refused: unsigned" in last_report(world).models[0].failed[world.v2.digest]
        assert [artifact.version for artifact in world.loads] == ["1.0.0"]

        # Signed after all, under the same name: it is taken without a restart.
        await activate(world, world.region.model("det", good, signed(world.v2, ALICE), stable="2.0.0", generation=2))
        await world.strong(edge, "2.0.0")


async def test_a_signature_of_another_version_or_model_is_none(world):
    moved = msgspec.structs.replace(world.v2, signatures=signed(world.v1, ALICE).signatures)
    world.region.model("det", moved, stable="2.0.0")
    world.region.model("ocr", signed(world.v1, ALICE, model="det"), stable="1.0.0")

    async with world.edge(signatures="require", publishers=ALICE_LINE) as edge:
        edge.model("det", loader=world.load)
        edge.model("ocr", loader=world.load)
        await pass_time(world, 2_000)

        failed = [reason for status in edge.status().models for reason in status.failed.values()]
        assert [reason.split(": ")[1] for reason in failed] == ["bad_signature", "bad_signature"]
        assert not world.loads


async def test_the_same_bytes_under_an_unsigned_name_do_not_pass_because_they_are_loaded(world):
    """The shelf is by digest: a version that was loaded well must not open the door to another name for its bytes."""
    good, old = signed(world.v1, ALICE), signed(world.v2, ALICE)
    world.region.model("det", good, old, stable="1.0.0", prefetch=None, previous=None)
    view = world.region.model("det", good, old, stable="1.0.0", pending=None)
    renamed = Version(version="9.9.9", digest=old.digest, size_bytes=old.size_bytes)

    async with world.edge(signatures="require", publishers=ALICE_LINE) as edge:
        edge.model("det", loader=world.load)
        await world.strong(edge)
        next_view = msgspec.structs.replace(view, prefetch=msgspec.structs.replace(view.assignment, stable="2.0.0"))
        await activate(world, next_view)
        await ready(world, edge, count=2)
        await activate(
            world,
            msgspec.structs.replace(
                view,
                versions={"1.0.0": good, "9.9.9": renamed},
                prefetch=msgspec.structs.replace(view.assignment, stable="9.9.9"),
            ),
        )

        assert edge.status().models[0].ready == (good.digest,)
        assert "unsigned" in edge.status().models[0].failed[old.digest]


async def test_what_starts_from_the_local_tier_obeys_the_policy(world):
    world.region.model("det", world.v1, stable="1.0.0")
    async with world.edge(local=True) as edge:
        edge.model("det", loader=world.load)
        await world.strong(edge)
        await until(lambda: len(world.box.blobs) == 1)
        await pass_time(world, 2_000)
    world.region.silent, world.source.down = True, True
    world.loads.clear()

    async with world.edge(local=True, signatures="require", publishers=ALICE_LINE) as edge:
        edge.model("det", loader=world.load)
        for _ in range(40):
            await world.clock.advance(50)
            await asyncio.sleep(0.001)

        assert edge.status().source == "local"
        assert "unsigned" in edge.status().models[0].failed[world.v1.digest]
        assert not world.loads


async def test_a_key_revoked_while_its_version_is_fetched_does_not_get_to_the_loader(world):
    world.region.model("det", signed(world.v1, ALICE), stable="1.0.0")
    world.source = GatedSource(artifacts=world.region.artifacts)

    async with world.edge(signatures="require", publishers=ALICE_LINE) as edge:
        edge.model("det", loader=world.load)
        await pass_time(world, 1_000)
        assert world.source.fetches
        world.region.event(revoked=(ALICE_ID,))
        world.source.gate.set()
        await pass_time(world, 2_000)

        assert not world.loads
        assert "publisher_revoked" in edge.status().models[0].failed[world.v1.digest]


# ---- keys that come and go


async def test_publishers_are_read_again_and_nonsense_changes_nothing(world, tmp_path):
    file = tmp_path / "publishers"
    file.write_text(BOB_LINE)
    world.region.model("det", signed(world.v1, ALICE), stable="1.0.0")

    async with world.edge(signatures="require", publishers=str(file)) as edge:
        edge.model("det", loader=world.load)
        await pass_time(world, 2_000)
        assert not world.loads

        for nonsense in ("", "ccs-publisher-key nonsense", "# nobody"):
            file.write_text(nonsense)
            await pass_time(world, 3_000)
        assert edge.status().counters["trust_unreadable"] >= 3 and "trust_renewed" not in edge.status().counters

        file.write_text(f"{BOB_LINE}\n{ALICE_LINE}\n")
        await pass_time(world, 3_000)
        await world.strong(edge)
        assert edge.status().counters["trust_renewed"] == 1


@pytest.mark.parametrize("by", ["region", "file"])
async def test_a_revoked_key_opens_no_door_and_what_is_served_stays_and_is_named(world, by, tmp_path):
    file = tmp_path / "publishers"
    file.write_text(f"{ALICE_LINE}\n{BOB_LINE}\n")
    v1, v2 = signed(world.v1, ALICE), signed(world.v2, ALICE)
    view = world.region.model("det", v1, v2, stable="1.0.0")
    view = world.region.model(
        "det", v1, v2, stable="1.0.0", prefetch=msgspec.structs.replace(view.assignment, stable="2.0.0")
    )

    async with world.edge(signatures="require", publishers=str(file)) as edge:
        model = edge.model("det", loader=world.load)
        await world.strong(edge)
        await ready(world, edge, count=2)
        if by == "region":
            world.region.event(revoked=(ALICE_ID,))
        else:
            file.write_text(f"{ALICE_LINE}\n{BOB_LINE}\nccs-revoked {ALICE_ID}\n")
        await pass_time(world, 3_000)

        # 1.0.0 is served on, strongly, and named; 2.0.0, loaded in advance, is let go and not loaded again.
        status = edge.status().models[0]
        assert (model.read().version, model.read().guarantee) == ("1.0.0", "strong")
        assert status.untrusted == last_report(world).models[0].untrusted == "publisher_revoked"
        assert status.ready == (v1.digest,) and "publisher_revoked" in status.failed[v2.digest]
        assert edge.status().counters["versions_distrusted"] == 1

        # The region moves on to what another key signed; the way back is closed.
        v3 = signed(v2, BOB)
        await activate(world, world.region.model("det", v1, v3, stable="2.0.0", generation=2, previous=view.assignment))
        await world.strong(edge, "2.0.0")
        await pass_time(world, 1_000)
        assert edge.status().models[0].ready == (v3.digest,)
        assert edge.status().models[0].untrusted == ""

    # Another life that hears of the revocation by snapshot.
    world.loads.clear()
    world.region.model("det", v1, stable="1.0.0", generation=3)
    if by == "region":
        async with world.edge(signatures="require", publishers=ALICE_LINE) as edge:
            edge.model("det", loader=world.load)
            await pass_time(world, 2_000)
            assert not world.loads and "publisher_revoked" in edge.status().models[0].failed[v1.digest]


async def test_a_new_epoch_makes_nobody_trusted_again(world):
    world.region.model("det", signed(world.v1, ALICE), stable="1.0.0")
    world.region.revoked = (ALICE_ID,)

    async with world.edge(signatures="require", publishers=ALICE_LINE) as edge:
        edge.model("det", loader=world.load)
        await pass_time(world, 2_000)
        world.region.revoked, world.region.epoch = (
            ("0" * 16,),
            6,
        )  # restored from a backup that is older than the revocation
        await pass_time(world, 4_000)

        assert edge.status().position.epoch == 6
        assert "publisher_revoked" in edge.status().models[0].failed[world.v1.digest]


# ---- the region's keys


async def test_the_region_changes_its_key_without_a_pause(world, tmp_path):
    file, new = tmp_path / "region.pub", Ed25519PrivateKey.generate()
    old_line, new_line = world.region.trust, trust_line(new.public_key())
    file.write_text(old_line)
    world.region.model("det", world.v1, stable="1.0.0")

    async with world.edge(trust=str(file), local=True) as edge:
        model = edge.model("det", loader=world.load)
        await world.strong(edge)
        file.write_text(f"{old_line}\n{new_line}\n")
        await pass_time(world, 3_000)

        old = world.region.signer.public_key
        old_key = world.region.signer._signing[1]
        world.region.signer.renew(new)
        for _ in range(30):
            await world.region.run(100)
            assert model.read().guarantee == "strong"
        assert "messages_unknown_key" not in edge.status().counters

        file.write_text(new_line)
        await pass_time(world, 3_000)
        assert model.read().guarantee == "strong"
        world.region.signer.renew(old_key)
        assert world.region.signer.public_key == old
        await pass_time(world, 3_000)
        assert edge.status().counters["messages_unknown_key"] > 0 and model.read().guarantee == "bounded"
        world.region.signer.renew(new)


async def test_what_the_local_tier_keeps_verifies_after_the_region_changed_its_key(world, tmp_path):
    """The position does not move: only that other keys are believed makes the edge keep the same once more, signed anew."""
    file, new = tmp_path / "region.pub", Ed25519PrivateKey.generate()
    old_line, new_line = world.region.trust, trust_line(new.public_key())
    file.write_text(f"{old_line}\n{new_line}\n")
    world.region.model("det", world.v1, stable="1.0.0")
    async with world.edge(trust=str(file), local=True) as edge:
        edge.model("det", loader=world.load)
        await world.strong(edge)
        await until(lambda: len(world.box.blobs) == 1)
        world.region.signer.renew(new)
        file.write_text(new_line)
        await pass_time(world, 14_000)
        requests = len(world.region.snapshot_requests)
        await pass_time(world, 12_000)
        assert len(world.region.snapshot_requests) == requests  # asked once more, not for ever
    world.region.silent = True

    async with world.edge(trust=str(file), local=True) as edge:
        model = edge.model("det", loader=world.load)
        for _ in range(40):
            await world.clock.advance(50)
            await asyncio.sleep(0.001)
        assert edge.status().source == "local" and model.read().version == "1.0.0"


async def test_a_trust_file_that_is_gone_for_a_while_changes_nothing(world, tmp_path):
    file = tmp_path / "region.pub"
    file.write_text(world.region.trust)
    world.region.model("det", world.v1, stable="1.0.0")

    async with world.edge(trust=str(file)) as edge:
        model = edge.model("det", loader=world.load)
        await world.strong(edge)
        file.unlink()
        await pass_time(world, 5_000)
        assert model.read().guarantee == "strong"
        assert edge.status().counters["trust_unreadable"] >= 2


# ---- settings and parts


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"signatures": "sometimes"}, "'off', 'check' or 'require'"),
        ({"signatures": "require"}, "needs publishers"),
        ({"signatures": "check", "publishers": "  "}, "needs publishers"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        EdgeConfig(servers=("nats://x",), trust="#", edge_id="e", **settings)


@pytest.mark.parametrize("publishers", ["ccs-publisher-key nonsense", "/no/such/file", "# nobody"])
async def test_publishers_that_make_no_sense_are_refused_at_the_start(world, publishers):
    with pytest.raises(ConfigError, match="publishers"):
        async with world.edge(signatures="check", publishers=publishers):
            pass


def test_a_file_beyond_bounds_is_refused(tmp_path):
    file = tmp_path / "publishers"
    file.write_bytes(b"#" * (256 * 1024 + 1))
    config = EdgeConfig(servers=("nats://x",), trust="#", edge_id="e", publishers=str(file))

    with pytest.raises(ConfigError, match="more than 262144 bytes"):
        config.publishers_text()


def test_what_the_policy_remembers_is_bounded_and_forgotten_with_the_keys():
    policy = SignaturePolicy(mode=SignatureMode.REQUIRE, publishers=Publishers.parse(ALICE_LINE))
    revoked: frozenset[str] = frozenset()
    version = Version(version="1.0.0", digest="sha256:" + "0" * 64, size_bytes=1)
    good = signed(version, BOB)

    for number in range(KNOWN_MAX + 2):
        policy.fault("det", msgspec.structs.replace(version, version=f"1.0.{number}"), revoked=revoked)
    assert len(policy._known) <= KNOWN_MAX
    assert policy.fault("det", good, revoked=revoked) == "unknown_publisher"
    policy.renew(Publishers.parse(BOB_LINE))
    assert policy.fault("det", good, revoked=revoked) is None
    assert policy.fault("det", good, revoked=frozenset({BOB_LINE.split()[2]})) == "publisher_revoked"
    assert policy.fault("det", version, revoked=revoked) == "unsigned"


def test_only_what_is_loaded_can_be_distrusted():
    plan = FetchPlan(memory_bytes_max=10, download_bytes_max=10, rng=Random(1))

    assert plan.distrusted("det", digest="sha256:x", reason="because", now_ns=0) is None
