"""How drivers wait: until something happened, or until it is time to look again."""

from __future__ import annotations

import asyncio
from contextlib import suppress


async def wait_set(event: asyncio.Event, *, timeout_s: float) -> None:
    """Return when `event` is set, or after `timeout_s`."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
