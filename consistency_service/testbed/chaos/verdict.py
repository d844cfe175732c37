"""Was everything as promised? Compares what was seen and what was told with what the region's books say.

Pure: facts go in, a verdict comes out. Reads and activations are judged by `testbed.history`; here are the rest, one check
for each promise, and each can fail.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from consistency_service.testbed import history
from consistency_service.testbed.chaos.ledger import Books, FinalModel, HistoryLine, Request, Told

DETAILS_MAX = 20
ACTIVATE = "ActivateGeneration"


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One promise, and whether it was kept; `details` are the first few breaches."""

    name: str
    promise: str
    ok: bool
    text: str
    breaches: int = 0
    details: list[str] = []


class Watched(msgspec.Struct, kw_only=True):
    """What edges said of themselves meanwhile."""

    looks: int = 0
    lives: int = 0
    regressions: list[str] = []
    wrong_reads: list[str] = []


class Facts(msgspec.Struct, kw_only=True):
    """Everything that is judged."""

    requests: list[Request]
    books: Books | None
    history: history.Verdict | None
    watched: Watched
    converged_ms: int | None
    converge_ms_max: int
    went_back: list[str] = []
    """Readings of an older generation than the same life of the same edge had served before."""
    not_converged: str = ""
    unexpected: list[str] = []
    trouble: list[str] = []


def went_back(operations: Iterable[history.Operation], *, ends: Mapping[str, Sequence[int]]) -> list[str]:
    """Readings of an older generation than the one before, in one life; `ends` has when each process was ended."""
    found: list[str] = []
    last: dict[tuple[str, str], history.Operation] = {}
    for read in operations:
        if read.op != "read" or read.generation is None:
            continue
        before = last.get((read.process, read.model))
        if before is not None and before.generation is not None and before.generation > read.generation:
            ended = any(before.invoked_ns <= end_ns <= read.returned_ns for end_ns in ends.get(read.process, ()))
            if not ended:
                found.append(
                    f"{read.process} served {read.model} generation {read.generation} ({read.guarantee}) at "
                    f"{read.invoked_ns}, after {before.generation} ({before.guarantee}) at {before.invoked_ns}"
                )
        last[read.process, read.model] = read
    return found


def judge(facts: Facts) -> list[Check]:
    """One check for each promise, the most important first."""
    return [
        _reads(facts.history),
        _acknowledged(facts),
        _final_models(facts),
        _activations(facts),
        _check(
            "positions",
            "while an edge lives, neither its position nor what it serves goes back",
            [*facts.watched.regressions, *facts.went_back],
            f"{facts.watched.lives} lives of edges, looked at {facts.watched.looks:,} times",
        ),
        _check(
            "values",
            "no reading's value is other bytes than its version names",
            facts.watched.wrong_reads,
            "every value carried the version and the digest that it should",
        ),
        _converged(facts),
        _check(
            "survival",
            "nobody ends who is not killed (a node that is started on a full disk may)",
            facts.unexpected,
            "no process ended by itself",
        ),
        _check(
            "evidence", "what is judged is complete", facts.trouble, "history, ledger, audit and histories are whole"
        ),
    ]


def _check(name: str, promise: str, breaches: Iterable[str], well: str) -> Check:
    listed = list(breaches)
    text = well if not listed else f"broken {len(listed)} times"
    return Check(
        name=name, promise=promise, ok=not listed, text=text, breaches=len(listed), details=listed[:DETAILS_MAX]
    )


def _reads(verdict: history.Verdict | None) -> Check:
    promise = "strong reads are linearizable, at edges and nodes alike; no stated staleness bound is exceeded"
    if verdict is None:
        return Check(name="reads", promise=promise, ok=False, text="there is no history to judge", breaches=1)
    kinds = ", ".join(f"{count:,} {name}" for name, count in verdict.reads_by_guarantee.items())
    text = (
        f"{verdict.read_count:,} reads ({kinds}; {verdict.failed_read_count:,} answered nothing) by "
        f"{verdict.process_count} processes, {verdict.activation_count:,} activations"
    )
    breaches = sum(verdict.violation_count.values()) + len(verdict.incomplete)
    details = [f"{process} stopped recording" for process in verdict.incomplete]
    details += [f"{violation.kind}: {violation.text}" for violation in verdict.violations]
    return Check(
        name="reads", promise=promise, ok=verdict.ok, text=text, breaches=breaches, details=details[:DETAILS_MAX]
    )


def _acknowledged(facts: Facts) -> Check:
    promise = "every acknowledged command took effect once, no refused one did, and one of unknown outcome at most once"
    if facts.books is None:
        return Check(
            name="commands", promise=promise, ok=False, text="the region's books could not be read", breaches=1
        )
    applied: Counter[tuple[str, str]] = Counter((line.author, line.command) for line in facts.books.audit)
    breaches: list[str] = []
    for request in facts.requests:
        count = applied.pop((request.name, request.command), 0)
        most = 0 if request.told is Told.REFUSED else 1
        least = 1 if request.told is Told.DONE else 0
        if not least <= count <= most:
            breaches.append(
                f"{request.name} ({request.command} {request.model}): {request.told}, but done {count} times"
            )
    known = {request.name for request in facts.requests}
    callers = {name.partition("#")[0] for name in known}
    for (author, command), count in applied.items():
        if author.partition("#")[0] in callers:
            breaches.append(f"{author}: {command} was done {count} times, and never asked for")
    breaches += [f"the books changed: {text}" for text in facts.books.rewritten]
    told = Counter(request.told for request in facts.requests)
    text = (
        f"{told[Told.DONE]:,} acknowledged, all there; {told[Told.UNKNOWN]:,} of unknown outcome, none done twice; "
        f"{told[Told.REFUSED]:,} refused, none done"
    )
    return _check("commands", promise, breaches, text)


