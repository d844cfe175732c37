"""Strategies on the command line: from a file or from options, what is wrong with them, and how two of them differ."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from consistency_service.api.rollout_schemas import RolloutAsked, Unreadable
from consistency_service.cli.errors import CommandError, LocalError, RefusedError
from consistency_service.cli.rollout_file import FileFault, StrategyFile, read_strategy
from consistency_service.cli.rollout_mend import mended, without
from consistency_service.cli.session import Session
from consistency_service.core.state import State
from consistency_service.core.strategy import Gate, OnFailure, Strategy
from consistency_service.core.strategy_faults import Fault, strategy_faults

_NOBODY: Final = "*"
"""A model that cannot be: the region looks at the strategy alone, and says so in a fault that is left out."""
_ANALYSIS: Final = re.compile(r"(?P<metric>[a-z_]+)(?:=(?P<limit>[^=,:]+)|:(?P<fields>.+))?", re.DOTALL)

StrategyOption = Annotated[
    Path | None,
    typer.Option(
        "--strategy", "-f", metavar="FILE", help="How it is to go, as YAML or JSON.", dir_okay=False, show_default=False
    ),
]
StagesOption = Annotated[
    str | None,
    typer.Option(
        "--stages",
        metavar="SHARES",
        help="Without a file: the share of edges in each stage, such as 1%,10%,100%.",
        show_default=False,
    ),
]
BakeOption = Annotated[
    str | None,
    typer.Option(
        "--bake", metavar="TIME", help="How long each stage must stay healthy, such as 30s.", show_default=False
    ),
]
GateOption = Annotated[
    Gate | None,
    typer.Option("--gate", help="Whether a stage that passed goes on by itself, or waits.", show_default=False),
]
AnalysisOption = Annotated[
    list[str] | None,
    typer.Option(
        "--analysis",
        metavar="CHECK",
        help="METRIC=WORSE_MAX against stable, such as error_rate=2% or latency=1.25, or METRIC:FIELD=VALUE,… such as "
        "error_rate:bound=5% or latency:quantile=0.9,worse_max=1.1; may be repeated.",
        show_default=False,
    ),
]
CohortOption = Annotated[
    list[str] | None,
    typer.Option(
        "--cohort", metavar="LABEL=VALUE", help="Only edges with this label; may be repeated.", show_default=False
    ),
]
SiteOption = Annotated[
    list[str] | None,
    typer.Option("--site", metavar="NAME", help="Only edges of this site; may be repeated.", show_default=False),
]
OnFailureOption = Annotated[
    OnFailure | None,
    typer.Option("--on-failure", help="What a failed stage leads to. [dim]Default: abort[/dim]", show_default=False),
]


class FaultyStrategyError(CommandError):
    """A strategy cannot work; each fault was told, and is in the problem document with its line and column."""

    exit_code = 1

    def __init__(self, name: str, faults: Iterable[FileFault]) -> None:
        found = list(faults)
        super().__init__(
            f"{name} has {len(found)} fault{'s' if len(found) > 1 else ''}",
            code="strategy_invalid",
            title="Strategy cannot work",
            faults=[fault.document() for fault in found],
        )


def strategy_from(
    file: Path | None,
    *,
    stages: str | None,
    bake: str | None,
    gate: Gate | None,
    analysis: list[str] | None,
    cohort: list[str] | None,
    site: list[str] | None,
    on_failure: OnFailure | None,
) -> StrategyFile:
    """The strategy as written, in a file or by options; whether it can work is not looked at. Raises `LocalError`."""
    given = [
        name
        for name, value in (
            *(("--stages", stages), ("--bake", bake), ("--gate", gate), ("--analysis", analysis)),
            *(("--cohort", cohort), ("--site", site), ("--on-failure", on_failure)),
        )
        if value
    ]
    if file is not None:
        if given:
            raise LocalError(f"{given[0]} belongs into {file}: --strategy takes no such options beside it")
        return read_strategy(file)
    if not stages:
        raise LocalError("say how it is to go: --stages 1%,10%,100%, or --strategy FILE")
    each: dict[str, Any] = {} if bake is None else {"bake": _word(bake)}
    each |= {} if gate is None else {"gate": gate.value}
    value: dict[str, Any] = {"stages": [{"share": _word(share), **each} for share in stages.split(",")]}
    if cohort or site:
        value["cohort"] = {"sites": site or [], "labels": dict(_pair(pair, option="--cohort") for pair in cohort or [])}
    if analysis:
        value["analysis"] = [check_from(text) for text in analysis]
    if on_failure is not None:
        value["on_failure"] = on_failure.value
    return StrategyFile(value=value)


def check_from(text: str) -> dict[str, Any]:
    """A check in its short form. Raises `LocalError`."""
    match = _ANALYSIS.fullmatch(text)
    if match is None:
        raise LocalError(f"--analysis takes METRIC=LIMIT or METRIC:FIELD=VALUE,…, not {text!r}")
    check: dict[str, Any] = {"metric": match["metric"]}
    if match["limit"]:
        check["worse_max"] = _number(match["limit"])
    for pair in (match["fields"] or "").split(",") if match["fields"] else ():
        name, value = _pair(pair, option="--analysis")
        check[name] = value if name == "url" else _number(value)
    return check


def _pair(text: str, *, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise LocalError(f"{option} takes NAME=VALUE, not {text!r}")
    return name, value


def _word(text: str) -> Any:
    text = text.strip()
    return int(text) if re.fullmatch(r"-?[0-9]{1,15}", text, re.ASCII) else text


def _number(text: str) -> Any:
    word = _word(text)
    if isinstance(word, str):
        with contextlib.suppress(ValueError):
            return float(word)
    return word


# ---- faults


def faults_alone(written: StrategyFile) -> list[FileFault]:
    """What is wrong with a strategy whatever the region; nothing about sites, labels and models."""
    if written.value is None:
        return sorted(written.faults)
    value, faults = readable(written.value)
    strategy = _understood(value)
    if isinstance(strategy, Strategy):
        unread = {fault.place for fault in faults}
        faults += (f for f in strategy_faults(strategy, models={}, state=State()) if f.place not in {*unread, "models"})
    return _sorted([*written.faults, *(written.fault(fault.place, fault.message) for fault in faults)])


def readable(value: Any) -> tuple[Any, list[Fault]]:
    """The strategy as far as it can be read, and what cannot."""
    faults: list[Fault] = []
    for mend in (mended, without):
        strategy = _understood(value)
        if isinstance(strategy, Strategy):
            break
        told = {fault.place for fault in faults}
        faults += (fault for fault in strategy.faults if fault.place not in told)
        value = mend(value, {fault.place for fault in strategy.faults})
    return value, faults


def _understood(value: Any) -> Strategy | Unreadable:
    """As the region would understand it."""
    strategy: Any = RolloutAsked.model_validate({"models": {_NOBODY: _NOBODY}, "strategy": value}).strategy
    return strategy if isinstance(strategy, Unreadable) else strategy.value()


def placed(written: StrategyFile, found: Iterable[Mapping[str, Any]]) -> list[FileFault]:
    """What the region says is wrong, with the line and column of each place; faults of models are in no file."""
    told = [written.fault(str(one.get("place", "")), str(one.get("message", ""))) for one in found]
    return _sorted([*written.faults, *told])


def _sorted(faults: list[FileFault]) -> list[FileFault]:
    return sorted(set(faults))


def tell(session: Session, written: StrategyFile, faults: Iterable[FileFault]) -> None:
    """Each fault on a line; with `--json` they are in the document."""
    for fault in faults:
        if not session.json:
            session.screen.text(fault.told(written.name))


def faults_there(session: Session, written: StrategyFile, models: Mapping[str, str]) -> list[FileFault]:
    """What the region says is wrong with it for these models; without any, what is wrong with it alone. Raises as calls do."""
    if written.value is None:
        return []
    body = {"models": models or {_NOBODY: _NOBODY}, "strategy": readable(written.value)[0]}
    with session.client() as client:
        found = client.change("POST", "/v1/rollouts/lint", body=body, step="lint")["faults"]
    return placed(written, [fault for fault in found if fault["place"] != f"models.{_NOBODY}"])


def require_sound(session: Session, written: StrategyFile, models: Mapping[str, str]) -> None:
    """The strategy has no fault that can be seen here; where it has, what the region sees is told as well.

    Raises `FaultyStrategyError` after telling them.
    """
    faults = faults_alone(written)
    if faults:
        with contextlib.suppress(CommandError):
            faults = sorted({*faults, *faults_there(session, written, models)})
        tell(session, written, faults)
        raise FaultyStrategyError(written.name or "the strategy", faults)


@contextlib.contextmanager
def faults_told(session: Session, written: StrategyFile) -> Iterator[None]:
    """A refusal of the strategy inside becomes a `FaultyStrategyError`, after its faults were told with their lines."""
    try:
        yield
    except RefusedError as error:
        if error.code != "strategy_invalid" or not isinstance(error.document.get("faults"), list):
            raise
        faults = placed(written, error.document["faults"])
        tell(session, written, faults)
        raise FaultyStrategyError(written.name or "the strategy", faults) from None


# ---- two of them


def strategy_in(session: Session, file: Path) -> Strategy:
    """The strategy of a file. Raises `FaultyStrategyError` after telling its faults, `LocalError` if it cannot be read."""
    written = read_strategy(file)
    require_sound(session, written, {})
    strategy = _understood(written.value)
    assert isinstance(strategy, Strategy)
    return strategy


def strategy_of(document: Mapping[str, Any]) -> Strategy:
    """The strategy of a rollout, as the region tells it."""
    return msgspec.convert(document["strategy"], Strategy)


def lines_of(strategy: Strategy) -> dict[str, str]:
    """Every field under its place, spelled as people write it."""
    found: dict[str, str] = {}
    _flatten(_complete(strategy), "", found)
    return found


def _complete(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return {name: _complete(getattr(value, name)) for name in value.__struct_fields__}
    return [_complete(item) for item in value] if isinstance(value, tuple) else msgspec.to_builtins(value)


def _flatten(value: Any, place: str, found: dict[str, str]) -> None:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            _flatten(inner, f"{place}.{name}" if place else name, found)
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            _flatten(inner, f"{place}[{index}]", found)
    elif place.endswith("_bp"):
        found[place.removesuffix("_bp")] = f"{value / 100:g}%"
    elif place.endswith("_ms"):
        found[place.removesuffix("_ms")] = written_duration(value)
    elif value not in (None, [], {}, ""):
        found[place] = f"{value:g}" if isinstance(value, float) else str(value)


def written_duration(ms: int) -> str:
    """As a strategy file says it: `90s`, `5m`, `250ms`."""
    for unit, unit_ms in (("h", 3_600_000), ("m", 60_000), ("s", 1_000)):
        if ms and ms % unit_ms == 0:
            return f"{ms // unit_ms}{unit}"
    return f"{ms}ms"
