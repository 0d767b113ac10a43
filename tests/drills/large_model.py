"""A model of several gigabytes from file to retirement: how long each step takes, and its memory.

Random weights are written, taken in by the template and the gates' confined process, made a bundle
of two versions, served by predictor processes, scored, changed by one byte and
retired.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
from tests.support import large_model
from tests.support.foreign_onnx import requests

from mlplatform.commands.authoring.new_model import write_ready
from mlplatform.learning.onnx.model_files import model_files
from mlplatform.learning.onnx.onnx_limits import MOST_BYTES
from mlplatform.learning.training.external_model import candidate_from_onnx
from mlplatform.learning.training.folder import load_folder
from mlplatform.learning.training_sets.dataset import dataset
from mlplatform.model.bundle import Bundle, load_bundle
from mlplatform.model.weights.memory import needed_mib
from mlplatform.runtime.errors import Corrupt
from mlplatform.runtime.storage.plain_files import Rule
from mlplatform.runtime.units import DAY_MS, MIB

NAME: Final = "large"
AS_OF_MS: Final = 20_000 * DAY_MS
LAYERS: Final = 60
"""Of 16 MiB each; the rest is the table."""
CALLS: Final = 50
READY_S: Final = 300.0
RULE: Final = Rule(most_bytes=MOST_BYTES)


class Steps:
    """What each step took: seconds, and the most memory of this process and its children."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, Any]] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[dict[str, Any]]:
        facts: dict[str, Any] = {}
        ended, most = threading.Event(), [0, 0]

        def watch() -> None:
            while not ended.wait(0.05):
                held = [_memory(p) for p in _family()]
                most[0] = max(most[0], sum(own for own, _ in held))
                most[1] = max(most[1], sum(rss for _, rss in held))

        watcher = threading.Thread(target=watch)
        watcher.start()
        began_s = time.perf_counter()
        try:
            yield facts
        finally:
            took_s = time.perf_counter() - began_s
            ended.set()
            watcher.join()
            own, rss = (round(size / MIB) for size in most)
            self.found[name] = {"s": round(took_s, 1), "own_mib": own, "rss_mib": rss, **facts}
            print(name, self.found[name], flush=True)


def _family() -> list[psutil.Process]:
    own = psutil.Process()
    return [own, *own.children(recursive=True)]


def _memory(process: psutil.Process) -> tuple[int, int]:
    """What it holds for itself, and all that is mapped in."""
    try:
        found = process.memory_info()
    except psutil.Error:
        return 0, 0
    return found.rss - found.shared, found.rss


@contextmanager
def predictor(folder: Path, version: int) -> Iterator[tuple[str, psutil.Process, float]]:
    """A predictor process that is ready: its URL, and how many seconds that took."""
    address = folder.parent / f"address{version}.json"
    name = f"{NAME}-v{version}-{folder.name[:8]}"
    options = (f"--model-dir={folder}", f"--model-name={name}", f"--address-file={address}")
    began_s = time.perf_counter()
    command = [sys.executable, "-m", "mlplatform.process", "predictor", *options]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        while not _is_ready(address, name):
            if process.poll() is not None or time.perf_counter() - began_s > READY_S:
                raise SystemExit(f"the predictor of version {version} is not ready")
            time.sleep(0.05)
        port = json.loads(address.read_text())["port"]
        url = f"http://127.0.0.1:{port}/v2/models/{name}/infer"
        yield url, psutil.Process(process.pid), time.perf_counter() - began_s
    finally:
        process.terminate()
        process.wait(60)


def _is_ready(address: Path, name: str) -> bool:
    try:
        port = json.loads(address.read_text())["port"]
        return httpx.get(f"http://127.0.0.1:{port}/v2/models/{name}/ready").is_success
    except (OSError, ValueError, httpx.HTTPError):
        return False


def scored(url: str, bundle: Bundle, calls: int) -> list[float]:
    """Milliseconds of calls of one row each, in order of size."""
    times = []
    with httpx.Client(timeout=120) as client:
        for call in range(calls):
            row = bundle.golden.rows[call % len(bundle.golden.rows)]
            tensor = {"name": "inputs", "datatype": "FP32", "shape": [1, len(row)], "data": row}
            began_s = time.perf_counter()
            client.post(url, json={"inputs": [tensor]}).raise_for_status()
            times.append((time.perf_counter() - began_s) * 1000)
    return sorted(times)


