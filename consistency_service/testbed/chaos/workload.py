"""What goes on in the region while it is hurt: releases, strong reads at every node, and models that come and go.

Every caller is a thread with its own random choices, drawn from the seed and its name. One activator for each model that
edges follow; one reader for each node; one registrar, whose models nobody follows. Everything is noted, in the ledger
and in the history.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from consistency_service.testbed.chaos.caller import Answer, Caller, request_of
from consistency_service.testbed.chaos.ledger import Request, Told
from consistency_service.testbed.edge_session import boottime_ns
from consistency_service.testbed.errors import TestbedError
from consistency_service.testbed.history import Operation
from consistency_service.testbed.recorder import Recorder, line_of

MODELS: Final = ("m-1", "m-2", "m-3")
"""What every edge follows."""
VERSIONS_MAX: Final = 60
"""Of each followed model."""
VERSIONS_KEPT: Final = 900
CONTENT_BYTES: Final = 20_000
PREFETCH_MS: Final = 1_500
STALENESS_MAX_MS: Final = 4_000
PATIENT_S: Final = 30.0
HASTY_S: Final = 2.5
SETUP_S: Final = 60.0
READ_PAUSE_S: Final = 0.15
READ_TIMEOUT_MS: Final = 1_500
FLUSH_S: Final = 1.0
LEDGER_MAX: Final = 200_000


def content_of(seed: int, *, model: str, version: str) -> bytes:
    """The bytes of a version: different for every version of every model."""
    return random.Random(f"content {seed} {model} {version}").randbytes(CONTENT_BYTES)


def versions_of(model: str) -> list[str]:
    """Every version that the model may get; no two models share one."""
    number = MODELS.index(model) + 1
    return [f"{number}.{place}.0" for place in range(VERSIONS_MAX)]


def write_manifest(path: Path, *, seed: int) -> None:
    """Edges know from this file which digest each version must have."""
    models = {
        version: {"digest": digest_of(content_of(seed, model=model, version=version))}
        for model in MODELS
        for version in versions_of(model)
    }
    path.write_text(json.dumps({"models": models}), encoding="utf-8")


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Notes:
    """The ledger and the callers' part of the history; any thread."""

    def __init__(self, directory: Path) -> None:
        self.requests: list[Request] = []
        self._directory = directory
        self._lock = threading.Lock()
        self._file = (directory / "callers.jsonl").open("ab")

    def put(self, request: Request) -> None:
        """Raises `TestbedError` when the ledger is full."""
        with self._lock:
            if len(self.requests) >= LEDGER_MAX:
                raise TestbedError(f"the ledger is full: {LEDGER_MAX} requests")
            self.requests.append(request)

    def put_operation(self, operation: Operation) -> None:
        with self._lock:
            self._file.write(line_of(operation))
            self._file.flush()

    def open_history(self, name: str) -> Any:
        """A file of the history for one process."""
        return (self._directory / f"{name}.jsonl").open("ab")

    def close(self) -> None:
        self._file.close()


