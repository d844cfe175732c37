"""No secret is told: every object that holds one is built, shown, run and made to fail, with every word kept and searched."""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from typer.testing import CliRunner

from consistency_service import app as service_app
from consistency_service.adapters import region_key, rest_security
from consistency_service.adapters.object_store import ObjectStore
from consistency_service.api.app import create_api
from consistency_service.api.peers import Peers
from consistency_service.cli.commands import app as ccs
from consistency_service.config import Peer, ServiceConfig, load_config
from consistency_service.errors import ServiceError
from edge_client.adapters.nats_access import NatsAccess, Proof
from edge_client.adapters.redis_address import address_of
from edge_client.client import AsyncEdgeClient
from edge_client.config import EdgeConfig
from edge_client.errors import EdgeError
from edge_client.protocol.envelope import Signer, trust_line
from tests.api.served import free_port, one_node

MARK = "Zx9mark/Secret+word"
"""In every secret here, with characters that look different in a URL."""
JWT = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJaeDltYXJrIn0.Zx9markSignature"
WEBHOOK = "whsec_" + "Zx9mark" + "A" * 25
OURS = ("edge_client", "consistency_service")
LOOKED_AT_MAX = 50_000


class Heard(logging.Handler):
    """Every record of every logger, as text, with its arguments and its traceback."""

    def __init__(self) -> None:
        super().__init__(level=logging.NOTSET)
        self.words: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.words.append(f"{record.name}: {record.getMessage()} {record.args!r} {record.__dict__.get('extra')!r}")
        if record.exc_info:
            self.words.append("".join(traceback.format_exception(*record.exc_info)))


@pytest.fixture
def heard() -> Iterator[Heard]:
    handler, root = Heard(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.NOTSET)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


def tell_tales(words: Any, *secrets: str) -> list[str]:
    """The words that hold a secret, as it is or as it stands in a URL."""
    forms = [form for one in secrets or (MARK, JWT, WEBHOOK) for form in (one, quote(one, safe=""), quote(one))]
    return [word[:400] for word in words if any(form in word for form in forms)]


def shown(*roots: object) -> Iterator[str]:
    """`repr` and `str` of these objects and of every object of ours that can be reached from them."""
    seen: set[int] = set()
    waiting = list(roots)
    while waiting and len(seen) < LOOKED_AT_MAX:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, dict):
            waiting += list(one.values())
        elif isinstance(one, (list, tuple, set, frozenset)):
            waiting += list(one)
        elif type(one).__module__.startswith(OURS):
            yield f"{type(one).__name__} repr: {one!r}"
            yield f"{type(one).__name__} str: {one}"
            slots = [name for kind in type(one).__mro__ for name in getattr(kind, "__slots__", ())]
            names = [*getattr(one, "__dict__", {}), *slots, *getattr(one, "__struct_fields__", ())]
            for name in names:
                with suppress(AttributeError):
                    waiting.append(getattr(one, name))


def errors_of(error: BaseException) -> Iterator[str]:
    """Everything an error says, with its causes."""
    yield "".join(traceback.format_exception(error))


