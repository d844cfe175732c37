"""The public keys of an issuer of JWTs, from a file or an https URL, and what a JWT of theirs says.

Only signatures that need a private key are believed (RFC 8725, section 3.1): never `none`, never a shared secret, and never
a key of another kind than the algorithm's. The header of a token chooses among the keys we have, by their id; it brings
none, and names no address from which to fetch one.

Keys are kept. An id that is not among them asks for newer ones, at most every `REFRESH_S`; while the address is away, the
old ones stay in force.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import httpx
import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from consistency_service.adapters.rest_tls import client_context, stamps_of
from consistency_service.core.access import Identity, Issuer, Unknown
from consistency_service.errors import ConfigError

_log = logging.getLogger(__name__)
TOKEN_CHARS_MAX: Final = 8 * 1024
KEYS_MAX: Final = 100
KEY_SET_BYTES_MAX: Final = 256 * 1024
KEY_ID_CHARS_MAX: Final = 200
RSA_BITS_MIN: Final = 2_048
FETCH_TIMEOUT_S: Final = 3.0
REFRESH_S: Final = 30.0
"""Between two fetches, whatever asks for them."""
KEPT_S: Final = 600.0
"""Keys older than this are fetched again at the next use."""
LEEWAY_S: Final = 30
ALGORITHMS: Final[dict[str, type[Any]]] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), RSAPublicKey),
    **dict.fromkeys(("ES256", "ES384", "ES512"), EllipticCurvePublicKey),
}
_EDWARDS: Final = (Ed25519PublicKey, Ed448PublicKey)
_CURVES: Final = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}


class JwtIssuer:
    """One `[[jwt]]` of the access file."""

    def __init__(
        self, issuer: Issuer, *, counters: Counter[str], transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self.issuer = issuer
        self._counters = counters
        self._transport = transport
        self._keys: tuple[jwt.PyJWK, ...] = ()
        self._tried_at_s = float("-inf")
        self._fresh_at_s = float("-inf")
        self._stamps: Any = None
        self._fetching = asyncio.Lock()

    async def identity(self, token: str) -> Identity | Unknown:
        """Whom the token names."""
        if len(token) > TOKEN_CHARS_MAX:
            return Unknown.TOO_LONG
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            return Unknown.MALFORMED
        algorithm, key_id = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or (algorithm not in ALGORITHMS and algorithm != "EdDSA"):
            return Unknown.ALGORITHM
        if "crit" in header or "b64" in header or not _is_key_id(key_id):
            return Unknown.MALFORMED
        key = await self._key(key_id, algorithm)
        return Unknown.KEY if key is None else self._verified(token, key, algorithm)

    def _verified(self, token: str, key: jwt.PyJWK, algorithm: str) -> Identity | Unknown:
        try:
            claims = jwt.decode(
                token,
                key=key.key,
                algorithms=[algorithm],
                audience=self.issuer.audience,
                issuer=self.issuer.issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.ExpiredSignatureError:
            return Unknown.EXPIRED
        except jwt.InvalidSignatureError:
            return Unknown.SIGNATURE
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            return Unknown.CLAIMS if isinstance(error, jwt.InvalidTokenError) else Unknown.MALFORMED
        return self.issuer.identity(claims) or Unknown.CLAIMS

    # ---- keys

    async def _key(self, key_id: str | None, algorithm: str) -> jwt.PyJWK | None:
        now_s = time.monotonic()
        if "://" not in self.issuer.jwks:
            self._read_file()
        elif now_s - self._fresh_at_s > KEPT_S:
            await self._fetch()
        found = self._find(key_id, algorithm)
        if found is None and "://" in self.issuer.jwks:
            await self._fetch()
            found = self._find(key_id, algorithm)
        return found

    def _find(self, key_id: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The key of this id and of the algorithm's kind. A token without an id needs that there is only one."""
        fitting = [key for key in self._keys if _fits(key, algorithm) and key_id in (None, key.key_id)]
        return fitting[0] if len(fitting) == 1 else None

    def _read_file(self) -> None:
        path = Path(self.issuer.jwks)
        stamps = stamps_of((path,))
        if stamps == self._stamps:
            return
        self._stamps = stamps
        try:
            with path.open("rb") as file:
                self._take(file.read(KEY_SET_BYTES_MAX + 1))
        except OSError as error:
            self._failed(error.strerror or str(error))

    async def _fetch(self) -> None:
        """Newer keys, if there was no attempt within `REFRESH_S`. Whoever comes meanwhile waits for the same attempt."""
        async with self._fetching:
            if time.monotonic() - self._tried_at_s < REFRESH_S:
                return
            self._tried_at_s = time.monotonic()
            try:
                async with asyncio.timeout(FETCH_TIMEOUT_S):
                    content = await self._download()
            except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError, ConfigError) as error:
                self._failed(str(error)[:200] or type(error).__name__)
            else:
                self._take(content)

    async def _download(self) -> bytes:
        ca = None if self.issuer.ca is None else Path(self.issuer.ca)
        async with (
            httpx.AsyncClient(
                verify=await asyncio.to_thread(client_context, ca=ca),
                transport=self._transport,
                trust_env=False,
                follow_redirects=False,
                timeout=FETCH_TIMEOUT_S,
                headers={"accept": "application/json", "accept-encoding": "identity"},
            ) as http,
            http.stream("GET", self.issuer.jwks) as response,
        ):
            if response.status_code != httpx.codes.OK:
                raise httpx.HTTPError(f"answered {response.status_code}")
            content = b""
            async for chunk in response.aiter_raw():
                content += chunk
                if len(content) > KEY_SET_BYTES_MAX:
                    break
            return content

    def _take(self, content: bytes) -> None:
        """The keys in it that can be used; a set without any leaves the former ones."""
        keys = () if len(content) > KEY_SET_BYTES_MAX else _keys_of(content)
        if not keys:
            self._failed("no usable keys")
            return
        self._keys = keys
        self._fresh_at_s = time.monotonic()
        self._counters["jwt_keys_read"] += 1

    def _failed(self, reason: str) -> None:
        self._counters["jwt_keys_unavailable"] += 1
        _log.warning("jwt_keys_unavailable issuer=%r kept=%d reason=%r", self.issuer.issuer, len(self._keys), reason)


