"""The commit of the last release, from which the test of an upgrade starts."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.cluster.last_release import LastReleaseMissing, find_commit


def _git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _commit(folder: Path, changelog: str) -> str:
    (folder / "CHANGELOG.md").write_text(changelog)
    _git(folder, "add", ".")
    _git(folder, "commit", "-qm", "a change")
    return _git(folder, "rev-parse", "HEAD")


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """Two releases and a change after them."""
    folder = tmp_path / "history"
    folder.mkdir()
    _git(folder, "init", "-q")
    _commit(folder, "## Unreleased\n")
    _commit(folder, "## Unreleased\n\n## 0.1.0 (2026-01-01)\n")
    _commit(folder, "## Unreleased\n\n## 0.2.0 (2026-02-01)\n\n## 0.1.0 (2026-01-01)\n")
    _commit(folder, "## Unreleased\n- x\n\n## 0.2.0 (2026-02-01)\n\n## 0.1.0 (2026-01-01)\n")
    return folder


def test_it_is_the_one_that_names_the_newest_release(history: Path) -> None:
    assert find_commit(history) == _git(history, "rev-parse", "HEAD~1")


def test_a_shallow_clone_after_it_is_named_with_the_way_out(history: Path, tmp_path: Path) -> None:
    shallow = tmp_path / "shallow"
    _git(tmp_path, "clone", "-q", "--depth=1", f"file://{history}", str(shallow))

    with pytest.raises(LastReleaseMissing, match=r"after release 0\.2\.0: git fetch --unshallow"):
        find_commit(shallow)


def test_files_without_a_history_have_none(tmp_path: Path) -> None:
    (tmp_path / "CHANGELOG.md").write_text("## 0.2.0 (2026-02-01)\n")

    with pytest.raises(LastReleaseMissing, match=r"no commit here adds '## 0\.2\.0 \('"):
        find_commit(tmp_path)


def test_a_changelog_without_a_release_has_none(tmp_path: Path) -> None:
    (tmp_path / "CHANGELOG.md").write_text("## Unreleased\n")

    with pytest.raises(LastReleaseMissing, match="names no release"):
        find_commit(tmp_path)
