"""The tree of commands. What each does is in the module of its name; what all share is in `session`."""

from __future__ import annotations

from typing import Annotated

import typer

from consistency_service import __version__
from consistency_service.cli import (
    backup,
    bench,
    bundle,
    certs,
    chaos,
    cluster,
    debug,
    doctor,
    features,
    freeze,
    keys,
    model_views,
    models,
    nats,
    region,
    rollout_moves,
    testbed,
    token,
    webhook,
)
from consistency_service.cli.credentials import CaOption, CertificateKeyOption, CertificateOption, TokenFileOption
from consistency_service.cli.session import (
    AuthorOption,
    JsonOption,
    KeyOption,
    NoColorOption,
    Shared,
    TimeoutOption,
    UrlOption,
    command,
    in_order,
)

_DAILY = "Models, rollouts and features"
_LOOK = "Look at the region"
_RUN = "Run a region"

_ORDER = (
    *("model", "rollout", "rollback", "bundle", "freeze", "webhook", "features"),
    *("edges", "cluster", "events", "audit", "whoami", "doctor", "debug"),
    *("demo", "testbed", "chaos", "bench", "backup", "token", "certs", "keys", "nats", "serve"),
)
_EPILOG = """[bold]Begin here[/bold]
[dim]$[/dim] ccs demo               [dim]watch a region move running edges to a better model[/dim]
[dim]$[/dim] ccs testbed up         [dim]a region of your own, on this machine[/dim]
[dim]$[/dim] ccs model push digits 1.0.0 FILE --create --activate
[dim]$[/dim] ccs rollout start digits 2.0.0 --stages 10%,100% --watch
[dim]$[/dim] ccs edges              [dim]who serves it, and what their reads are worth[/dim]

[bold]Exit codes[/bold]
0    done
1    the service refused
2    wrong usage, or a fault on this machine
3    nobody answered, or nobody can say just now; repeating is safe, see --idempotency-key
4    the rollout that was watched was aborted
5    the rollout that was watched failed
130  interrupted by Ctrl-C"""


app = typer.Typer(
    name="ccs",
    cls=in_order(*_ORDER),
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EPILOG,
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"ccs {__version__}")
        raise typer.Exit


@app.callback()
def main(
    context: typer.Context,
    *,
    url: UrlOption = None,
    timeout: TimeoutOption = None,
    author: AuthorOption = None,
    idempotency_key: KeyOption = None,
    json: JsonOption = False,
    no_color: NoColorOption = False,
    token_file: TokenFileOption = None,
    ca: CaOption = None,
    certificate: CertificateOption = None,
    key: CertificateKeyOption = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Decide which version of a model is active on a fleet of edges, and see who serves what.

    Every change takes effect everywhere at one instant; every read says what it is worth.
    """
    context.obj = (context.find_object(Shared) or Shared()).over(
        url=url,
        timeout=timeout,
        author=author,
        idempotency_key=idempotency_key,
        json=json,
        no_color=no_color,
        token_file=token_file,
        ca=ca,
        certificate=certificate,
        key=key,
    )


app.add_typer(model_views.model_app, name="model", rich_help_panel=_DAILY)
app.add_typer(rollout_moves.app, name="rollout", rich_help_panel=_DAILY)
command(
    app,
    "rollback",
    changes=True,
    panel=_DAILY,
    examples=("ccs rollback text-detector", "ccs rollback text-detector --if-generation 7"),
)(models.rollback)
app.add_typer(bundle.app, name="bundle", rich_help_panel=_DAILY)
app.add_typer(freeze.app, name="freeze", rich_help_panel=_DAILY)
app.add_typer(webhook.app, name="webhook", rich_help_panel=_DAILY)
app.add_typer(features.app, name="features", rich_help_panel=_DAILY)
command(app, "edges", panel=_LOOK, examples=("ccs edges", "ccs edges --site dock-3 --json"))(region.edges)
app.add_typer(cluster.app, name="cluster", rich_help_panel=_LOOK)
command(
    app,
    "events",
    panel=_LOOK,
    examples=("ccs events --follow", "ccs events --after 1-1042 --json"),
)(region.events)
command(app, "audit", panel=_LOOK, examples=("ccs audit", "ccs audit --limit 500 --json"))(region.audit)
command(
    app,
    "doctor",
    panel=_LOOK,
    examples=("ccs doctor", "ccs doctor --config node-1.toml", "ccs doctor --edge edge.toml --json"),
)(doctor.doctor)
app.add_typer(debug.app, name="debug", rich_help_panel=_LOOK)
command(app, "whoami", panel=_LOOK, examples=("ccs whoami", "ccs whoami --token-file ada.token --json"))(token.whoami)
command(app, "demo", remote=False, panel=_RUN, examples=("ccs demo", "ccs demo --edges 8"))(testbed.demo)
app.add_typer(testbed.app, name="testbed", rich_help_panel=_RUN)
command(
    app,
    "chaos",
    remote=False,
    panel=_RUN,
    examples=(
        "ccs chaos --minutes 5",
        "ccs chaos --minutes 60 --seed 7 --keep chaos-7",
        "ccs chaos --break clock-rate",
    ),
)(chaos.chaos)
app.add_typer(bench.app, name="bench", rich_help_panel=_RUN)
app.add_typer(backup.app, name="backup", rich_help_panel=_RUN)
app.add_typer(token.app, name="token", rich_help_panel=_RUN)
app.add_typer(certs.app, name="certs", rich_help_panel=_RUN)
app.add_typer(keys.app, name="keys", rich_help_panel=_RUN)
app.add_typer(nats.app, name="nats", rich_help_panel=_RUN)
command(app, "serve", remote=False, panel=_RUN, examples=("ccs serve --config node-1.toml",))(region.serve)
