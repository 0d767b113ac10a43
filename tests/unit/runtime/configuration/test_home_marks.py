"""A wrong `MLPLATFORM_HOME` changes nothing: only a home, or a free folder, is taken."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from mlplatform.runtime.configuration import home_marks
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.errors import ConfigInvalid, Refused

EARLIER: Final = Path(__file__).parents[3] / "contract" / "operations" / "homes"


def content(root: Path) -> dict[str, tuple[int, bytes]]:
    """Mode and bytes of all that is in a folder, and of the folder."""
    paths = (root, *root.rglob("*"))
    return {
        str(path): (
            stat.S_IMODE(path.stat().st_mode),
            path.read_bytes() if path.is_file() else b"",
        )
        for path in paths
    }


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with a person's files."""
    folder = tmp_path / "own"
    (folder / "logs").mkdir(parents=True)
    (folder / "logs" / "today.txt").write_text("mine")
    (folder / "letter.txt").write_text("mine")
    folder.chmod(0o755)
    return folder


def test_a_folder_of_other_files_is_refused_and_left_as_it_is(own: Path) -> None:
    before = content(own)
    with pytest.raises(ConfigInvalid, match=r"holds letter\.txt, logs, and .*name another folder"):
        Home(own).create()
    assert content(own) == before


@pytest.mark.parametrize(
    ("name", "is_folder"), [("secrets", False), ("run", True), ("x", True), ("x", False)]
)
def test_one_file_of_another_kind_is_enough(tmp_path: Path, name: str, is_folder: bool) -> None:
    """A folder by the name of one of a home's, but with something in it, is somebody's as well."""
    root = tmp_path / "home"
    root.mkdir()
    if is_folder:
        (root / name).mkdir()
        (root / name / "note").write_text("mine")
    else:
        (root / name).write_text("mine")
    before = content(root)
    with pytest.raises(ConfigInvalid, match=f"holds {name}, and"):
        Home(root).create()
    assert content(root) == before


def test_many_strangers_are_counted(tmp_path: Path) -> None:
    for name in "abcde":
        (tmp_path / name).write_text("")
    with pytest.raises(ConfigInvalid, match="holds a, b, c and 2 more, and"):
        Home(tmp_path).create()


@pytest.mark.parametrize(
    "make",
    [
        lambda root: None,
        lambda root: root.mkdir(),
        lambda root: (root / "lost+found").mkdir(parents=True),
        lambda root: (root / "secrets").mkdir(parents=True),
        lambda root: [(root / name).mkdir(parents=True) for name in ("secrets", "run")],
    ],
    ids=["missing", "empty", "a new disk", "cut off early", "cut off late"],
)
def test_a_free_folder_becomes_a_home(tmp_path: Path, make: Callable[[Path], object]) -> None:
    home = Home(tmp_path / "home")
    make(home.root)
    assert not home.is_made
    home.create()
    assert home.is_made
    assert stat.S_IMODE(home.root.stat().st_mode) == 0o700


def test_a_mounted_volume_says_nothing_of_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bundles of a cluster's predictors are mounted into a home that is not made yet."""
    home = Home(tmp_path / "home")
    (home.root / "bundles" / "0ab").mkdir(parents=True)
    monkeypatch.setattr(os.path, "ismount", lambda path: path == home.root / "bundles")
    home.create()
    assert home.is_made


@pytest.mark.parametrize("archive", sorted(path.name for path in EARLIER.iterdir()))
def test_a_home_of_an_earlier_release_is_one(tmp_path: Path, archive: str) -> None:
    with tarfile.open(EARLIER / archive) as file:
        file.extractall(tmp_path, filter="data")
    root = tmp_path / "home"
    assert home_marks.is_home(root)
    assert home_marks.strangers(root) == ()
    (root / "rollouts.db").unlink()  # its server may have it
    assert home_marks.is_home(root)


@pytest.mark.parametrize("store", home_marks.STORES)
def test_a_restored_home_is_one_before_its_first_start(tmp_path: Path, store: str) -> None:
    (tmp_path / store).parent.mkdir(exist_ok=True)
    (tmp_path / store).write_bytes(b"")
    (tmp_path / "offline").mkdir()
    Home(tmp_path).create()
    assert Home(tmp_path).is_made


def stored_in_vain(home: Home, *files: str) -> None:
    """A command that makes files in a home, and then fails."""
    with home.created():
        (home.root / "offline" / "fraud").mkdir(parents=True)
        for name in files:
            (home.root / name).write_bytes(b"")
        raise Refused("no")


def fails_in(home: Home, *files: str) -> None:
    with pytest.raises(Refused, match="no"):
        stored_in_vain(home, "secrets/pseudonym.key", *files)


def test_a_command_that_fails_leaves_no_home(tmp_path: Path) -> None:
    fails_in(Home(tmp_path / "home"))
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_stays_empty_when_a_command_fails(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    fails_in(Home(tmp_path / "home"))
    assert list((tmp_path / "home").iterdir()) == []


def test_what_was_stored_stays_when_a_command_fails(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    fails_in(home, "rollouts.db")
    assert home.is_made


def test_a_home_that_was_there_stays_when_a_command_fails(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    fails_in(home)
    assert home.pseudonym_key.exists()
