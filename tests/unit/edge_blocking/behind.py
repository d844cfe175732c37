"""An asyncio client to put behind the blocking one: it knows no region, and a test decides what it serves."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_client.errors import ClosedError, ConfigError, ModelNotReadyError


class FakeModel:
    """Serves `value`, which is None until it is ready; `value` names the process and the edge id."""

    def __init__(self, name: str, client: FakeClient) -> None:
        self.name = name
        self.client = client
        self.changed = asyncio.Event()
        self.value: Any = None
        self.listeners: list[Callable[[Any], object]] = []

    def read(self) -> Any:
        if self.client.closed:
            raise ClosedError("closed")
        if self.value is None:
            raise ModelNotReadyError(self.name)
        return self.value

    async def wait_ready(self, *, timeout_ms: int) -> None:
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                await self.changed.wait()
        except TimeoutError:
            raise ModelNotReadyError(self.name) from None

    async def read_strong(self, *, timeout_ms: int) -> Any:
        await self.wait_ready(timeout_ms=timeout_ms)
        return self.read()

    def on_change(self, listener: Callable[[Any], object]) -> Callable[[], None]:
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    def serve(self, value: Any) -> None:
        self.value = value
        self.changed.set()
        for listener in list(self.listeners):
            listener(value)


class FakeClient:
    """Every model is ready at once with what its loader makes of the edge id, unless its name begins with `never`."""

    def __init__(self, edge_id: str, directory: Path) -> None:
        self.edge_id = edge_id
        self.directory = directory
        self.pid = os.getpid()
        self.loop = asyncio.get_running_loop()
        self.models: dict[str, FakeModel] = {}
        self.closed = False
        self.closed_count = 0

    def model(self, name: str, *, loader: Any, warm_up: Any = None, unload: Any = None) -> FakeModel:
        if asyncio.get_running_loop() is not self.loop:
            raise AssertionError("on another loop")
        if name in self.models:
            raise ConfigError(f"{name} is registered already")
        model = self.models[name] = FakeModel(name, self)
        if not name.startswith("never"):
            model.serve(loader(self.edge_id))
        return model

    def status(self) -> Any:
        if asyncio.get_running_loop() is not self.loop:
            raise AssertionError("on another loop")
        return (self.edge_id, self.pid, tuple(self.models))

    async def close(self) -> None:
        self.closed = True
        self.closed_count += 1


class Opener:
    """Opens fake clients and remembers them."""

    def __init__(self) -> None:
        self.clients: list[FakeClient] = []

    async def __call__(self, edge_id: str, directory: Path) -> Any:
        self.clients.append(FakeClient(edge_id, directory))
        return self.clients[-1]

    @property
    def last(self) -> FakeClient:
        return self.clients[-1]
