"""What has matured of each version that was champion, as the last drift check under it saw it.

One small file for each version, for the model card. Nothing is decided from it, and it may be
deleted: the next drift check writes the present champion's again.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from mlplatform.rollouts.drift.tenure import MaturedTenure
from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.errors import Corrupt
from mlplatform.runtime.storage.files import write_atomically


def keep(folder: Path, model: str, tenure: MaturedTenure) -> None:
    """What was seen of this version, in place of what was there."""
    folder.mkdir(mode=0o700, exist_ok=True)
    write_atomically(_file(folder, model, tenure.version), msgspec.json.encode(tenure))


def last(folder: Path, model: str, version: int) -> MaturedTenure | None:
    """What was seen of it last; None where no drift check ran while it was champion.

    Raises:
        Corrupt: the file is not what `keep` writes.
    """
    file = _file(folder, model, version)
    try:
        return msgspec.json.decode(file.read_bytes(), type=MaturedTenure)
    except FileNotFoundError:
        return None
    except (OSError, *NOT_JSON) as error:
        raise Corrupt(f"{file}: {error}") from error


def _file(folder: Path, model: str, version: int) -> Path:
    return folder / f"{model}.v{version}.matured.json"
