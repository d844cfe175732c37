"""What applying a command came to: a value, the same on every node."""

from __future__ import annotations

from typing import Any

import msgspec


class Outcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Applied (`code == "ok"`) or refused with a stable code. Kept under the command's request id."""

    code: str = "ok"
    """`"ok"`, or why the command changed nothing: see `consistency_service.core.refusals`."""

    revision: int = 0
    """The revision after the command."""

    detail: dict[str, Any] = {}
    """Fields of the answer or of the refusal: plain msgpack values."""

    @property
    def ok(self) -> bool:
        return self.code == "ok"
