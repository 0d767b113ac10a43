"""A folder for Feast is written over what this command wrote, and over nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlplatform.learning.features.feast_folder.folder import (
    ONLINE_LINK,
    REGISTRY_FILE,
    STORE_FILE,
    store_text,
    write_folder,
)
from mlplatform.runtime.errors import Refused


def written(folder: Path, registry: bytes) -> None:
    store = store_text("fraud", None)
    write_folder(folder, store=store, registry=registry, online_db=folder / "online.db")


@pytest.mark.parametrize("name", [STORE_FILE, REGISTRY_FILE, ONLINE_LINK])
def test_a_file_of_somebody_else_stays(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(Refused, match=f"{name} was not rendered by this command"):
        written(tmp_path, b"registry")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "mine"}


def test_a_folder_that_a_kill_left_half_written_is_renewed(tmp_path: Path) -> None:
    written(tmp_path, b"old")
    (tmp_path / ONLINE_LINK).unlink()
    written(tmp_path, b"new")
    assert (tmp_path / REGISTRY_FILE).read_bytes() == b"new"
    assert (tmp_path / ONLINE_LINK).readlink() == tmp_path / "online.db"
