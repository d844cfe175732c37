"""Badges for the bus: an operator, the region's account, and a signed badge for everybody who connects to it.

Picture a mint. Its dies (`*.nk`, mode 0600) stay in one directory, which is on no server; what leaves it is `auth.conf`,
which says whose badges count and holds nothing secret, and one `.creds` file for each who connects, which holds their own
secret alone. Edges, nodes and observers are signed with a key that stands for their role: what the role may do is in
`auth.conf`, with the holder's name filled in by the server. So one more edge changes nothing at the servers, and
who steals the edges' die can make edges and nothing else.

`ledger.jsonl` has a line for each badge that was made or revoked; `auth.conf` is made anew from the dies and the ledger. The
form of JWTs and keys is NATS' own (decentralized JWT authentication, nats-io/jwt, version 2).
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import nkeys

from consistency_service.adapters.private_files import read_private, write_new, write_over
from consistency_service.core.bus_access import (
    EDGE_PAYLOAD_BYTES_MAX,
    EDGE_SUBSCRIPTIONS_MAX,
    BusRole,
    Permissions,
    permissions_of,
)
from consistency_service.errors import ConfigError
from edge_client.protocol.models import NAME_PATTERN
from edge_client.protocol.subjects import REGION_PATTERN, token_of

SERVER_FILE: Final = "auth.conf"
SYSTEM_CREDENTIALS: Final = "system.creds"
LEDGER_FILE: Final = "ledger.jsonl"
FILE_BYTES_MAX: Final = 16 * 1024 * 1024
DISK_BYTES_MAX: Final = 8 * 1024**3
"""What streams of the region may take on disk, over all copies."""
STREAMS_MAX: Final = 8
_KINDS: Final[Mapping[str, int]] = {
    "operator": nkeys.PREFIX_BYTE_OPERATOR,
    "system": nkeys.PREFIX_BYTE_ACCOUNT,
    "account": nkeys.PREFIX_BYTE_ACCOUNT,
    **{role.value: nkeys.PREFIX_BYTE_ACCOUNT for role in BusRole},
}
_SCOPED: Final = (BusRole.NODE, BusRole.EDGE, BusRole.OBSERVER)
_UNLIMITED: Final = {"subs": -1, "data": -1, "payload": -1}
_SEED: Final = re.compile(rb"S[A-Z2-7]{57}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Badge:
    """What was made for somebody. Holds no secret; that is in the file."""

    role: BusRole
    name: str
    key: str
    """The public key, by which a server's log names the holder."""
    path: Path
    expires_at: datetime | None


def create(directory: Path, *, region: str, now: datetime) -> Path:
    """`directory` holds the dies of a region's bus, a badge for the system account, and the servers' file, whose path is
    returned. Nothing is overwritten. Raises `ConfigError`.
    """
    if REGION_PATTERN.fullmatch(region) is None:
        raise ConfigError(f"region must be 1 to 64 of a-z 0-9 _ and -, not {region!r}")
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    if any((directory / f"{kind}.nk").exists() for kind in _KINDS):
        raise ConfigError(f"{directory} holds the keys of a bus already; nothing is overwritten")
    for kind, prefix in _KINDS.items():
        _write_new(directory / f"{kind}.nk", _new_seed(prefix) + b"\n")
    _note(directory, {"region": region, "at": _seconds(now)})
    mint = _Mint(directory)
    _, system = mint.badge(name="system", issuer=mint.keys["system"], account=None, now=now)
    _write_new(directory / SYSTEM_CREDENTIALS, system)
    return mint.write_servers(now=now)


def issue(
    directory: Path,
    *,
    role: BusRole,
    name: str,
    into: Path,
    now: datetime,
    days: int | None = None,
    edge_ids: Sequence[str] = (),
) -> Badge:
    """`into` is the `.creds` file of a new badge. Nothing is overwritten. Raises `ConfigError`.

    `days` is how long it counts; None: until it is revoked. `edge_ids` are for a leaf: the edges whose words it may carry.
    """
    for each in (name, *edge_ids):
        if NAME_PATTERN.fullmatch(each) is None:
            raise ConfigError(f"a name on the bus has 1 to 128 of a-z 0-9 . _ and -, and is not {each!r}")
    with _locked(directory):
        mint = _Mint(directory)
        permissions = None if role in _SCOPED else permissions_of(role, region=mint.region, edge_ids=edge_ids)
        expires_at = None if days is None else now.replace(microsecond=0) + timedelta(days=days)
        key, content = mint.badge(
            name=token_of(name),
            issuer=mint.keys[role.value],
            account=mint.public("account"),
            now=now,
            expires_at=expires_at,
            permissions=permissions,
        )
        # First: what is handed out can be revoked, whenever this process is killed.
        _note(directory, {"role": role.value, "name": name, "key": key, "at": _seconds(now)})
        _write_new(into, content)
    return Badge(role=role, name=name, key=key, path=into, expires_at=expires_at)


