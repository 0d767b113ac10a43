"""The head up to which a check found the log intact, stored beside the log for the next check."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from mlplatform.decisions.records.port import ManifestHead
from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.storage.files import write_atomically

_NAME: Final = "verified.json"


def last(folder: Path) -> ManifestHead | None:
    """The head at the last check without findings; None if none is known."""
    try:
        return msgspec.json.decode((folder / _NAME).read_bytes(), type=ManifestHead)
    except (FileNotFoundError, *NOT_JSON):
        return None


def remember(folder: Path, head: ManifestHead) -> None:
    """Store the head up to which a check found the log intact."""
    write_atomically(folder / _NAME, msgspec.json.encode(head))
