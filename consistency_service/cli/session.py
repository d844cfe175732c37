"""What every command shares: where the region is, how to print, how to end.

A command is a plain function whose first argument is a `Session`; `command` gives it the shared options, which are taken
before its name too (`ccs --json edges` is `ccs edges --json`), and turns whatever ends it into an exit code. It prints
results to stdout and everything else (progress, notes, errors) to stderr, so that a pipe sees results only.
"""

from __future__ import annotations

import contextlib
import functools
import getpass
import inspect
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias
from urllib.parse import urlsplit

import typer
from typer.core import TyperCommand, TyperGroup

from consistency_service.cli.client import Client
from consistency_service.cli.credentials import (
    CaOption,
    CertificateKeyOption,
    CertificateOption,
    Credentials,
    TokenFileOption,
    credentials_of,
)
from consistency_service.cli.errors import CommandError, LocalError
from consistency_service.cli.render import Screen
from consistency_service.errors import ConfigError, ServiceError

DEFAULT_URL: Final = "http://127.0.0.1:8700"
TESTBED_DIRECTORY: Final = Path(".testbed")
INTERRUPTED: Final = 130
SHARED_PANEL: Final = "Shared options"
_KEY_PATTERN: Final = re.compile(r"[\x21-\x7e]{1,150}", re.ASCII)