def guarded(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(0o600)
    return path


def edge_config(directory: Path, **more: Any) -> EdgeConfig:
    dead = free_port()
    key = region_key.generate(directory / "edge-region.key", directory / "edge-region.pub")
    return EdgeConfig(
        servers=(
            f"nats://ana:{quote(MARK, safe='')}@127.0.0.1:{dead}",
            f"nats://{quote(MARK, safe='')}@127.0.0.1:{dead}",
        ),
        trust=trust_line(key.public_key()),
        edge_id="edge-1",
        local=f"redis://ana:{quote(MARK, safe='')}@127.0.0.1:{dead}/0",
        feature_store=f"redis://ana:{quote(MARK, safe='')}@127.0.0.1:{dead}/1",
        http_token=str(guarded(directory / "token", MARK)),
        **more,
    )


async def test_an_edge_whose_everything_fails_tells_no_secret(tmp_path, heard):
    config = edge_config(tmp_path)
    words = [repr(config), str(config)]
    client = await AsyncEdgeClient.open(config)
    try:
        client.model("det", loader=lambda artifact: artifact)
        with suppress(EdgeError):
            await client.features.get("track:1")
        await asyncio.sleep(1.5)
        words += shown(client)
        words += [repr(client.status()), str(client.status())]
    finally:
        await client.close()

    assert tell_tales([*words, *heard.words]) == []
    assert len(words) > 50 and any("bus" in word for word in heard.words)  # that it looked, and that things failed


@pytest.mark.parametrize(
    "settings",
    [
        {"servers": (f"gopher://ana:{MARK}@h",)},
        {"local": f"http://ana:{MARK}@h"},
        {"local": f"redis://ana:{MARK}@h:port"},
        {"local": f"redis://ana:{quote(MARK, safe='')}@h?socket_magic={quote(MARK, safe='')}"},
        {"feature_store": f"{MARK}"},
        {"feature_store": f"rediss://{MARK}@[::1"},
        {"servers": (f"nats://ana:{MARK}@h:port",)},
        {"servers": (f"nats://ana:{MARK}@[::1",)},
    ],
)
async def test_settings_that_are_refused_are_not_repeated(settings, heard):
    base: dict[str, Any] = {"servers": ("nats://127.0.0.1:1",), "trust": "#", "edge_id": "e"}
    with pytest.raises((EdgeError, ValueError)) as caught:
        await AsyncEdgeClient.open(EdgeConfig(**base | settings))

    assert tell_tales([*errors_of(caught.value), *heard.words]) == []


def node_config(directory: Path, **more: Any) -> ServiceConfig:
    dead = free_port()
    if not (directory / "region.key").exists():
        region_key.generate(directory / "region.key", directory / "region.pub")
    values: dict[str, Any] = {
        "node_id": "n1",
        "data_dir": directory / "data",
        "peers": {"n1": Peer(raft=f"127.0.0.1:{free_port()}", url=f"http://127.0.0.1:{free_port()}")},
        "region_key": directory / "region.key",
        "log": "memory",
        "nats": (f"nats://ana:{quote(MARK, safe='')}@127.0.0.1:{dead}",),
        "artifacts": f"file://{directory}/artifacts",
    }
    return ServiceConfig(**values | more)


def pem_body(path: Path) -> str:
    key = region_key.load_private(path)
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return text.splitlines()[1]


async def test_a_node_whose_bus_fails_tells_no_secret(tmp_path, heard):
    config = node_config(tmp_path)
    secrets = (MARK, pem_body(tmp_path / "region.key"))
    node = service_app.build_node(config, peers=Peers())
    running = asyncio.create_task(node.run())
    await asyncio.sleep(1.5)
    words = [*shown(config, node), json.dumps(node.self_status(), default=str)]
    running.cancel()
    await asyncio.wait({running})

    assert tell_tales([*words, *heard.words], *secrets) == []
    assert len(words) > 50 and any("bus" in word.lower() for word in heard.words)


@pytest.mark.parametrize(
    "settings",
    [
        {"peers": {"n1": Peer(raft="127.0.0.1:1", url=f"http://ana:{quote(MARK, safe='')}@h")}},
        {"peers": {"n1": Peer(raft="127.0.0.1:1", url=f"gopher://ana:{MARK}@h")}},
        {"nats": ()},
    ],
)
def test_settings_of_a_node_that_are_refused_are_not_repeated(tmp_path, settings):
    with pytest.raises(ServiceError) as caught:
        node_config(tmp_path, **settings)

    assert tell_tales(errors_of(caught.value)) == []


@pytest.mark.parametrize(
    "artifacts",
    [
        f"gopher://ana:{quote(MARK, safe='')}@h/b",
        f"s3://ana:{quote(MARK, safe='')}@bucket/x",
        f"az://container/x?key={quote(MARK, safe='')}",
    ],
)
def test_a_store_that_is_refused_or_made_does_not_repeat_its_url(artifacts):
    words: list[str] = []
    try:
        words += shown(
            ObjectStore(artifacts, options={"secret_access_key": MARK} if artifacts.startswith("s3") else {})
        )
    except ServiceError as error:
        words += errors_of(error)

    assert words and tell_tales(words) == []


async def test_rest_repeats_no_credentials_and_shows_no_webhook_secret(tmp_path, heard):
    """In answers of every kind, in the audit, in events and on the pages."""
    async with one_node(tmp_path) as served:
        webhook = {"url": "http://127.0.0.1:9/x", "secret": WEBHOOK}
        words = [(await served.http.post("/v1/webhooks", json=webhook)).text]
        words.append((await served.http.post("/v1/webhooks", json=webhook | {"secret": MARK})).text)
        words.append((await served.http.post("/v1/webhooks", json=webhook | {"url": f"http://a:{MARK}@h/"})).text)
        for path in ("/v1/webhooks", "/v1/audit", "/v1/cluster", "/v1/cluster/self", "/openapi.json", "/", "/timeline"):
            words += [(await served.http.get(path)).text]
        words += [repr(event) for event in served.node.metadata.events_kept()]
        words += shown(served.node)

    assert tell_tales([*words, *heard.words]) == []


async def test_tokens_and_jwts_that_are_refused_are_not_repeated(tmp_path, heard):
    access = tmp_path / "access.toml"
    access.write_text(f'[[token]]\nname = "ana"\nrole = "viewer"\nsha256 = "{"0" * 64}"\n')
    access.chmod(0o600)
    config = node_config(tmp_path, access=access)
    authentication = rest_security.authentication(config, counters=Counter())
    node = service_app.build_node(config, peers=Peers())
    api = create_api(node, authentication=authentication)
    words = []
    transport = httpx.ASGITransport(app=api)
    async with httpx.AsyncClient(transport=transport, base_url="http://n") as http:
        for token in (f"ccs_{MARK}", JWT, JWT + MARK, "\x7f" + MARK):
            answer = await http.get("/v1/models", headers={"Authorization": f"Bearer {token}"})
            words += [answer.text, repr(answer.headers), str(answer.status_code)]
            assert answer.status_code == 401
    words += shown(authentication, api.state.access)
    await node.artifacts.close()

    assert tell_tales([*words, *heard.words]) == []


@pytest.mark.parametrize(
    "content",
    [MARK, f"-----BEGIN NATS USER JWT-----\n{JWT}\n------END NATS USER JWT------\n", f"SU{MARK}", ""],
)
def test_credentials_that_make_no_sense_are_not_repeated(tmp_path, content):
    words = []
    for mode in (0o600, 0o644):
        file = guarded(tmp_path / "c.creds", content)
        file.chmod(mode)
        access = NatsAccess(credentials=file)
        with pytest.raises(EdgeError) as caught:
            access.proof()
        words += [*errors_of(caught.value), *shown(access)]

    assert tell_tales(words) == []


def test_keys_and_proofs_show_nothing_of_themselves(tmp_path):
    key = region_key.generate(tmp_path / "k", tmp_path / "p")
    body, raw = pem_body(tmp_path / "k"), key.private_bytes_raw().hex()
    proof = Proof(token=JWT.encode(), seed=MARK.encode())
    address = address_of(f"redis://ana:{quote(MARK, safe='')}@h", what="tier")
    (tmp_path / "broken").write_text(f"-----BEGIN PRIVATE KEY-----\n{body[:-4]}\n-----END PRIVATE KEY-----\n")
    (tmp_path / "broken").chmod(0o600)
    with pytest.raises(ServiceError) as caught:
        region_key.load_private(tmp_path / "broken")

    words = [*shown(Signer(key), proof, address), *errors_of(caught.value)]
    assert tell_tales(words, MARK, JWT, body[:-4], raw) == []


def test_the_command_line_repeats_no_token(tmp_path, monkeypatch, heard):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CCS_TOKEN", MARK.replace("/", "_"))
    secret = MARK.replace("/", "_")
    dead = f"http://127.0.0.1:{free_port()}"
    words = []
    for arguments in (
        ["model", "list", "--url", dead, "--timeout", "1"],
        ["model", "list", "--url", dead, "--timeout", "1", "--json"],
        ["keys", "revoke", "0" * 16, "--url", dead, "--timeout", "1"],
        ["model", "list", "--url", "http://node.example.org:1", "--timeout", "1"],
    ):
        result = CliRunner().invoke(ccs, arguments)
        assert result.exit_code != 0
        words += [result.output, repr(result.exception)]

    assert tell_tales([*words, *heard.words], secret) == []


def test_a_configuration_file_that_makes_no_sense_is_not_repeated(tmp_path):
    for text in (
        f'nats = ["nats://a:{MARK}@h"',
        f'nats = "nats://a:{MARK}@h"\nno_such = 1',
        f'artifacts = "s3://{MARK}"',
    ):
        (tmp_path / "n.toml").write_text(text)
        with pytest.raises(ServiceError) as caught:
            load_config(tmp_path / "n.toml")
        assert tell_tales(errors_of(caught.value)) == []


def test_what_is_searched_for_is_found():
    """The search itself can fail: it looks into objects of objects, and knows secrets as they stand in URLs."""

    class Holder(msgspec.Struct):
        inner: object

    Holder.__module__ = "edge_client.x"
    assert not is_dataclass(Holder)
    assert tell_tales(shown(Holder(inner=[{"a": Holder(inner=f"redis://:{quote(MARK, safe='')}@h")}])))
    assert not tell_tales(shown(Holder(inner="nothing")))
