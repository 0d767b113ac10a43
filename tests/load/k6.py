"""k6, built from its Go module into a cache and run as a program of its own (docs/load-tests.md).

k6 is under the AGPL-3.0. Nothing of it is imported, linked or shipped: a user's machine builds the
unchanged program, and what runs in it is a script of ours.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent
MODULE: Final = HERE / "tools" / "k6"
PACKAGE: Final = "go.k6.io/k6"
REQUIRED: Final = "MLPLATFORM_TEST_LOAD"
"""Set to `required` where a test must run k6."""
FAILED_THRESHOLDS: Final = 99
"""k6's exit status where it ran to the end and a threshold does not hold."""
END_S: Final = 90.0
"""Beyond the time that a plan takes, after which k6 is ended."""
_MARK: Final = "k6.made-of"

Metrics = Mapping[str, Mapping[str, Any]]


class Unavailable(Exception):
    """k6 is not here, and can't be built."""


class Failed(Exception):
    """k6 ended without figures; holds what it wrote."""


def cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home).absolute() / "mlplatform" / "load"


def find() -> Path | None:
    """The program that `build` made of the module as it is locked now."""
    program, mark = cache() / "k6", cache() / _MARK
    current = program.exists() and mark.exists() and mark.read_text() == _digest()
    return program if current else None


def build() -> Path:
    """The program; built at the first time, in one to three minutes.

    Raises:
        Unavailable: Go is not here.
    """
    found = find()
    if found is not None:
        return found
    if shutil.which("go") is None:
        raise Unavailable("Go 1.26 or newer is not here: k6 is built from its module, once")
    print("load: building k6 from its module (minutes, the first time)", flush=True)
    cache().mkdir(parents=True, exist_ok=True)
    program = cache() / "k6"
    flags = f"{os.environ.get('GOFLAGS', '')} -mod=readonly -buildvcs=false".strip()
    command = ["go", "build", "-trimpath", "-ldflags", "-s -w", "-o", str(program), PACKAGE]
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": flags}
    subprocess.run(command, cwd=MODULE, env=environment, check=True)
    (cache() / _MARK).write_text(_digest())
    return program


def run(
    program: Path,
    script: Path,
    plan: Path,
    summary: Path,
    *,
    seconds: float,
    ca_file: Path | None = None,
    prefix: tuple[str, ...] = (),
) -> tuple[int, Metrics]:
    """k6's exit status (0, or FAILED_THRESHOLDS) and the figures of all its metrics.

    It reports to nobody, listens nowhere, fetches no extension, and has nothing of this process's
    environment: settings of k6 that are there by chance do not count.

    Args:
        seconds: that the plan takes; it is ended END_S after them.
        prefix: words before the command, as of `taskset`.

    Raises:
        Failed: there are no figures.
    """
    command = [
        *prefix, str(program), "run", "--quiet", "--no-color", "--no-usage-report",
        "--address", "", "--log-output", "stderr", "--env", f"PLAN={plan}", str(script),
    ]  # fmt: skip
    environment = {"PATH": os.defpath, "HOME": str(plan.parent), "NO_COLOR": "1"}
    environment["K6_AUTO_EXTENSION_RESOLUTION"] = "false"
    if ca_file is not None:
        environment["SSL_CERT_FILE"] = str(ca_file)
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=seconds + END_S
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"k6 had not ended {END_S:.0f} s after its plan's {seconds:.0f}") from error
    if done.returncode not in (0, FAILED_THRESHOLDS) or not summary.exists():
        raise Failed(f"k6 ended with status {done.returncode}:\n{done.stderr[-2000:]}")
    metrics: Metrics = json.loads(summary.read_text())
    return done.returncode, metrics


def _digest() -> str:
    files = [path.read_bytes() for path in sorted(MODULE.iterdir())]
    return hashlib.sha256(b"\0".join(files)).hexdigest()


if __name__ == "__main__":
    try:
        build()
    except Unavailable as error:
        sys.exit(f"load: {error}")