UrlOption = Annotated[
    list[str] | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="A node of the region; repeat it or separate with commas. The next one is tried when one does not answer. "
        "[dim]Default: $CCS_URL, else the testbed in ./.testbed, else http://127.0.0.1:8700[/dim]",
        rich_help_panel=SHARED_PANEL,
        show_default=False,
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option(
        "--json", help="Print one JSON document; one per line where output goes on.", rich_help_panel=SHARED_PANEL
    ),
]
TimeoutOption = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        min=0.1,
        help="Give up after this long. [dim]Default: as long as the call may need[/dim]",
        rich_help_panel=SHARED_PANEL,
        show_default=False,
    ),
]
AuthorOption = Annotated[
    str | None,
    typer.Option(
        "--author",
        metavar="NAME",
        help="Who asks, for the audit. [dim]Default: $CCS_AUTHOR, else your user name[/dim]",
        rich_help_panel=SHARED_PANEL,
        show_default=False,
    ),
]
KeyOption = Annotated[
    str | None,
    typer.Option(
        "--idempotency-key",
        metavar="KEY",
        help="Repeat an earlier command whose outcome is not known, without doing it twice. [dim]Default: a new key[/dim]",
        rich_help_panel=SHARED_PANEL,
        show_default=False,
    ),
]
NoColorOption = Annotated[
    bool,
    typer.Option("--no-color", help="Plain text; so does NO_COLOR in the environment.", rich_help_panel=SHARED_PANEL),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """The shared options, as given before or behind the command."""

    url: tuple[str, ...] = ()
    json: bool = False
    timeout: float | None = None
    author: str | None = None
    idempotency_key: str | None = None
    no_color: bool = False
    token_file: Path | None = None
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    transport: Any = None
    """An `httpx.BaseTransport` in place of the network: what tests pass as the context's object."""

    def over(self, **given: Any) -> Shared:
        """These, with what was given more closely to the command."""
        values: dict[str, Any] = {n: tuple(value) if n == "url" else value for n, value in given.items() if value}
        return replace(self, **values)


class Session:
    """One run of one command."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.json = shared.json
        self.screen = Screen(json_output=shared.json, color=not shared.no_color)

    @property
    def urls(self) -> tuple[str, ...]:
        """Where to ask, best first. Raises `LocalError` for what is no URL."""
        given = self.shared.url or tuple(filter(None, [os.environ.get("CCS_URL")]))
        urls = tuple(part.strip().rstrip("/") for text in given for part in text.split(",") if part.strip())
        for url in urls:
            if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
                raise LocalError(f"--url takes http://HOST:PORT, not {url!r}")
        return urls or testbed_urls(TESTBED_DIRECTORY) or (DEFAULT_URL,)

    @property
    def author(self) -> str:
        """Who asks. Raises `LocalError` for a name that no audit could show."""
        author = self.shared.author or os.environ.get("CCS_AUTHOR") or _user()
        if not (1 <= len(author) <= 128 and author.isprintable()):
            raise LocalError("--author takes 1 to 128 printable characters")
        return author

    @property
    def credentials(self) -> Credentials:
        """What is shown to nodes. Raises `LocalError`, `ConfigError`."""
        shared = self.shared
        return credentials_of(
            token_file=shared.token_file, ca=shared.ca, certificate=shared.certificate, key=shared.key
        )

    @contextlib.contextmanager
    def client(self) -> Iterator[Client]:
        """Calls to the region, with this command's key. Raises `LocalError`."""
        key = self.shared.idempotency_key
        if key is not None and _KEY_PATTERN.fullmatch(key) is None:
            raise LocalError("--idempotency-key takes 1 to 150 visible ASCII characters")
        with Client(
            self.urls,
            author=self.author,
            timeout_s=self.shared.timeout,
            key=key,
            credentials=self.credentials,
            transport=self.shared.transport,
        ) as client:
            yield client


def testbed_urls(directory: Path) -> tuple[str, ...]:
    """The nodes of a testbed that runs in `directory`, those that are alive first; none if there is no testbed."""
    from consistency_service.testbed.errors import TestbedError
    from consistency_service.testbed.state import read_state

    try:
        state = read_state(directory.absolute())
    except TestbedError:
        return ()
    nodes = [process for process in state.processes if process.name.startswith("node-") and process.url]
    return tuple(node.url for node in sorted(nodes, key=lambda node: node.condition != "alive") if node.url)


def completing() -> Client:
    """Calls for the shell that waits for words: with what the environment says, and not for long."""
    session = Session(Shared())
    return Client(session.urls, author="completion", timeout_s=1.0, credentials=session.credentials)


class _PlainUsage(TyperCommand):
    """Usage lines as everybody writes them: `NAME`, not `{NAME}`."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]


def in_order(*names: str) -> type[TyperGroup]:
    """A group that lists its commands in the order in which one meets them."""

    class InOrder(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            return sorted(self.commands, key=names.index)

    return InOrder


Command: TypeAlias = Callable[..., int | None]


def command(
    app: typer.Typer,
    name: str,
    *,
    examples: tuple[str, ...] = (),
    changes: bool = False,
    remote: bool = True,
    panel: str | None = None,
) -> Callable[[Command], Command]:
    """Registers a function as a command of `app`; what it returns is its exit code, None is 0.

    `remote` commands take `--url`, `--timeout` and credentials, those that `changes` something take `--author` and a key as well.
    """

    def register(function: Command) -> Command:
        signature = inspect.signature(function, eval_str=True)
        own = list(signature.parameters.values())[1:]
        shared = _parameters(changes=changes, remote=remote)

        @functools.wraps(function)
        def run(**values: Any) -> None:
            context: typer.Context = values.pop("context")
            given = {parameter.name: values.pop(parameter.name) for parameter in shared}
            before = context.find_object(Shared) or Shared()
            run_session(Session(before.over(**given)), lambda session: function(session, **values))

        head = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        keyword_only = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *shared)]
        parameters = [head, *keyword_only]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app.command(name, cls=_PlainUsage, help=_help(function), epilog=_epilog(examples), rich_help_panel=panel)(run)
        return function

    return register


def run_session(session: Session, body: Callable[[Session], int | None]) -> None:
    """Runs the body of a command. Raises `typer.Exit` with its exit code unless that is 0."""
    try:
        code = body(session) or 0
    except CommandError as error:
        session.screen.failure(str(error), hint=error.hint(), problem=error.problem())
        code = error.exit_code
    except (ServiceError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        local = LocalError(
            _text(error), title="Configuration" if isinstance(error, ConfigError) else "Not possible here"
        )
        session.screen.failure(str(local), problem=local.problem())
        code = local.exit_code
    except KeyboardInterrupt:
        session.screen.note("interrupted")
        code = INTERRUPTED
    if code:
        raise typer.Exit(code)


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def _parameters(*, changes: bool, remote: bool) -> tuple[inspect.Parameter, ...]:
    chosen: list[tuple[str, Any, Any]] = []
    if remote:
        chosen += [("url", UrlOption, None), ("timeout", TimeoutOption, None), ("token_file", TokenFileOption, None)]
        chosen += [
            ("ca", CaOption, None),
            ("certificate", CertificateOption, None),
            ("key", CertificateKeyOption, None),
        ]
    if changes:
        chosen += [("author", AuthorOption, None), ("idempotency_key", KeyOption, None)]
    chosen += [("json", JsonOption, False), ("no_color", NoColorOption, False)]
    kind = inspect.Parameter.KEYWORD_ONLY
    return tuple(inspect.Parameter(name, kind, default=default, annotation=hint) for name, hint, default in chosen)


def _help(function: Command) -> str:
    """The docstring, each paragraph in one line, for the window to wrap."""
    paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _epilog(examples: tuple[str, ...]) -> str | None:
    if not examples:
        return None
    return "\n".join(("[bold]Examples[/bold]", *(f"[dim]$[/dim] {example}" for example in examples)))


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no user has this number
        return "unknown"
