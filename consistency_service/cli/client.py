"""REST calls as a caller wants them: any node will do, a dead one is passed over, asking again changes nothing twice.

Every change carries an `Idempotency-Key` that stays the same across attempts and nodes; that is what makes it right to
simply try again. A node is tried with a short question first, so that one that hangs costs a second and not the whole
wait. All of httpx's exceptions and all problem documents end here.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import httpx

from consistency_service.cli.credentials import Credentials
from consistency_service.cli.errors import LocalError, RefusedError, UnavailableError

CONNECT_TIMEOUT_S: Final = 2.0
PROBE_TIMEOUT_S: Final = 1.0
READ_TIMEOUT_S: Final = 5.0
STREAM_SILENCE_S: Final = 30.0
UPLOAD_TIMEOUT_S: Final = 60.0
PAUSE_S_MIN: Final = 0.1
PAUSE_S_MAX: Final = 2.0
PAGE_LIMIT: Final = 1_000
EVENT_BYTES_MAX: Final = 4_000_000
NOBODY_S: Final = 2.0
REFUSES: Final = "refuses connections"
RETRIED: Final = frozenset({429, 502, 503, 504})
_CERTIFICATE_ALERT: Final = re.compile("certificate|unknown.ca|bad.cert", re.IGNORECASE)
_NEVER_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)

Content = Callable[[], Iterator[bytes]]
"""Makes the body anew for every attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEvent:
    """One server-sent event: where it is in the history, its name, its decoded data."""

    position: str
    name: str
    data: Any


