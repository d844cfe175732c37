"""`ccs backup …`: a region's decisions and artifacts into one file, and a new region out of it."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Annotated, Any, Final

import msgspec
import typer

from consistency_service.cli import backup_archive as archive
from consistency_service.cli.client import Client
from consistency_service.cli.errors import LocalError, RefusedError
from consistency_service.cli.render import instant, size
from consistency_service.cli.session import Session, command, in_order
from consistency_service.config import ServiceConfig, load_config
from consistency_service.core import restoring
from consistency_service.core.state import State, decode_state, encode_state
from consistency_service.errors import ArtifactMissingError
from consistency_service.runtime.ports import ArtifactStore

LOOKS_MAX: Final = 10
"""How often the region is asked anew because an artifact was deleted meanwhile."""

app = typer.Typer(
    cls=in_order("create", "verify", "restore"),
    help="One file that holds what a region has decided, and its artifacts; and a region made of it.",
    no_args_is_help=True,
)

FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="The backup.", exists=True, dir_okay=False, readable=True)
]


@command(
    app,
    "create",
    examples=(
        "ccs backup create harbour-2026-11-22.ccsbackup",
        "ccs backup create harbour.ccsbackup --no-artifacts",
    ),
)
def create(
    session: Session,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Must not exist.", dir_okay=False, show_default=False)],
    no_artifacts: Annotated[
        bool, typer.Option("--no-artifacts", help="Leave the bytes out: the object store is kept elsewhere.")
    ] = False,
    local: Annotated[
        bool,
        typer.Option("--local", help="What the node knows, perhaps not the newest: for a region without a majority."),
    ] = False,
) -> None:
    """Back a running region up into a file, without stopping anything. Needs the role admin.

    Holds everything acknowledged before it began, as of one position, and every artifact that a version names. It
    holds no key and no token; it does hold the secrets of webhooks, so keep it as you keep those.
    """
    began_s = time.monotonic()
    writer = archive.Writer(file)
    try:
        with session.client() as client:
            about, state = _write(client, writer, session=session, artifacts=not no_artifacts, local=local)
        size_bytes = writer.finish(made_at_unix_ms=about.made_at_unix_ms)
    except BaseException:
        writer.abandon()
        raise
    contents = archive.Contents(about=about, state=state, artifacts={})
    _show(session, file, contents, more={"size_bytes": size_bytes, "seconds": round(time.monotonic() - began_s, 2)})


@command(app, "verify", remote=False, examples=("ccs backup verify harbour.ccsbackup",))
def verify(session: Session, file: FileArgument) -> None:
    """Compare every byte of a backup with its sum, see that a region can be made of it, and tell what is in it."""
    contents = _verified(session, file)
    _restored(contents, epoch_min=0)
    _show(session, file, contents, more={"size_bytes": file.stat().st_size})


@command(
    app,
    "restore",
    remote=False,
    examples=("ccs backup restore harbour.ccsbackup --config node-1.toml",),
)
def restore(
    session: Session,
    file: FileArgument,
    config: Annotated[
        Path,
        typer.Option("--config", metavar="FILE", help="Settings of the node to make.", exists=True, dir_okay=False),
    ],
    epoch_min: Annotated[
        int,
        typer.Option(
            "--epoch-min",
            metavar="N",
            min=0,
            help="The new epoch is at least this: where edges have heard of a greater one than this machine's clock gives.",
        ),
    ] = 0,
) -> None:
    """Make the first node of a region anew, on a machine whose data_dir is empty. Then start it with ccs serve.

    The nodes of the old region must be stopped, for good. One node is restored, no more: the others begin with an empty
    data_dir and join = true, and are added with ccs cluster add. Edges follow by themselves.

    What was about to become effective never does, and may be ordered again; rollouts wait until somebody resumes them.
    """
    settings = load_config(config)
    if settings.log != "raft":
        raise LocalError("a log in memory forgets everything when it ends; set log = 'raft'")
    contents = _verified(session, file)
    about = contents.about
    if about.region != settings.region:
        raise LocalError(f"{file} is of the region {about.region!r}, and {config} says {settings.region!r}")
    made = _restored(contents, epoch_min=epoch_min)
    stored, absent = asyncio.run(_store_artifacts(settings, file, contents))
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    from consistency_service.adapters import raft_log
    from consistency_service.app import raft_config

    raft_log.found(raft_config(settings), state=encode_state(made.state), lineage=made.state.epoch)
    answer = {
        "position": f"{made.state.epoch}-{made.state.revision}",
        "restored_from": f"{about.epoch}-{about.revision}",
        "data_dir": str(settings.data_dir),
        "artifacts_stored": stored,
        "artifacts_absent": list(absent),
        "activations_dropped": [list(models) for models in made.dropped.values()],
        "activations_settled": [list(models) for models in made.settled.values()],
        "rollouts_paused": list(made.paused),
    }
    if session.json:
        session.screen.document(answer)
        return
    session.screen.fields(
        [
            (
                "restored",
                f"{about.region}, as it was at {about.epoch}-{about.revision}, {instant(about.made_at_unix_ms)}",
            ),
            ("new position", str(answer["position"])),
            (
                "artifacts",
                f"{stored} stored in {settings.artifacts_url}" + (f", {len(absent)} absent" if absent else ""),
            ),
            ("dropped", _list(made.dropped.values(), none="nothing was about to become effective")),
            ("counts as effective", _list(made.settled.values(), none="nothing")),
            ("paused rollouts", ", ".join(made.paused) or "none was running"),
        ]
    )
    if absent:
        session.screen.note(f"edges cannot fetch what is absent, first of all {absent[0]}; see artifacts in {config}")
    session.screen.text()
    session.screen.text(f"next: ccs serve --config {config}, then add the other nodes with ccs cluster add")


# ---- pieces


def _write(
    client: Client, writer: archive.Writer, *, session: Session, artifacts: bool, local: bool
) -> tuple[archive.About, bytes]:
    """Everything but the sums is in the archive. Artifacts come first: should one be deleted meanwhile, a newer state does not
    name it.
    """
    written: set[str] = set()
    for _ in range(LOOKS_MAX):
        said, state = _look(client, local=local)
        about = _about_of(said, artifacts=artifacts)
        missing = [one for one in about.artifacts if one.digest not in written] if artifacts else []
        try:
            with session.screen.upload_progress() as progress:
                task = progress.add_task("downloading", total=sum(one.size_bytes for one in missing))
                for one in missing:
                    # Whether it is there is asked before anything of it is in the archive.
                    pieces = _pieces(client, one, progressed=partial(progress.advance, task))
                    _write_artifact(writer, one, pieces, made_at_unix_ms=about.made_at_unix_ms)
                    written.add(one.digest)
        except RefusedError as error:
            if error.code != "unknown_artifact":
                raise
            continue
        at = about.made_at_unix_ms
        writer.add(archive.STATE, iter((state,)), size_bytes=len(state), made_at_unix_ms=at)
        told = msgspec.json.format(msgspec.json.encode(said | {"artifacts_included": artifacts}), indent=2)
        writer.add(archive.ABOUT, iter((told,)), size_bytes=len(told), made_at_unix_ms=at)
        return about, state
    raise LocalError("versions name artifacts that the region does not have; --no-artifacts leaves all of them out")


def _look(client: Client, *, local: bool) -> tuple[dict[str, Any], bytes]:
    answer = msgspec.msgpack.decode(client.data("/v1/backup", consistency="local" if local else None))
    said, state = answer["about"], answer["state"]
    if hashlib.sha256(state).hexdigest() != said["state"]["sha256"]:
        raise LocalError("the state arrived with other bytes than were sent; ask again")
    return said, state


def _about_of(said: dict[str, Any], *, artifacts: bool) -> archive.About:
    try:
        return msgspec.convert(said | {"artifacts_included": artifacts}, archive.About)
    except msgspec.ValidationError as error:
        raise LocalError(f"the node tells of its backup in a way that this release does not know: {error}") from None


def _pieces(client: Client, one: archive.Referenced, *, progressed: Any) -> Iterator[bytes]:
    """The bytes of an artifact, each piece from whichever node answers; the first one is fetched now."""
    path, end = f"/v1/artifacts/{one.digest}", one.size_bytes

    def piece(start: int) -> bytes:
        data = client.data(path, span=(start, min(start + 8 * archive.PIECE_BYTES, end)))
        progressed(len(data))
        return data

    first = piece(0) if end else b""

    def rest() -> Iterator[bytes]:
        yield first
        start = len(first)
        while start < end:
            data = piece(start)
            if not data:
                return
            start += len(data)
            yield data

    return rest()


def _write_artifact(
    writer: archive.Writer, one: archive.Referenced, pieces: Iterator[bytes], *, made_at_unix_ms: int
) -> None:
    digest_hex = one.digest.removeprefix("sha256:")
    try:
        total = writer.add(
            f"artifacts/{digest_hex}", pieces, size_bytes=one.size_bytes, made_at_unix_ms=made_at_unix_ms
        )
    except OSError as error:
        raise LocalError(f"cannot write the backup: {error.strerror or error}") from error
    if total != digest_hex:
        raise LocalError(f"the region's bytes of {one.digest} do not match it; repair it by uploading it again")


def _verified(session: Session, file: Path) -> archive.Contents:
    with session.screen.upload_progress() as progress:
        task = progress.add_task("verifying", total=file.stat().st_size)
        return archive.verify(file, progress=lambda count: progress.advance(task, count))


def _restored(contents: archive.Contents, *, epoch_min: int) -> restoring.Restored:
    about, now_unix_ms = contents.about, int(time.time() * 1_000)
    epoch = restoring.new_epoch(backup_epoch=about.epoch, at_unix_ms=now_unix_ms, epoch_min=epoch_min)
    try:
        state = decode_state(contents.state)
        if (state.region, state.epoch, state.revision) != (about.region, about.epoch, about.revision):
            raise LocalError("the state is of another region or position than the backup says")
        return restoring.restored(contents.state, epoch=epoch, author="restore", at_unix_ms=now_unix_ms)
    except (ValueError, AssertionError) as error:
        raise LocalError(f"no region can be made of this state: {str(error) or 'it contradicts itself'}") from None


async def _store_artifacts(
    settings: ServiceConfig, file: Path, contents: archive.Contents
) -> tuple[int, tuple[str, ...]]:
    """Every artifact of the backup is in the object store; how many were put there, and which referenced ones are not."""
    from consistency_service.adapters.object_store import ObjectStore

    store = ObjectStore(settings.artifacts_url)
    stored = 0
    try:
        for digest, stream in archive.artifacts_of(file):
            if await _size(store, digest) != contents.artifacts[digest]:
                await store.put(_read(stream), size_max_bytes=contents.artifacts[digest], digest=digest)
                stored += 1
        return stored, tuple([digest for digest in contents.missing if await _size(store, digest) is None])
    finally:
        await store.close()


async def _size(store: ArtifactStore, digest: str) -> int | None:
    try:
        return await store.size(digest)
    except ArtifactMissingError:
        return None


async def _read(stream: IO[bytes]) -> AsyncIterator[bytes]:
    while piece := stream.read(archive.PIECE_BYTES):
        yield piece


def _show(session: Session, file: Path, contents: archive.Contents, *, more: dict[str, Any]) -> None:
    about, state = contents.about, decode_state(contents.state)
    told = _told(about, state)
    if session.json:
        session.screen.document({"file": str(file), **msgspec.to_builtins(about), **told, **more})
        return
    artifacts_bytes = sum(one.size_bytes for one in about.artifacts)
    session.screen.fields(
        [
            ("file", f"{file}, {size(more['size_bytes'])}"),
            ("region", f"{about.region} at {about.epoch}-{about.revision}"),
            ("made", f"{instant(about.made_at_unix_ms)}, by {about.made_by_node}, ccs {about.made_by_version}"),
            (
                "models",
                f"{len(state.models)}, with {sum(map(len, (m.versions for m in state.models.values())))} versions",
            ),
            (
                "artifacts",
                f"{len(about.artifacts)}, {size(artifacts_bytes)}"
                + ("" if about.artifacts_included else ", not in here: keep the object store"),
            ),
            ("rollouts", f"{told['rollouts_running']} running, of {len(state.rollouts)}"),
            ("about to be effective", ", ".join(told["pending"]) or "nothing"),
            ("feature classes", str(len(state.feature_classes))),
            ("audit", f"{len(state.audit)} entries"),
            ("members", ", ".join(member["node_id"] for member in about.members)),
        ]
    )


def _told(about: archive.About, state: State) -> dict[str, Any]:
    return {
        "rollouts_running": sum(rollout.running for rollout in state.rollouts.values()),
        "pending": [name for name, model in state.models.items() if model.pending is not None],
        "generations": {name: model.generation for name, model in state.models.items()},
        "artifacts_bytes": sum(one.size_bytes for one in about.artifacts),
    }


def _list(groups: Any, *, none: str) -> str:
    return ", ".join(" with ".join(models) for models in groups) or none
