"""`python -m tests.simulation.check HISTORY --model register`: judges any history, ours or not.

Exits with 0 if it is linearizable, 1 if it is not, 2 if the input cannot be used, 3 if time or memory ran out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from consistency_service.testbed.linearizability import KeyValue, Register
from consistency_service.testbed.linearizability.models import MODELS, Model
from consistency_service.testbed.linearizability.operations import frozen
from tests.simulation.check.api import Answer, MalformedHistoryError, check, page, read_files, words

EXIT_CODES = {Answer.LINEARIZABLE: 0, Answer.NOT_LINEARIZABLE: 1, Answer.UNKNOWN: 3}
UNUSABLE = 2


def main(arguments: Sequence[str]) -> int:
    """The exit code; the answer has been printed."""
    asked = _parser().parse_args(arguments)
    try:
        operations = read_files(asked.history, model=asked.model)
        result = check(operations, model=_model(asked.model, initial=asked.initial), budget_s=asked.budget)
    except MalformedHistoryError as error:
        print(error, file=sys.stderr)
        return UNUSABLE
    if asked.timeline is not None:
        try:
            asked.timeline.write_text(
                page(result, title=", ".join(path.name for path in asked.history)), encoding="utf-8"
            )
        except OSError as error:
            print(f"cannot write {asked.timeline}: {error.strerror}", file=sys.stderr)
            return UNUSABLE
    print(json.dumps(result.document(), indent=2) if asked.json else words(result))
    return EXIT_CODES[result.answer]


def _model(name: str, *, initial: str | None) -> Model:
    if initial is None:
        return MODELS[name]()
    try:
        value = frozen(json.loads(initial))
    except ValueError as error:
        raise MalformedHistoryError(f"--initial is a value in JSON, as 0 or '\"\"': {error}") from error
    if name not in {"register", "key-value"}:
        raise MalformedHistoryError(f"the {name} model has no --initial value")
    return Register(value) if name == "register" else KeyValue(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.check", description=__doc__)
    parser.add_argument("history", nargs="+", type=Path, help="lines of JSON, EDN, or Jepsen's log lines")
    parser.add_argument("--model", choices=sorted(MODELS), default="register")
    parser.add_argument("--initial", metavar="JSON", help="what a register holds at the beginning (default: null)")
    parser.add_argument("--budget", type=float, default=60.0, metavar="S", help="seconds until the answer is unknown")
    parser.add_argument("--json", action="store_true", help="print the answer as one document")
    parser.add_argument("--timeline", type=Path, metavar="HTML", help="write a page with a picture of the violation")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
