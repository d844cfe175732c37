"""Transcripts of follower, reader and served model at one desk: commands in, what was decided out.

Set `REWRITE_TRANSCRIPTS=1` to write what happens now into the files; read the difference before you believe it.

    at MS                                time passes to MS on the edge's clock (it begins at 0)
    snapshot EPOCH:REVISION MODEL...     the newest request for a snapshot is answered
    event EPOCH:REVISION MODEL...        an event arrives; `-NAME` removes a model
    beacon EPOCH:REVISION [t0=MS]        a beacon arrives, said now or at MS
    clock [CLOCK] [x=MS]                 the newest request is answered by a clock that reads what ours does, or MS
    load MODEL VERSION, drop MODEL VERSION
    read MODEL, strong MODEL             `read`, `read_strong` without waiting
    distrust, trust                      our own clock is judged

A MODEL is `name=g1:v1`, with `,prev=v0`, `,pending=g2:v2@MS/rREVISION`, `,immediate`, `,stale=MS`, `,nofallback`.
The service's clock reads what ours does; samples take 2 ms there and back.
"""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest

from edge_client.config import EdgeConfig
from edge_client.core.reading import Loaded
from edge_client.errors import EdgeError
from edge_client.protocol.messages import Beacon, ClockReply, Event, Snapshot, SnapshotChunk, encode_snapshot
from edge_client.protocol.models import Assignment, ModelView, Pending, Policy, Terms, Version
from edge_client.protocol.reader import SendClockRequest
from edge_client.runtime.state import EdgeState, Wakes

MS = 1_000_000
TRANSCRIPTS = sorted((Path(__file__).parent / "testdata").glob("*.txt"))
VERSIONS = {name: Version(version=name, digest=f"sha256:{name}", size_bytes=1) for name in ("v0", "v1", "v2", "v3")}


class Clock:
    counts_suspension = True

    def __init__(self) -> None:
        self.at_ns = 0

    def now_ns(self) -> int:
        return self.at_ns

    monotonic_ns = raw_ns = now_ns

    def unix_ms(self) -> int:
        return 0

    async def sleep_until(self, deadline_ns: int) -> None:
        raise AssertionError("a transcript never sleeps")


