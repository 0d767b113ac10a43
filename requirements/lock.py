"""Remake the hashed locks: dev first, then its subsets under the same pins; none names a host.

What tests start as servers has a lock of its own: nothing of it is imported.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
COMPILE = [
    *(sys.executable, "-m", "uv", "pip", "compile", "--universal", "--python-version", "3.11"),
    *("--generate-hashes", "--no-emit-index-url", "--no-annotate", "--no-header", "--quiet"),
]


def main() -> None:
    for role in ("dev", "flows", "serve", "servers", "cluster", "terraform", "browser", "docs"):
        constraint = ["-c", "dev.txt"] if role in ("flows", "serve", "docs") else []
        alone = ["--no-deps"] if role == "browser" else []  # one file of it is used
        command = [*COMPILE, *constraint, *alone, f"{role}.in", "-o", f"{role}.txt"]
        subprocess.run(command, cwd=FOLDER, check=True)
        text = (FOLDER / f"{role}.txt").read_text()
        if re.search(r"https?://", text):
            raise SystemExit(f"{role}.txt names a host; remove it before committing")
        print(f"{role}.txt: {text.count('==')} packages")


if __name__ == "__main__":
    main()
