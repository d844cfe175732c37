"""What the description promises is what callers get: requests drawn from it, wrong ones among them, find no contradiction.

Drawn from a fixed seed, so that the same requests are made every time; `CCS_SCHEMA_EXAMPLES` draws more for each call.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import ignored_auth, negative_data_rejection, positive_data_acceptance

from consistency_service.api.server import serve
from tests.api.served import one_node

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
EXAMPLES = int(os.environ.get("CCS_SCHEMA_EXAMPLES", "3"))
NUMBERS = itertools.count()
STREAMS = {"/v1/events"}
"""Answers that do not end."""
JUDGED = {"POST /v1/rollouts", "POST /v1/rollouts/plan", "POST /v1/artifacts", "PATCH /v1/features/classes/{name}"}
"""What can be read may still be refused with 422: a strategy or a class cannot work, bytes have another digest."""
TELLS = {"POST /v1/rollouts/lint"}
"""What cannot be read is the answer."""


@pytest.fixture(scope="module")
def base_url(tmp_path_factory) -> Iterator[str]:
    """A node on a socket of its own, with a model that is active, in a thread of its own."""
    ready, ending, urls = threading.Event(), threading.Event(), []

    async def run() -> None:
        async with one_node(Path(tmp_path_factory.mktemp("node"))) as served:
            await served.model("m", "1.0.0", "2.0.0")
            assert 200 == (await served.activate("1.0.0")).status_code
            shutdown = asyncio.Event()

            def listening(port: int) -> None:
                urls.append(f"http://127.0.0.1:{port}")
                ready.set()

            server = asyncio.create_task(
                serve(served.app, host="127.0.0.1", port=0, shutdown=shutdown, listening=listening)
            )
            await asyncio.to_thread(ending.wait)
            shutdown.set()
            await server

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    assert ready.wait(30)
    yield urls[0]
    ending.set()
    thread.join(30)


def test_answers_are_as_described(base_url: str):
    """Every call of the description, with what it allows and with what it does not."""
    schema = schemathesis.openapi.from_url(f"{base_url}/openapi.json")
    wrong: dict[str, str] = {}
    calls: set[str] = set()
    for operation in [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]:
        if operation.path in STREAMS:
            continue
        calls.add(operation.label)
        for mode in GenerationMode:
            try:
                _try(operation, mode, base_url)
            except Unsatisfiable:
                continue  # nothing that this call could be sent is wrong
            except BaseExceptionGroup as errors:
                wrong[f"{operation.label} ({mode.value})"] = "\n".join(map(str, errors.exceptions))
            except AssertionError as error:
                wrong[f"{operation.label} ({mode.value})"] = str(error)

    assert len(calls) > 40
    assert {} == wrong, "\n\n".join(f"{label}: {text}" for label, text in wrong.items())


def _try(operation, mode: GenerationMode, base_url: str) -> None:
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def draw(case) -> None:
        if "idempotency-key" in case.headers:
            case.headers["idempotency-key"] = f"{next(NUMBERS)}"  # one key for two requests is refused
        if mode.is_positive:
            case.query.pop("cursor", None)  # callers have only those that they were given
        if "412" not in operation.definition.raw["responses"] or case.headers.get("if-match") == "null":
            case.headers.pop("if-match", None)  # refused where it would be ignored; and a header has no null
        answer = case.call(base_url=base_url, timeout=20)
        excused = [ignored_auth]  # nobody has to show anything here; tests/api/test_access_table.py asks every caller
        if operation.label in TELLS:
            excused.append(negative_data_rejection)
        if operation.label in JUDGED or _is_almost_whole(case.body):
            excused.append(positive_data_acceptance)
        if answer.status_code == 503:
            excused.append(not_a_server_error)  # and described, which is checked
        try:
            case.validate_response(answer, excluded_checks=excused)
        except BaseException:
            print(f"{case.as_curl_command()}\n{answer.status_code}: {answer.content[:1_000]!r}\n")
            raise

    draw()


def _is_almost_whole(body) -> bool:
    """It has a number such as 3.0, which JSON Schema calls an integer, and we do not."""
    if isinstance(body, dict):
        return any(map(_is_almost_whole, body.values()))
    return isinstance(body, float) and body.is_integer()
