"""What the source says of a class: its fields with types, defaults and the texts below them, its methods with signatures."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from types import ModuleType
from typing import Final

SECTION: Final = re.compile(r"\s*\((?:protocol, )?sections? [\d, and]+\)")


@dataclass(frozen=True)
class Field:
    """One annotated name in the body of a class. `default` is as written; None: there is none."""

    name: str
    type: str
    default: str | None
    text: str


@dataclass(frozen=True)
class Callable:
    """A function or method: how it is called, as one would type it, and what it says of itself."""

    name: str
    signature: str
    text: str


@cache
def _tree(module: ModuleType) -> ast.Module:
    return ast.parse(inspect.getsource(module))


def class_node(kind: type) -> ast.ClassDef:
    """Where a class is defined."""
    module = inspect.getmodule(kind)
    assert module is not None, kind
    return next(node for node in _tree(module).body if isinstance(node, ast.ClassDef) and node.name == kind.__name__)


def text_of(kind: type) -> str:
    """The docstring of a class itself, and of no base of it."""
    return flowing(ast.get_docstring(class_node(kind)) or "")


def fields_of(kind: type) -> list[Field]:
    """Its own fields, in their order."""
    return [
        Field(
            node.target.id,
            ast.unparse(node.annotation).strip("'"),
            None if node.value is None else ast.unparse(node.value),
            _text(after),
        )
        for node, after in pairwise([*class_node(kind).body, ast.Pass()])
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and not node.target.id.startswith("_")
    ]


def settings_of(kind: type) -> list[Field]:
    """As `fields_of`; names on adjoining lines share the text below the last of them."""
    lines = {ast.unparse(n.target): n.lineno for n in class_node(kind).body if isinstance(n, ast.AnnAssign)}
    found = fields_of(kind)
    for index in range(len(found) - 2, -1, -1):
        field, below = found[index], found[index + 1]
        if not field.text and lines[below.name] - lines[field.name] == 1:
            found[index] = replace(field, text=below.text)
    return found


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return " ".join(node.value.value.split())
    return ""


def members_of(kind: type) -> list[Field]:
    """The members of an enumeration."""
    return [
        Field(node.targets[0].id, "", ast.literal_eval(node.value), _text(after))
        for node, after in pairwise([*class_node(kind).body, ast.Pass()])
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    ]


def methods_of(kind: type) -> Iterator[Callable]:
    """Its own public methods and properties, in their order."""
    for node in class_node(kind).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            decorators = {ast.unparse(item) for item in node.decorator_list}
            text = flowing(ast.get_docstring(node) or "")
            if "property" in decorators:
                yield Callable(node.name, f"{node.name}: {ast.unparse(node.returns) if node.returns else 'Any'}", text)
            else:
                yield Callable(node.name, _signature(node), text)


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    words = list(_arguments(node.args))
    head = f"{'await ' if isinstance(node, ast.AsyncFunctionDef) else ''}{node.name}"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    line = f"{head}({', '.join(words)}){returns}"
    if len(line) <= 110:
        return line
    inner = textwrap.indent(",\n".join(words), "    ")
    return f"{head}(\n{inner},\n){returns}"


def _arguments(arguments: ast.arguments) -> Iterator[str]:
    """Each argument as it was written, but for the first of a method, with the mark of what is by keyword alone."""
    defaults = [None] * (len(arguments.args) - len(arguments.defaults)) + list(arguments.defaults)
    for argument, default in zip(arguments.args, defaults, strict=True):
        if argument.arg not in {"self", "cls"}:
            yield _argument(argument, default)
    if arguments.vararg:
        yield f"*{ast.unparse(arguments.vararg)}"
    elif arguments.kwonlyargs:
        yield "*"
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield _argument(argument, default)
    if arguments.kwarg:
        yield f"**{ast.unparse(arguments.kwarg)}"


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    return ast.unparse(argument) + ("" if default is None else f" = {ast.unparse(default)}")


def flowing(text: str) -> str:
    """Paragraphs with their lines joined; indented blocks become code; numbers of sections mean nothing here."""
    parts = []
    text = SECTION.sub("", text)
    for paragraph in text.split("\n\n"):
        if paragraph.startswith("    "):
            parts.append("```python\n" + textwrap.dedent(paragraph) + "\n```")
        else:
            parts.append(" ".join(paragraph.split()))
    return "\n\n".join(parts)


def cell(text: str) -> str:
    """Text within a table."""
    return " ".join(SECTION.sub("", text).split()).replace("|", "\\|")


def code(text: str) -> str:
    """Code within a table."""
    return f"`{cell(text)}`"
