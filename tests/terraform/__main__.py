"""`python -m tests.terraform state | test [FLAGS]`: the checks of infra/terraform."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.terraform import tools
from tests.terraform.conftest import ASKED


def main(arguments: list[str]) -> int:
    """The exit status; 0 where nothing can be checked here, which is said."""
    command, *flags = arguments or ["help"]
    if command == "state":
        print("; ".join(f"lacking {m}" for m in tools.lacking()) or "ready")
        return 0
    if command != "test":
        print(__doc__)
        return 2
    for missing in tools.build():
        print(f"terraform: not here: {missing}", flush=True)
    for cli in tools.clis():
        print(f"terraform: {cli} at {cli.path}", flush=True)
    environment = {**os.environ, ASKED: "1"}
    return subprocess.run(
        [sys.executable, "-m", "pytest", *(flags or ["tests/terraform"])],
        cwd=tools.ROOT,
        env=environment,
    ).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
