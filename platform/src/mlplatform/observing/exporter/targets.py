"""The scrape targets of one machine's processes: a file for Prometheus's file discovery."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.storage.files import write_atomically
from mlplatform.runtime.telemetry.signals import Process

FILE = "targets.json"

log = logging.getLogger(__name__)


class _Address(msgspec.Struct):
    port: int


def targets(run: Path) -> list[dict[str, Any]]:
    """The processes that have reported where they listen, in the format of file discovery.

    A process that died stays a target until the supervisor removes its file, so that its absence
    shows.

    Args:
        run: the `run` folder of a home folder.
    """
    return [
        {
            "targets": [f"127.0.0.1:{port}"],
            "labels": {"process": process, "instance_name": name},
        }
        for process, name, port in sorted(_addresses(run))
    ]


def keep(home: Home) -> None:
    """Write the present scrape targets to `run/targets.json`."""
    content = msgspec.json.encode(targets(home.run))
    file = home.run / FILE
    if not file.exists() or file.read_bytes() != content:
        write_atomically(file, content)


def _addresses(run: Path) -> Iterator[tuple[Process, str, int]]:
    folders: tuple[tuple[Process, str], ...] = (
        ("gateway", "gateways/*.json"),
        ("predictor", "predictors/*.json"),
        ("worker", "workers/*.json"),
        ("exporter", "exporter.json"),
    )
    for process, pattern in folders:
        for file in run.glob(pattern):
            try:
                port = msgspec.json.decode(file.read_bytes(), type=_Address).port
            except (OSError, *NOT_JSON) as error:  # it was removed since `glob`
                log.info("%s is not read: %s", file.name, error)
                continue
            yield process, file.stem, port
