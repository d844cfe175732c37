"""`ccs features …`: what is promised about features by the prefix of their keys, and how it goes."""

from __future__ import annotations

import contextlib
import time
from typing import Annotated, Any, Final

import typer
from rich.text import Text

from consistency_service.api.rollout_schemas import duration_ms
from consistency_service.cli.arguments import LIST_LIMIT, segment
from consistency_service.cli.errors import LocalError, UnavailableError
from consistency_service.cli.render import Cell, clean, duration, grid, instant
from consistency_service.cli.rollout_watch import PATIENCE_S
from consistency_service.cli.session import Session, command, completing, in_order
from edge_client.protocol.feature_classes import FeatureCodec, FeatureKind, WhenFull

CLASSES: Final = "/v1/features/classes"
LOOK_S: Final = 1.0
NEVER: Final = "never"
COLUMNS: Final = ("CLASS", "KIND", ">WINDOW", ">BASE", ">FLOOR", ">ERRORS", ">DRIFT", ">READINGS", ">EDGES")

app = typer.Typer(
    cls=in_order("classes", "set", "remove", "watch"),
    help="Feature classes: how fresh features must be, how they are kept, and how it goes.",
    no_args_is_help=True,
)


def complete_class(incomplete: str) -> list[str]:
    """Names of classes for the shell; nothing if no node answers at once."""
    try:
        with completing() as client:
            names = [str(item["name"]) for item in client.get(CLASSES, limit=300)["items"]]
    except Exception:  # a shell that waits for words has no use for an error
        return []
    return [name for name in names if name.startswith(incomplete)]


ClassArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="The class: what stands before the first colon of its keys.",
        autocompletion=complete_class,
        show_default=False,
    ),
]
RevisionOption = Annotated[
    int | None,
    typer.Option(
        "--if-revision",
        metavar="N",
        min=0,
        help="Only if it was set last at this revision; 0: only if it is not there.",
        show_default=False,
    ),
]


def _time_option(name: str, text: str) -> Any:
    return typer.Option(name, metavar="TIME", help=text, show_default=False)


@command(app, "classes", examples=("ccs features classes", "ccs features classes --json"))
def classes(session: Session) -> None:
    """List the feature classes: what is promised, the window that holds now, and how they did in the last seconds."""
    with session.client() as client:
        page = client.items(CLASSES, limit=LIST_LIMIT)
    if session.json:
        session.screen.document(page)
        return
    columns = (*COLUMNS[:5], ">EXPIRE", "CODEC", "BULK", "ANNOUNCED", "BY")
    rows = [(*_row(one)[:5], *_promise(one)) for one in page["items"]]
    session.screen.table(columns, rows, empty="no class")


@command(
    app,
    "set",
    changes=True,
    examples=(
        "ccs features set profile --kind critical --window 5s --floor 500ms --expire never",
        "ccs features set track --window 2s --floor 250ms --expire 30s --codec shuffle --shards 64 --spool",
        "ccs features set track --when-full block --if-revision 1042",
    ),
)
def set_class(
    session: Session,
    name: ClassArgument,
    kind: Annotated[
        FeatureKind | None,
        typer.Option("--kind", help="critical: written through; bulk: queued, and written behind.", show_default=False),
    ] = None,
    window: Annotated[
        str | None, _time_option("--window", "The staleness window while nothing is wrong, such as 5s.")
    ] = None,
    floor: Annotated[str | None, _time_option("--floor", "What the region never tightens the window below.")] = None,
    expire: Annotated[
        str | None, _time_option("--expire", "How long after its writing a value exists, or `never` (critical alone).")
    ] = None,
    codec: Annotated[
        FeatureCodec | None,
        typer.Option(
            "--codec",
            help="plain, lz4, shuffle for arrays; float16 and int8 for arrays that may lose precision.",
            show_default=False,
        ),
    ] = None,
    flush: Annotated[str | None, _time_option("--flush", "Bulk: how old a queued entry grows.")] = None,
    shards: Annotated[
        int | None,
        typer.Option(
            "--shards", metavar="N", min=1, help="Bulk: over how many blocks a flush is spread.", show_default=False
        ),
    ] = None,
    spool: Annotated[
        bool | None,
        typer.Option(
            "--spool/--no-spool", help="Bulk: whether queued entries are kept on the edge's disk.", show_default=False
        ),
    ] = None,
    when_full: Annotated[
        WhenFull | None,
        typer.Option(
            "--when-full", help="Bulk: what a write does then: block, drop the oldest, or raise.", show_default=False
        ),
    ] = None,
    announced: Annotated[
        bool | None,
        typer.Option(
            "--announced/--no-announced",
            help="Whether other edges hear of writes at once. [dim]Default: critical classes[/dim]",
            show_default=False,
        ),
    ] = None,
    if_revision: RevisionOption = None,
) -> None:
    """Set a feature class; what is not given stays as it is, or is the default in a new class.

    The window that holds now is the region's own: it moves between floor and base as edges report errors and drift.
    """
    given: dict[str, Any] = {
        "kind": kind and kind.value,
        "window_base_ms": _ms(window, option="--window"),
        "window_floor_ms": _ms(floor, option="--floor"),
        "expire_ms": None if expire == NEVER else _ms(expire, option="--expire"),
        "codec": codec and codec.value,
        "flush_ms": _ms(flush, option="--flush"),
        "shards": shards,
        "spool": spool,
        "when_full": when_full and when_full.value,
        "announced": announced,
    }
    body = {field: value for field, value in given.items() if value is not None}
    if expire == NEVER:
        body["expire_ms"] = None
    with session.client() as client:
        made = client.change("PATCH", _path(name), body=body, generation=if_revision)
    if session.json:
        session.screen.document(made)
    else:
        session.screen.text(
            f"{made['name']} is {made['kind']} from revision {made['revision']} on: window "
            f"{duration(made['window_ms'])}, from {duration(made['window_floor_ms'])} to {duration(made['window_base_ms'])}"
        )


