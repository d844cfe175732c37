"""The metadata state machine: one command in, one outcome out, the same on every node.

Picture a clerk with one ledger: whoever comes is asked, in this order, whether they may speak (authority), whether they
come in turn (number), whether they were served before (request id); only then is the request judged. The clerk has no
clock, and every instant comes with the command. Refusals change nothing but counters (protocol, sections 3, 5 and 7).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from consistency_service.core import commands as c
from consistency_service.core.ledger import OUTBOX_MAX
from consistency_service.core.outcomes import Outcome
from consistency_service.core.publisher_machine import PublisherMachine
from consistency_service.core.refusals import RefusalError
from consistency_service.core.state import (
    AuditEntry,
    Authority,
    ModelState,
    RequestResult,
    decode_state,
    encode_state,
)
from edge_client.protocol.digest import Digest
from edge_client.protocol.models import NAME_PATTERN
from edge_client.protocol.subjects import REGION_PATTERN

REQUESTS_MAX: Final = 20_000
AUDIT_MAX: Final = 10_000
MODELS_MAX: Final = 1_000
VERSIONS_MAX: Final = 1_000
METADATA_BYTES_MAX: Final = 4 * 1024
REQUEST_ID_LENGTH_MAX: Final = 256

NOT_CONSUMED: Final = frozenset({"not_authority", "number_passed", "not_bootstrapped", "activation_pending"})
"""Refusals that leave the request id free: the same request may be proposed again with a fresh reading."""


class MetadataMachine(PublisherMachine):
    """Applies commands to a `State`. Not thread-safe; deterministic."""

    def __init__(self) -> None:
        super().__init__()
        self._handlers: dict[type, Callable[[Any], Outcome]] = {
            c.Bootstrap: self._bootstrap,
            c.AssumeAuthority: self._assume,
            c.ConfirmAuthority: self._confirm,
            c.ActivateGeneration: self._activate,
            c.SettlePending: self._settle_pending,
            c.CreateModel: self._create_model,
            c.ChangePolicy: self._change_policy,
            c.RegisterVersion: self._register_version,
            c.RequestPrefetch: self._request_prefetch,
            c.DeleteVersion: self._delete_version,
            c.DeleteModel: self._delete_model,
            c.CreateRollout: self._create_rollout,
            c.MoveRollout: self._move_rollout,
            c.StepRollout: self._step_rollout,
            c.AccrueRollout: self._accrue_rollout,
            c.ActivateRollout: self._activate_rollout,
            c.SetFreeze: self._set_freeze,
            c.CreateWebhook: self._create_webhook,
            c.DeleteWebhook: self._delete_webhook,
            c.SettleDelivery: self._settle_delivery,
            c.ReplayWebhook: self._replay_webhook,
            c.SetFeatureClass: self._set_feature_class,
            c.RemoveFeatureClass: self._remove_feature_class,
            c.SetFeatureWindow: self._set_feature_window,
            c.RevokePublisher: self._revoke_publisher,
        }

    def apply(self, command: c.AnyCommand) -> Outcome:
        """What came of the command; the state has changed only if the outcome is ok."""
        try:
            if not self.state.epoch and not isinstance(command, c.Bootstrap):
                raise RefusalError("not_bootstrapped")
            if len(command.request_id) > REQUEST_ID_LENGTH_MAX:
                raise RefusalError("invalid", field="request_id")
            if isinstance(command, c.Authorised):
                self._pass_fence(command)
        except RefusalError as refusal:
            return self._refused(refusal)
        known = self.state.requests.get(command.request_id) if command.request_id else None
        if known is not None:
            if known.fingerprint != command.fingerprint:
                return Outcome(code="request_id_reused", revision=self.state.revision)
            return known.outcome
        try:
            outcome = self._handlers[type(command)](command)
        except RefusalError as refusal:
            outcome = self._refused(refusal)
        self._remember(command, outcome)
        return outcome

    def snapshot(self) -> bytes:
        return encode_state(self.state)

    def restore(self, payload: bytes) -> None:
        """Replace the state. Raises `ValueError` and changes nothing if the bytes are not a state."""
        self.state = decode_state(payload)

    def check_invariants(self) -> None:
        state = self.state
        assert len(state.outbox) <= OUTBOX_MAX and len(state.requests) <= REQUESTS_MAX
        revisions = [event.revision for event in state.outbox]
        assert revisions == sorted(set(revisions)) and all(r <= state.revision for r in revisions)
        assert state.authority is None or state.authority.assumption <= state.revision
        for model in state.models.values():
            assert all(version in model.versions for version in model.versions_in_use())
            assert model.pending is None or model.pending.generation == model.generation + 1
            assert (model.generation == 0) == (model.assignment is None)
        self._check_rollouts()
        self._check_webhooks()
        self._check_feature_classes()
        self._check_publishers()

    # ---- who may speak, and in turn

    def _pass_fence(self, command: c.Authorised) -> None:
        authority = self.state.authority
        if authority is None or (authority.clock_id, authority.assumption) != (command.clock_id, command.assumption):
            raise RefusalError("not_authority")
        if command.number <= self.state.last_number:
            raise RefusalError("number_passed", last_number=self.state.last_number)
        self.state.last_number = command.number

    def _remember(self, command: c.AnyCommand, outcome: Outcome) -> None:
        state = self.state
        if command.request_id and outcome.code not in NOT_CONSUMED:
            state.requests[command.request_id] = RequestResult(fingerprint=command.fingerprint, outcome=outcome)
            if len(state.requests) > REQUESTS_MAX:
                del state.requests[next(iter(state.requests))]
                self._count("requests_forgotten")
        if command.author:
            state.audit.append(
                AuditEntry(
                    revision=state.revision,
                    at_unix_ms=command.proposed_at_unix_ms,
                    author=command.author,
                    command=type(command).__name__,
                    subject=_subject_of(command),
                    code=outcome.code,
                )
            )
            if len(state.audit) > AUDIT_MAX:
                del state.audit[0]

    def _refused(self, refusal: RefusalError) -> Outcome:
        return Outcome(code=refusal.code, revision=self.state.revision, detail=refusal.detail)

    # ---- authority

    def _bootstrap(self, command: c.Bootstrap) -> Outcome:
        if self.state.epoch:
            raise RefusalError("bootstrapped_already", epoch=self.state.epoch, region=self.state.region)
        if command.region_epoch < 1 or REGION_PATTERN.fullmatch(command.region) is None:
            raise RefusalError("invalid", field="region or epoch")
        self.state.region = command.region
        self.state.epoch = command.region_epoch
        self.state.terms = command.terms
        return self._changed("RegionBootstrapped", command)

    def _assume(self, command: c.AssumeAuthority) -> Outcome:
        current = self.state.authority.assumption if self.state.authority else 0
        if command.replaces != current:
            raise RefusalError("assumption_replaced", assumption=current)
        self.state.authority = Authority(
            clock_id=command.clock_id, assumption=self.state.revision + 1, node_id=command.node_id
        )
        self.state.last_number = 0
        return self._changed("AuthorityAssumed", command, detail={"node_id": command.node_id})

    # ---- models and versions

    def _create_model(self, command: c.CreateModel) -> Outcome:
        if NAME_PATTERN.fullmatch(command.model) is None:
            raise RefusalError("invalid", field="model")
        if command.model in self.state.models:
            raise RefusalError("model_exists", model=command.model)
        if len(self.state.models) >= MODELS_MAX:
            raise RefusalError("limit_reached", limit="models", value=MODELS_MAX)
        model = ModelState(
            name=command.model,
            policy=command.policy,
            created_at_unix_ms=command.proposed_at_unix_ms,
            created=self.state.revision + 1,
        )
        self.state.models[model.name] = model
        return self._changed("ModelCreated", command, models=[model])

    def _change_policy(self, command: c.ChangePolicy) -> Outcome:
        model = self._model(command.model, generation_expected=command.generation_expected)
        if model.policy == command.policy:
            return Outcome(revision=self.state.revision)
        model.policy = command.policy
        return self._changed("PolicyChanged", command, models=[model])

    def _register_version(self, command: c.RegisterVersion) -> Outcome:
        model, version = self._model(command.model), command.version
        try:
            Digest.parse(version.digest)
        except ValueError:
            raise RefusalError("invalid", field="digest") from None
        metadata_bytes = sum(len(k) + len(v) for k, v in version.metadata.items())
        if not version.version or len(version.version) > 128 or metadata_bytes > METADATA_BYTES_MAX:
            raise RefusalError("invalid", field="version or metadata")
        self._require_signatures(version)
        known = model.versions.get(version.version)
        if known is not None:
            if known.digest != version.digest:
                raise RefusalError("version_conflict", version=version.version, digest=known.digest)
            return self._signed_again(model, version, command)
        if len(model.versions) >= VERSIONS_MAX:
            raise RefusalError("limit_reached", limit="versions", value=VERSIONS_MAX)
        model.versions[version.version] = version
        model.registered_at_unix_ms[version.version] = command.proposed_at_unix_ms
        return self._changed("VersionRegistered", command, detail={"model": model.name, "version": version.version})

    def _delete_version(self, command: c.DeleteVersion) -> Outcome:
        model = self._model(command.model)
        self._require_versions(model, (command.version,))
        rollout = self.state.rollout_of(model.name)
        held = rollout.versions_held(model.name) if rollout else ()
        if command.version in (*model.versions_in_use(), *held):
            raise RefusalError("version_in_use", model=model.name, version=command.version)
        del model.versions[command.version]
        model.registered_at_unix_ms.pop(command.version, None)
        return self._changed("VersionDeleted", command, detail={"model": model.name, "version": command.version})

    def _delete_model(self, command: c.DeleteModel) -> Outcome:
        model = self._model(command.model, generation_expected=command.generation_expected)
        self._require_no_rollout(model)
        self._require_settled(model)
        del self.state.models[model.name]
        return self._changed("ModelDeleted", command, removed=(model.name,))


def _subject_of(command: c.Command) -> str:
    """The name of what a command is about, for the audit."""
    if isinstance(command, c.ActivateGeneration):
        return ",".join(change.model for change in command.changes)
    if isinstance(command, c.SetFeatureClass):
        return command.feature_class.name
    named = (getattr(command, name, "") for name in ("model", "rollout_id", "webhook_id", "class_name", "key_id"))
    return next((str(name) for name in named if name), "")
