"""What SQLite says of the decision log, in the platform's words."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from mlplatform.runtime.errors import Corrupt, Unavailable


class Translation:
    """Errors of SQLite as the platform's own. Keeps nothing of a use, so one serves all threads."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        match error:
            case sqlite3.OperationalError():
                raise Unavailable(f"decision log {self._path}") from error
            case sqlite3.IntegrityError():
                problem = f"decision log {self._path}: rows and heads disagree"
                raise Corrupt(problem) from error
            case sqlite3.ProgrammingError():
                return
            case sqlite3.DatabaseError() | UnicodeDecodeError():
                raise Corrupt(f"decision log {self._path} is damaged") from error
