"""`ccs model …` and `ccs rollback`: versions go in, one of them becomes active for everybody at one instant."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from consistency_service.api.semver import LENGTH_MAX, SEMVER
from consistency_service.cli.activation import activate_and_watch
from consistency_service.cli.arguments import (
    FallbackOption,
    GenerationOption,
    KeptOption,
    ModelArgument,
    NoWaitOption,
    PrefetchOption,
    StalenessOption,
    VersionArgument,
    path_of,
)
from consistency_service.cli.client import Client
from consistency_service.cli.errors import LocalError, RefusedError
from consistency_service.cli.render import size, yes
from consistency_service.cli.rollout_find import newest_rollout
from consistency_service.cli.session import Session, command, in_order
from consistency_service.cli.signing import SignOption, signatures_of, signing_key
from consistency_service.cli.upload import upload
from edge_client.protocol.models import NAME_PATTERN

DELETE_WAIT_S: Final = 60.0

MetadataOption = Annotated[
    list[str] | None,
    typer.Option("--metadata", metavar="KEY=VALUE", help="Kept with the version; may be repeated.", show_default=False),
]

app = typer.Typer(
    cls=in_order("create", "push", "list", "show", "versions", "active", "activate", "history", "policy", "delete"),
    help="Create models, push versions of them, and decide which version is active.",
    no_args_is_help=True,
)


@command(
    app,
    "create",
    changes=True,
    examples=("ccs model create text-detector", "ccs model create fraud --staleness-max-ms 5000 --no-fallback"),
)
def create(
    session: Session,
    name: ModelArgument,
    staleness_max_ms: StalenessOption = None,
    fallback: FallbackOption = None,
    versions_kept: KeptOption = None,
    prefetch_ms: PrefetchOption = None,
) -> None:
    """Create a model: a name that applications ask for.

    It has no version until one is pushed and activated.
    """
    _require_name(name)
    policy = _policy(staleness_max_ms, fallback, versions_kept, prefetch_ms)
    with session.client() as client:
        model = client.change("POST", "/v1/models", body={"name": name, "policy": policy})
    if session.json:
        session.screen.document(model)
    else:
        session.screen.text(f"created {name}; push its first version with: ccs model push {name} 1.0.0 FILE --activate")


@command(
    app,
    "push",
    changes=True,
    examples=(
        "ccs model push text-detector 2.3.0 ./det.onnx",
        "ccs model push text-detector 2.3.0 ./det.onnx --create --activate --metadata commit=4f2a91c",
        "ccs model push text-detector 2.3.0 ./det.onnx --sign ana.key",
    ),
)
def push(
    session: Session,
    name: ModelArgument,
    version: VersionArgument,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Any file; the region does not look inside.",
            exists=True,
            dir_okay=False,
            readable=True,
            show_default=False,
        ),
    ],
    metadata: MetadataOption = None,
    sign: SignOption = None,
    create_missing: Annotated[bool, typer.Option("--create", help="Create the model if there is none.")] = False,
    activate: Annotated[bool, typer.Option("--activate", help="Activate the version afterwards.")] = False,
) -> None:
    """Upload a file and register it as a version of a model.

    The bytes are stored under their SHA-256 digest and sent once: pushing the same file again only checks. A version never
    changes; other bytes need another version. Pushed again with another publisher's key, it is signed by both.
    """
    _require_name(name)
    if len(version) > LENGTH_MAX or re.fullmatch(SEMVER, version) is None:
        raise LocalError(f"a version is MAJOR.MINOR.PATCH (Semantic Versioning), such as 2.3.0, not {version!r}")
    labels, key = metadata_of(metadata or []), signing_key(sign)
    with session.client() as client:
        require_model(client, name, create_missing=create_missing, session=session)
        stored = upload(client, file, screen=session.screen)
        signatures = signatures_of(
            key, model=name, version=version, digest=stored.digest, size_bytes=stored.size_bytes, metadata=labels
        )
        body = {"version": version, "digest": stored.digest, "metadata": labels, "signatures": signatures}
        registered = client.change("POST", path_of(name, "versions"), body=body, step="register")
        if not session.json:
            verb = "uploaded" if stored.sent else "already stored:"
            session.screen.text(f"{verb} {file.name}, {size(stored.size_bytes)}, {stored.digest[:19]}…")
            by = f", signed by {signatures[0].split()[1]}" if signatures else ""
            session.screen.text(f"registered {name} {version}{by}")
        activated = None
        if activate:
            try:
                activated = activate_and_watch(client, name, version=version, screen=session.screen, step="activate")
            except RefusedError as error:
                if error.code != "unchanged":
                    raise
                session.screen.note(str(error))
        elif not session.json:
            session.screen.text(f"make it live with: ccs model activate {name} {version}")
            session.screen.text(f"or in stages with: ccs rollout start {name} {version} --stages 10%,100%")
    if session.json:
        session.screen.document({"version": registered, "uploaded": stored.sent, "activation": activated})


@command(
    app,
    "activate",
    changes=True,
    examples=("ccs model activate text-detector 2.3.0", "ccs model activate text-detector 2.3.0 --force --no-wait"),
)
def activate_version(
    session: Session,
    name: ModelArgument,
    version: VersionArgument,
    force: Annotated[bool, typer.Option("--force", help="Do not wait until edges have it loaded.")] = False,
    immediate: Annotated[
        bool,
        typer.Option(
            "--immediate",
            help="Let each edge serve it, as `bounded`, as soon as it has it. For models that need no strength.",
        ),
    ] = False,
    no_wait: NoWaitOption = False,
    generation: GenerationOption = None,
) -> None:
    """Make a version active for everybody, at one instant.

    Waits until every live edge that follows the model has the version loaded (at most the policy's prefetch time), then
    the region sets the instant, about one lease length ahead, and this command returns when it has passed.
    """
    with session.client() as client:
        answer = activate_and_watch(
            client,
            name,
            version=version,
            screen=session.screen,
            force=force,
            immediate=immediate,
            wait=not no_wait,
            generation=generation,
        )
    if session.json:
        session.screen.document(answer)


def rollback(
    session: Session,
    name: ModelArgument,
    no_wait: NoWaitOption = False,
    generation: GenerationOption = None,
) -> None:
    """Go back to the version before, for everybody, at one instant.

    Does not wait for edges to be ready: they keep the version before for this. Doing it twice comes back to where it began.
    A rollout that is under way is aborted by it, and models that changed together with this one go back with it.
    """
    with session.client() as client:
        rollout = newest_rollout(client, name)
        if rollout is not None and rollout["running"] and not session.json:
            session.screen.note(f"rollout {rollout['rollout_id']} is under way: this aborts it")
        answer = activate_and_watch(
            client, name, version=None, screen=session.screen, wait=not no_wait, generation=generation
        )
        together = [] if rollout is None or session.json else _changed_with(client, rollout, answer)
    if session.json:
        session.screen.document(answer)
    for other in together:
        session.screen.text(f"{other} went back together with it")


def _changed_with(client: Client, rollout: dict[str, Any], answer: dict[str, Any]) -> list[str]:
    """The other models of a rollout that the same activation changed."""
    others = [target["model"] for target in rollout["targets"] if target["model"] != answer["model"]]
    newest = {other: client.get(path_of(other, "history"), limit=1)["items"] for other in others}
    return [other for other, items in newest.items() if items and items[0]["activation"] == answer["activation"]]


@command(
    app,
    "policy",
    changes=True,
    examples=("ccs model policy text-detector", "ccs model policy text-detector --prefetch-ms 60000"),
)
def policy_of(
    session: Session,
    name: ModelArgument,
    staleness_max_ms: StalenessOption = None,
    any_staleness: Annotated[bool, typer.Option("--any-staleness", help="Take the staleness limit away.")] = False,
    fallback: FallbackOption = None,
    versions_kept: KeptOption = None,
    prefetch_ms: PrefetchOption = None,
    generation: GenerationOption = None,
) -> None:
    """Show a model's policy, or change the fields that are given."""
    changed: dict[str, Any] = _policy(staleness_max_ms, fallback, versions_kept, prefetch_ms)
    if any_staleness:
        if staleness_max_ms is not None:
            raise LocalError("--any-staleness and --staleness-max-ms exclude each other")
        changed["staleness_max_ms"] = None
    with session.client() as client:
        if changed:
            client.change("PATCH", path_of(name, "policy"), body=changed, generation=generation)
        policy = client.get(path_of(name))["policy"]
    if session.json:
        session.screen.document(policy)
    else:
        session.screen.fields((key, _plain(value)) for key, value in policy.items())


@command(
    app,
    "delete",
    changes=True,
    examples=("ccs model delete text-detector --version 2.2.0", "ccs model delete old-model --yes"),
)
def delete(
    session: Session,
    name: ModelArgument,
    version: Annotated[
        str | None, typer.Option("--version", metavar="VERSION", help="Only this version.", show_default=False)
    ] = None,
    sure: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    generation: GenerationOption = None,
) -> None:
    """Delete a model that no live edge follows, or one version that nothing needs.

    Deleting a model takes a few seconds: it returns when no edge can believe in the model any more.
    """
    what = f"version {version} of {name}" if version else f"the model {name} with all its versions"
    asked = sys.stdin.isatty() and session.screen.live and not session.json
    if asked and not sure and not typer.confirm(f"Delete {what}?", err=True):
        raise typer.Exit(1)
    with session.client() as client:
        if version is None:
            answer = client.change("DELETE", path_of(name), generation=generation, wait_s=DELETE_WAIT_S)
        else:
            answer = client.change("DELETE", path_of(name, "versions", version), generation=generation)
    if session.json:
        session.screen.document(answer or {"deleted": True})
    else:
        session.screen.text(f"deleted {what}")


def require_model(client: Client, name: str, *, create_missing: bool, session: Session, step: str = "create") -> None:
    """The model exists afterwards, before anything is uploaded for it."""
    try:
        client.get(path_of(name))
    except RefusedError as error:
        if error.code != "unknown_model":
            raise
        if not create_missing:
            raise
        client.change("POST", "/v1/models", body={"name": name}, step=step)
        session.screen.note(f"created {name}")


def _require_name(name: str) -> None:
    if NAME_PATTERN.fullmatch(name) is None:
        raise LocalError(f"a model is named by 1 to 128 of a-z 0-9 . _ - (at either end a-z 0-9), not {name!r}")


def _policy(
    staleness_max_ms: int | None, fallback: bool | None, versions_kept: int | None, prefetch_ms: int | None
) -> dict[str, Any]:
    given = {
        "staleness_max_ms": staleness_max_ms,
        "fallback_allowed": fallback,
        "versions_kept": versions_kept,
        "prefetch_ms": prefetch_ms,
    }
    return {name: value for name, value in given.items() if value is not None}


def metadata_of(pairs: list[str]) -> dict[str, str]:
    """What `--metadata` says. Raises `LocalError`."""
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise LocalError(f"--metadata takes KEY=VALUE, not {pair!r}")
        found[key] = value
    return found


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return yes(value)
    return "any" if value is None else str(value)
