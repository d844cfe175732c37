"""What routes need before they can do anything: the node, its state, and who asks for what under which key."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from fastapi import Depends, Header, Path, Query, Request

from consistency_service.api.access import caller_now
from consistency_service.api.problems import ProblemError
from consistency_service.core.state import ModelState, State
from consistency_service.errors import NotStrongError, UnknownModelError, UnknownOutcomeError
from consistency_service.runtime.node import Node

KEY_LENGTH_MAX: Final = 200
AUTHOR_LENGTH_MAX: Final = 128
TIMEOUT_MS: Final = 2_000
SETTLE_TIMEOUT_S: Final = 0.5
TIMEOUT_MS_MAX: Final = 30_000
_KEY: Final = re.compile(rf"[\x20-\x7e]{{1,{KEY_LENGTH_MAX}}}", re.ASCII)
_GENERATION: Final = re.compile(r'\s*"([0-9]{1,18})"\s*', re.ASCII)

ModelName = Annotated[str, Path(max_length=128, description="The model's name.")]
Consistency = Annotated[
    Literal["strong", "local"],
    Query(description="`strong`: everything acknowledged before is seen. `local`: what this node knows, at once."),
]
TimeoutMs = Annotated[int, Query(ge=1, le=TIMEOUT_MS_MAX, description="How long a strong answer may take.")]
Wait = Annotated[
    Literal["effective", "accepted"],
    Query(description="`effective`: answer when the instant has passed. `accepted`: as soon as it is decided."),
]


def _node(request: Request) -> Node:
    node: Node = request.app.state.node
    return node


NodeDep = Annotated[Node, Depends(_node)]


async def _overdue_settled(node: NodeDep) -> None:
    """Afterwards the state says what readers say: activations whose instant has passed on this node's clock are settled.

    Gives up after `SETTLE_TIMEOUT_S`; then the state still calls them pending.
    """

    def overdue() -> bool:
        clock_id, now_ns = node.authority.core.clock_id, node.clock.now_ns()
        pendings = node.metadata.state.pendings().values()
        return any(p.clock_id == clock_id and p.effective_at_ns <= now_ns for p in pendings)

    with suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_TIMEOUT_S):
            await node.metadata.wait_until(lambda: not overdue())


OverdueSettled = Depends(_overdue_settled)


async def _state(node: NodeDep, consistency: Consistency = "strong", timeout_ms: TimeoutMs = TIMEOUT_MS) -> State:
    """The state of this node, after everything acknowledged before the call if `strong`. The leader alone can say so."""
    if consistency == "strong":
        try:
            await node.metadata.barrier(timeout_ms=timeout_ms)
        except UnknownOutcomeError:
            raise NotStrongError(f"no linearizable answer within {timeout_ms} ms; try consistency=local") from None
        await _overdue_settled(node)
    return node.metadata.state


StateDep = Annotated[State, Depends(_state)]


def model_of(state: State, name: str) -> ModelState:
    """The model. Raises `UnknownModelError`."""
    model = state.models.get(name)
    if model is None:
        raise UnknownModelError(name)
    return model


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Who asks for a change, and under which key they may ask again."""

    author: str
    request_id: str
    generation_expected: int | None
    about: str
    """Method and path."""

    def fingerprint(self, body: Any = None) -> str:
        """A digest of what is asked, so that one key cannot mean two things. `body` is plain JSON."""
        asked = [self.about, self.generation_expected, body]
        canonical = json.dumps(asked, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()


def _asked(
    request: Request,
    idempotency_key: Annotated[
        str | None,
        Header(
            description="Asking again with the same key does not do it again. 1 to 200 printable ASCII.",
            json_schema_extra={"pattern": rf"^[!-~](?:[ -~]{{0,{KEY_LENGTH_MAX - 2}}}[!-~])?$"},
        ),
    ] = None,
    if_match: Annotated[
        str | None,
        Header(
            description='`"GENERATION"`, of a rollout `"STEP"`, of a feature class `"REVISION"`: only if it is there; '
            "`*`: wherever it is.",
            json_schema_extra={"pattern": r'^(?:"[0-9]{1,18}"|\*)$'},
        ),
    ] = None,
    x_ccs_author: Annotated[
        str | None,
        Header(
            description="Your name, for the audit, where nobody has to authenticate. 1 to 128 printable characters.",
            json_schema_extra={"pattern": rf"^[!-~](?:[ -~]{{0,{AUTHOR_LENGTH_MAX - 2}}}[!-~])?$"},
        ),
    ] = None,
) -> Asked:
    identity = caller_now().identity
    return Asked(
        author=author_of(x_ccs_author) if identity is None else identity.name,
        request_id=request_id_of(idempotency_key),
        generation_expected=generation_of(if_match),
        about=f"{request.method} {request.url.path}",
    )


AskedDep = Annotated[Asked, Depends(_asked)]


def _asked_unconditionally(asked: AskedDep) -> Asked:
    """For changes that the generation does not guard: a condition that would be ignored is refused."""
    if asked.generation_expected is not None:
        raise ProblemError("invalid", field="If-Match", detail="this call cannot be made conditional on a generation")
    return asked


UnconditionalDep = Annotated[Asked, Depends(_asked_unconditionally)]


def request_id_of(key: str | None) -> str:
    """The request id of an `Idempotency-Key`; a random one where there is none."""
    if key is None:
        key = secrets.token_hex(16)
    if _KEY.fullmatch(key) is None:
        raise ProblemError(
            "invalid", field="Idempotency-Key", detail="Idempotency-Key has 1 to 200 printable ASCII characters"
        )
    return f"rest:{key}"


def author_of(header: str | None) -> str:
    """The caller's name. Header bytes are read as UTF-8 where they are that."""
    if header is None:
        return "anonymous"
    try:
        author = header.encode("latin-1").decode("utf-8")
    except UnicodeError:
        author = header
    if not 1 <= len(author) <= AUTHOR_LENGTH_MAX or not author.isprintable():
        raise ProblemError("invalid", field="X-CCS-Author", detail="X-CCS-Author has 1 to 128 printable characters")
    return author


def generation_of(if_match: str | None) -> int | None:
    """The generation in an `If-Match`; None for `*` or none at all."""
    if if_match is None or if_match.strip() == "*":
        return None
    match = _GENERATION.fullmatch(if_match)
    if match is None:
        raise ProblemError("invalid", field="If-Match", detail='If-Match takes one generation, "3", or *')
    return int(match.group(1))
