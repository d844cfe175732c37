"""How a command can end badly: one sentence, one exit code, one problem document each.

Scripts go by the exit code: 1 the service refused, 2 the command line or this machine is at fault, 3 nobody can say just
now; 4 and 5 are how a watched rollout ended. Exit code 130 is Ctrl-C.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

from consistency_service.errors import ServiceError

TYPE_PREFIX: Final = "urn:ccs:problem:"

_HINTS: Final = {
    "unknown_model": "`ccs model list` shows what there is",
    "unknown_version": "`ccs model versions NAME` shows what there is",
    "model_exists": "`ccs model policy NAME` changes its policy",
    "generation_mismatch": "`ccs model show NAME` tells the present one",
    "unknown_rollout": "`ccs rollout list` shows what there is",
    "rollout_running": "`ccs rollout status MODEL` shows it; `ccs rollout abort MODEL` ends it",
    "step_mismatch": "`ccs rollout status ROLLOUT` tells the present one",
    "frozen": "`ccs freeze off` lifts it",
    "events_gone": "begin at what is still kept by leaving out --after",
    "unauthenticated": "show a token with --token-file or $CCS_TOKEN, or a certificate with --certificate and --key",
    "forbidden": "`ccs whoami` tells your role",
    "not_believed": "name the certificates by which it is to be believed with --ca or $CCS_CA",
    "certificate_refused": "it has to be signed by the node's http_client_ca, and not to have expired",
    "unreachable": "name a running node with --url or CCS_URL, or start a region here with: ccs testbed up",
    "not_strong": "`--local` answers with what the node knows, without a promise",
}
"""What to do, where the service's own sentence speaks to programs rather than to people at a prompt."""


class CommandError(ServiceError):
    """Base of what ends a command. `code` is stable; `fields` go into the problem document of `--json`."""

    exit_code: ClassVar[int] = 2

    def __init__(self, text: str, *, code: str = "local", title: str = "Not possible here", **fields: Any) -> None:
        super().__init__(text)
        self.code = code
        self.title = title
        self.fields = fields

    def problem(self) -> dict[str, Any]:
        """The problem document (RFC 9457) that `--json` prints."""
        return {"type": TYPE_PREFIX + self.code, "title": self.title, "detail": str(self), **self.fields}

    def hint(self) -> str:
        """What to do about it, if that is not in the sentence itself."""
        return _HINTS.get(self.code, "")


class LocalError(CommandError):
    """This machine, a file or the command line is at fault; the region was not changed."""


class RefusedError(CommandError):
    """The service understood and said no. `problem` is its own document."""

    exit_code = 1

    def __init__(self, document: dict[str, Any]) -> None:
        code = str(document.get("type", "")).removeprefix(TYPE_PREFIX) or "refused"
        title = str(document.get("title") or "Refused")
        super().__init__(str(document.get("detail") or title), code=code, title=title)
        self.document = document

    def problem(self) -> dict[str, Any]:
        return self.document


class UnavailableError(CommandError):
    """Nobody answered in time, or nobody can say. With `key`, the change may or may not have taken effect."""

    exit_code = 3

    def __init__(self, text: str, *, code: str, title: str, key: str | None = None) -> None:
        super().__init__(text, code=code, title=title, **({} if key is None else {"idempotency_key": key}))
        self.key = key

    def hint(self) -> str:
        if self.key is None:
            return super().hint()
        return f"whether it took effect is not known; repeating is safe with  --idempotency-key {self.key}"