class Activator:
    """Gives one model new versions, activates and rolls back."""

    def __init__(self, caller: Caller, *, model: str, notes: Notes, rng: random.Random, seed: int, force: bool) -> None:
        self._caller = caller
        self._model = model
        self._notes = notes
        self._rng = rng
        self._seed = seed
        self._force = force
        self._unused = versions_of(model)
        self._registered: list[str] = []

    def set_up(self) -> None:
        """The model exists with two versions, and the first is active. Raises `TestbedError`."""
        policy: dict[str, int] = {"versions_kept": VERSIONS_KEPT, "prefetch_ms": PREFETCH_MS}
        if self._model == MODELS[-1]:
            policy["staleness_max_ms"] = STALENESS_MAX_MS
        answer = self._caller.change(
            "POST", "/v1/models", body={"name": self._model, "policy": policy}, patience_s=SETUP_S
        )
        self._notes.put(
            request_of(answer, command="CreateModel", model=self._model, versions_kept=policy["versions_kept"])
        )
        registered = [self._register(patience_s=SETUP_S) for _ in range(2)]
        active = self._activate(self._registered[0], wait="effective", patience_s=SETUP_S) if all(registered) else None
        if active is None or active.told is not Told.DONE:
            raise TestbedError(f"the region took more than {SETUP_S:.0f} s to get its first version of {self._model}")

    def step(self) -> None:
        """One release, or what a release engineer does beside."""
        rng = self._rng
        patience_s = HASTY_S if rng.random() < 0.15 else PATIENT_S
        wait = "accepted" if rng.random() < 0.2 else "effective"
        act = rng.random()
        if act < 0.12:
            self._change_policy(patience_s=patience_s)
        elif act < 0.22:
            self._roll_back(wait=wait, patience_s=patience_s)
        else:
            if act < 0.45 and self._unused:
                self._register(patience_s=patience_s)
            if self._registered:
                self._activate(rng.choice(self._registered), wait=wait, patience_s=patience_s)
        time.sleep(rng.uniform(0.2, 2.0))

    def _register(self, *, patience_s: float) -> bool:
        version = self._unused.pop(0)
        content = content_of(self._seed, model=self._model, version=version)
        digest = digest_of(content)
        if not self._caller.upload(digest, content, patience_s=patience_s):
            return False
        answer = self._caller.change(
            "POST",
            f"/v1/models/{self._model}/versions",
            body={"version": version, "digest": digest},
            patience_s=patience_s,
        )
        self._notes.put(
            request_of(answer, command="RegisterVersion", model=self._model, version=version, digest=digest)
        )
        if answer.told is Told.DONE:
            self._registered.append(version)
        return answer.told is Told.DONE

    def _change_policy(self, *, patience_s: float) -> None:
        kept = self._rng.randrange(500, VERSIONS_KEPT)
        path = f"/v1/models/{self._model}/policy"
        answer = self._caller.change("PATCH", path, body={"versions_kept": kept}, patience_s=patience_s)
        self._notes.put(request_of(answer, command="ChangePolicy", model=self._model, versions_kept=kept))

    def _activate(self, version: str, *, wait: str, patience_s: float) -> Answer:
        force = self._force or self._rng.random() < 0.3
        answer = self._caller.change(
            "POST",
            f"/v1/models/{self._model}/activations",
            params={"wait": wait},
            body={"version": version, "force": force},
            patience_s=patience_s,
        )
        self._note_activation(answer, version=version)
        return answer

    def _roll_back(self, *, wait: str, patience_s: float) -> None:
        path = f"/v1/models/{self._model}/rollback"
        answer = self._caller.change("POST", path, params={"wait": wait}, patience_s=patience_s)
        self._note_activation(answer, version=answer.body.get("version") if answer.told is Told.DONE else None)

    def _note_activation(self, answer: Answer, *, version: str | None) -> None:
        done = answer.told is Told.DONE
        generation = int(answer.body["generation"]) if done else None
        self._notes.put(
            request_of(
                answer,
                command="ActivateGeneration",
                model=self._model,
                version=version,
                generation=generation,
                activation=int(answer.body["activation"]) if done else None,
            )
        )
        told = "effective" if done and answer.body["effective"] else "accepted" if done else answer.told.value
        self._notes.put_operation(
            Operation(
                process=self._caller.name,
                op="activate",
                invoked_ns=answer.invoked_ns,
                returned_ns=answer.returned_ns,
                model=self._model,
                generation=generation,
                version=version,
                outcome=told,  # type: ignore[arg-type]
            )
        )


class Registrar:
    """Models that come and go; nobody follows them. Each has a name of its own, so that nothing can be mixed up."""

    def __init__(self, caller: Caller, *, notes: Notes, rng: random.Random, seed: int) -> None:
        self._caller = caller
        self._notes = notes
        self._rng = rng
        self._content = content_of(seed, model="scratch", version="1.0.0")
        self._digest = digest_of(self._content)
        self._number = 0
        self._stored = False

    def step(self) -> None:
        """One model is created, gets versions and policies, and is deleted or left."""
        rng = self._rng
        if not self._stored:
            self._stored = self._caller.upload(self._digest, self._content, patience_s=PATIENT_S)
        self._number += 1
        model = f"scratch-{self._number}"
        kept = rng.randrange(500, VERSIONS_KEPT)
        body: dict[str, Any] = {"name": model, "policy": {"versions_kept": kept}}
        if self._do("CreateModel", "POST", "/v1/models", model=model, body=body, versions_kept=kept).told is Told.DONE:
            for place in range(rng.randrange(4)):
                if rng.random() < 0.5:
                    self._register(model, version=f"1.{place}.0")
                else:
                    kept = rng.randrange(500, VERSIONS_KEPT)
                    policy = {"versions_kept": kept}
                    self._do(
                        "ChangePolicy",
                        "PATCH",
                        f"/v1/models/{model}/policy",
                        model=model,
                        body=policy,
                        versions_kept=kept,
                    )
            if rng.random() < 0.5:
                self._do("DeleteModel", "DELETE", f"/v1/models/{model}", model=model)

    def _register(self, model: str, *, version: str) -> None:
        body = {"version": version, "digest": self._digest}
        path = f"/v1/models/{model}/versions"
        self._do("RegisterVersion", "POST", path, model=model, body=body, version=version, digest=self._digest)

    def _do(self, command: str, method: str, path: str, *, model: str, body: Any = None, **noted: Any) -> Answer:
        patience_s = HASTY_S if self._rng.random() < 0.2 else PATIENT_S
        answer = self._caller.change(method, path, body=body, patience_s=patience_s)
        self._notes.put(request_of(answer, command=command, model=model, **noted))
        time.sleep(self._rng.uniform(0.1, 1.0))
        return answer


