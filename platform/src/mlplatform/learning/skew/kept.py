"""Where the last pass over a model's decisions stopped, and what it found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from mlplatform.learning.skew.verdict import SkewReport
from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.errors import Corrupt
from mlplatform.runtime.storage.files import write_atomically


class Kept(msgspec.Struct, frozen=True):
    """The end of a pass.

    Args:
        at_ms: wall time.
        position: per writer of the log, where the next pass goes on behind. It stays where it was
            while the sample is too small: these decisions are judged with those to come.
    """

    at_ms: int
    position: Mapping[str, int]
    report: SkewReport


def keep(folder: Path, model: str, kept: Kept) -> None:
    """In place of what was there."""
    folder.mkdir(mode=0o700, exist_ok=True)
    write_atomically(_file(folder, model), msgspec.json.encode(kept))


def last(folder: Path, model: str) -> Kept | None:
    """None before the first pass.

    Raises:
        Corrupt: the file is not what `keep` writes.
    """
    try:
        return msgspec.json.decode(_file(folder, model).read_bytes(), type=Kept)
    except FileNotFoundError:
        return None
    except (OSError, *NOT_JSON) as error:
        raise Corrupt(f"{_file(folder, model)}: {error}") from error


def _file(folder: Path, model: str) -> Path:
    return folder / f"{model}.skew.json"