def bundles_of(root: Path, steps: Steps) -> tuple[Path, Path]:
    """Two versions with the same weights, as they were taken in."""
    folder = load_folder(NAME)
    table = requests(AS_OF_MS, days=24, per_day=100)
    data = dataset(
        folder.definition, folder.views, table, as_of_ms=AS_OF_MS, labels_until_ms=AS_OF_MS
    )
    made = []
    for version in (1, 2):
        copies = root / "bundles" / f".copies{version}"
        copies.mkdir(parents=True)
        with steps.step(f"version {version}: copied and digested"):
            files = model_files(root / NAME / "model.onnx", RULE, copies=copies)
        with steps.step(f"version {version}: loaded and judged by the confined process"):
            candidate = candidate_from_onnx(
                files.content,
                folder,
                folder.definition,
                data,
                bundles=root / "bundles",
                origin="model.onnx",
                seed=version,
                data=files.data,
            )
            candidate.model.close()
        shutil.rmtree(copies)
        made.append(candidate.folder)
    return made[0], made[1]


def served(first: Path, second: Path, steps: Steps) -> None:
    """Both versions served at once, scored, and retired."""
    bundle = load_bundle(first, data=False)
    free = psutil.virtual_memory().available
    with steps.step("both served, scored and retired") as facts, predictor(first, 1) as one:
        url, process, ready_s = one
        facts["first_ready_s"] = round(ready_s, 1)
        times = scored(url, bundle, CALLS)
        facts["call_ms"] = {"p50": round(times[CALLS // 2], 1), "most": round(times[-1], 1)}
        own, rss = _memory(process)
        facts["first_own_mib"], facts["first_rss_mib"] = round(own / MIB), round(rss / MIB)
        with predictor(second, 2) as (other_url, other, other_ready_s):
            scored(other_url, load_bundle(second, data=False), CALLS)
            facts["second_ready_s"] = round(other_ready_s, 1)
            both = [p.memory_full_info().pss for p in (process, other)]
            facts["both_pss_mib"] = round(sum(both) / MIB)
    left = free - psutil.virtual_memory().available
    steps.found["after retirement"] = {"less_free_mib": round(left / MIB)}


def changed(folder: Path, steps: Steps) -> None:
    """One byte of the weights is another."""
    with (folder / large_model.DATA).open("r+b") as file:
        file.seek(file.seek(0, os.SEEK_END) // 2)
        at, byte = file.tell(), file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    with steps.step("a changed byte is refused") as facts:
        try:
            load_bundle(folder)
        except Corrupt as refusal:
            facts["refusal"] = str(refusal).removeprefix(f"{folder}/")[:60]
        else:
            raise SystemExit("a changed byte was not refused")


def drilled(root: Path, gigabytes: float) -> dict[str, Any]:
    steps, size = Steps(), round(gigabytes * 1e9)
    width = large_model.WIDTH
    layers = min(LAYERS, size // (width * width * large_model.ITEM_BYTES) // 2)
    rest = size - layers * width * width * large_model.ITEM_BYTES
    (root / "sent").mkdir()
    with steps.step("random weights written"):
        large_model.write_large(
            root / "sent", table_rows=rest // (width * large_model.ITEM_BYTES), layers=layers
        )
    with steps.step("the template takes it"):
        write_ready(root / NAME, NAME, root / "sent" / "model.onnx")
    golden = json.dumps(large_model.golden(root / "sent"))
    (root / NAME / "golden.json").write_text(golden)
    shutil.rmtree(root / "sent")
    os.environ["MLPLATFORM_MODELS"] = str(root)
    first, second = bundles_of(root, steps)
    weights = first / large_model.DATA
    told = needed_mib((first / "model.onnx").stat().st_size, [weights.stat().st_size])
    served(first, second, steps)
    changed(second, steps)
    return {
        "bytes": weights.stat().st_size,
        "is_shared": weights.samefile(second / large_model.DATA),
        "memory_told_mib": told,
        "machine_mib": psutil.virtual_memory().total // MIB,
        "load_average": os.getloadavg()[0],
        "steps": steps.found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=6.0)
    parser.add_argument(
        "--folder", type=Path, help="where twice as much is free; default: a new one"
    )
    parser.add_argument("--out", type=Path, default=Path("build/drills/large_model.json"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="large.", dir=given.folder) as name:
        found = drilled(Path(name), given.gigabytes)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(found, indent=2))
    json.dump(found, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
