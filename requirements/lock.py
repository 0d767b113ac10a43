"""Remake the hashed locks: dev first, then its subsets under the same pins; none names a host.

What tests start as servers has a lock of its own: nothing of it is imported. The lock of a library
that models are fitted with, and those of Feast and Delta tables, hold what comes beside flows, and
nothing that flows has. The lock of predictors on GPUs is serve's with another ONNX Runtime.
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


TRAIN = (
    *("train-xgboost", "train-lightgbm", "train-catboost", "train-torch", "train-search"),
    "train-spark",
)
BESIDE_FLOWS = (*TRAIN, "feast", "delta")
UNDER_DEV = ("flows", "serve", "serve-gpu", "docs", *BESIDE_FLOWS)
ROLES = (
    *("dev", "flows", "serve", "serve-gpu", "servers", "cluster", "terraform", "browser", "docs"),
    *BESIDE_FLOWS,
)


def main() -> None:
    for role in ROLES:
        constraint = ["-c", "dev.txt"] if role in UNDER_DEV else []
        alone = ["--no-deps"] if role == "browser" else []  # one file of it is used
        left_out = of_flows() if role in BESIDE_FLOWS else []
        if role == "serve-gpu":  # onnxruntime-gpu is the same package with CUDA
            left_out = ["--no-emit-package", "onnxruntime"]
        command = [*COMPILE, *constraint, *alone, *left_out, f"{role}.in", "-o", f"{role}.txt"]
        subprocess.run(command, cwd=FOLDER, check=True)
        text = (FOLDER / f"{role}.txt").read_text()
        if re.search(r"https?://", text):
            raise SystemExit(f"{role}.txt names a host; remove it before committing")
        print(f"{role}.txt: {text.count('==')} packages")


def of_flows() -> list[str]:
    """Flags that leave out what flows has; its versions are met all the same."""
    names = re.findall(r"^([a-z0-9-]+)==", (FOLDER / "flows.txt").read_text(), re.MULTILINE)
    return [flag for name in sorted(set(names)) for flag in ("--no-emit-package", name)]


if __name__ == "__main__":
    main()
