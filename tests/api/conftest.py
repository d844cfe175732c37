"""A region of one node for each test that asks for it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.api.served import Served, one_node


@pytest.fixture
async def served(tmp_path) -> AsyncIterator[Served]:
    async with one_node(tmp_path) as one:
        yield one
