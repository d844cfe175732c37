"""TLS for REST: contexts that follow their files, and who a client certificate is.

Certificates are renewed while a node runs. So what asyncio and httpx are given is a context that makes no connection by
itself: for each connection it looks whether the files were replaced, and lets the context made of the present files do it.
Files that cannot be used leave the former context at work; that is logged and counted.
"""

from __future__ import annotations

import logging
import ssl
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

from consistency_service.adapters.private_files import no_password, require_private
from consistency_service.errors import ConfigError

_log = logging.getLogger(__name__)
CERTIFICATE_BYTES_MAX: Final = 64 * 1024
NAMES_MAX: Final = 32
NODE_URI: Final = "ccs://{region}/node/"


class RenewedContext(ssl.SSLContext):
    """A context whose connections are made by the newest one of `watched`."""

    watched: Watched

    def wrap_bio(self, *args: Any, **values: Any) -> ssl.SSLObject:
        return self.watched.context().wrap_bio(*args, **values)

    def wrap_socket(self, *args: Any, **values: Any) -> ssl.SSLSocket:
        return self.watched.context().wrap_socket(*args, **values)


class Watched:
    """The context made of some files, made anew when one of them is replaced."""

    def __init__(
        self, make: Callable[[], ssl.SSLContext], *, files: Sequence[Path], what: str, counters: Counter[str]
    ) -> None:
        self._make = make
        self._files = tuple(files)
        self._what = what
        self._counters = counters
        self._stamps = stamps_of(self._files)
        self._context = make()

    def context(self) -> ssl.SSLContext:
        """The one for the next connection."""
        stamps = stamps_of(self._files)
        if stamps != self._stamps:
            self._stamps = stamps
            try:
                self._context = self._make()
            except ConfigError as error:
                self._counters["tls_files_refused"] += 1
                _log.error("tls_files_refused what=%s reason=%s", self._what, error)
            else:
                self._counters["tls_files_renewed"] += 1
                _log.info("tls_files_renewed what=%s", self._what)
        return self._context


def server_context(
    *, certificate: Path, key: Path, client_cas: Sequence[Path] = (), counters: Counter[str] | None = None
) -> ssl.SSLContext:
    """TLS 1.2 or newer, without ALPN. Callers may show a certificate that one of `client_cas` signed; one that none of
    them signed ends the connection. Raises `ConfigError`.
    """

    def make() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.num_tickets = 0  # a resumed connection would keep what a certificate said before it was renewed
        context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        _load_chain(context, certificate, key)
        for ca in client_cas:
            _load_authorities(context, ca)
        context.verify_mode = ssl.CERT_OPTIONAL if client_cas else ssl.CERT_NONE
        return context

    return _renewed(
        make,
        files=(certificate, key, *client_cas),
        what="http server",
        counters=counters,
        protocol=ssl.PROTOCOL_TLS_SERVER,
    )


def client_context(
    *,
    ca: Path | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
    counters: Counter[str] | None = None,
) -> ssl.SSLContext:
    """Believes servers by `ca`, or by the system's authorities, and shows a certificate if there is one. Raises `ConfigError`."""

    def make() -> ssl.SSLContext:
        context = ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if ca is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            _load_authorities(context, ca)
        if certificate is not None and key is not None:
            _load_chain(context, certificate, key)
        return context

    files = [path for path in (ca, certificate, key) if path is not None]
    return _renewed(make, files=files, what="http client", counters=counters, protocol=ssl.PROTOCOL_TLS_CLIENT)


def _renewed(
    make: Callable[[], ssl.SSLContext],
    *,
    files: Sequence[Path],
    what: str,
    counters: Counter[str] | None,
    protocol: int,
) -> ssl.SSLContext:
    context = RenewedContext(protocol)
    context.watched = Watched(make, files=files, what=what, counters=Counter() if counters is None else counters)
    return context


# ---- who a client certificate is


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a verified client certificate says."""

    names: tuple[str, ...]
    """Common name and alternative names by which a person or program may be listed; none if only a node may use its authority."""
    node_id: str | None
    """The node of this region that it is, signed by the authority of the nodes."""
    expires_at_unix_s: int


class ClientCertificates:
    """Reads client certificates that TLS has verified already.

    TLS believes both authorities; which of them signed makes the difference between a node and anybody else, so that is
    looked at again here: a node's certificate is signed by `node_ca` directly, and names a node of `region`.
    """

    def __init__(self, *, region: str, node_ca: Path | None, client_ca: Path | None) -> None:
        self._prefix = NODE_URI.format(region=region)
        self._files = tuple(path for path in (node_ca, client_ca) if path is not None)
        self._node_ca, self._client_ca = node_ca, client_ca
        self._stamps = stamps_of(self._files)
        self._load()

    def read(self, der: bytes) -> Shown | None:
        """What it says; None for what cannot be read."""
        stamps = stamps_of(self._files)
        if stamps != self._stamps:
            self._stamps = stamps
            try:
                self._load()
            except ConfigError as error:
                _log.error("client_authorities_refused reason=%s", error)
        return self._read(der) if len(der) <= CERTIFICATE_BYTES_MAX else None

    def _load(self) -> None:
        nodes, clients = _authorities(self._node_ca), _authorities(self._client_ca)

        @lru_cache(maxsize=256)
        def read(der: bytes) -> Shown | None:
            try:
                certificate = x509.load_der_x509_certificate(der)
                names = _names(certificate)
                expires_at_unix_s = int(certificate.not_valid_after_utc.timestamp())
            except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension):
                return None
            by_nodes = any(_signed(certificate, ca) for ca in nodes)
            uris = [name for name in names if name.startswith("ccs:")]
            node_id = uris[0].removeprefix(self._prefix) if len(uris) == 1 and uris[0].startswith(self._prefix) else ""
            by_clients = bool(clients) and (not by_nodes or any(_signed(certificate, ca) for ca in clients))
            return Shown(
                names=tuple(names) if by_clients and not node_id else (),
                node_id=node_id if by_nodes and node_id and "/" not in node_id else None,
                expires_at_unix_s=expires_at_unix_s,
            )

        self._read = read


def _names(certificate: x509.Certificate) -> list[str]:
    found = [str(part.value) for part in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return found[:NAMES_MAX]
    for kind in (x509.UniformResourceIdentifier, x509.RFC822Name, x509.DNSName):
        found += names.get_values_for_type(kind)
    return found[:NAMES_MAX]


def _signed(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _authorities(path: Path | None) -> list[x509.Certificate]:
    if path is None:
        return []
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} holds no certificates in PEM") from error


# ---- files


def stamps_of(files: Sequence[Path]) -> tuple[tuple[int, int, int] | None, ...]:
    """Something that changes when one of the files is replaced."""
    return tuple(map(_stamp, files))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _load_authorities(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_verify_locations(cafile=path)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"cannot use {path}: {_reason(error)}") from error


def _load_chain(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    require_private(key)
    try:
        context.load_cert_chain(certificate, key, password=no_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        raise ConfigError(f"cannot use {certificate} with {key}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
