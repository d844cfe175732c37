"""What may enter the log: imperative values, and their bytes.

A command says who asked (`author`), when by wall clock for people (`proposed_at_unix_ms`), and, where the caller may ask
again, under which `request_id`. `fingerprint` is a digest of what was asked, so that one id cannot mean two things.
"""

from __future__ import annotations

from typing import Any

import msgspec

from consistency_service.core.rollout import Move
from consistency_service.core.strategy import Strategy
from edge_client.protocol.feature_classes import FeatureClass
from edge_client.protocol.models import Assignment, Policy, Terms, Version

COMMAND_VERSION = 1
COMMAND_BYTES_MAX = 1 << 20


class Command(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True, forbid_unknown_fields=True
):
    """Base of every command. A later release may add kinds, and fields with defaults: a node that does not know what is used
    stops at it (see `runtime.metadata`), because whoever applies half of a command has another state than the others.
    """

    request_id: str = ""
    fingerprint: str = ""
    author: str = ""
    proposed_at_unix_ms: int = 0
    trace: str = ""
    """The traceparent of the proposal, where somebody traces; it changes no decision. Added later."""


class Bootstrap(Command, frozen=True, kw_only=True, tag="Bootstrap"):
    """Begin the first epoch of a region, with its terms."""

    region: str
    region_epoch: int
    terms: Terms


class AssumeAuthority(Command, frozen=True, kw_only=True, tag="AssumeAuthority"):
    """Take over from the assumption `replaces`; 0 when there was none (protocol, section 3)."""

    clock_id: str
    node_id: str
    replaces: int


class Authorised(Command, frozen=True, kw_only=True):
    """Base of commands whose meaning depends on a clock: they name the authority and carry its next number."""

    clock_id: str
    assumption: int
    number: int


class ConfirmAuthority(Authorised, frozen=True, kw_only=True, tag="ConfirmAuthority"):
    """Prove that nobody else had authority at `t0_ns`; settle own activations; trim the outbox (section 4)."""

    t0_ns: int
    settled: tuple[int, ...] = ()
    published_through: int = 0


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One model's part of an activation. `generation_expected`, when given, must be the present one."""

    model: str
    assignment: Assignment
    generation_expected: int | None = None


class ActivateGeneration(Authorised, frozen=True, kw_only=True, tag="ActivateGeneration"):
    """The decision and the instant in one command; all changes apply or none (section 5)."""

    changes: tuple[Change, ...]
    effective_at_ns: int
    lead_ns: int
    immediate: bool = False


class SettlePending(Authorised, frozen=True, kw_only=True, tag="SettlePending"):
    """Settle a foreign activation whose instant has passed on any clock (section 5)."""

    activation: int


class CreateModel(Command, frozen=True, kw_only=True, tag="CreateModel"):
    model: str
    policy: Policy


class ChangePolicy(Command, frozen=True, kw_only=True, tag="ChangePolicy"):
    model: str
    policy: Policy
    generation_expected: int | None = None


class RegisterVersion(Command, frozen=True, kw_only=True, tag="RegisterVersion"):
    """Name stored, verified bytes; the same name for the same bytes again is no error and no change."""

    model: str
    version: Version


class RequestPrefetch(Command, frozen=True, kw_only=True, tag="RequestPrefetch"):
    """Tell edges what may be activated next, so that they get ready; None: no more."""

    model: str
    assignment: Assignment | None


class DeleteVersion(Command, frozen=True, kw_only=True, tag="DeleteVersion"):
    model: str
    version: str


class DeleteModel(Command, frozen=True, kw_only=True, tag="DeleteModel"):
    model: str
    generation_expected: int | None = None


class CreateRollout(Command, frozen=True, kw_only=True, tag="CreateRollout"):
    """Write a rollout down; with `start` it begins at once. `models` maps each model to its candidate."""

    rollout_id: str
    models: dict[str, str]
    strategy: Strategy
    start: bool = True
    reason: str = ""


class MoveRollout(Command, frozen=True, kw_only=True, tag="MoveRollout"):
    """A caller's order: start, pause, resume, promote, abort or retry. `step_expected`, when given, must be the present one."""

    rollout_id: str
    move: Move
    to_end: bool = False
    """Of a promotion: through all stages that are left."""
    step_expected: int | None = None
    reason: str = ""


