"""A home that was copied, with its platform ended: what the copy serves, and lets in."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import time
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
from tests.drills.attacks.attack import AttackResult, Finding
from tests.drills.attacks.wire import ask
from tests.drills.attacks.world import AttackWorld

from support.ports import free_ports
from support.scoring_world import payment

NAME: Final = "home, a copy elsewhere serves the old path"
LIMIT_S: Final = 60.0
STOP_LIMIT_S: Final = 40.0


def findings(world: AttackWorld, wanted: str) -> list[Finding]:
    """The copy is started while the old home is where it was, with its bundles gone."""
    if wanted not in NAME:
        return []
    began_s = time.monotonic()
    before = _tokens(world.home.root)
    copy = world.folder / "elsewhere" / "home"
    copy.parent.mkdir(mode=0o700)
    shutil.copytree(world.home.root, copy, symlinks=True, ignore=_no_sockets)
    world.home.bundles.rename(world.home.bundles.with_name("bundles-of-before"))
    held, said = _started(world, copy)
    kept = sorted(n for n, token in _tokens(copy).items() if before.get(n) == token)
    seconds = round(time.monotonic() - began_s, 1)
    return [
        _finding(
            NAME,
            "cp -a of a stopped home, the old one's bundles renamed, `up` on the copy",
            "predictors run from the copy's bundles, and payments are scored by them",
            AttackResult(held, said),
            seconds,
        ),
        _finding(
            "log-in, tokens of an earlier start",
            "run/*.token of a home, before and after the platform was started again",
            "each is another one, Prefect's among them",
            AttackResult(
                "prefect.token" in before and not kept, f"kept: {', '.join(kept) or 'none'}"
            ),
            seconds,
        ),
    ]


def _finding(name: str, done: str, expected: str, got: AttackResult, seconds: float) -> Finding:
    return Finding(
        name=name,
        severity="medium",
        done=done,
        expected=expected,
        got=got.said,
        refused=got.refused,
        recorded=None,
        recorded_at="nobody needs to know",
        by="the platform's user",
        seconds=seconds,
    )


def _tokens(home: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in (home / "run").glob("*.token")}


def _started(world: AttackWorld, copy: Path) -> tuple[bool, str]:
    ports = dict(zip(("GATEWAY", "PREFECT", "MLFLOW", "PAGE"), free_ports(4), strict=True))
    environment = {
        **world.environment,
        "MLPLATFORM_HOME": str(copy),
        **{f"MLPLATFORM_{name}_PORT": str(port) for name, port in ports.items()},
    }
    with (world.folder / "copy.log").open("wb") as log:
        up = subprocess.Popen(world.argv("up"), env=environment, stdout=log, stderr=log)
    try:
        answer = _scored(ports["GATEWAY"], world.keys["shop"].secret)
        folders = _bundles_of_predictors(up.pid)
    finally:
        _stop(up)
    elsewhere = [f for f in folders if not f.startswith(str(copy))]
    said = (
        f"answered by {answer.get('answered_by', 'nobody')}; predictors of {len(folders)} bundles"
    )
    held = bool(folders) and not elsewhere and answer.get("answered_by") == "champion"
    return held, f"{said}, {len(elsewhere)} of them by the old path"


def _scored(port: int, secret: str) -> dict[str, Any]:
    """The first answer of a champion, or the last of another kind."""
    end_s = time.monotonic() + LIMIT_S
    last: dict[str, Any] = {}
    headers = {"Authorization": f"Bearer {secret}"}
    url = f"http://127.0.0.1:{port}/api/v1/models/fraud/score"
    while time.monotonic() < end_s:
        answer = ask("POST", url, json=payment(), headers=headers)
        last = json.loads(answer.text) if answer.status == httpx.codes.OK else last
        if last.get("answered_by") == "champion":
            break
        time.sleep(0.5)
    return last


def _bundles_of_predictors(pid: int) -> list[str]:
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            found += [
                a.partition("=")[2] for a in process.cmdline() if a.startswith("--model-dir=")
            ]
        except psutil.Error:
            continue
    return found


def _stop(up: subprocess.Popen[bytes]) -> None:
    up.send_signal(signal.SIGTERM)
    try:
        up.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        up.kill()
        up.wait()


def _no_sockets(folder: str, found: list[str]) -> list[str]:
    kinds = (stat.S_ISREG, stat.S_ISDIR, stat.S_ISLNK)
    return [n for n in found if not any(k(os.lstat(Path(folder) / n).st_mode) for k in kinds)]
