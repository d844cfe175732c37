"""JWTs: whose are believed, and every known way to be believed wrongly that is not."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections import Counter
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from consistency_service.adapters import jwt_keys
from consistency_service.adapters.jwt_keys import JwtIssuer
from consistency_service.core.access import Identity, Issuer, Unknown
from tests.api.secured import access_table, secured_node

RSA = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
WEAK = rsa.generate_private_key(public_exponent=65_537, key_size=1_024)
P256, P384 = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())
ED = ed25519.Ed25519PrivateKey.generate()
STRANGER = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
KINDS: dict[str, Any] = {"RS256": RSA, "PS384": RSA, "ES256": P256, "ES384": P384, "EdDSA": ED}


def jwk(key: Any, key_id: str | None, **more: Any) -> dict[str, Any]:
    algorithm = {rsa.RSAPrivateKey: "RSAAlgorithm", ec.EllipticCurvePrivateKey: "ECAlgorithm"}
    kind = next((name for base, name in algorithm.items() if isinstance(key, base)), "OKPAlgorithm")
    made: dict[str, Any] = json.loads(getattr(jwt.algorithms, kind).to_jwk(key.public_key()))
    made.pop("key_ops", None)
    return made | ({} if key_id is None else {"kid": key_id}) | more


KEY_SET = {
    "keys": [
        jwk(RSA, "rsa"),
        jwk(P256, "p256"),
        jwk(P384, "p384"),
        jwk(ED, "ed"),
        jwk(WEAK, "weak"),
        jwk(STRANGER, "encryption", use="enc"),
        {"kty": "oct", "kid": "shared", "k": base64.urlsafe_b64encode(b"x" * 32).decode()},
        {"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"},
        "no key",
    ]
}
IDS = {"RS256": "rsa", "PS384": "rsa", "ES256": "p256", "ES384": "p384", "EdDSA": "ed"}


def claims(**more: Any) -> dict[str, Any]:
    found = {"iss": "https://id.example", "aud": "ccs", "sub": "ada", "exp": time.time() + 600, "role": "operator"}
    return {name: value for name, value in (found | more).items() if value is not None}


def signed(
    algorithm: str = "RS256", *, key: Any = None, key_id: str | None = "", header: Any = None, **more: Any
) -> str:
    head = dict(header or {}) | ({} if key_id is None else {"kid": key_id or IDS.get(algorithm, "rsa")})
    return jwt.encode(claims(**more), key or KINDS[algorithm], algorithm=algorithm, headers=head)


@pytest.fixture
def issuer(tmp_path) -> JwtIssuer:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps(KEY_SET))
    return JwtIssuer(Issuer(issuer="https://id.example", audience="ccs", jwks=str(path)), counters=Counter())


@pytest.mark.parametrize("algorithm", KINDS)
async def test_who_is_believed(issuer, algorithm):
    found = await issuer.identity(signed(algorithm))

    assert ("ada", "operator", "jwt", None) == (found.name, found.role.value, found.kind, found.models)


def raw(header: Any, payload: Any, signature: bytes = b"") -> str:
    parts = [json.dumps(header).encode(), json.dumps(payload).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def hmac_with_the_public_key() -> str:
    """The classic: the public key as a shared secret."""
    public = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":"rsa"}').rstrip(b"=")
    body = base64.urlsafe_b64encode(json.dumps(claims()).encode()).rstrip(b"=")
    import hashlib
    import hmac

    mac = base64.urlsafe_b64encode(hmac.new(public, head + b"." + body, hashlib.sha256).digest()).rstrip(b"=")
    return b".".join((head, body, mac)).decode()


FORGED: dict[str, tuple[Any, Unknown]] = {
    "none": (lambda: raw({"alg": "none", "kid": "rsa"}, claims()), Unknown.ALGORITHM),
    "None": (lambda: raw({"alg": "nOnE", "kid": "rsa"}, claims()), Unknown.ALGORITHM),
    "no algorithm": (lambda: raw({"kid": "rsa"}, claims()), Unknown.ALGORITHM),
    "algorithm is a list": (lambda: raw({"alg": ["RS256"], "kid": "rsa"}, claims()), Unknown.ALGORITHM),
    "hmac with the public key": (hmac_with_the_public_key, Unknown.ALGORITHM),
    "shared secret of the set": (lambda: signed("HS256", key=b"x" * 32, key_id="shared"), Unknown.ALGORITHM),
    "another key": (lambda: signed(key=STRANGER), Unknown.SIGNATURE),
    "no signature": (lambda: raw({"alg": "RS256", "kid": "rsa"}, claims()), Unknown.SIGNATURE),
    "key of another kind": (lambda: signed("RS256", key_id="p256"), Unknown.KEY),
    "curve of another size": (lambda: signed("ES256", key_id="p384"), Unknown.KEY),
    "weak key": (lambda: signed(key=WEAK, key_id="weak"), Unknown.KEY),
    "key for encryption": (lambda: signed(key=STRANGER, key_id="encryption"), Unknown.KEY),
    "key in the header": (
        lambda: signed(key=STRANGER, key_id="mine", header={"jwk": jwk(STRANGER, "mine")}),
        Unknown.KEY,
    ),
    "address in the header": (
        lambda: signed(key=STRANGER, key_id="x", header={"jku": "https://evil.example"}),
        Unknown.KEY,
    ),
    "path as key id": (lambda: signed(key=STRANGER, key_id="../../dev/null"), Unknown.KEY),
    "query as key id": (lambda: signed(key=STRANGER, key_id="' or 1=1 --"), Unknown.KEY),
    "huge key id": (lambda: signed(key_id="k" * 1_000), Unknown.MALFORMED),
    "key id is a number": (lambda: raw({"alg": "RS256", "kid": 1}, claims()), Unknown.MALFORMED),
    "critical extension": (lambda: signed(header={"crit": ["x"], "x": 1}), Unknown.MALFORMED),
    "no key id of many": (lambda: signed("RS256", key_id=None, key=STRANGER), Unknown.SIGNATURE),
    "expired": (lambda: signed(exp=time.time() - 60), Unknown.EXPIRED),
    "never expires": (lambda: signed(exp=None), Unknown.CLAIMS),
    "expires in words": (lambda: signed(exp="tomorrow"), Unknown.CLAIMS),
    "expires never enough": (lambda: signed(exp=1e300), Unknown.CLAIMS),
    "not yet": (lambda: signed(nbf=time.time() + 600), Unknown.CLAIMS),
    "other audience": (lambda: signed(aud="other"), Unknown.CLAIMS),
    "no audience": (lambda: signed(aud=None), Unknown.CLAIMS),
    "other issuer": (lambda: signed(iss="https://other.example"), Unknown.CLAIMS),
    "nobody": (lambda: signed(sub=None), Unknown.CLAIMS),
    "a name that hides": (lambda: signed(sub="ada\u202e"), Unknown.CLAIMS),
    "no role": (lambda: signed(role=None), Unknown.CLAIMS),
    "a node": (lambda: signed(role="node"), Unknown.CLAIMS),
    "a role that is none": (lambda: signed(role={"admin": True}), Unknown.CLAIMS),
    "too long": (lambda: signed(filler="x" * 9_000), Unknown.TOO_LONG),
    "no JSON": (lambda: "e30.e30", Unknown.MALFORMED),
    "deep": (lambda: base64.urlsafe_b64encode(b"[" * 5_000).decode() + ".e30.e30", Unknown.MALFORMED),
    "list for a header": (lambda: raw([], claims()), Unknown.MALFORMED),
    "list for claims": (
        lambda: jwt.api_jws.encode(b"[]", RSA, algorithm="RS256", headers={"kid": "rsa"}),
        Unknown.MALFORMED,
    ),
}


@pytest.mark.parametrize("kind", FORGED)
async def test_who_is_not(issuer, kind):
    make, why = FORGED[kind]
    found = await issuer.identity(make())

    assert isinstance(found, Unknown), found
    assert found in {why, Unknown.MALFORMED, Unknown.CLAIMS}, found


@pytest.mark.parametrize(
    ("off", "kind"),
    [
        ("ALGORITHMS", "hmac with the public key"),
        ("LEEWAY_S", "expired"),
        ("RSA_BITS_MIN", "weak key"),
        ("TOKEN_CHARS_MAX", "too long"),
    ],
)
async def test_each_rule_is_what_keeps_them_out(issuer, monkeypatch, off, kind):
    """Without the rule the forgery gets in, or at least as far as the next one."""
    worth = {
        "ALGORITHMS": {**jwt_keys.ALGORITHMS, "HS256": rsa.RSAPublicKey},
        "LEEWAY_S": 1_000,
        "RSA_BITS_MIN": 512,
        "TOKEN_CHARS_MAX": 100_000,
    }
    make, why = FORGED[kind]
    monkeypatch.setattr(jwt_keys, off, worth[off])

    assert why is not await issuer.identity(make())


@pytest.mark.parametrize(
    ("settings", "more", "role", "models"),
    [
        (
            {"role_claim": "realm_access.roles"},
            {"realm_access": {"roles": ["offline", "viewer", "publisher"]}},
            "publisher",
            None,
        ),
        ({"role_claim": "scope"}, {"scope": "openid viewer"}, "viewer", None),
        ({"models_claim": "models"}, {"models": ["a-", "b-"]}, "operator", ("a-", "b-")),
        ({"models_claim": "models"}, {"models": "a-"}, "operator", ("a-",)),
        ({"models_claim": "models"}, {}, None, None),
        ({"models_claim": "models"}, {"models": []}, None, None),
        ({"models_claim": "models"}, {"models": [""]}, None, None),
        ({"models_claim": "models"}, {"models": ["a", 1]}, None, None),
        ({}, {"role": ["edge"]}, "edge", None),
    ],
)
def test_claims_that_say_what_somebody_may(settings, more, role, models):
    found = Issuer(issuer="i", audience="a", jwks="k", **settings).identity(claims(**more))

    assert (role, models) == ((None, None) if found is None else (found.role.value, found.models))


# ---- keys by URL


class Keys:
    """An address that may be away."""

    def __init__(self) -> None:
        self.document: Any = {"keys": [jwk(RSA, "rsa")]}
        self.asked = 0
        self.away = False

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        if self.away:
            raise httpx.ConnectError("away")
        content = self.document if isinstance(self.document, bytes) else json.dumps(self.document).encode()
        return httpx.Response(200, stream=httpx.ByteStream(content))


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
def by_url(keys) -> JwtIssuer:
    issuer = Issuer(issuer="https://id.example", audience="ccs", jwks="https://id.example/keys")
    return JwtIssuer(issuer, counters=Counter(), transport=httpx.MockTransport(keys))


async def test_keys_are_kept_and_fetched_once_however_many_come(by_url, keys):
    found = await asyncio.gather(*(by_url.identity(signed()) for _ in range(20)))

    assert all(isinstance(one, Identity) for one in found)
    assert 1 == keys.asked


async def test_an_unknown_key_asks_again_but_not_often(by_url, keys, monkeypatch):
    await by_url.identity(signed())
    keys.document = {"keys": [jwk(RSA, "rsa"), jwk(P256, "p256")]}
    for _ in range(10):
        assert Unknown.KEY is await by_url.identity(signed("ES256"))
    assert 1 == keys.asked, "within REFRESH_S"
    monkeypatch.setattr(jwt_keys, "REFRESH_S", 0.0)

    assert isinstance(await by_url.identity(signed("ES256")), Identity)
    assert 2 == keys.asked


@pytest.mark.parametrize("trouble", ["away", b"x" * 300_000, b"[]", b"{", {"keys": []}, b"[" * 100_000])
async def test_old_keys_stay_while_there_are_no_new_ones(by_url, keys, monkeypatch, trouble):
    monkeypatch.setattr(jwt_keys, "REFRESH_S", 0.0)
    monkeypatch.setattr(jwt_keys, "KEPT_S", 0.0)
    before = await by_url.identity(signed())
    if trouble == "away":
        keys.away = True
    else:
        keys.document = trouble
    after = await by_url.identity(signed())

    assert isinstance(before, Identity)
    assert before.name == after.name
    assert by_url._counters["jwt_keys_unavailable"] == 1


async def test_a_key_that_is_taken_back_is_not_believed(by_url, keys, monkeypatch):
    monkeypatch.setattr(jwt_keys, "REFRESH_S", 0.0)
    monkeypatch.setattr(jwt_keys, "KEPT_S", 0.0)
    await by_url.identity(signed())
    keys.document = {"keys": [jwk(P256, "p256")]}

    assert Unknown.KEY is await by_url.identity(signed())


async def test_a_whole_node_with_an_issuer(tmp_path):
    table = access_table(tmp_path)
    (tmp_path / "keys.json").write_text(json.dumps(KEY_SET))
    table.write(
        table.path.read_text()
        + f'\n[[jwt]]\nissuer = "https://id.example"\naudience = "ccs"\njwks = "{tmp_path / "keys.json"}"\n'
    )
    async with secured_node(tmp_path, table=table) as node:
        table.tokens |= {"jwt": signed(), "forged": signed(key=STRANGER), "else": signed(iss="https://else.example")}
        created = await node.call("jwt", "POST", "/v1/models", json={"name": "m"})
        again = await node.call("jwt", "GET", "/v1/whoami")
        wrong = [(await node.call(name, "GET", "/v1/whoami")).status_code for name in ("forged", "else")]
        audit = await node.call("viewer", "GET", "/v1/audit")
        (tmp_path / "keys.json").write_text(json.dumps({"keys": [jwk(P256, "p256")]}))

    assert (201, 200) == (created.status_code, again.status_code)
    assert [401, 401] == wrong
    assert "ada" in {entry["author"] for entry in audit.json()["items"]}
    assert 1 == node.counters["credentials_signature"]


def test_private_keys_that_were_published_are_not_believed():
    private = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(RSA))
    private.pop("key_ops", None)

    assert None is jwt_keys._key_of(private)
    assert RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
