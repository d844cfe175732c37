"""What mkdocs does beyond its own: navigation from the tree, links that leave `docs`, pictures in the page.

The Markdown files are written for whoever reads them in a repository: links are relative and lead to files that are there.
Where one leads out of `docs`, the site carries that file along, under `repository/`. A picture is put into the page itself,
so that it takes on the page's colours; a state diagram that a repository's browser would draw is replaced by its picture.
"""

from __future__ import annotations

import html
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

LINK: Final = re.compile(r"(?<=\]\()(?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?(?=\))")
FENCE: Final = re.compile(r"^ *```.*?^ *```[ \t]*$", re.MULTILINE | re.DOTALL)
IMAGE: Final = re.compile(r"^!\[(?P<text>[^\]]*)\]\((?P<target>[^)]+\.svg)\)$", re.MULTILINE)
MERMAID: Final = re.compile(r"^```mermaid\n.*?^```$", re.MULTILINE | re.DOTALL)
TITLE: Final = re.compile(r"^# (.+)$", re.MULTILINE)
CARRIED: Final = "repository"

SECTIONS: Final = {"tutorial": "Tutorial", "how-to": "How-to", "reference": "Reference", "explanation": "Explanation"}
HOW_TO: Final = {
    "In your application": (
        "embed-in-fastapi.md",
        "embed-in-a-camera-loop.md",
        "embed-in-workers.md",
        "write-a-loader.md",
        "observe-readings.md",
        "use-features.md",
    ),
    "Releasing": ("roll-out.md", "feature-classes.md", "dashboard.md"),
    "Setting a region up": (
        "size-a-region.md",
        "deploy-compose.md",
        "deploy-kubernetes.md",
        "deploy-systemd.md",
        "set-up-a-site.md",
        "connect-s3.md",
    ),
    "Securing it": ("secure-rest.md", "secure-the-bus.md", "secure-redis.md", "sign-artifacts.md", "rotate-keys.md"),
}
REST_OF_HOW_TO: Final = "Keeping it alive"
"""Where how-tos stand that nobody put elsewhere."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The four kinds of pages, and what stands beside them."""
    root = Path(config.docs_dir)
    config.nav = [
        {"Home": "index.md"},
        *({title: _section(root, folder)} for folder, title in SECTIONS.items() if (root / folder).is_dir()),
        {
            "Evidence": [
                {"Guarantees": "guarantees.md"},
                {"Measurements": "measurements.md"},
                {"Track record": "track-record.md"},
                {"Decisions": [_entry(root, path) for path in sorted((root / "decisions").glob("*.md"))]},
            ]
        },
    ]
    return config


def _section(root: Path, folder: str) -> list[dict[str, Any]]:
    """The pages of a folder by their titles; how-tos in groups, of which each folder below is one."""
    pages = {path.name: _entry(root, path) for path in sorted((root / folder).glob("*.md"), key=_title)}
    groups = {
        below.name.capitalize(): [_entry(root, path) for path in sorted(below.rglob("*.md"), key=_title)]
        for below in sorted((root / folder).iterdir())
        if below.is_dir()
    }
    if folder == "how-to":
        groups = {
            **{title: [pages.pop(name) for name in names if name in pages] for title, names in HOW_TO.items()},
            REST_OF_HOW_TO: list(pages.values()),
            **groups,
        }
        pages = {}
    return [*pages.values(), *({title: entries} for title, entries in groups.items() if entries)]


def _entry(root: Path, path: Path) -> dict[str, Any]:
    return {_title(path): path.relative_to(root).as_posix()}


def _title(path: Path) -> str:
    found = TITLE.search(path.read_text(encoding="utf-8"))
    return found[1].replace("`", "") if found else path.stem


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take along what pages link to outside `docs`, once each."""
    root = Path(config.docs_dir).parent
    for page in list(files.documentation_pages()):
        for path in _outside(page.content_string, page.src_uri):
            uri = f"{CARRIED}/{path}"
            if (root / path).is_file() and uri not in files.src_uris:
                text = (root / path).read_text(encoding="utf-8")
                files.append(
                    File.generated(
                        config, _carried_uri(uri), content=_shown(path, text), inclusion=InclusionLevel.NOT_IN_NAV
                    )
                )
    return files


def _outside(text: str, page_uri: str) -> Iterator[str]:
    """Paths from the repository's root that `text` links to and that are not below `docs`."""
    for link in LINK.finditer(FENCE.sub("", text)):
        path = _repository_path(link["target"], page_uri)
        if path is not None:
            yield path


def _repository_path(target: str, page_uri: str) -> str | None:
    if ":" in target or target.startswith("/"):
        return None
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page_uri), target))
    return None if path.startswith(("docs/", "..")) else path


def _carried_uri(uri: str) -> str:
    return uri if uri.endswith(".md") else f"{uri}.md"


def _shown(path: str, text: str) -> str:
    """A Markdown page without its links into the repository; any other file as a listing."""
    language = {"py": "python", "yml": "yaml", "yaml": "yaml", "toml": "toml", "json": "json", "sh": "bash"}
    if path.endswith(".md"):
        return re.sub(r"\[([^\]]+)\]\((?!https?:)[^)\s]+\)", r"\1", text)
    return f"# `{path}`\n\n````{language.get(path.rpartition('.')[2], 'text')}\n{text}\n````\n"


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links that leave `docs` lead to what was taken along, pictures are in the page."""
    uri = page.file.src_uri
    root = Path(config.docs_dir)
    if uri == "reference/rollouts.md":
        markdown = MERMAID.sub("![The phases of a rollout](../explanation/figures/rollout.svg)", markdown)

    def link(found: re.Match[str]) -> str:
        path = _repository_path(found["target"], uri)
        if path is None:
            return found[0]
        carried = _carried_uri(f"{CARRIED}/{path}")
        if files.get_file_from_path(carried) is None:
            return found[0]
        return posixpath.relpath(carried, posixpath.dirname(uri) or ".") + (found["anchor"] or "")

    def picture(found: re.Match[str]) -> str:
        svg = (root / posixpath.normpath(posixpath.join(posixpath.dirname(uri), found["target"]))).read_text(
            encoding="utf-8"
        )
        return f'<div class="figure" role="img" aria-label="{html.escape(found["text"])}">{" ".join(svg.split())}</div>'

    parts = re.split(f"({FENCE.pattern})", markdown, flags=FENCE.flags)
    return "".join(part if index % 2 else IMAGE.sub(picture, LINK.sub(link, part)) for index, part in enumerate(parts))
