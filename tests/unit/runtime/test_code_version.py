"""A version of the code is that of its files."""

from __future__ import annotations

import re
from pathlib import Path

from mlplatform.runtime.code_version import code_version, digest_of


def written(folder: Path, **files: str) -> str:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return digest_of(folder)


def test_it_names_the_release_and_the_files() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\+[0-9a-f]{12}", code_version())


def test_an_edited_a_new_and_a_moved_file_change_it(tmp_path: Path) -> None:
    before = written(tmp_path / "a", gates="limit = 1", models__fraud="tier: 1")
    assert written(tmp_path / "b", gates="limit = 1", models__fraud="tier: 1") == before
    assert written(tmp_path / "c", gates="limit = 2", models__fraud="tier: 1") != before
    assert written(tmp_path / "d", gates="limit = 1", models__fraud="tier: 1", more="") != before
    assert written(tmp_path / "e", gates="limit = 1", models__risk="tier: 1") != before


def test_what_python_compiles_does_not_change_it(tmp_path: Path) -> None:
    before = written(tmp_path, gates="limit = 1")
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "gates.cpython-311.pyc").write_bytes(b"\0")
    assert digest_of(tmp_path) == before