class StepRollout(Authorised, frozen=True, kw_only=True, tag="StepRollout"):
    """The authority's: pass, fail or hold, decided at `step`, with the numbers that led to it."""

    rollout_id: str
    step: int
    move: Move
    reason: str
    evidence: dict[str, Any] = {}


class AccrueRollout(Authorised, frozen=True, kw_only=True, tag="AccrueRollout"):
    """So much more time has passed in this step on the authority's clock, healthy or merely waited."""

    rollout_id: str
    step: int
    baked_ms: int
    waited_ms: int


class ActivateRollout(Authorised, frozen=True, kw_only=True, tag="ActivateRollout"):
    """Activate the stage, complete, or return: which one the rollout knows, and what it assigns as well (section 5)."""

    rollout_id: str
    step: int
    effective_at_ns: int
    lead_ns: int
    reason: str = ""
    evidence: dict[str, Any] = {}


class SetFreeze(Command, frozen=True, kw_only=True, tag="SetFreeze"):
    """Freeze all starts and promotions, or lift that."""

    frozen: bool
    reason: str = ""


class CreateWebhook(Command, frozen=True, kw_only=True, tag="CreateWebhook"):
    """Tell this address of rollouts from now on; of `moves` only, if there are any."""

    webhook_id: str
    url: str
    secret: str
    moves: tuple[Move, ...] = ()

    def __repr__(self) -> str:
        return f"CreateWebhook(webhook_id={self.webhook_id!r}, url={self.url!r})"


class DeleteWebhook(Command, frozen=True, kw_only=True, tag="DeleteWebhook"):
    webhook_id: str


class SettleDelivery(Command, frozen=True, kw_only=True, tag="SettleDelivery"):
    """A webhook was told of the transition at `revision`, or that was given up."""

    webhook_id: str
    rollout_id: str
    step: int
    revision: int
    delivered: bool
    attempts: int
    reason: str = ""


class ReplayWebhook(Command, frozen=True, kw_only=True, tag="ReplayWebhook"):
    """Tell it again what was given up: these, or without any, all."""

    webhook_id: str
    delivery_ids: tuple[str, ...] = ()


class SetFeatureClass(Command, frozen=True, kw_only=True, tag="SetFeatureClass"):
    """A person's: the class is this from now on, its window apart. `revision_expected`, when given, must be that of its last
    setting; 0: there must be no such class yet.
    """

    feature_class: FeatureClass
    revision_expected: int | None = None


class RemoveFeatureClass(Command, frozen=True, kw_only=True, tag="RemoveFeatureClass"):
    """Its keys belong to `default` from now on."""

    class_name: str
    revision_expected: int | None = None


class SetFeatureWindow(Authorised, frozen=True, kw_only=True, tag="SetFeatureWindow"):
    """The authority's: the staleness window of a class, with the numbers that led to it (section 10)."""

    class_name: str
    window_ms: int
    reason: str


class RevokePublisher(Command, frozen=True, kw_only=True, tag="RevokePublisher"):
    """Nothing that only this key signed is to be loaded any more, anywhere; there is no way back. Added later: nodes that do
    not know it stop at it, so use it once all do.
    """

    key_id: str
    reason: str = ""


AnyCommand = (
    Bootstrap
    | AssumeAuthority
    | ConfirmAuthority
    | ActivateGeneration
    | SettlePending
    | CreateModel
    | ChangePolicy
    | RegisterVersion
    | RequestPrefetch
    | DeleteVersion
    | DeleteModel
    | CreateRollout
    | MoveRollout
    | StepRollout
    | AccrueRollout
    | ActivateRollout
    | SetFreeze
    | CreateWebhook
    | DeleteWebhook
    | SettleDelivery
    | ReplayWebhook
    | SetFeatureClass
    | RemoveFeatureClass
    | SetFeatureWindow
    | RevokePublisher
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyCommand] = msgspec.msgpack.Decoder(AnyCommand)


def encode_command(command: AnyCommand) -> bytes:
    """Its bytes, behind one version byte. Raises `ValueError` beyond 1 MiB."""
    payload = bytes((COMMAND_VERSION,)) + _encoder.encode(command)
    if len(payload) > COMMAND_BYTES_MAX:
        raise ValueError(f"the command has {len(payload)} bytes; {COMMAND_BYTES_MAX} is the limit")
    return payload


def decode_command(payload: bytes) -> AnyCommand | None:
    """The command; None for bytes that are none which this release knows."""
    if not payload or payload[0] != COMMAND_VERSION:
        return None
    try:
        return _decoder.decode(payload[1:])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
