"""Pins of flow runs: a run executes the registered file with the content that it had then."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlplatform.operations.prefect_client import names
from mlplatform.runtime.errors import Refused

ENTRYPOINT: Final = "PREFECT__FLOW_ENTRYPOINT"
"""Environment variable that makes Prefect's engine load a flow from a file and not from its server.

Source: `prefect.flow_engine.load_flow`, Prefect 3.9.
"""


@dataclass(frozen=True, slots=True)
class Pin:
    """One flow in one file with its digest.

    Args:
        digest: SHA-256 of the file when the flow was registered.
    """

    path: Path
    function: str
    digest: str

    @classmethod
    def of(cls, entrypoint: str) -> Pin:
        """The pin of the flow that `file.py:function` names, with the file's present content."""
        path, _, function = entrypoint.rpartition(":")
        file = Path(path).absolute()
        return cls(file, function, _digest(file))

    def checked_entrypoint(self) -> str:
        """The entrypoint for Prefect's engine, if the file is unchanged.

        Raises:
            Refused: the file has changed since it was pinned.
        """
        if _digest(self.path) != self.digest:
            raise Refused(
                f"{self.path.name} has changed since its flows were registered:"
                " start the platform again to run what is there now"
            )
        return f"{self.path}:{self.function}"


def pin_of_flow(flow: str, folder: Path) -> Pin:
    """The pin of one of the platform's flows in a folder.

    Raises:
        Refused: no flow of this platform has the name.
    """
    if flow not in names.RUNS:
        raise Refused(
            f"{flow!r} is not a flow of this platform; its flows: {', '.join(names.RUNS)}"
        )
    return Pin.of(f"{folder / flow}.py:{flow}")


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
