"""The key that makes customers the same ones everywhere: made once, never where it is shared."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlplatform.decisions.records.pseudonym import KEY_BYTES, key_of
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.errors import ConfigInvalid, Corrupt


def test_a_home_makes_its_key_once(tmp_path: Path) -> None:
    made = key_of(Home(tmp_path))
    assert len(made) == KEY_BYTES
    assert made == key_of(Home(tmp_path))
    assert made != key_of(Home(tmp_path / "another"))


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 33])
def test_a_home_whose_key_is_none_is_refused_and_keeps_it(tmp_path: Path, content: bytes) -> None:
    home = Home(tmp_path)
    key_of(home)
    home.pseudonym_key.write_bytes(content)
    with pytest.raises(Corrupt, match=f"holds {len(content)} bytes"):
        key_of(home)
    assert home.pseudonym_key.read_bytes() == content


def test_homes_that_share_a_key_have_it_from_its_file(tmp_path: Path) -> None:
    first = Home(tmp_path / "first")
    other = Home(tmp_path / "other", shared_pseudonym_key=first.pseudonym_key)
    assert key_of(first) == key_of(other)
    assert not other.secrets.exists()


@pytest.mark.parametrize("content", [None, b"", b"x" * 31, b"x" * 32 + b"\n"])
def test_a_shared_key_that_is_none_is_refused_and_not_made(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "pseudonym-key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigInvalid, match="MLPLATFORM_PSEUDONYM_KEY_FILE"):
        key_of(Home(tmp_path / "other", shared_pseudonym_key=path))
    assert path.exists() == (content is not None)
