"""A small file of one struct: what was written comes back, and damage is named."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from mlplatform.runtime.errors import Corrupt
from mlplatform.runtime.storage.struct_files import read_struct, write_struct


class TimedValue(msgspec.Struct, frozen=True):
    at_ms: int


@dataclass(frozen=True)
class Other:
    at_ms: int


@pytest.mark.parametrize("value", [TimedValue(7), Other(7)])
def test_what_was_written_comes_back_for_its_owner_alone(tmp_path: Path, value: object) -> None:
    path = tmp_path / "measured" / "fraud.json"
    assert read_struct(path, type(value)) is None
    write_struct(path, value)
    assert read_struct(path, type(value)) == value
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("held", [b"", b"{", b"\xff", b'{"at_ms": "x"}', b"[" * 100_000])
def test_damage_is_named_with_the_file(tmp_path: Path, held: bytes) -> None:
    path = tmp_path / "fraud.json"
    path.write_bytes(held)
    with pytest.raises(Corrupt, match=r"fraud\.json"):
        read_struct(path, TimedValue)


def test_a_folder_in_its_place_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(Corrupt):
        read_struct(tmp_path, TimedValue)
