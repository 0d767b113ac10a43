"""`make bench-images`: what the images weigh and how long their processes take to be ready.

The first stage of each Dockerfile is done in a folder of this machine, so neither Docker nor a
base image is needed; what the base weighs comes on top. Figures, never a pass or fail.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import psutil

from support.dockerfiles import build, stages
from support.onnx_bundles import sigmoid_bundle
from support.ports import free_port

ROOT = Path(__file__).parents[2]
IMAGES = ("predictor", "gateway", "flows")
START_S = 60.0
MIB = 1024 * 1024


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench-images", description=__doc__)
    parser.add_argument("--only", choices=IMAGES, action="append", help="these images alone")
    parser.add_argument("--starts", type=int, default=5, help="of each process")
    parser.add_argument("--out", type=Path, default=ROOT / "build/bench/images.json")
    options = parser.parse_args()
    found = {name: measure(name, options.starts) for name in options.only or IMAGES}
    report = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "images": found}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    for name, figures in found.items():
        print(name, json.dumps(figures))


def measure(name: str, starts: int) -> dict[str, object]:
    """Sizes in MiB; seconds until ready, the first start apart from the median of the others."""
    text = (ROOT / f"platform/images/{name}.Dockerfile").read_text()
    with TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        build(text, ROOT, root)
        [entry] = [s.words for s in stages(text)[-1] if s.instruction == "ENTRYPOINT"]
        command = [str(root / "opt/venv/bin/python"), *(entry or [])[1:]]
        figures: dict[str, object] = sizes(root / "opt/venv")
        runs = [_start(name, command, Path(folder) / f"run{i}") for i in range(starts)]
        if (done := [run for run in runs if run is not None]) != []:
            figures["first_start_s"] = round(done[0][0], 2)
            figures["start_s"] = round(statistics.median(run[0] for run in done[1:] or done), 2)
            figures["rss_mib"] = round(statistics.median(run[1] for run in done))
        return figures


def sizes(venv: Path) -> dict[str, object]:
    """What the layer of libraries weighs, and its largest packages."""
    [packages] = venv.glob("lib/python*/site-packages")
    by_package = {path.name: _bytes(path) for path in packages.iterdir()}
    largest = sorted(by_package.items(), key=lambda item: -item[1])[:5]
    return {
        "venv_mib": round(_bytes(venv) / MIB, 1),
        "mlplatform_mib": round(by_package["mlplatform"] / MIB, 1),
        "files": sum(path.is_file() for path in venv.rglob("*")),
        "largest_mib": {name: round(size / MIB, 1) for name, size in largest},
    }


def _bytes(path: Path) -> int:
    if path.is_file():
        return path.lstat().st_size
    return sum(p.lstat().st_size for p in path.rglob("*") if not p.is_dir())


def _start(name: str, command: Sequence[str], folder: Path) -> tuple[float, float] | None:
    """Seconds until the process says it is ready, and its memory in MiB then."""
    folder.mkdir()
    if name == "predictor":
        return _predictor(command, folder)
    if name == "gateway":
        return _gateway(command, folder)
    return None  # a flow's run is over when it is done: it has no moment of being ready


def _predictor(command: Sequence[str], folder: Path) -> tuple[float, float]:
    digest = sigmoid_bundle(folder / "bundle")
    name, port = f"fraud-v1-{digest[:8]}", free_port()
    arguments = [f"--model-dir={folder / 'bundle'}", f"--model-name={name}", f"--port={port}"]
    with _running([*command, *arguments], {}) as process:
        return _until(f"http://127.0.0.1:{port}/v2/models/{name}/ready", process)


def _gateway(command: Sequence[str], folder: Path) -> tuple[float, float]:
    port = free_port()
    variables = {"MLPLATFORM_HOME": str(folder / "home"), "MLPLATFORM_GATEWAY_PORT": str(port)}
    with _running(command, variables) as process:
        return _until(f"http://127.0.0.1:{port}/readyz", process)


@contextlib.contextmanager
def _running(command: Sequence[str], variables: dict[str, str]) -> Iterator[psutil.Process]:
    """The process, with nothing in its environment but what the image and we say."""
    environment = {"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1", **variables}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, cwd="/")
    try:
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


def _until(url: str, process: psutil.Process) -> tuple[float, float]:
    while (waited_s := time.time() - process.create_time()) < START_S:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url).status_code == 200:
                return waited_s, process.memory_info().rss / MIB
        time.sleep(0.01)
    raise SystemExit(f"{url} was not ready within {START_S:.0f} s")


if __name__ == "__main__":
    main()