def _final_models(facts: Facts) -> Check:
    promise = "at the end models, versions and policies are what the acknowledged commands made them"
    if facts.books is None:
        return Check(name="state", promise=promise, ok=False, text="the region's books could not be read", breaches=1)
    by_model: dict[str, list[Request]] = defaultdict(list)
    for request in facts.requests:
        by_model[request.model].append(request)
    breaches: list[str] = []
    for name, requests in by_model.items():
        breaches += _final_model(name, requests, facts.books.models.get(name))
    breaches += [f"{name} exists, and nobody made it" for name in facts.books.models.keys() - by_model.keys()]
    versions = sum(len(model.versions) for model in facts.books.models.values())
    return _check("state", promise, breaches, f"{len(facts.books.models)} models and {versions} versions, as told")


def _final_model(name: str, requests: Sequence[Request], model: FinalModel | None) -> Iterable[str]:
    """What is wrong with one model; its requests were made one after another."""
    told = {
        command: [request for request in requests if request.command == command and request.told is not Told.REFUSED]
        for command in ("CreateModel", "DeleteModel", "RegisterVersion", "ChangePolicy")
    }
    created, deleted = told["CreateModel"], told["DeleteModel"]
    if model is None:
        if any(request.told is Told.DONE for request in created) and not deleted:
            yield f"{name} is missing: its creation was acknowledged, and nobody deleted it"
        return
    if not created:
        yield f"{name} exists, though its creation was refused"
    if any(request.told is Told.DONE for request in deleted):
        yield f"{name} exists, though its deletion was acknowledged"
    for request in told["RegisterVersion"]:
        found = model.versions.get(request.version or "")
        if found is None and request.told is Told.DONE:
            yield f"{name} {request.version} is missing: its registration was acknowledged"
        if found is not None and found != request.digest:
            yield f"{name} {request.version} names {found}, not {request.digest}"
    asked = {request.version for request in told["RegisterVersion"]}
    yield from (f"{name} has {version}, which nobody registered" for version in model.versions.keys() - asked)
    policies = [*created, *told["ChangePolicy"]]
    done = [place for place, request in enumerate(policies) if request.told is Told.DONE]
    last = done[-1] if done else -1
    allowed = {
        request.versions_kept
        for place, request in enumerate(policies)
        if place >= last or request.told is Told.UNKNOWN  # what is still out there may come late
    }
    if model.versions_kept not in allowed:
        yield f"{name} keeps {model.versions_kept} versions; acknowledged was {sorted(filter(None, allowed))}"


def _activations(facts: Facts) -> Check:
    promise = "every acknowledged activation is in its model's history, under its generation; generations have no gap"
    if facts.books is None:
        return Check(name="history", promise=promise, ok=False, text="the region's books could not be read", breaches=1)
    requests = [request for request in facts.requests if request.command == ACTIVATE]
    by_name = {request.name: request for request in requests}
    breaches: list[str] = []
    found: dict[str, HistoryLine] = {}
    for model in facts.books.models.values():
        numbers = [line.generation for line in model.history]
        if numbers != list(range(1, len(numbers) + 1)) or model.generation not in (len(numbers), len(numbers) - 1):
            breaches.append(f"{model.name} stands at {model.generation} with the history {numbers[-5:]}")
        for line in model.history:
            if line.author in found:
                breaches.append(f"{line.author} made two generations: {found[line.author]} and {line}")
            found[line.author] = line
            if line.author not in by_name or by_name[line.author].model != model.name:
                breaches.append(f"{model.name} {line.generation} was made by {line.author}, who did not ask for it")
    for request in requests:
        line_found = found.get(request.name)
        if request.told is Told.DONE and (
            line_found is None
            or (line_found.generation, line_found.version, line_found.activation)
            != (request.generation, request.version, request.activation)
        ):
            breaches.append(
                f"{request.name} was told {request.generation} {request.version}; the history has {line_found}"
            )
        if request.told is Told.REFUSED and line_found is not None:
            breaches.append(f"{request.name} was refused; the history has {line_found}")
    done = sum(request.told is Told.DONE for request in requests)
    return _check("history", promise, breaches, f"{done:,} acknowledged activations, {len(found):,} generations")


def _converged(facts: Facts) -> Check:
    promise = (
        f"within {facts.converge_ms_max / 1_000:.0f} s of the healing, with callers gone, every edge is strong at the "
        "newest revision"
    )
    late = [facts.not_converged or "not in time"] if facts.converged_ms is None else []
    return _check("convergence", promise, late, f"after {(facts.converged_ms or 0) / 1_000:.1f} s")
