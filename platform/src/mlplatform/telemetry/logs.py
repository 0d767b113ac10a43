"""Log lines as JSON objects, one a line: what signals.py lists and nothing else."""

from __future__ import annotations

import json
import logging
import os
import time
from typing import Any, Final

from mlplatform.telemetry.signals import Process

EXTRA: Final = ("trace_id", "decision_id", "model")
"""What a line may be given by `extra=`: names of things, never their content."""

MAX_ERROR_CHARS: Final = 16_384


class JsonLines(logging.Formatter):
    """Formats a record with the fields of `signals.LOG_FIELDS`."""

    def __init__(self, process: Process, instance: str | None = None) -> None:
        super().__init__()
        self._same: dict[str, Any] = {"process": process}
        if instance is not None:
            self._same["instance"] = instance
        self._same["pid"] = os.getpid()

    def format(self, record: logging.LogRecord) -> str:
        second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{second}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            **self._same,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)[-MAX_ERROR_CHARS:]
        for name in EXTRA:
            value = getattr(record, name, None)
            if value is not None:
                line[name] = value
        return json.dumps(line, ensure_ascii=False, default=str)


def configure(process: Process, instance: str | None = None) -> None:
    """Every line of this process, from now on, as JSON to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines(process, instance))
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
