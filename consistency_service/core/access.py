"""Who may do what: roles, what they reach, and the list of those that are known.

Picture a house with one staircase and two side doors. Viewer, publisher, operator and admin stand on the stairs: who may
go up may also stay below. `edge` and `node` come by doors of their own and reach a few rooms each. Beside the role there
may be a leash: prefixes of model names, outside of which the caller sees and changes nothing.

Tokens are kept as SHA-256 digests. They are 256 random bits, so there is nothing to guess that a slow hash would protect.
Nothing here reads a file, a clock or a socket.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import msgspec

from consistency_service.errors import ConfigError

GRANTS_MAX: Final = 10_000
ISSUERS_MAX: Final = 16
PREFIXES_MAX: Final = 64
NAME_CHARS_MAX: Final = 128
INSTANT_MAX_UNIX_S: Final = 1 << 40
_PREFIX: Final = re.compile(r"[a-z0-9._-]{1,128}", re.ASCII)
_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


class Role(StrEnum):
    """What somebody is."""

    VIEWER = "viewer"
    PUBLISHER = "publisher"
    OPERATOR = "operator"
    ADMIN = "admin"
    EDGE = "edge"
    NODE = "node"


LADDER: Final = (Role.VIEWER, Role.PUBLISHER, Role.OPERATOR, Role.ADMIN)
"""Each may do what those before it may."""


class Models(StrEnum):
    """What a call has to do with models."""

    NONE = "none"
    """It tells of none and changes none."""
    PATH = "path"
    """The one that its path names."""
    CHECKED = "checked"
    """Some, which the call itself looks up: it narrows its answer to them, or refuses."""
    ALL = "all"
    """All of them: not for callers that are limited to some."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Who may make a call."""

    role: Role | None
    """The lowest of the ladder that may; None: everybody, known or not."""
    also: tuple[Role, ...] = ()
    """Roles beside the ladder that may, too."""
    models: Models = Models.NONE


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who has shown who they are. Nodes tell each other of callers in this form."""

    name: str
    """For the audit."""
    role: Role
    kind: str
    """What they showed: `token`, `jwt`, `certificate`."""
    models: tuple[str, ...] | None = None
    """Prefixes of model names; None: every model."""
    expires_at_unix_s: int | None = None

    def sees(self, model: str) -> bool:
        """Whether a model is within the prefixes."""
        return self.models is None or model.startswith(self.models)

    def sees_all(self, models: Iterable[str]) -> bool:
        """Whether all of them are, and there is one at least."""
        if self.models is None:
            return True
        named = tuple(models)
        return bool(named) and all(map(self.sees, named))


class Unknown(StrEnum):
    """Why what was shown makes nobody known."""

    MALFORMED = "malformed"
    TOO_LONG = "too_long"
    NOT_KNOWN = "not_known"
    EXPIRED = "expired"
    ALGORITHM = "algorithm"
    KEY = "key"
    SIGNATURE = "signature"
    CLAIMS = "claims"


class Denial(StrEnum):
    """Why somebody known may not."""

    ROLE = "role"
    MODELS = "models"
    UNDECLARED = "undeclared"


def may(role: Role, rule: Rule) -> bool:
    """Whether a role is enough for a call, whatever the models."""
    if rule.role is None or role in rule.also:
        return True
    return role in LADDER and LADDER.index(role) >= LADDER.index(rule.role)


def denial(identity: Identity, rule: Rule | None, *, model: str | None) -> Denial | None:
    """Why `identity` may not make the call, None if they may. `model` is the one in its path."""
    if rule is None:
        return Denial.UNDECLARED
    if not may(identity.role, rule):
        return Denial.ROLE
    if identity.models is None:
        return None
    if rule.models is Models.ALL or (rule.models is Models.PATH and (model is None or not identity.sees(model))):
        return Denial.MODELS
    return None


# ---- the list of those that are known


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A role for whoever shows a token or a certificate."""

    name: str
    role: Role
    models: tuple[str, ...] | None = None
    sha256: bytes = field(default=b"", repr=False)
    """Of the token; empty for certificates."""
    expires_at_unix_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """Somebody whose JWTs are believed."""

    issuer: str
    audience: str
    jwks: str
    """Path or https URL of their public keys (RFC 7517)."""
    role_claim: str = "role"
    models_claim: str | None = None
    """None: their callers see every model. A token without the claim is refused where one is named."""
    ca: str | None = None
    """A file of certificates to believe instead of the system's when the keys are fetched."""

    def identity(self, claims: Mapping[str, Any]) -> Identity | None:
        """Whom verified claims name; None if they name nobody, no role of ours, or none of the models they must."""
        name, role, expires = claims.get("sub"), self._role(claims), claims.get("exp")
        if not isinstance(name, str) or not is_name(name) or role is None:
            return None
        if not isinstance(expires, int | float) or not 0 < expires < INSTANT_MAX_UNIX_S:
            return None
        models: tuple[str, ...] | None = None
        if self.models_claim is not None:
            found = _claim(claims, self.models_claim)
            listed = [found] if isinstance(found, str) else found
            if not isinstance(listed, list) or not 1 <= len(listed) <= PREFIXES_MAX or not all(map(_is_prefix, listed)):
                return None
            models = tuple(listed)
        return Identity(name=name, role=role, kind="jwt", models=models, expires_at_unix_s=int(expires))

    def _role(self, claims: Mapping[str, Any]) -> Role | None:
        """The highest of those named; several come as a list, or as words."""
        found = _claim(claims, self.role_claim)
        named = found.split() if isinstance(found, str) else found if isinstance(found, list) else []
        return next((role for role in (*reversed(LADDER), Role.EDGE) if role.value in named), None)


