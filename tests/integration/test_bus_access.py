"""Every subject × identity of docs/reference/bus-access.md, executed on three servers and a site as they are shipped."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import nats
import nats.errors
import nkeys
import pytest
from nats.aio.client import Client

from consistency_service.adapters import nats_accounts
from consistency_service.core import bus_access
from consistency_service.core.bus_access import BusRole, Permissions
from edge_client.protocol.subjects import Subjects
from tests.support.secured_bus import REGION, ConfiguredServer, SecuredBus, now, start_secured_bus
from tests.support.servers import NatsServer, free_port

ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(r"^\| `(?P<subject>[^`]+)` \| [^|]+ \| (?P<cells>.+) \|$", re.MULTILINE)
IDENTITIES = ("anonymous", "edge", "node", "observer", "site")
HOLDERS = {"edge": "cam-17", "node": "node-1", "observer": "board"}
INBOXES = {
    "edge": "_INBOX.e.cam-17",
    "node": "_INBOX.n.node-1",
    "observer": "_INBOX.o.board",
    "site": "_INBOX.e.cam-17",
}
QUEUED = f"ccs.{REGION}.snapshot"
SETTLE_S = 0.4
pytestmark = pytest.mark.timeout(90)


def documented() -> dict[str, dict[str, str]]:
    text = (ROOT / "docs" / "reference" / "bus-access.md").read_text(encoding="utf-8")
    return {
        row["subject"]: dict(zip(IDENTITIES, [cell.strip() for cell in row["cells"].split("|")], strict=True))
        for row in ROW.finditer(text)
    }


SUBJECTS = list(documented())


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredBus]:
    with start_secured_bus(tmp_path_factory.mktemp("bus")) as started:
        yield started


def all_rights(bus: SecuredBus, path: Path) -> Path:
    """A witness: credentials of the region's account that may do everything, which no command makes."""
    mint, seed = nats_accounts._Mint(bus.keys), nats_accounts._new_seed(nkeys.PREFIX_BYTE_USER)
    claims = {"type": "user", "version": 2, "issuer_account": mint.public("account")}
    token = nats_accounts._signed(
        mint.keys["leaf"],
        subject=nats_accounts._public(nkeys.from_seed(bytearray(seed))),
        name="witness",
        nats=claims | nats_accounts._UNLIMITED,
        now=now(),
    )
    path.write_bytes(nats_accounts._CREDENTIALS % (token, seed))
    return path


@asynccontextmanager
async def connected(
    url: str, *, ca: Path | None, credentials: Path | None, inbox: str = "_INBOX"
) -> AsyncIterator[Client]:
    client = await nats.connect(
        url,
        tls=None if ca is None else ssl.create_default_context(cafile=str(ca)),
        user_credentials=None if credentials is None else str(credentials),
        inbox_prefix=inbox,
        allow_reconnect=False,
        connect_timeout=3,
        error_cb=ignore,
    )
    try:
        yield client
    finally:
        await client.close()


async def ignore(_: Exception) -> None:
    return
    """Violations are what this is about; that a message did not arrive says it."""


def concrete(subject: str) -> str:
    return subject.replace(">", "deep.inside")


def is_pattern(subject: str) -> bool:
    return subject.endswith(">")


def is_service(subject: str) -> bool:
    """Answered by the servers themselves."""
    return subject.startswith("$")


async def found(client: Client, witness: Client, *, who: str, inbox: str) -> dict[str, str]:
    """What this identity can say and hear, by what the witness hears and says; and of the servers, by their answers."""
    said: set[str] = set()
    heard: set[str] = set()
    asked: set[str] = set()

    async def witnessed(message: object) -> None:
        data: bytes = message.data  # type: ignore[attr-defined]
        if data.startswith(b"from " + who.encode()):
            said.add(data.decode().split(" ")[2])

    def hears(subject: str):
        async def take(message: object) -> None:
            if message.data == f"to {who} {concrete(subject)}".encode():  # type: ignore[attr-defined]
                heard.add(subject)

        return take

    watching = [await witness.subscribe(subject, cb=witnessed) for subject in ("ccs.>", "_INBOX.>", "anything.>")]
    await witness.flush()
    for subject in SUBJECTS:
        queue = "nodes" if (who, subject) == ("node", QUEUED) else ""
        if not is_service(subject):
            await client.subscribe(subject, queue=queue, cb=hears(subject))
    await client.flush()
    await asyncio.sleep(SETTLE_S)
    for subject in SUBJECTS:
        if not is_service(subject):
            await witness.publish(concrete(subject), f"to {who} {concrete(subject)}".encode())
            if not is_pattern(subject):
                await client.publish(subject, f"from {who} {subject}".encode())
    await witness.flush()
    await client.flush()

    async def ask(number: int, subject: str) -> None:
        answered = asyncio.Event()

        async def take(message: object) -> None:
            if (getattr(message, "headers", None) or {}).get("Status") != "503":
                answered.set()

        reply = f"{inbox}.ask{number}"
        await client.subscribe(reply, cb=take)
        await client.publish(subject, b"{}", reply=reply)
        try:
            async with asyncio.timeout(SETTLE_S * 2):
                await answered.wait()
            asked.add(subject)
        except TimeoutError:
            pass

    await asyncio.gather(*(ask(number, subject) for number, subject in enumerate(filter(is_service, SUBJECTS))))
    await asyncio.sleep(SETTLE_S)
    for each in watching:
        await each.unsubscribe()
    words = {(True, True): "both", (True, False): "says", (False, True): "hears", (False, False): "–"}
    return {subject: words[subject in said | asked, subject in heard] for subject in SUBJECTS}


