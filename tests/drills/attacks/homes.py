"""The home folder: its files to others, and homes that are not what they seem."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.drills.attacks.attack import Attack, AttackResult, Target, all_of
from tests.drills.attacks.others import UID

from support.ports import free_ports

FILES: Final = ("secrets/api.key", "secrets/pseudonym.key", "admission.db", "rollouts.db",
                "run/prefect.token", "run/mlflow.token", "run/page.token", "run/processes.json",
                "decisions", "prefect/prefect.db", "logs/supervisor.log", "logs/prefect.log",
                "mlflow/mlflow.db", "offline", "serving/desired", "traces", "topics.db",
                "online.db", "bundles", "jobs", "audit/refusals.jsonl", "")  # fmt: skip
TRIES: Final[tuple[Callable[[Path], object], ...]] = (
    Path.read_bytes,
    os.listdir,
    lambda path: path.write_bytes(b"mine"),
    lambda path: (path / "mine").write_bytes(b"mine"),
    lambda path: path.chmod(0o777),
    lambda path: path.rename(path.with_name("mine")),
)
START_LIMIT_S: Final = 90.0
OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def attacks() -> tuple[Attack, ...]:
    return (
        Attack(
            "home, read, written and searched",
            "critical",
            f"open, write, list, rename and chmod {len(FILES)} files and folders of the home",
            "permission denied",
            opened,
            by_other_user=True,
        ),
        Attack(
            "home, files that others could read but for its own mode",
            "low",
            "the mode of every file and folder in the home",
            "none has a right for group or others",
            modes,
            by_operator=True,
        ),
        Attack(
            "home, owned by somebody else",
            "low",
            "MLPLATFORM_HOME names a folder that another user has made and owns; `keys list`",
            "refused, names the owner",
            somebody_elses,
            by_operator=True,
            by_other_user=True,
        ),
        Attack(
            "home, a folder of it owned by somebody else",
            "medium",
            "secrets/ in a home of one's own belongs to another user; `up`",
            "refused, names the folder",
            somebody_elses_folder,
            by_operator=True,
            by_other_user=True,
        ),
        Attack(
            "home, a link to somebody else's folder",
            "medium",
            "MLPLATFORM_HOME is a link that leads to a folder of another user; `keys list`",
            "refused",
            link,
            by_operator=True,
            by_other_user=True,
        ),
        Attack(
            "home, folders of it planted while it was open",
            "medium",
            "a home of 0777 in which another user's links stand for secrets and run; `keys list`",
            "refused each time, names the link",
            planted_folders,
            by_operator=True,
            by_other_user=True,
        ),
        Attack(
            "home, below a folder that everybody may write to",
            "medium",
            "the home's parent is 0777 without the sticky bit: who likes may put another there",
            "refused, names the folder",
            writable_parent,
            by_operator=True,
        ),
        Attack(
            "home, a key that is a link",
            "medium",
            "secrets/pseudonym.key is a link to another user's file before it is made",
            "no secret is written through the link",
            planted_link,
            by_operator=True,
            by_other_user=True,
        ),
        Attack(
            "home, a process's umask",
            "low",
            "`history generate` in a fresh home under umask 000",
            "no file for group or others",
            umask,
            by_operator=True,
        ),
    )


def opened(target: Target) -> AttackResult:
    results = []
    for name in FILES:
        path = target.home / name
        for attempt in TRIES:
            try:
                attempt(path)
                results.append(AttackResult(False, f"{name or 'the home'} was opened"))
            except OSError as error:
                results.append(AttackResult(True, f"{error.strerror}"))
    return all_of(results)


def modes(target: Target) -> AttackResult:
    loose = []
    for path in [target.home, *target.home.rglob("*")]:
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            continue
        if not stat.S_ISLNK(mode) and mode & OTHERS:
            loose.append(f"{path.relative_to(target.home)} {stat.S_IMODE(mode):o}")
    return AttackResult(not loose, f"{len(loose)}: {', '.join(loose[:6])}" if loose else "none")


def somebody_elses(target: Target) -> AttackResult:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        home.mkdir(mode=0o700)
        os.chown(home, UID, UID)
        return _refused(home)


def somebody_elses_folder(target: Target) -> AttackResult:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        (home / "secrets").mkdir(mode=0o700, parents=True)
        home.chmod(0o700)
        os.chown(home / "secrets", UID, UID)
        return _start_refused(home)


def link(target: Target) -> AttackResult:
    with tempfile.TemporaryDirectory() as folder:
        theirs, home = Path(folder) / "theirs", Path(folder) / "home"
        theirs.mkdir(mode=0o700)
        os.chown(theirs, UID, UID)
        home.symlink_to(theirs)
        return _refused(home)


def planted_folders(target: Target) -> AttackResult:
    with tempfile.TemporaryDirectory() as folder:
        home, theirs = Path(folder) / "home", Path(folder) / "theirs"
        for path in (home, theirs):
            path.mkdir()
            path.chmod(0o777)
        for name in ("secrets", "run"):
            (home / name).symlink_to(theirs)
            os.lchown(home / name, UID, UID)
        return all_of([_refused(home), _refused(home)])


def writable_parent(target: Target) -> AttackResult:
    with tempfile.TemporaryDirectory() as folder:
        parent = Path(folder) / "everybody's"
        parent.mkdir()
        parent.chmod(0o777)
        return _refused(parent / "home")


def planted_link(target: Target) -> AttackResult:
    with tempfile.TemporaryDirectory() as folder:
        home, theirs = Path(folder) / "home", Path(folder) / "theirs"
        theirs.write_bytes(b"")
        os.chown(theirs, UID, UID)
        for name in ("secrets/api.key", "run/page.token", "secrets/pseudonym.key"):
            path = home / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.symlink_to(theirs)
        home.chmod(0o700)
        code = "import pathlib, sys; from mlplatform.decisions.records import pseudonym;"
        code += "pseudonym.load_or_create_key(pathlib.Path(sys.argv[1]))"
        made = subprocess.run(
            [sys.executable, "-c", code, str(home / "secrets/pseudonym.key")],
            capture_output=True,
            timeout=60,
        )
        written = theirs.read_bytes()
        return AttackResult(
            not written, f"exit {made.returncode}, {len(written)} bytes in their file"
        )


def umask(target: Target) -> AttackResult:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        Path(folder).chmod(0o700)
        done = _history(home, umask=0)
        loose = [
            f"{p.relative_to(home)} {stat.S_IMODE(p.lstat().st_mode):o}"
            for p in [home, *home.rglob("*")]
            if p.lstat().st_mode & OTHERS
        ]
        return AttackResult(
            done.returncode == 0 and not loose, f"exit {done.returncode}: {loose or 'none'}"
        )


def _refused(home: Path) -> AttackResult:
    """Whether a command that would make the home names it as one that it does not take."""
    done = _history(home)
    said = " ".join(done.stderr.split())
    is_named = f"MLPLATFORM_HOME is {str(home)!r}" in said
    return AttackResult(done.returncode != 0 and is_named, f"exit {done.returncode}: {said[:120]}")


def _start_refused(home: Path) -> AttackResult:
    """Whether `up` ends before it has started anything."""
    ports = zip(("GATEWAY", "PREFECT", "MLFLOW", "PAGE"), free_ports(4), strict=True)
    variables = {f"MLPLATFORM_{name}_PORT": str(port) for name, port in ports}
    up = subprocess.Popen(
        [sys.executable, "-m", "mlplatform.commands", "up"],
        env={**os.environ, **variables, "MLPLATFORM_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    end_s = time.monotonic() + START_LIMIT_S
    while up.poll() is None and time.monotonic() < end_s:
        if list(home.glob("run/processes.json")):
            up.terminate()
            break
        time.sleep(0.1)
    output = up.communicate(timeout=START_LIMIT_S)[0].splitlines()
    started = (home / "run" / "processes.json").exists()
    said = output[-1][:120] if output else ""
    return AttackResult(up.returncode != 0 and not started, f"exit {up.returncode}: {said}")


def _history(home: Path, umask: int = 0o022) -> subprocess.CompletedProcess[str]:
    """A command that works before the first start, and makes a home for its rows."""
    return subprocess.run(
        [sys.executable, "-m", "mlplatform.commands", "history", "generate", "fraud", "--days=1"],
        env={**os.environ, "MLPLATFORM_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
        umask=umask,
    )