@command(
    app, "remove", changes=True, examples=("ccs features remove track", "ccs features remove track --if-revision 1042")
)
def remove(session: Session, name: ClassArgument, if_revision: RevisionOption = None) -> None:
    """Remove a feature class; its keys belong to `default` from now on."""
    with session.client() as client:
        answer = client.change("DELETE", _path(name), generation=if_revision)
    if session.json:
        session.screen.document(answer or {"deleted": True})
    else:
        session.screen.text(f"removed {name}")


@command(app, "watch", examples=("ccs features watch", "ccs features watch --for 5m --json"))
def watch(
    session: Session,
    lasting: Annotated[
        str | None, _time_option("--for", "End after this long. [dim]Default: with Ctrl-C[/dim]")
    ] = None,
) -> None:
    """Follow windows, errors and drift of all classes: a table on a terminal, elsewhere a line for each change of a window.

    With `--json` a line for each class whenever anything about it is new.
    """
    lasting_ms = _ms(lasting, option="--for")
    until_s = None if lasting_ms is None else time.monotonic() + lasting_ms / 1_000
    shown = _Shown(session)
    heard_s = time.monotonic()
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(session.client())
        live = stack.enter_context(session.screen.live_view()) if session.screen.moving else None
        while True:
            try:
                items = client.items(CLASSES, limit=LIST_LIMIT, consistency="local")["items"]
                heard_s = time.monotonic()
                shown.show(items)
                trouble = ""
            except UnavailableError as error:
                if time.monotonic() - heard_s > (session.shared.timeout or PATIENCE_S):
                    raise
                trouble = str(error)
                if live is None:
                    session.screen.note(f"{trouble}; asking again")
            if live is not None:
                live.update(shown.table(trouble), refresh=True)
            if until_s is not None and time.monotonic() + LOOK_S > until_s:
                return
            time.sleep(LOOK_S)


class _Shown:
    """What was shown already."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._items: dict[str, dict[str, Any]] = {}

    def show(self, items: list[dict[str, Any]]) -> None:
        """What is new since the last look, a line each; nothing on a terminal, which shows all of it."""
        before, self._items = self._items, {str(one["name"]): one for one in items}
        if self._session.json:
            for one in items:
                if one != before.get(one["name"]):
                    self._session.screen.line(one)
            for name in before.keys() - self._items.keys():
                self._session.screen.line({"name": name, "removed": True})
        elif not self._session.screen.moving:
            for one in items:
                if one["window_ms"] != before.get(one["name"], {}).get("window_ms"):
                    why = f" ({one['window_reason']})" if one["window_reason"] else ""
                    self._session.screen.text(f"{one['name']}: window {duration(one['window_ms'])}{why}")

    def table(self, trouble: str) -> Any:
        """Everything, as of the last look that succeeded."""
        rows = [(*_row(one), _moved(one)) for one in self._items.values()]
        if trouble:
            rows.append((Text(f"not up to date: {clean(trouble)}", style="red"), *[""] * len(COLUMNS)))
        return grid((*COLUMNS, "MOVED"), rows)


def _row(one: dict[str, Any]) -> tuple[Cell, ...]:
    """A class under `COLUMNS`."""
    seen = one["observed"]
    tight = one["window_ms"] < one["window_base_ms"]
    return (
        one["name"],
        one["kind"],
        Text(duration(one["window_ms"]), style="yellow" if tight else ""),
        duration(one["window_base_ms"]),
        duration(one["window_floor_ms"]),
        "-" if seen["failed_share"] is None else f"{seen['failed_share']:.1%}",
        "-" if seen["drift"] is None else f"{seen['drift']:.3f}",
        str(seen["judged_count"] + seen["fetched_count"]),
        str(seen["edge_count"]),
    )


def _promise(one: dict[str, Any]) -> tuple[Cell, ...]:
    """What else is promised of a class."""
    bulk = f"{duration(one['flush_ms'])} x{one['shards']} {one['when_full']}{' spool' if one['spool'] else ''}"
    return (
        NEVER if one["expire_ms"] is None else duration(one["expire_ms"]),
        one["codec"],
        bulk if one["kind"] == FeatureKind.BULK else "-",
        "yes" if one["announced"] else "no",
        one["author"] or ("built in" if not one["revision"] else "-"),
    )


def _moved(one: dict[str, Any]) -> str:
    if one["window_at_unix_ms"] is None:
        return "-"
    return f"{instant(one['window_at_unix_ms'])[11:19]}Z {one['window_reason']}"


def _ms(text: str | None, *, option: str) -> int | None:
    """A duration as strategies have them; a plain number is milliseconds. Raises `LocalError`."""
    if text is None:
        return None
    try:
        found_ms = duration_ms(int(text) if text.isdecimal() else text)
    except ValueError as error:
        raise LocalError(f"{option}: {error}") from None
    if found_ms <= 0:
        raise LocalError(f"{option} takes a duration longer than nothing, not {text!r}")
    return found_ms


def _path(name: str) -> str:
    return f"{CLASSES}/{segment(name)}"