def issuer_named(token: str) -> str | None:
    """Whom the token itself, not verified yet, says it is from; None if it is no JWT."""
    if token.count(".") != 2 or len(token) > TOKEN_CHARS_MAX:
        return None
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        return ""
    named = claims.get("iss")
    return named if isinstance(named, str) else ""


def _keys_of(content: bytes) -> tuple[jwt.PyJWK, ...]:
    try:
        document = msgspec.json.decode(content)
    except (msgspec.DecodeError, ValueError, RecursionError):  # the second: text that is no UTF-8
        return ()
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        return ()
    found = (_key_of(one) for one in listed[:KEYS_MAX])
    return tuple(key for key in found if key is not None)


def _key_of(entry: Any) -> jwt.PyJWK | None:
    """A public key for signatures, strong enough to be believed; None for anything else."""
    if not isinstance(entry, dict) or entry.get("kty") not in ("RSA", "EC", "OKP") or not _is_key_id(entry.get("kid")):
        return None
    if entry.get("use", "sig") != "sig" or "d" in entry:  # a private key that is published belongs to everybody
        return None
    try:
        key = jwt.PyJWK(entry, None if "alg" in entry else _algorithm_of(entry))
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    if isinstance(key.key, RSAPublicKey) and key.key.key_size < RSA_BITS_MIN:
        return None
    return key


def _algorithm_of(entry: dict[str, Any]) -> str:
    curves = {"P-384": "ES384", "P-521": "ES512"}
    return {"RSA": "RS256", "OKP": "EdDSA"}.get(entry["kty"]) or curves.get(str(entry.get("crv")), "ES256")


def _fits(key: jwt.PyJWK, algorithm: str) -> bool:
    if "alg" in key._jwk_data and key._jwk_data["alg"] != algorithm:  # noqa: SLF001 -- it tells the algorithm it guessed otherwise
        return False
    if algorithm == "EdDSA":
        return isinstance(key.key, _EDWARDS)
    if isinstance(key.key, EllipticCurvePublicKey):
        return key.key.curve.name == _CURVES.get(algorithm)
    return isinstance(key.key, ALGORITHMS[algorithm])


def _is_key_id(key_id: Any) -> bool:
    return key_id is None or (isinstance(key_id, str) and len(key_id) <= KEY_ID_CHARS_MAX)
