"""Arguments and options that several commands of models share, and the paths they lead to."""

from __future__ import annotations

from typing import Annotated, Any, Final
from urllib.parse import quote

import typer

from consistency_service.cli.session import Session, completing

LIST_LIMIT: Final = 1_000


def path_of(model: str, *rest: str) -> str:
    """The path of a model, or of something under it; names are one segment each, whatever they contain."""
    return "/".join(("/v1/models", *(segment(name) for name in (model, *rest))))


def segment(name: str) -> str:
    """A name as one segment of a path, whatever it contains."""
    return name.replace(".", "%2E") if name in (".", "..") else quote(name, safe="")


def note_truncated(session: Session, page: dict[str, Any]) -> None:
    """Say it if there is more than was shown."""
    if page["next_cursor"] is not None:
        session.screen.note(f"only the first {len(page['items'])} are shown; more with --limit")


def complete_model(incomplete: str) -> list[str]:
    """Names of models for the shell; nothing if no node answers at once."""
    try:
        with completing() as client:
            names = [str(item["name"]) for item in client.get("/v1/models", limit=100)["items"]]
    except Exception:  # a shell that waits for words has no use for an error
        return []
    return [name for name in names if name.startswith(incomplete)]


ModelArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="The model.", autocompletion=complete_model, show_default=False)
]
VersionArgument = Annotated[
    str, typer.Argument(metavar="VERSION", help="A semantic version, such as 2.3.0.", show_default=False)
]
StalenessOption = Annotated[
    int | None,
    typer.Option(
        "--staleness-max-ms",
        metavar="MS",
        min=0,
        help="A `bounded` reading older than this raises instead of answering.",
        show_default=False,
    ),
]
FallbackOption = Annotated[
    bool | None,
    typer.Option(
        "--fallback/--no-fallback",
        help="Whether an edge may serve the version before when the right one is not usable there.",
        show_default=False,
    ),
]
KeptOption = Annotated[
    int | None,
    typer.Option(
        "--versions-kept",
        metavar="N",
        min=1,
        help="How many versions are kept beside those in use.",
        show_default=False,
    ),
]
PrefetchOption = Annotated[
    int | None,
    typer.Option(
        "--prefetch-ms",
        metavar="MS",
        min=0,
        help="How long an activation waits for edges to have the version loaded.",
        show_default=False,
    ),
]
GenerationOption = Annotated[
    int | None,
    typer.Option(
        "--if-generation",
        metavar="N",
        min=0,
        help="Only if the model is still at this generation; refused otherwise.",
        show_default=False,
    ),
]
LimitOption = Annotated[int, typer.Option("--limit", metavar="N", min=1, help="Show at most so many.")]
NoWaitOption = Annotated[
    bool,
    typer.Option("--no-wait", help="Return when it is decided, not when its instant has passed."),
]
