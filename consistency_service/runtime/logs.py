"""How a node's log lines look: one event name and its fields, for people or for machines, with the trace where there is one.

Who logs writes `_log.info("node_starting node_id=%s", node_id)`: the first word is what happened, the rest are fields. So a
line is readable as it is, and nothing has to be said twice to be JSON. A line of a library that keeps no such form is told
whole, as the event `message`.
"""

from __future__ import annotations

import json
import logging
import re
import time
from typing import Any, Final

from consistency_service.runtime.telemetry import current_trace
from edge_client.protocol.traces import parse_traceparent

FORMATS: Final = ("text", "json")
FIELD_CHARS_MAX: Final = 4_000
_TEXT: Final = "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s %(message)s"
_EVENT: Final = re.compile(r"[a-z][a-z0-9_]*(?: [a-z][a-z0-9_.]*=%[-#0-9.]*[sdrifx])*", re.ASCII)
_RECORD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
"""What every record has; anything else somebody gave as `extra`."""


def set_up(log_format: str, *, level: str) -> None:
    """The process logs to stderr in this form, and in no other. Raises `ValueError` for an unknown one."""
    if log_format not in FORMATS:
        raise ValueError(f"log_format must be one of {', '.join(FORMATS)}, not {log_format!r}")
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class TextFormatter(logging.Formatter):
    """For people: time (UTC), level, logger, event and fields, trace."""

    def __init__(self) -> None:
        super().__init__(_TEXT, datefmt="%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 -- the library's name
        """The line without a traceback, which follows on lines of its own."""
        line = super().formatMessage(record)
        fields = [f"{name}={value}" for name, value in {**_extra(record), **_trace()}.items()]
        return " ".join((line, *fields))


class JsonFormatter(logging.Formatter):
    """For machines: one object a line, `at`, `level`, `logger`, `event`, then the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; it never fails, whatever the fields are."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "at": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        event, fields = event_of(record)
        line["event"] = event
        for name, value in {**fields, **_extra(record), **_trace()}.items():
            line[f"field_{name}" if name in line else name] = _plain(value)
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)[-FIELD_CHARS_MAX:]
        return json.dumps(line, ensure_ascii=False, separators=(",", ":"), default=str)


def event_of(record: logging.LogRecord) -> tuple[str, dict[str, Any]]:
    """What happened, and its fields."""
    template, args = str(record.msg), record.args
    if _EVENT.fullmatch(template):
        event, *names = (word.partition("=")[0] for word in template.split(" "))
        values = args if isinstance(args, tuple) else (args,) if args else ()
        if len(names) == len(values):
            return event, dict(zip(names, values, strict=True))
    try:
        message = record.getMessage()
    except (TypeError, ValueError):
        message = template
    return "message", {"message": message}


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in record.__dict__.items() if name not in _RECORD}


def _trace() -> dict[str, str]:
    parent = parse_traceparent(current_trace.get())
    return {} if parent is None else {"trace_id": parent.trace_id, "span_id": parent.span_id}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)[:FIELD_CHARS_MAX]
