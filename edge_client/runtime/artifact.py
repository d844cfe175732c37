"""What the application's loader is given: verified bytes, and what the region says of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A version's bytes on disk, verified by digest just before. The file belongs to the client: read it, no more."""

    model: str
    version: str
    digest: str
    size_bytes: int
    metadata: Mapping[str, str]
    """What was registered with the version."""
    path: Path
    """Stays until the loader has returned; a loader that maps the file may go on using the mapping."""

    def read_bytes(self) -> bytes:
        """The whole artifact."""
        return self.path.read_bytes()


Loader = Callable[[Artifact], Any]
"""Makes a usable model of an artifact. Called in a worker thread; an `async` one on the event loop."""
WarmUp = Callable[[Any], Any]
"""Called with the loaded model before it may be served, in a worker thread; an `async` one on the event loop."""
Unload = Callable[[Any], object]
"""Called with the loaded model once, in any thread, when the client and the last reading have let go of it."""
