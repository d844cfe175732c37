"""An activation, watched: who has the version already, when it is decided, when it took effect.

The call itself waits at a node; meanwhile a second client looks at readiness and moves the bar. Nothing that is shown
decides anything, so a look that fails is left out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

from consistency_service.cli.arguments import path_of
from consistency_service.cli.client import Client
from consistency_service.cli.errors import CommandError
from consistency_service.cli.render import Screen, instant, size

LOOK_S: Final = 0.25
SLACK_S: Final = 75.0
"""Beyond the prefetch time: a lease, a failover, and an activation of somebody else that must settle before."""


def activate_and_watch(
    client: Client,
    model: str,
    *,
    version: str | None,
    screen: Screen,
    force: bool = False,
    immediate: bool = False,
    wait: bool = True,
    generation: int | None = None,
    step: str = "",
) -> Any:
    """The region's answer, after showing how it came about; `version` None is a rollback. Raises as `Client.change`."""
    shown = client.get(path_of(model))
    wait_s = SLACK_S + (0 if force or version is None else shown["policy"]["prefetch_ms"] / 1_000)
    body = None if version is None else {"version": version, "force": force, "immediate": immediate}
    path = path_of(model, "rollback" if version is None else "activations")

    def ask() -> Any:
        return client.change(
            "POST",
            path,
            body=body,
            generation=generation,
            step=step,
            wait_s=wait_s,
            wait="effective" if wait else "accepted",
        )

    if screen.json_output or not screen.live:
        answer = ask()
    else:
        target = version or _stable(shown["previous"])
        answer = _watched(ask, client=client, model=model, version=target, screen=screen)
    if not screen.json_output:
        _tell(answer, model=model, screen=screen)
    return answer


def _watched(ask: Callable[[], Any], *, client: Client, model: str, version: str | None, screen: Screen) -> Any:
    """What `ask` returns or raises, with a bar that moves meanwhile."""
    answers: list[Any] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            answers.append(ask())
        except BaseException as error:
            failures.append(error)

    # A daemon: Ctrl-C ends the command at once, whatever the node still does.
    worker = threading.Thread(target=run, name="activation", daemon=True)
    with screen.wait_progress() as progress, client.twin() as looker:
        task = progress.add_task("edges ready", total=None, state="")
        worker.start()
        while worker.is_alive():
            worker.join(LOOK_S)
            if version is None or not worker.is_alive():
                continue
            try:
                readiness = looker.get(path_of(model, "readiness"), version=version)
            except CommandError:
                continue
            ready, expected = len(readiness["ready"]), _expected(readiness)
            # All ready: the bar pulses, because what is waited for now is an instant.
            total = expected if ready < expected else None
            progress.update(task, completed=ready, total=total, state=_state(readiness))
    if failures:
        raise failures[0]
    return answers[0]


def _expected(readiness: dict[str, Any]) -> int:
    return len(readiness["ready"]) + len(readiness["waiting"]) + len(readiness["failed"])


def _state(readiness: dict[str, Any]) -> str:
    expected = _expected(readiness)
    if not expected:
        return "no live edge follows it"
    if len(readiness["ready"]) == expected:
        return f"{expected}/{expected}, waiting for the instant"
    each = readiness["size_bytes"]
    fetched = sum(readiness["fetched_bytes"].get(edge, 0) for edge in readiness["waiting"]) + each * len(
        readiness["ready"]
    )
    failed = f", {len(readiness['failed'])} failed" if readiness["failed"] else ""
    return f"{len(readiness['ready'])}/{expected}{failed}, fetched {size(fetched)} of {size(each * expected)}"


def _tell(answer: Any, *, model: str, screen: Screen) -> None:
    verb = "is active for everybody since" if answer["effective"] else "is decided, effective at"
    moment = instant(answer["effective_at_unix_ms"])
    screen.text(f"{model} {answer['version']} {verb} {moment} (generation {answer['generation']})")
    for edge, why in sorted(answer["not_ready"].items()):
        screen.note(f"not ready: {edge}: {why}")


def _stable(assignment: dict[str, Any] | None) -> str | None:
    return None if assignment is None else str(assignment["stable"])
