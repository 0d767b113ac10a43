"""The release before this tree, as users have it: its files, from the commit that named it in
CHANGELOG.md, and what its manifests become on the test cluster."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Final

from tests.cluster.layout import ROOT, Layout

HEADING: Final = re.compile(r"^## (\d+\.\d+\.\d+) \(", re.MULTILINE)


class LastReleaseMissing(Exception):
    """This checkout has not the last release's commit; says why, in words that say what to do."""


def version(root: Path = ROOT) -> str:
    """The newest one that CHANGELOG.md names.

    Raises:
        LastReleaseMissing: it names none.
    """
    found = HEADING.search((root / "CHANGELOG.md").read_text())
    if found is None:
        raise LastReleaseMissing("CHANGELOG.md names no release")
    return found[1]


def tree(layout: Layout) -> Path:
    """The files of that release, in the cache.

    Raises:
        LastReleaseMissing: no such commit is here.
    """
    commit, target = find_commit(ROOT), layout.cache / "last-release"
    mark = target / ".commit"
    if mark.exists() and mark.read_text() == commit:
        return target
    shutil.rmtree(target, ignore_errors=True)
    packed = _git(ROOT, "archive", "--format=tar", commit)
    if packed.returncode != 0:
        raise LastReleaseMissing(f"git does not give the files of {commit}")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(target, filter="data")
    mark.write_text(commit)
    return target


def find_commit(root: Path) -> str:
    """The first one whose CHANGELOG.md has the last release's heading.

    Raises:
        LastReleaseMissing: there is none, or it has no parent here: it is where a clone begins.
    """
    heading = f"## {version(root)} ("
    found = _git(root, "log", "--reverse", "--format=%H", f"-S{heading}", "--", "CHANGELOG.md")
    commits = found.stdout.decode().split()
    if found.returncode != 0 or not commits:
        raise LastReleaseMissing(f"no commit here adds {heading!r}… to CHANGELOG.md")
    if _git(root, "rev-parse", "--verify", "--quiet", f"{commits[0]}^").returncode != 0:
        raise LastReleaseMissing(
            f"the history here begins after release {version(root)}: git fetch --unshallow"
        )
    return commits[0]


def _git(root: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True)
