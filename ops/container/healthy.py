"""Is the node in this container ready? Asks the node itself, by the settings in its environment; the exit code says it."""

from __future__ import annotations

import ssl
import sys
import urllib.error
import urllib.request
from typing import Final

from consistency_service.config import load_config
from consistency_service.errors import ConfigError

TIMEOUT_S: Final = 3.0


def main() -> int:
    """0 if the node answers `/readyz` with 200."""
    path = sys.argv[1] if len(sys.argv) > 1 else "/readyz"
    try:
        config = load_config(None)
        url = config.peers[config.node_id].url.rstrip("/") + path
        trust = ssl.create_default_context(cafile=config.http_ca) if url.startswith("https:") else None
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust)
        )
        with opener.open(url, timeout=TIMEOUT_S) as answer:
            return 0 if answer.status == 200 else 1
    except (ConfigError, OSError, urllib.error.URLError) as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
