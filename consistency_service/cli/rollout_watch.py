"""A rollout, watched to its end: a table that moves on a terminal, a line a move in a pipe, a document a move as JSON.

Nothing that is shown decides anything, so a look that fails is repeated; what is shown meanwhile is what was seen last.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any, Final

from rich.console import Group
from rich.live import Live
from rich.text import Text

from consistency_service.cli.arguments import path_of
from consistency_service.cli.client import Client
from consistency_service.cli.errors import RefusedError, UnavailableError
from consistency_service.cli.render import clean
from consistency_service.cli.rollout_find import rollout_path
from consistency_service.cli.rollout_strategy import strategy_of
from consistency_service.cli.rollout_view import ENDED, line_of, models_of, says, view_of
from consistency_service.cli.session import Session

LOOK_S: Final = 0.5
PATIENCE_S: Final = 120.0
"""How long nobody may answer before a watch gives up, where `--timeout` does not say."""
SETTLE_S: Final = 20.0
EXIT_CODES: Final = {"completed": 0, "aborted": 4, "failed": 5}


def watch(session: Session, client: Client, rollout_id: str, *, wanted: str = "completed") -> int:
    """Show a rollout until it has ended and that has taken effect; the exit code says how, 0 if as `wanted`.

    Raises `RefusedError` if it is gone, `UnavailableError` if nobody answers for two minutes.
    """
    try:
        phase = _watched(session, client, rollout_id)
    except KeyboardInterrupt:
        session.screen.note(f"the rollout goes on by itself; look again with: ccs rollout status {rollout_id} --watch")
        raise
    return 0 if phase == wanted else EXIT_CODES[phase]


def _watched(session: Session, client: Client, rollout_id: str) -> str:
    shown = _Shown(session)
    heard_s = ended_s = time.monotonic()
    with contextlib.ExitStack() as stack:
        live = stack.enter_context(session.screen.live_view()) if session.screen.moving else None
        while True:
            try:
                rollout = client.get(rollout_path(rollout_id))
                freeze = freeze_of(client, rollout)
                heard_s = time.monotonic()
                shown.show(rollout, freeze=freeze, live=live)
                if rollout["phase"] not in ENDED:
                    ended_s = heard_s
                elif heard_s - ended_s > SETTLE_S or _settled(client, rollout):
                    return str(rollout["phase"])
            except UnavailableError as error:
                if time.monotonic() - heard_s > (session.shared.timeout or PATIENCE_S):
                    raise
                shown.trouble(str(error), live=live)
            time.sleep(LOOK_S)


def freeze_of(client: Client, rollout: dict[str, Any]) -> dict[str, Any] | None:
    """The freeze, where it may matter to this rollout."""
    return None if rollout["phase"] in ENDED else client.get("/v1/freeze")


def _settled(client: Client, rollout: dict[str, Any]) -> bool:
    """What its last activation decided has taken effect for every model that is still there."""
    for target in rollout["targets"]:
        try:
            pending = client.get(path_of(target["model"]))["pending"]
        except RefusedError:
            continue
        if pending is not None and pending["activation"] == rollout["activation"]:
            return False
    return True


class _Shown:
    """What was shown already."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._step = -1
        self._view: list[Any] = []

    def show(self, rollout: dict[str, Any], *, freeze: dict[str, Any] | None, live: Live | None) -> None:
        if live is not None:
            self._view = view_of(rollout, freeze=freeze)
            live.update(Group(*self._view), refresh=True)
            return
        new = [move for move in rollout["transitions"] if move["step"] > self._step]
        if not new and self._step >= 0:
            return
        if self._session.json:
            self._session.screen.line(rollout)
        else:
            if self._step < 0:
                self._session.screen.text(f"rollout {rollout['rollout_id']}: {models_of(rollout)}")
            for move in new:
                self._session.screen.text(line_of(rollout, move))
            if rollout["phase"] in {"waiting", "paused"}:
                self._session.screen.note(says(rollout, strategy_of(rollout)))
        self._step = rollout["step"]

    def trouble(self, text: str, *, live: Live | None) -> None:
        if live is None:
            self._session.screen.note(f"{text}; asking again")
        else:
            live.update(Group(*self._view, Text(f"not up to date: {clean(text)}", style="red")), refresh=True)