def revoke(directory: Path, *, role: BusRole, name: str, now: datetime) -> tuple[str, ...]:
    """The servers' file refuses every badge made for this holder so far; those made later count. Returns their keys.

    Raises `ConfigError` if none was made.
    """
    with _locked(directory):
        mint = _Mint(directory)
        keys = tuple(
            line["key"]
            for line in mint.lines
            if (line.get("role"), line.get("name")) == (role.value, name) and "revoked" not in line
        )
        if not keys:
            raise ConfigError(f"no {role.value} {name!r} was made in {directory}")
        for key in keys:
            _note(directory, {"revoked": True, "role": role.value, "name": name, "key": key, "at": _seconds(now)})
        _Mint(directory).write_servers(now=now)
    return keys


def account_key(directory: Path) -> str:
    """The public key of the region's account, which a site's server names. Raises `ConfigError`."""
    return _Mint(directory).public("account")


class _Mint:
    """The dies and the ledger of one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.keys = {kind: _key(directory / f"{kind}.nk", prefix=prefix) for kind, prefix in _KINDS.items()}
        self.lines = _ledger(directory)
        first = self.lines[0] if self.lines else {}
        if not isinstance(first.get("region"), str) or not isinstance(first.get("at"), int):
            raise ConfigError(f"{directory / LEDGER_FILE} does not begin with a region")
        self.region: str = first["region"]
        self.began_at = datetime.fromtimestamp(first["at"], tz=UTC)

    def public(self, kind: str) -> str:
        return _public(self.keys[kind])

    def badge(
        self,
        *,
        name: str,
        issuer: nkeys.KeyPair,
        account: str | None,
        now: datetime,
        expires_at: datetime | None = None,
        permissions: Permissions | None = None,
    ) -> tuple[str, bytes]:
        """A new public key, and the content of the holder's file."""
        seed = _new_seed(nkeys.PREFIX_BYTE_USER)
        key = _public(nkeys.from_seed(bytearray(seed)))
        nats: dict[str, Any] = {"type": "user", "version": 2}
        if account is None:
            nats |= _UNLIMITED  # the system account's own key signs: no template says what this badge may do
        else:
            nats["issuer_account"] = account
        if permissions is not None:
            nats |= {**_rights(permissions), **_UNLIMITED, "allowed_connection_types": ["LEAFNODE"]}
        token = _signed(issuer, subject=key, name=name, nats=nats, now=now, expires_at=expires_at)
        return key, _CREDENTIALS % (token, seed)

    def write_servers(self, *, now: datetime) -> Path:
        """`auth.conf`, whatever was there before. Only the account's JWT is new: servers refuse to reload another operator's."""
        operator, system, account = (self.keys[kind] for kind in ("operator", "system", "account"))
        operator_token = _signed(
            operator,
            subject=_public(operator),
            name=f"ccs-{self.region}",
            nats={"type": "operator", "version": 2, "system_account": _public(system)},
            now=self.began_at,
        )
        unlimited = {**_UNLIMITED, "imports": -1, "exports": -1, "wildcards": True, "conn": -1, "leaf": -1}
        system_nats = {"type": "account", "version": 2, "limits": unlimited}
        preload = {
            _public(system): _signed(
                operator, subject=_public(system), name="SYS", nats=system_nats, now=self.began_at
            ),
            _public(account): _signed(
                operator, subject=_public(account), name=self.region, nats=self._account(unlimited), now=now
            ),
        }
        lines = [
            f"# Whose badges count on the bus of region {self.region}. Made by `ccs nats`; nothing here is secret.",
            "# The same file belongs beside the configuration of every server and of every site's server.",
            f"operator: {operator_token.decode()}",
            f"system_account: {_public(system)}",
            "resolver: MEMORY",
            "resolver_preload: {",
            *(f"  {key}: {token.decode()}" for key, token in preload.items()),
            "}",
        ]
        path = self.directory / SERVER_FILE
        try:
            write_over(path, ("\n".join(lines) + "\n").encode(), mode=0o644)
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error
        return path

    def _account(self, unlimited: Mapping[str, Any]) -> dict[str, Any]:
        storage = {"mem_storage": 0, "disk_storage": DISK_BYTES_MAX, "streams": STREAMS_MAX, "consumer": -1}
        scopes: list[Any] = [
            {
                "kind": "user_scope",
                "key": self.public(role.value),
                "role": role.value,
                "template": self._template(role),
            }
            for role in _SCOPED
        ]
        nats: dict[str, Any] = {
            "type": "account",
            "version": 2,
            "limits": {**unlimited, **storage},
            "signing_keys": [*scopes, self.public(BusRole.LEAF.value)],
        }
        revocations = {line["key"]: line["at"] for line in self.lines if line.get("revoked")}
        return nats | ({"revocations": revocations} if revocations else {})

    def _template(self, role: BusRole) -> dict[str, Any]:
        limits: dict[str, Any] = dict(_UNLIMITED)
        if role is not BusRole.NODE:
            limits |= {"subs": EDGE_SUBSCRIPTIONS_MAX, "payload": EDGE_PAYLOAD_BYTES_MAX}
        return {
            **_rights(permissions_of(role, region=self.region)),
            **limits,
            "allowed_connection_types": ["STANDARD", "WEBSOCKET"],
        }