class Desk:
    def __init__(self) -> None:
        self.clock = Clock()
        config = EdgeConfig(servers=("nats://x",), trust="x", edge_id="e")
        wakes = Wakes(send=lambda: None, targets=lambda: None, changes=lambda: None)
        self.state = EdgeState(config=config, clock=self.clock, rng=Random(1), wakes=wakes)
        self.state.register("m", show=lambda _: None)
        self.snapshot_nonce = b""
        self.clock_requests: list[tuple[str | None, bytes, int]] = []
        self.state.started(now_ns=0)

    def run(self, line: str) -> list[str]:
        command, *words = line.split()
        said = getattr(self, f"do_{command}")(*words)
        self.state.check_invariants()
        return [*([said] if said else []), *self.outgoing(), *self.changes()] or ["ok"]

    def outgoing(self) -> list[str]:
        lines = []
        for effect in self.state.outgoing():
            if isinstance(effect, SendClockRequest):
                self.clock_requests.append((effect.clock_id, effect.nonce, self.clock.at_ns))
                lines.append(f"ask {'clock ' + effect.clock_id if effect.clock_id else 'every clock'}")
            else:
                self.snapshot_nonce = effect.nonce
                lines.append(f"ask for a snapshot at or after {effect.at_least}")
        return lines

    def changes(self) -> list[str]:
        return [f"change {change.previous} -> {change.current}" for change in self.state.changes()]

    def do_at(self, ms: str) -> None:
        until_ns = int(float(ms) * MS)
        while (due_ns := self.state.next_deadline_ns()) is not None and due_ns <= until_ns:
            self.clock.at_ns = max(self.clock.at_ns + 1, due_ns)
            self.state.tick(now_ns=self.clock.at_ns)
        self.clock.at_ns = max(until_ns, self.clock.at_ns)

    def do_snapshot(self, position: str, *models: str) -> None:
        epoch, revision = map(int, position.split(":"))
        snapshot = Snapshot(
            epoch=epoch,
            revision=revision,
            region="default",
            terms=Terms(),
            models=tuple(view(model) for model in models),
        )
        chunk = SnapshotChunk(
            epoch=epoch,
            nonce=self.snapshot_nonce,
            revision=revision,
            index=0,
            count=1,
            data=encode_snapshot(snapshot),
        )
        self.state.snapshot_answered(chunk, frame=b"", now_ns=self.clock.at_ns)

    def do_event(self, position: str, *models: str) -> None:
        epoch, revision = map(int, position.split(":"))
        event = Event(
            epoch=epoch,
            revision=revision,
            name="Changed",
            at_unix_ms=0,
            models=tuple(view(model) for model in models if not model.startswith("-")),
            removed=tuple(model[1:] for model in models if model.startswith("-")),
        )
        self.state.event_received(event, frame=b"", now_ns=self.clock.at_ns)

    def do_beacon(self, position: str, t0: str = "") -> None:
        epoch, revision = map(int, position.split(":"))
        t0_ns = int(t0.removeprefix("t0=")) * MS if t0 else self.clock.at_ns
        beacon = Beacon(epoch=epoch, revision=revision, clock_id="c", assumption=1, assumed_at_ns=0, t0_ns=t0_ns)
        self.state.beacon_received(beacon, now_ns=self.clock.at_ns)

    def do_clock(self, *words: str) -> None:
        named, nonce, sent_at_ns = self.clock_requests.pop()
        clock_id = next((word for word in words if "=" not in word), named or "c")
        stamp = next((int(word[2:]) * MS for word in words if word.startswith("x=")), sent_at_ns + MS)
        self.clock.at_ns = max(self.clock.at_ns, sent_at_ns + 2 * MS)
        reply = ClockReply(
            epoch=self.state.position.epoch,
            clock_id=clock_id,
            nonce=nonce,
            stamped_at_ns=stamp,
            node_id="n",
            url="http://n",
        )
        self.state.clock_reply_received(reply, now_ns=self.clock.at_ns)

    def do_load(self, model: str, version: str) -> None:
        self.state.loaded(model, Loaded(version, version=VERSIONS[version]))

    def do_drop(self, model: str, version: str) -> None:
        self.state.let_go(model, VERSIONS[version].digest)

    def do_read(self, model: str) -> str:
        try:
            return repr(self.state.read_slowly(model))
        except EdgeError as error:
            return f"{type(error).__name__}: {error}"

    def do_strong(self, model: str) -> str:
        return repr(self.state.read_strong_nowait(model))

    def do_distrust(self) -> None:
        self.state.clock_judged(trusted=False, now_ns=self.clock.at_ns)

    def do_trust(self) -> None:
        self.state.clock_judged(trusted=True, now_ns=self.clock.at_ns)


def view(text: str) -> ModelView:
    head, *rest = text.split(",")
    name, active = head.split("=")
    generation, version = active.split(":")
    pending: Pending | None = None
    options = dict(word.partition("=")[::2] for word in rest)
    if "pending" in options:
        target, _, when = options["pending"].partition("@")
        at_ms, _, revision = when.partition("/r")
        next_generation, next_version = target.split(":")
        pending = Pending(
            revision=int(revision),
            generation=int(next_generation[1:]),
            assignment=Assignment(stable=next_version),
            effective_at_ns=int(at_ms) * MS,
            lead_ns=2_006 * MS,
            clock_id="c",
            assumption=1,
            immediate="immediate" in options,
        )
    return ModelView(
        name=name,
        policy=Policy(
            staleness_max_ms=int(options["stale"]) if "stale" in options else None,
            fallback_allowed="nofallback" not in options,
        ),
        generation=int(generation[1:]),
        assignment=Assignment(stable=version) if version else None,
        versions=VERSIONS,
        previous=Assignment(stable=options["prev"]) if "prev" in options else None,
        pending=pending,
    )


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    desk = Desk()
    desk.outgoing()
    actual = []
    for block in path.read_text(encoding="utf-8").strip().split("\n\n"):
        told = block.split("\n----")[0]
        commands = [line for line in told.splitlines() if not line.startswith("#")]
        lines = [line for command in commands for line in desk.run(command)]
        said = [line for line in lines if line != "ok"] or ["ok"]
        actual.append("\n".join((told, "----", *said)) if commands else told)
    text = "\n\n".join(actual) + "\n"
    if os.environ.get("REWRITE_TRANSCRIPTS"):
        path.write_text(text, encoding="utf-8")

    assert path.read_text(encoding="utf-8") == text


def test_there_are_transcripts():
    assert len(TRANSCRIPTS) >= 5