@dataclass(frozen=True, slots=True)
class AccessList:
    """The parsed `access` file."""

    tokens: Mapping[bytes, Grant] = field(repr=False)
    """By the first eight bytes of their digests."""
    certificates: Mapping[str, Grant]
    issuers: tuple[Issuer, ...]

    def token(self, digest: bytes, *, now_unix_s: int) -> Identity | Unknown:
        """Who has the token of this SHA-256. How long it takes says nothing about the digests that are kept."""
        grant = self.tokens.get(digest[:8])
        if grant is None or not hmac.compare_digest(grant.sha256, digest):
            return Unknown.NOT_KNOWN
        if grant.expires_at_unix_s is not None and now_unix_s >= grant.expires_at_unix_s:
            return Unknown.EXPIRED
        return _identity(grant, kind="token", expires_at_unix_s=grant.expires_at_unix_s)

    def certificate(self, names: Iterable[str], *, expires_at_unix_s: int) -> Identity | None:
        """Who shows a verified certificate with these names; the first that is listed counts."""
        grant = next((self.certificates[name] for name in names if name in self.certificates), None)
        return None if grant is None else _identity(grant, kind="certificate", expires_at_unix_s=expires_at_unix_s)


def node_identity(node_id: str, *, expires_at_unix_s: int) -> Identity:
    """Another node of the region, by its certificate."""
    return Identity(name=node_id, role=Role.NODE, kind="certificate", expires_at_unix_s=expires_at_unix_s)


def _identity(grant: Grant, *, kind: str, expires_at_unix_s: int | None) -> Identity:
    return Identity(
        name=grant.name, role=grant.role, kind=kind, models=grant.models, expires_at_unix_s=expires_at_unix_s
    )


