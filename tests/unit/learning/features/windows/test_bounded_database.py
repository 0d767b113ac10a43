"""Joins hold a share of the memory, and spill the rest to a folder that goes with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlplatform.learning.features.windows import bounded_database as database
from mlplatform.learning.features.windows.bounded_database import bounded_database
from mlplatform.runtime.units import MIB


def test_a_join_larger_than_its_memory_spills_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "memory_bytes", lambda: 128 * MIB)
    monkeypatch.setattr(database, "LEAST_BYTES", MIB)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with bounded_database(2) as db:
        (limit,) = db.execute("SELECT current_setting('memory_limit')").fetchall()
        assert limit == ("64.0 MiB",)
        db.execute(
            "CREATE TABLE wide AS SELECT repeat(md5(i::VARCHAR), 8) AS t FROM range(600_000) s(i)"
        )
        (folder,) = tmp_path.iterdir()
        assert sum(file.stat().st_size for file in folder.iterdir()) > MIB
        assert db.execute("SELECT count(DISTINCT t) FROM wide").fetchall() == [(600_000,)]
    assert list(tmp_path.iterdir()) == []
