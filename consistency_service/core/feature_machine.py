"""Feature classes in the replicated state: what people set, and the window that the region moves within it.

A person sets base and floor of a class's staleness window, and everything else about it; the authority moves the window
between the two (`feature_windows`). Neither touches what belongs to the other.
"""

from __future__ import annotations

from typing import Final

import msgspec

from consistency_service.core import commands as c
from consistency_service.core.outcomes import Outcome
from consistency_service.core.refusals import RefusalError
from consistency_service.core.state import FeatureClassState
from consistency_service.core.webhook_machine import WebhookMachine
from edge_client.protocol.feature_classes import CLASSES_MAX

REASON_CHARS_MAX: Final = 500


class FeatureMachine(WebhookMachine):
    """The handlers of everything that concerns feature classes."""

    def _set_feature_class(self, command: c.SetFeatureClass) -> Outcome:
        """The class is as given; the window that holds now stays, as far as it lies between the new floor and base."""
        asked, classes = command.feature_class, self.state.feature_classes
        known = classes.get(asked.name)
        self._expect_revision(asked.name, known, command.revision_expected)
        if asked.window_ms is not None:
            raise RefusalError("invalid", field="window_ms", detail="window_ms is the region's own; set base and floor")
        if known is None and len(classes) >= CLASSES_MAX:
            raise RefusalError("limit_reached", limit="feature classes", value=CLASSES_MAX)
        window_ms = None if known is None else known.feature_class.window_ms
        if window_ms is not None:
            window_ms = max(asked.window_floor_ms, min(window_ms, asked.window_base_ms))
        new = msgspec.structs.replace(asked, window_ms=None if window_ms == asked.window_base_ms else window_ms)
        if known is not None and new == known.feature_class:
            return Outcome(revision=self.state.revision)
        made = known or FeatureClassState(feature_class=new)
        made.feature_class, made.revision = new, self.state.revision + 1
        made.author, made.set_at_unix_ms = command.author, command.proposed_at_unix_ms
        classes[new.name] = made
        return self._changed("FeatureClassSet", command, feature_classes=(new,), detail={"class_name": new.name})

    def _remove_feature_class(self, command: c.RemoveFeatureClass) -> Outcome:
        known = self._feature_class(command.class_name)
        self._expect_revision(command.class_name, known, command.revision_expected)
        del self.state.feature_classes[command.class_name]
        return self._changed(
            "FeatureClassRemoved",
            command,
            feature_classes_removed=(command.class_name,),
            detail={"class_name": command.class_name},
        )

    def _set_feature_window(self, command: c.SetFeatureWindow) -> Outcome:
        known = self._feature_class(command.class_name)
        before = known.feature_class
        if not before.window_floor_ms <= command.window_ms <= before.window_base_ms:
            raise RefusalError("invalid", field="window_ms")
        if command.window_ms == before.window_now_ms:
            return Outcome(revision=self.state.revision)
        window_ms = None if command.window_ms == before.window_base_ms else command.window_ms
        known.feature_class = msgspec.structs.replace(before, window_ms=window_ms)
        known.window_reason = command.reason[:REASON_CHARS_MAX]
        known.window_at_unix_ms = command.proposed_at_unix_ms
        detail = {
            "class_name": before.name,
            "window_ms": command.window_ms,
            "window_ms_before": before.window_now_ms,
            "reason": known.window_reason,
        }
        return self._changed("FeatureWindowSet", command, feature_classes=(known.feature_class,), detail=detail)

    def _feature_class(self, name: str) -> FeatureClassState:
        known = self.state.feature_classes.get(name)
        if known is None:
            raise RefusalError("unknown_feature_class", class_name=name)
        return known

    def _expect_revision(self, name: str, known: FeatureClassState | None, expected: int | None) -> None:
        revision = 0 if known is None else known.revision
        if expected is not None and expected != revision:
            raise RefusalError("revision_mismatch", class_name=name, revision=revision)

    def _check_feature_classes(self) -> None:
        assert len(self.state.feature_classes) <= CLASSES_MAX
        for name, known in self.state.feature_classes.items():
            assert name == known.feature_class.name and 0 < known.revision <= self.state.revision
            assert known.feature_class.window_ms != known.feature_class.window_base_ms
