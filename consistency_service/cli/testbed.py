"""`ccs testbed …` and `ccs demo`: a whole region on this machine, to look at and to hurt."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.text import Text

from consistency_service.cli.client import Client
from consistency_service.cli.errors import LocalError
from consistency_service.cli.session import TESTBED_DIRECTORY, Session, command
from consistency_service.testbed import supervisor
from consistency_service.testbed.errors import TestbedError
from consistency_service.testbed.processes import Condition
from consistency_service.testbed.state import ProcessState, State
from consistency_service.testbed.topology import EDGES_MAX, NODES_MAX, TestbedConfig, key_paths

LEADER: Final = "leader"

app = typer.Typer(
    help="A region on this machine, without root or Docker: bring it up, look at it, hurt it, take it down.",
    no_args_is_help=True,
)


def complete_process(incomplete: str) -> list[str]:
    """Names of processes for the shell."""
    try:
        state = supervisor.status(TESTBED_DIRECTORY)
    except TestbedError:
        return []
    return [name for name in (LEADER, *(p.name for p in state.processes)) if name.startswith(incomplete)]


DirectoryOption = Annotated[
    Path, typer.Option("--directory", "-d", metavar="DIR", help="Where the testbed lives.", file_okay=False)
]
NameArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="A process, as `ccs testbed status` names it; `leader` is the node that leads.",
        autocompletion=complete_process,
        show_default=False,
    ),
]


@command(app, "up", remote=False, examples=("ccs testbed up", "ccs testbed up --nodes 5 --edges 20"))
def up(
    session: Session,
    nodes: Annotated[
        int, typer.Option("--nodes", metavar="N", min=1, max=NODES_MAX, help="Members of the cluster.")
    ] = 3,
    edges: Annotated[int, typer.Option("--edges", metavar="N", min=0, max=EDGES_MAX, help="Edge processes.")] = 5,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="NAME",
            help="What every edge asks for; may be repeated. [dim]Default: digits[/dim]",
            show_default=False,
        ),
    ] = None,
    directory: DirectoryOption = TESTBED_DIRECTORY,
) -> None:
    """Start a region here and leave it running: NATS, Redis, nodes and edges as plain processes on free ports.

    Other `ccs` commands in the same directory find it by themselves. What it had stored before is still there.
    """
    chosen = tuple(models) if models else ("digits",)
    config = TestbedConfig(directory=directory, nodes=nodes, edges=edges, models=chosen)
    state = supervisor.up(config, progress=session.screen.note)
    if session.json:
        _print_state(session, state)
        return
    session.screen.text()
    session.screen.fields(
        [
            *((process.name, process.url) for process in state.processes if process.url),
            ("logs", str(Path(state.directory) / "logs")),
        ]
    )
    session.screen.text()
    other = "" if directory == TESTBED_DIRECTORY else f" -d {directory}"
    if other:
        session.screen.text(f"export CCS_URL={','.join(state.urls('node-'))}")
    tries = (
        ("ccs cluster status", "who leads"),
        (f"ccs model push {chosen[0]} 1.0.0 FILE --create --activate", "a first version goes live"),
        ("ccs edges", "who serves what"),
        (f"ccs testbed kill leader{other}", "no edge loses `strong`"),
        (f"ccs testbed down{other}", "data and logs stay"),
    )
    session.screen.fields(tries)


@command(app, "status", remote=False, examples=("ccs testbed status",))
def status(session: Session, directory: DirectoryOption = TESTBED_DIRECTORY) -> None:
    """Show every process as it is now."""
    _print_state(session, supervisor.status(directory))


@command(app, "env", remote=False, examples=("ccs testbed env", 'eval "$(ccs testbed env)"'))
def env(session: Session, directory: DirectoryOption = TESTBED_DIRECTORY) -> None:
    """Print where the testbed's parts are, as `export` lines for a shell: what a program of your own needs to join in.

    CCS_URL (nodes, also for `ccs` in other directories), NATS_URL, REDIS_URL, REGION, TRUST (the file of the region's key).
    """
    state = supervisor.status(directory)
    variables = {
        "CCS_URL": ",".join(state.urls("node-")),
        "NATS_URL": state.process("nats").url or "",
        "REDIS_URL": state.process("redis-edge").url or "",
        "REGION": TestbedConfig(directory=directory).region,
        "TRUST": str(key_paths(Path(state.directory))[1]),
    }
    if session.json:
        session.screen.document(variables)
        return
    for name, value in variables.items():
        session.screen.text(f"export {name}={shlex.quote(value)}")


@command(app, "logs", remote=False, examples=("ccs testbed logs node-1 --follow", "ccs testbed logs supervisor"))
def logs(
    session: Session,
    name: NameArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", metavar="N", min=0, help="Begin so many lines back.")] = 50,
    directory: DirectoryOption = TESTBED_DIRECTORY,
) -> None:
    """Print the log of a process, or of the `supervisor` that keeps them all."""
    named = _named(session, directory, name)
    for line in supervisor.logs(directory, named, follow=follow, lines=lines):
        if session.json:
            session.screen.line({"name": named, "line": line})
        else:
            session.screen.text(line)


def _hurt(verb: str, act: Callable[[Path, str], State], *, done: str, text: str, example: str) -> None:
    def run(session: Session, name: NameArgument, directory: DirectoryOption = TESTBED_DIRECTORY) -> None:
        named = _named(session, directory, name)
        state = act(directory, named)
        if session.json:
            session.screen.document(msgspec.to_builtins(state.process(named)))
        else:
            session.screen.text(f"{named} {done.format(name=named)}")

    run.__doc__ = text
    command(app, verb, remote=False, examples=(example,))(run)


_hurt(
    "kill",
    supervisor.kill,
    done="is dead; start it again with: ccs testbed restart {name}",
    text="Kill a process (SIGKILL). It stays dead until `restart`.",
    example="ccs testbed kill leader",
)
_hurt(
    "pause",
    supervisor.pause,
    done="stands still; let it go on with: ccs testbed resume {name}",
    text="Let a process stand still (SIGSTOP), as a machine that is suspended or starved.",
    example="ccs testbed pause node-2",
)
_hurt(
    "resume",
    supervisor.resume,
    done="goes on",
    text="Let a paused process go on (SIGCONT).",
    example="ccs testbed resume node-2",
)
_hurt(
    "restart",
    supervisor.restart,
    done="runs and is ready",
    text="Start a process again that has ended, with its data and ports as before.",
    example="ccs testbed restart node-1",
)


@command(app, "down", remote=False, examples=("ccs testbed down",))
def down(session: Session, directory: DirectoryOption = TESTBED_DIRECTORY) -> None:
    """End every process of the testbed. Data and logs stay for the next `up`."""
    supervisor.down(directory)
    if session.json:
        session.screen.document({"directory": str(directory.absolute()), "running": False})
    else:
        session.screen.text(f"nothing runs any more; data and logs stay in {directory}")


def demo(
    session: Session,
    edges: Annotated[int, typer.Option("--edges", metavar="N", min=1, max=EDGES_MAX, help="Edge processes.")] = 5,
    nodes: Annotated[
        int, typer.Option("--nodes", metavar="N", min=1, max=NODES_MAX, help="Members of the cluster.")
    ] = 3,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--directory",
            "-d",
            metavar="DIR",
            help="Keep everything here. [dim]Default: a place that is removed[/dim]",
            file_okay=False,
            show_default=False,
        ),
    ] = None,
) -> int:
    """Start a region, move running edges to a better model at one instant, kill the leader, roll out a bad version and a good one.

    Ends by itself within four minutes. Exit code 0 means that every promise of the table at the end was held.
    """
    from consistency_service.testbed.demo import run

    return int(run(directory=directory, edges=edges, nodes=nodes, json_output=session.json))


def _named(session: Session, directory: Path, name: str) -> str:
    """The process that `name` stands for. Raises `LocalError` if nobody leads."""
    if name != LEADER:
        return name
    urls = supervisor.status(directory).urls("node-")
    with Client(urls, author=session.author, timeout_s=5.0) as client:
        leader_id = client.get("/v1/cluster")["leader_id"]
    if leader_id is None:
        raise LocalError("no node leads just now; try again in a moment")
    return str(leader_id)


def _print_state(session: Session, state: State) -> None:
    if session.json:
        document: dict[str, Any] = msgspec.to_builtins(state)
        session.screen.document(document)
        return
    rows = [_row(process) for process in state.processes]
    session.screen.table(("PROCESS", "STATE", ">PID", ">STARTS", "URL"), rows, empty="no processes")
    if not state.supervised:
        session.screen.note("nobody keeps this testbed any more; clear it away with: ccs testbed down")
    if state.failure:
        session.screen.note(state.failure)


def _row(process: ProcessState) -> tuple[str | Text, ...]:
    match process.condition:
        case Condition.ALIVE:
            condition = Text("running", style="green") if process.ready else Text("starting", style="yellow")
        case Condition.PAUSED:
            condition = Text("paused", style="yellow")
        case Condition.WAITING:
            condition = Text("waiting", style="dim")
        case _:
            why = "" if process.exit_code is None else f" ({_ending(process.exit_code)})"
            condition = Text(f"ended{why}", style="red")
    alive = process.condition in (Condition.ALIVE, Condition.PAUSED)
    return (process.name, condition, str(process.pid) if alive else "-", str(process.start_count), process.url or "-")


def _ending(exit_code: int) -> str:
    return f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
