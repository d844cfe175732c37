"""Who is at the other end: TLS 1.3 with certificates on both sides, as a codec without a socket.

Picture a sluice. Ciphertext goes in at one side; nothing comes out at the other until the certificate behind it was
verified and read. The peer *is* the node that its certificate names in a URI, `ccs://CLUSTER/node/NODE_ID`: host names
and addresses prove nothing here. asyncio's own TLS is not used: it would hide how much waits to be sent, and let no one
count the bytes of a stranger.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from consistency_service.adapters.private_files import no_password, require_private
from consistency_service.adapters.raft_log.config import RaftTls
from consistency_service.errors import ConfigError

READ_BYTES: Final = 1 << 16
URI_PATTERN: Final = re.compile(r"ccs://([A-Za-z0-9._-]{1,64})/node/([A-Za-z0-9._-]{1,64})", re.ASCII)


class TlsError(ValueError):
    """The other side does not speak TLS as we do, or refused us; the connection is of no use any more."""


class CertificateRefusedError(TlsError):
    """The other side showed a certificate that is not one of a peer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a verified certificate says."""

    cluster_id: str
    node_id: str
    expires_at_unix_s: int

    def __repr__(self) -> str:
        return f"<Identity {self.cluster_id}/{self.node_id}>"


def identity_of(certificate: Mapping[str, Any]) -> Identity:
    """The node a certificate names, which must be one and one only. Raises `CertificateRefusedError`."""
    names = certificate.get("subjectAltName", ())
    uris = [value for kind, value in names if kind == "URI" and value.startswith("ccs:")]
    match = URI_PATTERN.fullmatch(uris[0]) if len(uris) == 1 else None
    if match is None:
        raise CertificateRefusedError(f"the certificate names no node of a cluster, but {uris or names}")
    expires_at_unix_s = int(ssl.cert_time_to_seconds(certificate["notAfter"]))
    return Identity(cluster_id=match[1], node_id=match[2], expires_at_unix_s=expires_at_unix_s)


class TlsChannel:
    """One end of one connection. `identity` is None until the other end's certificate has been verified.

    After an error only `take_outgoing` is of use: it holds the alert that tells the other end why.
    """

    def __init__(self, context: ssl.SSLContext, *, server_side: bool) -> None:
        self.identity: Identity | None = None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)

    def start(self) -> None:
        """The first words of the end that dialled wait in `take_outgoing`."""
        self._handshake()

    def receive(self, ciphertext: bytes) -> bytes:
        """The plaintext in it; none before the handshake is over. Raises `TlsError`."""
        self._incoming.write(ciphertext)
        if self.identity is None and not self._handshake():
            return b""
        chunks: list[bytes] = []
        try:
            while chunk := self._tls.read(READ_BYTES):
                chunks.append(chunk)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            raise TlsError(_reason(error)) from error
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def send(self, plaintext: bytes) -> bytes:
        """The ciphertext of it. Raises `TlsError`."""
        assert self.identity is not None, "nothing is said to a stranger"
        try:
            sent = self._tls.write(plaintext)
            while sent < len(plaintext):
                sent += self._tls.write(memoryview(plaintext)[sent:])
        except ssl.SSLError as error:
            raise TlsError(_reason(error)) from error
        return self._outgoing.read()

    def take_outgoing(self) -> bytes:
        """What TLS itself has to say: its handshake, its alerts."""
        return self._outgoing.read()

    def _handshake(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLCertVerificationError as error:
            raise CertificateRefusedError(error.verify_message) from error
        except ssl.SSLError as error:
            raise TlsError(_reason(error)) from error
        try:
            self.identity = identity_of(self._tls.getpeercert() or {})
        except CertificateRefusedError:
            self._outgoing.read()  # our own certificate is not for everybody
            raise
        return True


class TlsFiles:
    """The contexts made from a node's files, made anew when the files are replaced: certificates are renewed on the run.

    Raises `ConfigError` for files that no peer of the node would accept.
    """

    def __init__(self, files: RaftTls, *, cluster_id: str, node_id: str) -> None:
        self._files = files
        self._expected = (cluster_id, node_id)
        self._seen = self._stamps()
        self._server, self._client, self.identity = self._load()

    def channel(self, *, server_side: bool) -> TlsChannel:
        return TlsChannel(self._server if server_side else self._client, server_side=server_side)

    def reload(self) -> bool:
        """Whether the files changed since they were looked at; the contexts are theirs then. Raises `ConfigError`."""
        stamps = self._stamps()
        if stamps == self._seen:
            return False
        self._seen = stamps
        self._server, self._client, self.identity = self._load()
        return True

    def _load(self) -> tuple[ssl.SSLContext, ssl.SSLContext, Identity]:
        server = _context(self._files, protocol=ssl.PROTOCOL_TLS_SERVER)
        client = _context(self._files, protocol=ssl.PROTOCOL_TLS_CLIENT)
        try:
            identity = _shake_own_hand(server, client)
        except TlsError as error:
            raise ConfigError(f"{self._files.certificate} is of no use with {self._files.ca}: {error}") from error
        named = (identity.cluster_id, identity.node_id)
        if named != self._expected:
            raise ConfigError(
                f"{self._files.certificate} names node {named[1]!r} of cluster {named[0]!r}; "
                f"this is node {self._expected[1]!r} of {self._expected[0]!r}"
            )
        return server, client, identity

    def _stamps(self) -> tuple[tuple[int, int, int], ...]:
        paths = (self._files.ca, self._files.certificate, self._files.key)
        try:
            found = [path.stat() for path in paths]
        except OSError as error:
            raise ConfigError(f"cannot read {error.filename}: {error.strerror}") from error
        return tuple((status.st_ino, status.st_mtime_ns, status.st_size) for status in found)


def _context(files: RaftTls, *, protocol: int) -> ssl.SSLContext:
    require_private(files.key)
    context = ssl.SSLContext(protocol)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # every connection shows its certificate
    path = files.ca
    try:
        context.load_verify_locations(cafile=files.ca)
        path = files.certificate
        context.load_cert_chain(files.certificate, files.key, password=no_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        raise ConfigError(f"cannot use {path}: {_reason(error)}") from error
    return context


def _shake_own_hand(server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> Identity:
    """What peers will see of us, verified as they will verify it, from either side. Raises `TlsError`."""
    server = TlsChannel(server_context, server_side=True)
    client = TlsChannel(client_context, server_side=False)
    client.start()
    for _ in range(2):
        server.receive(client.take_outgoing())
        client.receive(server.take_outgoing())
    assert server.identity is not None and client.identity == server.identity
    return server.identity


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return str(error) or type(error).__name__
