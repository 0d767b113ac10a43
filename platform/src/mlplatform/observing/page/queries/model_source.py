"""A model.yaml as it is on this machine, with the digest of its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlplatform.model.folders import FILE, folder_digest
from mlplatform.runtime.errors import Unavailable


@dataclass(frozen=True, slots=True)
class DefinitionSource:
    """A model.yaml as it is on this machine.

    Args:
        digest: digest of all files of its folder, as versions that it fitted name it.
    """

    path: str
    text: str
    digest: str


def definition_source(folder: Path) -> DefinitionSource:
    """The model.yaml of a model's folder.

    Raises:
        Unavailable: the file can't be read now.
    """
    path = folder / FILE
    try:
        return DefinitionSource(str(path), path.read_text(encoding="utf-8"), folder_digest(folder))
    except (OSError, UnicodeError) as error:
        raise Unavailable(f"{path}: {error}") from error
