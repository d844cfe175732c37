"""Why a command changed nothing: stable codes, each with what it means. What is not in the table is no refusal of ours."""

from __future__ import annotations

from typing import Any, Final

REFUSALS: Final[dict[str, str]] = {
    "activation_pending": "An activation of the model is decided and not settled; `activation` names it.",
    "assumption_replaced": "Another assumption of authority came first.",
    "bootstrapped_already": "The region has an epoch.",
    "frozen": "A freeze is in force: nothing starts, is promoted or activated by a rollout; `author` and `reason` tell whose.",
    "generation_mismatch": "The model is at another `generation` than the one expected.",
    "invalid": "`field` of the command is not acceptable.",
    "limit_reached": "There are as many of `limit` as there may be (`value`).",
    "model_exists": "The name is taken.",
    "move_refused": "In this `phase` there is no such `move`; `allowed` lists those that there are.",
    "not_authority": "The command names an authority that is not the present one.",
    "not_baked": "The stage was not healthy for as long as its strategy asks: `baked_ms` of `bake_ms`.",
    "not_bootstrapped": "The region has no history yet.",
    "nothing_pending": "No activation of that revision is pending.",
    "number_passed": "A command numbered later applied before this one.",
    "own_activation": "The authority settles its own activations by confirming.",
    "revision_mismatch": "The feature class was set last at another `revision` than the one expected.",
    "rollout_exists": "The id is taken.",
    "rollout_running": "`rollout_id` holds the model until it has ended.",
    "step_mismatch": "The rollout is at another `step` than the one the caller expected.",
    "step_passed": "The authority decided this at a step that has passed; the rollout is at `step`.",
    "strategy_invalid": "The rollout cannot work: `faults` lists everything that is wrong, each with its place.",
    "unchanged": "The model is assigned just this already.",
    "unknown_feature_class": "There is no such feature class.",
    "unknown_model": "There is no such model.",
    "unknown_rollout": "There is no such rollout, or it ended long ago and was forgotten.",
    "unknown_version": "The model has no such version.",
    "unknown_webhook": "There is no such webhook.",
    "version_conflict": "The version names other bytes.",
    "version_in_use": "The version is assigned, pending, the one before, about to be activated, or held by a rollout.",
}


class RefusalError(Exception):
    """Ends a handler; becomes an outcome. Never leaves the state machine."""

    def __init__(self, code: str, **detail: Any) -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail
