"""SQLite's errors on the decision log, as the platform's own."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from mlplatform.runtime.errors import Corrupt, Unavailable


class Translation:
    """Translates errors of SQLite into the platform's own. It keeps no state, so one serves all
    threads."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        match error:
            case sqlite3.OperationalError():
                raise Unavailable(f"decision log {self._path} can't be used") from error
            case sqlite3.IntegrityError():
                problem = f"decision log {self._path}: rows and heads disagree"
                raise Corrupt(problem) from error
            case sqlite3.ProgrammingError():
                return
            case sqlite3.DatabaseError() | UnicodeDecodeError():
                raise Corrupt(f"decision log {self._path} is damaged") from error
