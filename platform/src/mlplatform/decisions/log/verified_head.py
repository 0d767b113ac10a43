"""Up to which head a check has found the log whole, kept beside it for the next check."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from mlplatform.decisions.records.port import ManifestHead
from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.storage.files import write_atomically

_NAME: Final = "verified.json"


def last(folder: Path) -> ManifestHead | None:
    """The head at the last check that found nothing; None where none is known."""
    try:
        return msgspec.json.decode((folder / _NAME).read_bytes(), type=ManifestHead)
    except (FileNotFoundError, *NOT_JSON):
        return None


def remember(folder: Path, head: ManifestHead) -> None:
    """Say that a check has found the log whole up to here."""
    write_atomically(folder / _NAME, msgspec.json.encode(head))