@asynccontextmanager
async def identity(bus: SecuredBus, who: str, *, site: NatsServer | None = None) -> AsyncIterator[Client]:
    if who == "site":
        assert site is not None
        async with connected(site.url, ca=None, credentials=None) as client:
            yield client
    else:
        holder = bus.credentials(BusRole(who), HOLDERS[who])
        async with connected(bus.urls[1], ca=bus.ca, credentials=holder, inbox=INBOXES[who]) as client:
            yield client


class HostileSite(ConfiguredServer):
    """A site's server whose keeper lets everybody do everything; it has the site's credentials."""

    scheme = "nats"


def hostile_site(bus: SecuredBus, directory: Path) -> HostileSite:
    port, http = free_port(), free_port()
    directory.mkdir()
    credentials = bus.credentials(BusRole.LEAF, "dock-3", edge_ids=("cam-17",))
    (directory / "open.conf").write_text(
        f'listen: "127.0.0.1:{port}"\nhttp: $NATS_HTTP_LISTEN\n'
        f'leafnodes {{ remotes: [{{ url: "tls://127.0.0.1:{bus.leaf_ports[0]}", credentials: "{credentials}", '
        f'tls {{ ca_file: "{bus.ca}" }} }}] }}\n'
    )
    return HostileSite(
        port=port, directory=directory, file="open.conf", environment={"NATS_HTTP_LISTEN": f"127.0.0.1:{http}"}
    )


async def wait_linked(site: ConfiguredServer) -> None:
    async with asyncio.timeout(10):
        while not site.monitoring("leafz").get("leafs"):
            await asyncio.sleep(0.05)


async def make_stream(bus: SecuredBus) -> None:
    from consistency_service.adapters.nats_bus import NatsEventBus

    node = NatsEventBus(
        bus.urls,
        name="node",
        subjects=Subjects(REGION),
        stream_replicas=3,
        inbox_prefix="_INBOX.n.node-1",
        access=bus.access(BusRole.NODE, "node-1"),
    )
    await node.connect()
    try:
        async with asyncio.timeout(10):
            while not node.connected:
                await asyncio.sleep(0.02)
        tail = await node.stream_tail()
        await node.append(payload=b"event", message_id="1-1", expected_sequence=tail.sequence)
    finally:
        await node.close()


async def executed(bus: SecuredBus, directory: Path) -> dict[str, dict[str, str]]:
    await make_stream(bus)
    table: dict[str, dict[str, str]] = {subject: {} for subject in SUBJECTS}
    async with AsyncExitStack() as stack:
        site = hostile_site(bus, directory / "hostile")
        site.start()
        stack.callback(site.stop)
        await wait_linked(site)
        witness = await stack.enter_async_context(
            connected(bus.urls[0], ca=bus.ca, credentials=all_rights(bus, directory / "witness.creds"))
        )
        for who in IDENTITIES:
            if who == "anonymous":
                with pytest.raises(nats.errors.Error, match=r"(?i)authorization violation"):
                    async with connected(bus.urls[0], ca=bus.ca, credentials=None):
                        pass
                cells = dict.fromkeys(SUBJECTS, "–")
            else:
                async with identity(bus, who, site=site) as client:  # type: ignore[arg-type]
                    cells = await found(client, witness, who=who, inbox=INBOXES[who])
            for subject, cell in cells.items():
                table[subject][who] = cell
    return table


async def test_the_table_is_what_the_servers_do(bus: SecuredBus, tmp_path: Path) -> None:
    assert documented() == await executed(bus, tmp_path)


async def test_with_a_rule_switched_off_the_table_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edge that may report as anybody, an observer that may sit in the nodes' queue, a site that may speak as the region."""
    real = bus_access.permissions_of

    def loosened(role: BusRole, **more: object) -> Permissions:
        rights = real(role, **more)  # type: ignore[arg-type]
        subjects = Subjects(REGION)
        publish = {BusRole.EDGE: (subjects.reports,), BusRole.LEAF: (subjects.beacon,)}.get(role, ())
        subscribe = {BusRole.OBSERVER: (subjects.snapshot,)}.get(role, ())
        return Permissions(publish=rights.publish + publish, subscribe=rights.subscribe + subscribe)

    monkeypatch.setattr(nats_accounts, "permissions_of", loosened)
    with start_secured_bus(tmp_path / "bus") as bus:
        found = await executed(bus, tmp_path)
    differs = {(s, who): cell for s, row in found.items() for who, cell in row.items() if documented()[s][who] != cell}

    assert {
        (f"ccs.{REGION}.report.cam-18", "edge"): "says",
        (f"ccs.{REGION}.snapshot", "observer"): "hears",
        (f"ccs.{REGION}.beacon", "site"): "both",
    } == differs
