"""Log lines as JSON objects, one a line, with the fields that signals.py lists and no others."""

from __future__ import annotations

import json
import logging
import os
import random
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mlplatform.runtime.telemetry import retention
from mlplatform.runtime.telemetry.redaction import FieldPolicy
from mlplatform.runtime.telemetry.signals import Process
from mlplatform.runtime.telemetry.whole_lines import LineFileHandler, LineHandler

EXTRA: Final[Mapping[str, str]] = {
    "trace_id": "trace_id",
    "decision_id": "decision_id",
    "model": "model",
    "flow_run_id": "run_id",
}
"""Names of `extra=` → field of the line. They are names of things, never content. Prefect gives the
last one to the lines of its runs."""

SENT: Final = "sent"
"""Name of `extra=` for the body of the request that a line is about. The body is not in the line,
and its values are removed from the line's text."""

MAX_ERROR_CHARS: Final = 16_384
_OURS: Final = "mlplatform"


class JsonLines(logging.Formatter):
    """Formats a record with the fields of `signals.LOG_FIELDS`."""

    def __init__(self, process: Process, fields: FieldPolicy, instance: str | None = None) -> None:
        super().__init__()
        self._same: dict[str, Any] = {"process": process}
        if instance is not None:
            self._same["instance"] = instance
        self._fields = fields

    def format(self, record: logging.LogRecord) -> str:
        second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        sent = getattr(record, SENT, b"")
        line = {
            "time": f"{second}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            **self._same,
            "pid": os.getpid(),
            "logger": record.name,
            "message": self._fields.applied(record.getMessage(), sent),
        }
        if record.exc_info:
            text = self.formatException(record.exc_info)[-MAX_ERROR_CHARS:]
            line["error"] = self._fields.applied(text, sent)
        for name, field in EXTRA.items():
            value = getattr(record, name, None)
            if value is not None:
                line[field] = value
        return _harmless(json.dumps(line, ensure_ascii=False, default=str))


def _harmless(text: str) -> str:
    """JSON in which characters that a terminal takes for a command are escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


class DebugShare(logging.Filter):
    """Lets a share of debug lines pass, and every other line.

    Lines of one decision, or of one trace, pass together or not at all, because a part of them
    helps nobody.
    """

    def __init__(self, share: float = retention.DEBUG_SHARE) -> None:
        super().__init__()
        self._share = share

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno > logging.DEBUG:
            return True
        key = getattr(record, "decision_id", None) or getattr(record, "trace_id", None)
        if key is None:
            return random.random() < self._share  # noqa: S311
        return zlib.crc32(str(key).encode()) < self._share * (1 << 32)


def handler(
    process: Process, fields: FieldPolicy, instance: str | None = None, *, to: Path | None = None
) -> logging.Handler:
    """A handler that writes the lines of a process.

    Args:
        fields: the fields whose values are removed from every line.
        to: a file, which is rotated when it is full; None means standard error.
    """
    made: logging.Handler
    if to is None:
        made = _to_standard_error()
    else:
        kept = retention.LOGS
        made = LineFileHandler(to, file_bytes=kept.file_bytes, files=kept.files)
    made.setFormatter(JsonLines(process, fields, instance))
    made.addFilter(DebugShare())
    return made


def _to_standard_error() -> logging.Handler:
    try:
        return LineHandler()
    except OSError:  # standard error of a test, or missing
        return logging.StreamHandler()


def configure(process: Process, fields: FieldPolicy, instance: str | None = None) -> None:
    """Write every line of this process as JSON to standard error from now on."""
    logging.basicConfig(
        handlers=[handler(process, fields, instance)], level=logging.INFO, force=True
    )
    logging.captureWarnings(True)


def set_level(level: str) -> None:
    """Set the level from which the platform's own lines are written; other lines are written from
    info on.

    Args:
        level: `debug`, `info` or `warning`.
    """
    logging.getLogger(_OURS).setLevel(level.upper())
