"""`python -m ops.site`: write the pages and pictures that are made from the code. A test compares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from ops.site import figures
from ops.site.configuration import configuration
from ops.site.events import events
from ops.site.problems import problems
from ops.site.python_api import python_api
from ops.site.wire import wire

REFERENCE: Final = Path(__file__).resolve().parents[2] / "docs" / "reference"
PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "configuration.md": configuration,
    "events.md": events,
    "problems.md": problems,
    "python.md": python_api,
    "wire-protocol.md": wire,
}


def main() -> None:
    """Write all of them."""
    for name, make in PAGES.items():
        (REFERENCE / name).write_text(make(), encoding="utf-8")
    figures.main()


if __name__ == "__main__":
    main()