class RestReader:
    """Strong reads of every followed model at one node."""

    def __init__(self, caller: Caller, *, url: str, file: Any) -> None:
        self._caller = caller
        self._url = url
        self._file = file
        self._recorders = {model: Recorder(process=caller.name, model=model, write=file.write) for model in MODELS}
        self._flushed_s = time.monotonic()

    def step(self) -> None:
        """Each model once."""
        for model, recorder in self._recorders.items():
            invoked_ns = boottime_ns()
            answer = self._caller.ask(
                f"/v1/models/{model}/active",
                url=self._url,
                timeout_s=READ_TIMEOUT_MS / 1_000 + 1.0,
                timeout_ms=READ_TIMEOUT_MS,
            )
            strong = answer is not None and answer["generation"] > 0
            recorder.read(
                invoked_ns=invoked_ns,
                returned_ns=boottime_ns(),
                generation=answer["generation"] if answer and strong else None,
                guarantee="strong" if strong else None,
                version=answer["version"] if answer and strong else None,
                bound_ns=0 if strong else None,
            )
        if time.monotonic() - self._flushed_s >= FLUSH_S:
            self.flush()
        time.sleep(READ_PAUSE_S)

    def flush(self) -> None:
        """Everything read so far is in the file."""
        self._flushed_s = time.monotonic()
        for recorder in self._recorders.values():
            recorder.flush()
        self._file.flush()


class Workload:
    """All callers. `start` after `set_up`; `stop` waits for what is under way."""

    def __init__(self, *, seed: int, urls: Mapping[str, str], directory: Path, force: bool) -> None:
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._resources = contextlib.ExitStack()
        self.errors: list[str] = []
        self.notes = Notes(directory)
        self._resources.callback(self.notes.close)
        all_urls = list(urls.values())
        self._activators = [
            Activator(
                self._caller(f"activator-{model}", urls=all_urls, seed=seed),
                model=model,
                notes=self.notes,
                rng=random.Random(f"activator {seed} {model}"),
                seed=seed,
                force=force,
            )
            for model in MODELS
        ]
        self._registrar = Registrar(
            self._caller("registrar", urls=all_urls, seed=seed),
            notes=self.notes,
            rng=random.Random(f"registrar {seed}"),
            seed=seed,
        )
        self._readers = [
            RestReader(
                self._caller(f"rest-{name}", urls=[url], seed=seed),
                url=url,
                file=self._resources.enter_context(self.notes.open_history(f"rest-{name}")),
            )
            for name, url in urls.items()
        ]

    def set_up(self) -> None:
        """Every followed model has an active version. Raises `TestbedError`."""
        for activator in self._activators:
            activator.set_up()

    def start(self) -> None:
        """Everybody is at work until `stop`."""
        steps: list[tuple[str, Callable[[], None]]] = [
            *((f"activator-{place}", activator.step) for place, activator in enumerate(self._activators)),
            ("registrar", self._registrar.step),
            *((f"reader-{place}", reader.step) for place, reader in enumerate(self._readers)),
        ]
        for name, step in steps:
            thread = threading.Thread(target=self._work, args=(name, step), name=f"chaos-{name}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Nobody asks for anything any more, and everything is noted."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for reader in self._readers:
            reader.flush()

    def close(self) -> None:
        self.stop()
        self._resources.close()

    def _work(self, name: str, step: Callable[[], None]) -> None:
        try:
            while not self._stop.is_set():
                step()
        except Exception as error:  # a caller that falls silent would look like one that found nothing
            self.errors.append(f"{name} ended: {error!r}")

    def _caller(self, name: str, *, urls: Sequence[str], seed: int) -> Caller:
        caller = Caller(name, urls=urls, rng=random.Random(f"caller {seed} {name}"), stopping=self._stop.is_set)
        self._resources.callback(caller.close)
        return caller