class Client:
    """Calls the first of `urls` that answers. `key` is the base of every `Idempotency-Key` of this command."""

    def __init__(
        self,
        urls: tuple[str, ...],
        *,
        author: str,
        timeout_s: float | None = None,
        key: str | None = None,
        credentials: Credentials = Credentials(),
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.key = key or str(uuid.uuid4())
        self._urls = list(urls)
        self._timeout_s = timeout_s
        self._author = author.encode()
        self._credentials = credentials
        self._transport = transport
        plain = [url for url in urls if not url.startswith("https://") and not _is_loopback(url)]
        if credentials.token is not None and plain:
            raise LocalError(f"{plain[0]} is plain http: a token is not sent where others can read it")
        try:
            self._http = httpx.Client(
                transport=transport,
                verify=True if credentials.tls is None else credentials.tls,
                headers=credentials.headers,
                trust_env=not all(map(_is_loopback, urls)),
            )
        except (ValueError, OSError) as error:  # proxies and certificates of the environment
            raise LocalError(f"cannot prepare HTTP calls: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._http.close()

    def twin(self) -> Client:
        """Another client for another thread, for short looks that may fail."""
        return Client(
            tuple(self._urls),
            author=self._author.decode(),
            timeout_s=1.0,
            credentials=self._credentials,
            transport=self._transport,
        )

    # ---- what commands call

    def get(self, path: str, **params: Any) -> Any:
        """The decoded answer. Raises `RefusedError`, `UnavailableError`."""
        return _decoded(self._call("GET", path, params=params, wait_s=10.0))

    def data(self, path: str, *, span: tuple[int, int] | None = None, **params: Any) -> bytes:
        """The bytes of an answer, or those from the first to the second of `span`. Raises as `get`."""
        headers = {"Accept": "*/*"} | ({} if span is None else {"Range": f"bytes={span[0]}-{span[1] - 1}"})
        return self._call("GET", path, params=params, headers=headers, wait_s=30.0).content

    def items(self, path: str, *, limit: int, **params: Any) -> dict[str, Any]:
        """Up to `limit` items of a list, through as many pages as that takes; `next_cursor` is None at its end."""
        found: list[Any] = []
        cursor: str | None = None
        while True:
            more = {"cursor": cursor} if cursor else {}
            page = self.get(path, limit=min(PAGE_LIMIT, limit - len(found)), **params, **more)
            found += page["items"]
            cursor = page.get("next_cursor")
            if cursor is None or len(found) >= limit or not page["items"]:
                return {"items": found, "next_cursor": cursor}

    def change(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        generation: int | None = None,
        step: str = "",
        wait_s: float = 15.0,
        **params: Any,
    ) -> Any:
        """The decoded answer to a change. Several steps of one command have a key each, all made from its one key.

        `wait_s` is how long the answer may take where `--timeout` does not say. Raises `RefusedError`,
        `UnavailableError` (with the key to ask again with).
        """
        headers = {"Idempotency-Key": f"{self.key}.{step}" if step else self.key}
        if generation is not None:
            headers["If-Match"] = f'"{generation}"'
        return _decoded(self._call(method, path, params=params, body=body, headers=headers, wait_s=wait_s, change=True))

    def exists(self, path: str) -> bool:
        """Whether there is something at `path`. Raises `UnavailableError`, `RefusedError`."""
        return self._call("HEAD", path, wait_s=10.0, accepted=frozenset({404})).status_code != 404

    def upload(self, content: Content, *, digest: str, size_bytes: int) -> Any:
        """The bytes are stored under `digest`. Raises as `change`."""
        headers = {
            "Idempotency-Key": f"{self.key}.{digest[-16:]}",
            "Content-Length": str(size_bytes),
            "Content-Type": "application/octet-stream",
        }
        params = {"digest": digest}
        return _decoded(
            self._call(
                "POST", "/v1/artifacts", params=params, headers=headers, content=content, wait_s=30.0, change=True
            )
        )

    def events(self, *, after: str | None, on_trouble: Callable[[str], None]) -> Iterator[StreamEvent]:
        """Every event after a position, for as long as the caller wants; resumed at another node when one goes silent.

        Before the first connection it gives up after the timeout; afterwards only if a timeout was asked for. Raises
        `RefusedError`, `UnavailableError`.
        """
        attempts = _Attempts(self._urls, give_up_s=self._timeout_s or 10.0)
        while True:
            headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
            params = {"after": after} if after else {}
            timeout = httpx.Timeout(STREAM_SILENCE_S, connect=CONNECT_TIMEOUT_S)
            try:
                with self._http.stream(
                    "GET", self._urls[0] + "/v1/events", params=params, headers=headers, timeout=timeout
                ) as response:
                    if response.status_code >= 400:
                        response.read()
                        refusal = _refusal(response)
                        if response.status_code not in RETRIED:
                            raise refusal
                        attempts.failed(refusal)
                    else:
                        attempts = _Attempts(self._urls, give_up_s=self._timeout_s)
                        for event in _events(response.iter_lines()):
                            after = event.position or after
                            yield event
                        attempts.failed(f"{self._urls[0]} ended the stream")
            except (httpx.TransportError, httpx.StreamError) as error:
                attempts.failed(_sentence(error, url=self._urls[0]))
            except httpx.InvalidURL as error:
                raise LocalError(f"{self._urls[0]} is not a URL: {error}") from None
            on_trouble(attempts.trouble)
            attempts.pause_or_raise(key=None)

    # ---- how

    def _call(
        self,
        method: str,
        path: str,
        *,
        wait_s: float,
        params: dict[str, Any] | None = None,
        body: Any = None,
        headers: dict[str, str] | None = None,
        content: Content | None = None,
        change: bool = False,
        accepted: frozenset[int] = frozenset(),
    ) -> httpx.Response:
        given = {name: value for name, value in (params or {}).items() if value is not None}
        named = {"Accept": "application/json", **(headers or {})}
        head = [(b"X-CCS-Author", self._author), *((name.encode(), value.encode()) for name, value in named.items())]
        attempts = _Attempts(self._urls, give_up_s=self._timeout_s or wait_s, patient=self._timeout_s is not None)
        sent = False
        while True:
            url = self._urls[0]
            try:
                self._probe(url)
                answer_s = max(UPLOAD_TIMEOUT_S, wait_s) if content else attempts.left_s
                response = self._http.request(
                    method,
                    url + path,
                    params=given,
                    json=body,
                    content=content() if content else None,
                    headers=head,
                    timeout=httpx.Timeout(
                        answer_s if change else min(answer_s, READ_TIMEOUT_S), connect=CONNECT_TIMEOUT_S
                    ),
                )
            except _NotAnsweringError as error:
                attempts.failed(str(error))
            except httpx.TransportError as error:
                sent = sent or not isinstance(error, _NEVER_SENT)
                attempts.failed(_sentence(error, url=url))
            except httpx.InvalidURL as error:
                raise LocalError(f"{url} is not a URL: {error}") from None
            else:
                if response.status_code < 400 or response.status_code in accepted:
                    return response
                refusal = _refusal(response)
                if response.status_code in RETRIED or (response.status_code >= 500 and response.status_code != 507):
                    sent = sent or response.status_code >= 500
                    attempts.failed(refusal)
                    if response.status_code not in RETRIED:
                        raise attempts.error(key=self.key if change else None)
                else:
                    raise refusal
            attempts.pause_or_raise(key=self.key if change and sent else None)

    def _probe(self, url: str) -> None:
        """Returns if the node at `url` answers anything at all within a second."""
        try:
            self._http.get(url + "/livez", timeout=PROBE_TIMEOUT_S)
        except httpx.TransportError as error:
            raise _NotAnsweringError(_sentence(error, url=url)) from error


class _NotAnsweringError(Exception):
    """A node did not answer the short question; nothing was asked of it."""


class _Attempts:
    """Counts failures over a ring of nodes: the next node at once, a pause after each round, an end after `give_up_s`."""

    def __init__(self, urls: list[str], *, give_up_s: float | None, patient: bool = True) -> None:
        self.trouble = ""
        self._urls = urls
        self._give_up_s = give_up_s
        self._began_s = time.monotonic()
        self._patient = patient
        self._failures: dict[str, str | RefusedError] = {}
        self._count = 0

    @property
    def left_s(self) -> float:
        """What remains, at least a little."""
        deadline_s = self._deadline_s()
        return STREAM_SILENCE_S if deadline_s is None else max(0.1, deadline_s - time.monotonic())

    def _deadline_s(self) -> float | None:
        """The end; an early one if nothing runs at any of the addresses and nobody asked for patience."""
        if self._give_up_s is None:
            return None
        nobody = set(map(str, self._failures.values())) == {f"{url} {REFUSES}" for url in self._urls}
        return self._began_s + (min(self._give_up_s, NOBODY_S) if nobody and not self._patient else self._give_up_s)

    def failed(self, failure: str | RefusedError) -> None:
        """The first node failed: it goes to the end of the ring."""
        self._failures[self._urls[0]] = failure
        self.trouble = str(failure)
        self._count += 1
        self._urls.append(self._urls.pop(0))

    def pause_or_raise(self, *, key: str | None) -> None:
        """Return when it is time for the next attempt. Raises `UnavailableError` when there is no time left."""
        rounds = self._count // len(self._urls)
        pause_s = 0.0 if self._count % len(self._urls) else min(PAUSE_S_MAX, PAUSE_S_MIN * 2 ** min(rounds, 10))
        deadline_s = self._deadline_s()
        if deadline_s is not None and time.monotonic() + pause_s >= deadline_s:
            raise self.error(key=key)
        time.sleep(pause_s)

    def error(self, *, key: str | None) -> UnavailableError:
        """What to tell: a node's own words rather than that another did not answer."""
        said = [failure for failure in self._failures.values() if isinstance(failure, RefusedError)]
        if said:
            return UnavailableError(str(said[-1]), code=said[-1].code, title=said[-1].title, key=key)
        troubles = "; ".join(str(failure) for failure in self._failures.values())
        return UnavailableError(
            f"no node answered within {time.monotonic() - self._began_s:.0f} s ({troubles})",
            code="unreachable",
            title="No node answered",
            key=key,
        )


def _is_loopback(url: str) -> bool:
    """Such URLs are not asked through a proxy of the environment."""
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


def _decoded(response: httpx.Response) -> Any:
    if not response.content:
        return {}
    try:
        return response.json()
    except ValueError:
        raise UnavailableError(
            f"{response.url} did not answer with JSON; is it a node of a region?",
            code="not_a_node",
            title="Not a node",
        ) from None


def _refusal(response: httpx.Response) -> RefusedError:
    """The problem document of an answer; made up from its status where there is none."""
    try:
        document = response.json()
    except ValueError:
        document = None
    if not isinstance(document, dict) or "title" not in document:
        detail = f"{response.url} answered {response.status_code} {response.reason_phrase}".rstrip()
        document = {"type": "about:blank", "title": response.reason_phrase or "Refused", "detail": detail}
    return RefusedError({**document, "status": response.status_code})


def _sentence(error: Exception, *, url: str) -> str:
    """What went wrong. Raises `LocalError` for what trying again does not mend."""
    match error:
        case httpx.ConnectError() if "refused" in str(error).lower():
            return f"{url} {REFUSES}"
        case httpx.ConnectError() if "CERTIFICATE_VERIFY_FAILED" in str(error):
            why = str(error).partition("CERTIFICATE_VERIFY_FAILED] ")[2].rpartition(" (_ssl")[0]
            raise LocalError(f"{url} is not believed: {why}", code="not_believed", title="Not the node that was meant")
        case httpx.TransportError() if "alert" in str(error).lower() and _CERTIFICATE_ALERT.search(str(error)):
            raise LocalError(f"{url} refused the certificate that was shown: {error}", code="certificate_refused")
        case httpx.ConnectError():
            return f"{url} cannot be reached: {error}"
        case httpx.TimeoutException():
            return f"{url} does not answer"
        case httpx.UnsupportedProtocol():
            return f"{url} is not an http:// or https:// URL"
        case httpx.ReadError() | httpx.WriteError() | httpx.RemoteProtocolError():
            return f"{url} broke the connection off"
        case _:
            return f"{url} failed: {str(error) or type(error).__name__}"


def _events(lines: Iterator[str]) -> Iterator[StreamEvent]:
    """Server-sent events; an unfinished one at the end of the stream is dropped, as the standard says."""
    fields: dict[str, str] = {}
    for line in lines:
        if not line:
            if "data" in fields:
                yield _event(fields)
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if len(fields.get(name, "")) + len(value) > EVENT_BYTES_MAX:
                raise httpx.RemoteProtocolError("an event is too large")
            fields[name] = f"{fields[name]}\n{value}" if name == "data" and "data" in fields else value


def _event(fields: dict[str, str]) -> StreamEvent:
    try:
        data = json.loads(fields["data"])
    except ValueError:
        data = fields["data"]
    return StreamEvent(position=fields.get("id", ""), name=fields.get("event", "message"), data=data)
