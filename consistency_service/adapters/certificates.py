"""Certificates of a region: an authority of its own, one certificate for each node, and others for people and programs.

Whoever holds the authority's key can make itself a voter, so it belongs on no node; a node's key lets its holder be that
node until the certificate expires. Keys are made once, mode 0600, and nothing is ever overwritten: to renew, issue into
another directory and move the new files over the old, which a running node notices by itself.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from consistency_service.adapters.private_files import read_private, write_new
from consistency_service.errors import ConfigError

AUTHORITY_DAYS: Final = 3_650
NODE_DAYS: Final = 398
CLOCK_SKEW: Final = timedelta(minutes=10)
"""How far behind another node's clock may be and still believe a fresh certificate."""

KEY_FILE_BYTES_MAX: Final = 16 * 1024
NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
HOST_PATTERN: Final = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})*", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """Two files in PEM."""

    certificate: Path
    key: Path


def authority_files(directory: Path) -> KeyPair:
    return KeyPair(certificate=directory / "ca.crt", key=directory / "ca.key")


def node_files(directory: Path, node_id: str) -> KeyPair:
    return KeyPair(certificate=directory / f"{node_id}.crt", key=directory / f"{node_id}.key")


def create_authority(directory: Path, *, cluster_id: str, now: datetime, days: int = AUTHORITY_DAYS) -> KeyPair:
    """`directory` holds the key and certificate of a new authority for one cluster. Raises `ConfigError`."""
    _require_name(cluster_id, what="cluster id")
    files, key = authority_files(directory), ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"ccs {cluster_id}"[:64])])
    builder = (
        _builder(subject=name, issuer=name, key=key, now=now, days=days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(_cluster_uri(cluster_id))]), False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    _write_pair(files, key=key, certificate=builder.sign(key, hashes.SHA256()))
    return files


def issue(
    directory: Path,
    *,
    node_id: str,
    now: datetime,
    hosts: Sequence[str] = (),
    days: int = NODE_DAYS,
    into: Path | None = None,
) -> KeyPair:
    """`into` (or `directory`) holds a new key and certificate of a node, by the authority in `directory`.

    By `hosts`, names and addresses, REST callers know it; raft peers go by the node's URI alone. Raises `ConfigError`.
    """
    _require_name(node_id, what="node id")
    names = tuple(_host_name(host) for host in hosts)
    uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return _issue(directory, kind="node", name=node_id, names=names, uses=uses, now=now, days=days, into=into)


def issue_client(
    directory: Path, *, name: str, now: datetime, days: int = NODE_DAYS, into: Path | None = None
) -> KeyPair:
    """`into` (or `directory`) holds a new key and certificate by which REST knows a person or a program. No raft peer
    takes it for a node's. Raises `ConfigError`.
    """
    _require_name(name, what="name")
    uses = [ExtendedKeyUsageOID.CLIENT_AUTH]
    return _issue(directory, kind="client", name=name, names=(), uses=uses, now=now, days=days, into=into)


def _issue(
    directory: Path,
    *,
    kind: str,
    name: str,
    names: tuple[x509.GeneralName, ...],
    uses: list[x509.ObjectIdentifier],
    now: datetime,
    days: int,
    into: Path | None,
) -> KeyPair:
    authority, authority_key = _load_authority(directory)
    cluster_id = cluster_of(authority)
    if now + timedelta(days=days) > authority.not_valid_after_utc:
        raise ConfigError(f"the authority itself expires before that, at {authority.not_valid_after_utc:%Y-%m-%d}")
    files, key = node_files(into or directory, name), ec.generate_private_key(ec.SECP256R1())
    uri = x509.UniformResourceIdentifier(f"ccs://{cluster_id}/{kind}/{name}")
    builder = (
        _builder(
            subject=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
            issuer=authority.subject,
            key=key,
            now=now,
            days=days,
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.SubjectAlternativeName([uri, *names]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
            critical=False,
        )
    )
    _write_pair(files, key=key, certificate=builder.sign(authority_key, hashes.SHA256()))
    return files


def cluster_of(authority: x509.Certificate) -> str:
    """The cluster an authority was made for. Raises `ConfigError` if it was made for something else."""
    try:
        names = authority.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        uris = []
    if len(uris) != 1 or not uris[0].startswith("ccs://") or not NAME_PATTERN.fullmatch(uris[0][6:]):
        raise ConfigError("the authority's certificate names no cluster; make one with `ccs certs init`")
    return uris[0].removeprefix("ccs://")


def load_certificate(path: Path) -> x509.Certificate:
    """Raises `ConfigError`."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"{path} holds no certificate in PEM") from error


def _load_authority(directory: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    files = authority_files(directory)
    certificate = load_certificate(files.certificate)
    pem = read_private(files.key, bytes_max=KEY_FILE_BYTES_MAX)
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{files.key} holds no readable private key in PEM") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ConfigError(f"{files.key} is not the key of {files.certificate}")
    return certificate, key


def _builder(
    *, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    if days < 1:
        raise ConfigError(f"a certificate is valid for 1 day at least, not {days}")
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=days))
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _cluster_uri(cluster_id: str) -> str:
    return f"ccs://{cluster_id}"


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if HOST_PATTERN.fullmatch(host) is None:
            raise ConfigError(f"{host!r} is neither an address nor a host name") from None
        return x509.DNSName(host)


def _require_name(name: str, *, what: str) -> None:
    if NAME_PATTERN.fullmatch(name) is None:
        raise ConfigError(f"a {what} in a certificate has 1 to 64 letters, digits and . _ - and is not {name!r}")


def _write_pair(files: KeyPair, *, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
    """Both files exist, or neither is new."""
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    try:
        files.key.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_new(files.key, pem)
        try:
            write_new(files.certificate, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)
        except BaseException:
            files.key.unlink()
            raise
    except FileExistsError as error:
        raise ConfigError(f"{error.filename2} exists already; nothing is overwritten") from error
    except OSError as error:
        raise ConfigError(f"cannot write {files.certificate}: {error.strerror or error}") from error
