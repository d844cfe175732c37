"""An asyncio client in an event loop of its own, in a daemon thread of its own, for callers that are elsewhere.

It belongs to the process that made it. In a forked child it is a memory of the parent: nothing here then does anything,
and it must be kept from the garbage collector, because closing its sockets and selector would reach into the parent.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar

from edge_client.errors import ClosedError

CLOSE_TIMEOUT_S: Final = 2.0
"""What the client is given to close; then its tasks are cancelled."""

CANCEL_TIMEOUT_S: Final = 1.0

_log = logging.getLogger(__name__)


class Closable(Protocol):
    async def close(self) -> None: ...


C = TypeVar("C", bound=Closable)
T = TypeVar("T")


class LoopThread(Generic[C]):
    """Running, with its client open, until `stop`. Raises whatever opening raises, and then leaves nothing behind.

    `opener` is given the edge id and a directory that goes with this object.
    """

    def __init__(self, opener: Callable[[str, Path], Coroutine[Any, Any, C]], *, edge_id: str) -> None:
        self._pid = os.getpid()
        self._directory = Path(tempfile.mkdtemp(prefix="edge-client-"))
        self._loop = asyncio.new_event_loop()
        self._ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._closing: asyncio.Task[None] | None = None
        self._opened: C | None = None
        self._thread = threading.Thread(target=self._run, name=f"edge-client {edge_id}", daemon=True)
        self._thread.start()
        try:
            opening = opener(edge_id, self._directory)
            self._opened = self.wait(opening)
        except BaseException:
            self.stop()
            raise

    @property
    def client(self) -> C:
        assert self._opened is not None
        return self._opened

    def call(self, function: Callable[[], T]) -> T:
        """What `function` returns or raises on the loop. Raises `ClosedError` if that ends before."""
        if threading.current_thread() is self._thread:
            return function()

        async def called() -> T:
            return function()

        return self.wait(called())

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What `coroutine` returns or raises on the loop. Raises `ClosedError` if that ends before."""
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RuntimeError(
                "a listener or an async loader waits for the very thread that runs it; use another thread"
            )
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:
            coroutine.close()
            raise ClosedError("the client was closed; connect anew") from None
        try:
            either: tuple[concurrent.futures.Future[Any], ...] = (future, self._ended)
            concurrent.futures.wait(either, return_when=concurrent.futures.FIRST_COMPLETED)
            if future.done():
                return future.result()
        except concurrent.futures.CancelledError:
            pass
        except BaseException:
            future.cancel()
            raise
        else:
            coroutine.close()  # the loop ended before it began
        raise ClosedError("the client was closed meanwhile; connect anew")

    def abandon(self) -> None:
        """Ends soon; waits for nothing, so that the garbage collector may call it anywhere."""
        if self._pid == os.getpid() and not self._loop.is_closed():
            try:
                self._loop.call_soon_threadsafe(self._close)
            except RuntimeError:
                return  # closed this very moment

    def stop(self) -> None:
        """Ended, unless something blocks the loop: then it is left to the end of the process."""
        self.abandon()
        if self._pid == os.getpid() and threading.current_thread() is not self._thread:
            self._thread.join(CLOSE_TIMEOUT_S + CANCEL_TIMEOUT_S + 0.5)

    def _close(self) -> None:
        if self._closing is None:
            self._closing = self._loop.create_task(self._close_and_stop())

    async def _close_and_stop(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                if self._opened is not None:
                    await self._opened.close()
        except Exception:
            _log.exception("close_failed")
        finally:
            self._loop.stop()

    def _run(self) -> None:
        try:
            self._loop.run_forever()
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            if tasks:
                self._loop.run_until_complete(asyncio.wait(tasks, timeout=CANCEL_TIMEOUT_S))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()
        finally:
            self._ended.set_result(None)
            shutil.rmtree(self._directory, ignore_errors=True)