_CREDENTIALS: Final = b"""-----BEGIN NATS USER JWT-----
%b
------END NATS USER JWT------

************************* IMPORTANT *************************
This file is a secret: whoever has it is its holder on the bus.

-----BEGIN USER NKEY SEED-----
%b
------END USER NKEY SEED------
"""


def _rights(permissions: Permissions) -> dict[str, Any]:
    return {"pub": {"allow": list(permissions.publish)}, "sub": {"allow": list(permissions.subscribe)}}


def _signed(
    issuer: nkeys.KeyPair,
    *,
    subject: str,
    name: str,
    nats: Mapping[str, Any],
    now: datetime,
    expires_at: datetime | None = None,
) -> bytes:
    """A NATS JWT of version 2; its id is the hash of the rest, as NATS' own tools make it."""
    claims: dict[str, Any] = {"iat": _seconds(now), "iss": _public(issuer), "name": name, "sub": subject, "nats": nats}
    if expires_at is not None:
        claims["exp"] = _seconds(expires_at)
    claims["jti"] = base64.b32encode(hashlib.sha256(_json(claims)).digest()).rstrip(b"=").decode()
    signed = b".".join(_url64(_json(part)) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, claims))
    return signed + b"." + _url64(issuer.sign(signed))


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _url64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _new_seed(prefix: int) -> bytes:
    return bytes(nkeys.encode_seed(secrets.token_bytes(32), prefix))


def _public(key: nkeys.KeyPair) -> str:
    return bytes(key.public_key).decode()


def _seconds(instant: datetime) -> int:
    return int(instant.timestamp())


def _key(path: Path, *, prefix: int) -> nkeys.KeyPair:
    seed = read_private(path, bytes_max=FILE_BYTES_MAX).strip()
    try:
        if _SEED.fullmatch(seed) and nkeys.decode_seed(bytearray(seed))[0] == prefix:
            return nkeys.from_seed(bytearray(seed))
    except nkeys.NkeysError:
        pass
    raise ConfigError(f"{path} holds no such key; keep a copy of the directory that `ccs nats init` made")


def _ledger(directory: Path) -> list[dict[str, Any]]:
    path = directory / LEDGER_FILE
    try:
        lines = [json.loads(line) for line in read_private(path, bytes_max=FILE_BYTES_MAX).splitlines()]
    except ValueError:
        raise ConfigError(f"{path} is damaged: a line is no JSON") from None
    if not all(isinstance(line, dict) for line in lines):
        raise ConfigError(f"{path} is damaged: a line is no object")
    return lines


def _note(directory: Path, line: Mapping[str, Any]) -> None:
    """One more line of the ledger, on disk."""
    handle = os.open(directory / LEDGER_FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(handle, "ab") as file:
        file.write(_json(line) + b"\n")
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Nobody else changes the ledger or the servers' file meanwhile."""
    try:
        file = (directory / LEDGER_FILE).open("rb")
    except OSError as error:
        raise ConfigError(f"{directory} holds no keys of a bus: {error.strerror}; run: ccs nats init") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write_new(path: Path, content: bytes) -> None:
    """Raises `ConfigError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_new(path, content)
    except FileExistsError:
        raise ConfigError(f"{path} exists already; nothing is overwritten") from None
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error
