"""The reference of all commands as Markdown, made from the commands themselves so that it cannot lie.

`python -m consistency_service.cli.reference` prints what `docs/reference/cli.md` must hold; a test compares.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import typer
from rich.text import Text

from consistency_service.cli.commands import app
from consistency_service.cli.session import SHARED_PANEL

_HEAD = """# The `ccs` command

<!-- Generated: python -m consistency_service.cli.reference > docs/reference/cli.md -->
"""


def reference() -> str:
    """The whole document."""
    root = typer.main.get_command(app)
    parts = [_HEAD, *_command(root, path="ccs", depth=1)]
    return "\n".join(parts).rstrip() + "\n"


def _command(command: Any, *, path: str, depth: int) -> Iterator[str]:
    if depth > 1:
        yield f"{'#' * min(depth, 3)} `{path}`\n"
    yield _plain(command.help) + "\n"
    own = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    arguments = [parameter for parameter in own if parameter.param_type_name == "argument"]
    options = [parameter for parameter in own if parameter.param_type_name == "option"]
    children = getattr(command, "commands", {})
    if not children:
        names = "".join(f" {_name(argument)}" for argument in arguments)
        yield f"```\n{path}{names}{' [OPTIONS]' if options else ''}\n```\n"
    shared = [option for option in options if getattr(option, "rich_help_panel", None) == SHARED_PANEL]
    if depth > 1:
        options = [option for option in options if option not in shared]
    if arguments or options:
        yield "| | |\n| --- | --- |"
        yield from (f"| `{_name(argument)}` | {_cell(argument.help)} |" for argument in arguments)
        yield from (f"| `{_spelling(option)}` | {_cell(option.help)}{_default(option)} |" for option in options)
        yield ""
    if depth > 1 and shared:
        yield f"Shared options: {', '.join(f'`{option.opts[0]}`' for option in shared)}.\n"
    if command.epilog:
        yield _epilog(command.epilog)
    for name in _order(command):
        yield from _command(children[name], path=f"{path} {name}", depth=depth + 1)


def _order(command: Any) -> list[str]:
    return list(command.list_commands(None)) if hasattr(command, "list_commands") else []


def _name(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _spelling(option: Any) -> str:
    names = ", ".join([*option.opts, *option.secondary_opts])
    return names if option.is_flag else f"{names} {option.metavar or 'VALUE'}"


def _default(option: Any) -> str:
    if option.default in (None, False) or option.is_flag or callable(option.default) or not option.show_default:
        return ""
    return f" Default: {option.default}"


def _epilog(text: str) -> str:
    """Sections with a heading each; examples and tables as they are."""
    sections = []
    for section in _plain(text).split("\n\n"):
        heading, _, body = section.partition("\n")
        sections.append(f"{heading}:\n\n```console\n{body}\n```\n")
    return "\n".join(sections)


def _cell(text: str | None) -> str:
    return _plain(text).replace("|", "\\|").replace("\n", " ")


def _plain(text: str | None) -> str:
    return Text.from_markup(text or "").plain.strip()


if __name__ == "__main__":
    sys.stdout.write(reference())
