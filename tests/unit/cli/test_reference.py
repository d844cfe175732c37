"""The reference is made from the commands, and every command explains itself."""

from __future__ import annotations

import re
from pathlib import Path

import typer
from rich.text import Text

from consistency_service.cli.commands import app
from consistency_service.cli.reference import reference

ROOT = Path(__file__).resolve().parents[3]


def leaves(command, path="ccs"):
    children = getattr(command, "commands", {})
    if not children:
        return [(path, command)]
    return [leaf for name, child in children.items() for leaf in leaves(child, f"{path} {name}")]


COMMANDS = leaves(typer.main.get_command(app))


def test_the_reference_is_what_the_commands_say():
    """If this fails: python -m consistency_service.cli.reference > docs/reference/cli.md."""
    assert reference() == (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")


def test_every_command_has_a_text_and_an_example_that_names_it():
    silent = [path for path, command in COMMANDS if not command.help or f"$[/dim] {path}" not in (command.epilog or "")]

    assert [] == silent


def test_every_option_has_a_text():
    silent = [(path, p.name) for path, command in COMMANDS for p in command.params if not getattr(p, "help", None)]

    assert [] == silent


def test_json_is_accepted_everywhere():
    assert [] == [path for path, command in COMMANDS if not any("--json" in p.opts for p in command.params)]


def test_no_word_of_a_text_is_lost_as_markup():
    """`[[certificate]]` would be shown as `[]`."""
    texts = [
        text for _, command in COMMANDS for text in (command.help, *(getattr(p, "help", "") for p in command.params))
    ]
    lost = [text for text in texts if text and Text.from_markup(text).plain != re.sub(r"\[/?dim\]", "", text)]

    assert [] == lost
