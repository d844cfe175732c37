"""Who a caller is: bearer tokens by the access file, JWTs by their issuers' keys, certificates by who signed them."""

from __future__ import annotations

import hashlib
import time
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Final

from consistency_service.adapters.access_file import AccessFile, digest_of
from consistency_service.adapters.jwt_keys import TOKEN_CHARS_MAX, JwtIssuer, issuer_named
from consistency_service.adapters.rest_tls import ClientCertificates
from consistency_service.core.access import AccessList, Identity, Issuer, Unknown, node_identity

VERIFIED_MAX: Final = 1_000
VERIFIED_S: Final = 60.0


class RestAuthentication:
    """By the files of one node. Raises `ConfigError` if they make no sense to begin with."""

    def __init__(
        self, access: Path, *, region: str, node_ca: Path | None, client_ca: Path | None, counters: Counter[str]
    ) -> None:
        self._file = AccessFile(access, counters=counters)
        self._certificates = ClientCertificates(region=region, node_ca=node_ca, client_ca=client_ca)
        self._counters = counters
        self._issuers: dict[Issuer, JwtIssuer] = {}
        self._verified: OrderedDict[bytes, tuple[Identity, Issuer, float]] = OrderedDict()
        self._list: AccessList | None = None

    def __repr__(self) -> str:
        return f"<RestAuthentication {self._file!r}>"

    async def bearer(self, token: str) -> Identity | Unknown:
        """Whose token it is."""
        if len(token) > TOKEN_CHARS_MAX:
            return Unknown.TOO_LONG
        listed, now_unix_s = await self._current(), int(time.time())
        found = listed.token(digest_of(token), now_unix_s=now_unix_s)
        if found is not Unknown.NOT_KNOWN or not listed.issuers:
            return found
        named = issuer_named(token)
        if named is None:
            return found
        issuer = next((known for known in self._issuers.values() if known.issuer.issuer == named), None)
        if issuer is None:
            return Unknown.MALFORMED if not named else Unknown.NOT_KNOWN
        return await self._jwt(token, issuer, now_unix_s=now_unix_s)

    async def certificate(self, der: bytes) -> Identity | None:
        """Who shows a certificate that TLS has verified; None if nobody is listed by its names, or it has expired."""
        shown = self._certificates.read(der)
        if shown is None or time.time() >= shown.expires_at_unix_s:
            return None
        if shown.node_id is not None:
            return node_identity(shown.node_id, expires_at_unix_s=shown.expires_at_unix_s)
        return (await self._current()).certificate(shown.names, expires_at_unix_s=shown.expires_at_unix_s)

    async def _jwt(self, token: str, issuer: JwtIssuer, *, now_unix_s: int) -> Identity | Unknown:
        """A verified token is not verified again for `VERIFIED_S`, while it lasts."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._verified.get(digest)
        if known is not None:
            identity, by, until_s = known
            assert identity.expires_at_unix_s is not None
            if by == issuer.issuer and time.monotonic() < until_s and now_unix_s < identity.expires_at_unix_s:
                return identity
        self._verified.pop(digest, None)
        found = await issuer.identity(token)
        if isinstance(found, Identity):
            self._verified[digest] = (found, issuer.issuer, time.monotonic() + VERIFIED_S)
            while len(self._verified) > VERIFIED_MAX:
                self._verified.popitem(last=False)
        return found

    async def _current(self) -> AccessList:
        """The present list; issuers that are still in it keep the keys that they have."""
        listed = await self._file.current()
        if listed is not self._list:
            self._list = listed
            self._issuers = {
                issuer: self._issuers.get(issuer) or JwtIssuer(issuer, counters=self._counters)
                for issuer in listed.issuers
            }
        return listed
