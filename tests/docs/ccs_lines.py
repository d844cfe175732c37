"""Whether a `ccs …` line could be typed as it stands: the commands, options and numbers of arguments are the real ones."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise, takewhile
from typing import Any

import typer

from consistency_service.cli.commands import app

CLI: Any = typer.main.get_command(app)
INLINE = re.compile(r"(?<!`)`(?:\$ )?(?:[A-Z_]+=\S+ )*(ccs(?: [^`]+)?)`(?!`)")
END = re.compile(r"(?<!\S)(?:\||&&|;|&|>|>>|2>|2>&1|<)(?!\S)|\s#\s|\s{3,}")


def ccs_lines(command: str) -> Iterator[str]:
    """The calls of `ccs` in one line of a shell."""
    joined = re.sub(r"<[\w|]+>|\{[^}]*\}", "X", command.replace("\\\n", " "))
    inner = re.findall(r"\$\(([^()]*)\)", joined)
    parts = [*inner, *re.split(r"&&|;|\n|\|(?![\w<])", re.sub(r"\$\([^()]*\)", "X", joined))]
    for part in parts:
        found = re.match(r"^\s*(?:[A-Z_]+=\S+\s+|sudo\s+|time\s+|exec\s+|if\s+|then\s+|!\s+)*(ccs(?:\s.*)?)$", part)
        if found:
            yield found[1]


def fault(line: str, *, whole: bool = True) -> str | None:
    """What is wrong with a call; None: nothing. Without `whole`, arguments may be missing: it is a mention."""
    line = END.split(line, maxsplit=1)[0]
    words = shlex.split(line)[1:]
    command, context = CLI, CLI.make_context("ccs", [], resilient_parsing=True)
    path = "ccs"
    while getattr(command, "commands", None):
        options = list(takewhile(lambda word: word.startswith("-"), words))
        if unknown := [word for word in options if word.split("=")[0] not in _options(command)]:
            return f"{path} has no option {unknown[0]}"
        words = words[len(options) :]
        if not words:
            return None if options or not whole or path == "ccs" else f"{path} needs a command"
        name, *words = words
        if name in {"…", "..."} and not whole:
            return None
        if name not in command.commands:
            return f"{path} has no command {name!r}"
        command, path = command.commands[name], f"{path} {name}"
        context = command.make_context(name, [], parent=context, resilient_parsing=True)
    words = [
        word.replace("…", "X")
        for before, word in pairwise(["", *words])
        if (word not in {"…", "..."} or before.startswith("--")) and not (word.startswith("[") and word.endswith("]"))
    ]
    context.resilient_parsing = False
    try:
        values, left, _ = command.make_parser(context).parse_args([*words])
    except Exception as error:
        if not whole and "requires an argument" in str(error) and words[-1].startswith("-"):
            return None
        return f"{path}: {error}"
    if left:
        return f"{path}: what is {left[0]!r}?"
    if whole and not {"--help", "-h"} & set(words):
        for parameter in command.params:
            if (
                parameter.required
                and parameter.param_type_name == "argument"
                and not isinstance(values.get(parameter.name), str | list | tuple)
            ):
                return f"{path} needs {parameter.metavar or str(parameter.name).upper()}"
    return None


def _options(command: Any) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {
        "--help",
        "-h",
    }