def access_of(table: Mapping[str, Any]) -> AccessList:
    """The list of a parsed `access` file. Raises `ConfigError` that names the entry and repeats no digest."""
    unknown = sorted(table.keys() - {"token", "jwt", "certificate"})
    if unknown:
        raise ConfigError(f"unknown table {unknown[0]!r}; there are [[token]], [[jwt]] and [[certificate]]")
    tokens: dict[bytes, Grant] = {}
    for where, entry in _entries(table, "token", limit=GRANTS_MAX):
        grant = _grant(entry, where=where, known={"name", "role", "models", "sha256", "expires"})
        digest = entry.get("sha256")
        if not isinstance(digest, str) or _SHA256.fullmatch(digest) is None:
            raise ConfigError(f"{where} needs sha256, 64 lower-case hexadecimal digits; `ccs token create` makes one")
        parsed = bytes.fromhex(digest)
        if parsed[:8] in tokens:
            raise ConfigError(f"{where} has the sha256 of another token")
        tokens[parsed[:8]] = Grant(
            name=grant.name,
            role=grant.role,
            models=grant.models,
            sha256=parsed,
            expires_at_unix_s=_instant(entry.get("expires"), where=where),
        )
    certificates: dict[str, Grant] = {}
    for where, entry in _entries(table, "certificate", limit=GRANTS_MAX):
        grant = _grant(entry, where=where, known={"name", "role", "models"})
        if grant.name in certificates:
            raise ConfigError(f"{where} names {grant.name!r} again")
        certificates[grant.name] = grant
    issuers = [_issuer(entry, where=where) for where, entry in _entries(table, "jwt", limit=ISSUERS_MAX)]
    if len({issuer.issuer for issuer in issuers}) < len(issuers):
        raise ConfigError("two [[jwt]] have the same issuer")
    return AccessList(tokens=tokens, certificates=certificates, issuers=tuple(issuers))


def is_name(name: str) -> bool:
    """Whether an audit can show it."""
    return 1 <= len(name) <= NAME_CHARS_MAX and name.isprintable() and name.strip() == name


def _entries(table: Mapping[str, Any], kind: str, *, limit: int) -> list[tuple[str, Mapping[str, Any]]]:
    entries = table.get(kind, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(f"{kind} is written as [[{kind}]]")
    if len(entries) > limit:
        raise ConfigError(f"there may be {limit} [[{kind}]], not {len(entries)}")
    return [(f"[[{kind}]] number {number}", entry) for number, entry in enumerate(entries, start=1)]


def _grant(entry: Mapping[str, Any], *, where: str, known: set[str]) -> Grant:
    _require_known(entry, where=where, known=known)
    name, role, models = entry.get("name"), entry.get("role"), entry.get("models")
    if not isinstance(name, str) or not is_name(name):
        raise ConfigError(f"{where} needs a name of 1 to {NAME_CHARS_MAX} printable characters")
    given = [role.value for role in (*LADDER, Role.EDGE)]
    if role not in given:
        raise ConfigError(
            f"{where} ({name}) needs a role: {', '.join(given)}; nodes are known by their raft certificates"
        )
    if models is not None and not (
        isinstance(models, list) and 1 <= len(models) <= PREFIXES_MAX and all(map(_is_prefix, models))
    ):
        raise ConfigError(
            f"{where} ({name}): models lists 1 to {PREFIXES_MAX} prefixes of model names; left out, it is every model"
        )
    return Grant(name=name, role=Role(role), models=None if models is None else tuple(models))


def _issuer(entry: Mapping[str, Any], *, where: str) -> Issuer:
    texts = ("issuer", "audience", "jwks", "role_claim", "models_claim", "ca")
    _require_known(entry, where=where, known=set(texts))
    for name in texts:
        value = entry.get(name)
        if (value is None and name in texts[:3]) or (value is not None and (not isinstance(value, str) or not value)):
            raise ConfigError(f"{where} needs {', '.join(texts[:3])}, each a text")
    if "://" in entry["jwks"] and not entry["jwks"].startswith("https://"):
        raise ConfigError(f"{where}: jwks is a path or an https URL")
    return Issuer(**entry)


def _require_known(entry: Mapping[str, Any], *, where: str, known: set[str]) -> None:
    unknown = sorted(entry.keys() - known)
    if unknown:
        raise ConfigError(f"{where} has {unknown[0]!r}, which is none of {', '.join(sorted(known))}")


def _is_prefix(value: Any) -> bool:
    return isinstance(value, str) and _PREFIX.fullmatch(value) is not None


def _instant(value: Any, *, where: str) -> int | None:
    if value is None:
        return None
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ConfigError(f"{where}: expires is an instant with its offset, such as 2027-01-31T00:00:00Z")
    return int(value.timestamp())


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """A claim by its name, or by the names that lead to it: `realm_access.roles`."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found
