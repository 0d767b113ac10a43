"""Structs and dataclasses in small JSON files of their own: whole or absent."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.errors import Corrupt
from mlplatform.runtime.storage.files import write_atomically

S = TypeVar("S")


def write_struct(path: Path, value: object) -> None:
    """Replace the file in one step; its folder is created if it is missing."""
    write_atomically(path, msgspec.json.encode(value))


def read_struct(path: Path, kind: type[S]) -> S | None:
    """The value in the file; None if there is no file.

    Raises:
        Corrupt: the file can't be read, or `write_struct` did not write it for this kind.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, *NOT_JSON) as error:
        raise Corrupt(f"{path}: {error}") from error
