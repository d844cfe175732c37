"""Where service nodes are to be found, as far as they said so themselves."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

URLS_MAX: Final = 8
URL_CHARS_MAX: Final = 2_000


class NodeUrls:
    """The newest few addresses. Not thread-safe."""

    def __init__(self) -> None:
        self._urls: OrderedDict[str, None] = OrderedDict()

    def heard(self, url: str) -> bool | None:
        """Whether it was unknown; None where it is no address of a node."""
        if not url.startswith(("http://", "https://")) or len(url) > URL_CHARS_MAX:
            return None
        is_new = url not in self._urls
        self._urls[url] = None
        self._urls.move_to_end(url)
        while len(self._urls) > URLS_MAX:
            self._urls.popitem(last=False)
        return is_new

    def newest_first(self) -> tuple[str, ...]:
        return tuple(reversed(self._urls))

    def check_invariants(self) -> None:
        assert len(self._urls) <= URLS_MAX
