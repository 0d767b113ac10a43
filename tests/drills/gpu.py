"""What only a machine with a GPU can show, check by check, and a report of it."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal, cast

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from mlplatform.runtime.processes.gpus import has_gpu
from mlplatform.scoring.predictor import providers
from mlplatform.scoring.predictor.providers import Hardware

ROOT: Final = Path(__file__).parents[2]
IMAGE: Final = f"mlplatform/predictor-gpu:{version('mlplatform')}"
WIDTH: Final = 1_024
LAYERS: Final = 16
BATCHES: Final = (1, 8, 128, 1_024)
TOLERANCE: Final = 1e-3
"""Largest difference of two scores in [0, 1]: TensorFloat-32 has ten bits of a mantissa."""
CALLS: Final = 30
LIMIT_S: Final = 900


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found.

    Args:
        outcome: `left out` where the machine lacks what it needs; `detail` then says what.
        figures: what was measured, by name.
    """

    name: str
    outcome: Literal["passed", "failed", "left out"]
    detail: str
    figures: Mapping[str, Any] = field(default_factory=dict)


class LeftOut(Exception):
    """The machine lacks what a check needs."""


class Failed(Exception):
    """The check ran, and what it is about is not so."""


Result = tuple[str, Mapping[str, Any]]


def driver() -> Result:
    """The GPUs of this machine by NVIDIA's own program."""
    if shutil.which("nvidia-smi") is None:
        raise LeftOut("nvidia-smi is not here: the driver's package has it")
    fields = "name,driver_version,memory.total,compute_cap"
    answer = _run(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"])
    gpus = [line.strip() for line in answer.stdout.splitlines() if line.strip()]
    return f"{len(gpus)} GPUs: {'; '.join(gpus)}", {"gpus": gpus}


def provider(accelerator: Hardware) -> Result:
    """Whether a model runs on the accelerator wholly, as the predictor asks of it."""
    with tempfile.TemporaryDirectory() as folder:
        path = _network(Path(folder))
        made = providers.session(path, onnxruntime.SessionOptions(), accelerator)
    return f"ONNX Runtime {onnxruntime.__version__}: {', '.join(made.get_providers())}", {}


def contract(accelerator: Hardware) -> Result:
    """The predictor's contract suite on the accelerator; a skipped test counts as failed."""
    counts = _pytest(
        {"MLPLATFORM_TEST_ACCELERATOR": accelerator}, "tests/contract/scoring/predictor"
    )
    if counts["failed"] or counts["skipped"] or not counts["passed"]:
        raise Failed(f"predictor's contract suite: {counts}")
    return f"{counts['passed']} tests passed", counts


def scores(accelerator: Hardware) -> Result:
    """The same scores as on the processor within a tolerance, and the rate of both by batch."""
    rng = np.random.default_rng(5)
    figures: dict[str, Any] = {}
    largest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = _network(Path(folder))
        here = providers.session(path, onnxruntime.SessionOptions(), "cpu")
        there = providers.session(path, onnxruntime.SessionOptions(), accelerator)
        for rows in BATCHES:
            inputs = {"x": rng.standard_normal((rows, WIDTH), np.float32)}
            first, second = (one.run(None, inputs)[0] for one in (here, there))
            largest = max(largest, float(np.abs(np.asarray(first) - np.asarray(second)).max()))
            figures[f"{rows} rows"] = {
                "cpu_ms": _median_ms(partial(here.run, None, inputs)),
                f"{accelerator}_ms": _median_ms(partial(there.run, None, inputs)),
            }
    figures["largest_difference"] = largest
    if not largest <= TOLERANCE:
        raise Failed(f"scores differ from the processor's by {largest}; most: {TOLERANCE}")
    return f"scores within {largest:.1e} of the processor's", figures


def fit(accelerator: Hardware) -> Result:
    """`merchant-category` fitted with PyTorch on the GPU, from its data to a batch of answers."""
    asked = [sys.executable, "-c", "import torch; print(torch.cuda.is_available())"]
    answer = subprocess.run(asked, capture_output=True, text=True)
    if answer.returncode:
        raise LeftOut("PyTorch is not in this environment: make gpu-report GPU_TORCH=1")
    if accelerator != "cpu" and answer.stdout.strip() != "True":
        raise Failed("PyTorch sees no GPU: its build has no CUDA, or the driver is too old")
    counts = _pytest(
        {"MLPLATFORM_TEST_TRAIN": "required"},
        "tests/contract/learning/training/test_merchant_category.py",
    )
    if counts["failed"] or not counts["passed"]:
        raise Failed(f"merchant-category: {counts}")
    return f"merchant-category: {counts['passed']} tests passed", counts


def image(accelerator: Hardware) -> Result:
    """The image of predictors on GPUs sees the GPU within a container."""
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "info"], capture_output=True).returncode
    ):
        raise LeftOut("no Docker daemon answers")
    if subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True).returncode:
        raise LeftOut(f'{IMAGE} is not built: make images IMAGES_FLAGS="--only predictor-gpu"')
    gpus = [] if accelerator == "cpu" else ["--gpus", "all"]
    code = (
        "from mlplatform.scoring.predictor import providers; "
        f"print(providers.accelerator_problem({accelerator!r}) or 'usable')"
    )
    limits = ["--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp"]
    answer = _run(["docker", "run", *limits, *gpus, "--entrypoint", "python", IMAGE, "-c", code])
    if answer.stdout.strip() != "usable":
        raise Failed(answer.stdout.strip())
    return f"{IMAGE} can use {accelerator}", {}


def nodes() -> Result:
    """The cluster of KUBECONFIG offers what the models' GPUs ask for."""
    if not os.environ.get("KUBECONFIG"):
        raise LeftOut("KUBECONFIG names no cluster")
    command = [sys.executable, "-m", "mlplatform", "cluster", "check", "--json"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    findings = [
        one for one in json.loads(answer.stdout)["findings"] if "gpu" in json.dumps(one).lower()
    ]
    lacking = [one for one in findings if one["state"] not in ("ok", "optional")]
    if lacking:
        raise Failed(json.dumps(lacking))
    return f"{len(findings)} findings about GPUs, none lacking", {"findings": findings}


def report(accelerator: Hardware, folder: Path) -> list[Check]:
    """Run every check, and write `report.json` and `report.txt` after each."""
    checks: list[tuple[str, Callable[[], Result]]] = [
        ("driver", driver),
        ("provider", partial(provider, accelerator)),
        ("contract suite", partial(contract, accelerator)),
        ("scores and rate", partial(scores, accelerator)),
        ("fit", partial(fit, accelerator)),
        ("image", partial(image, accelerator)),
        ("cluster", nodes),
    ]
    found: list[Check] = []
    for name, check in checks:
        print(f"{name} …", flush=True)
        began_s = time.monotonic()
        found.append(_checked(name, check))
        print(
            f"{name}: {found[-1].outcome} ({time.monotonic() - began_s:.0f} s). {found[-1].detail}"
        )
        _write(folder, accelerator, found)
    return found


def _checked(name: str, check: Callable[[], Result]) -> Check:
    try:
        detail, figures = check()
    except LeftOut as reason:
        return Check(name, "left out", str(reason))
    except Exception as error:  # noqa: BLE001 -- the report says it, and the other checks run
        return Check(name, "failed", f"{type(error).__name__}: {error}"[:2_000])
    return Check(name, "passed", detail, figures)


def _write(folder: Path, accelerator: str, found: Sequence[Check]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    facts = {
        "accelerator": accelerator,
        "machine": platform.platform(),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "checks": [asdict(one) for one in found],
    }
    (folder / "report.json").write_text(json.dumps(facts, indent=1))
    lines = [
        f"# {accelerator} on {facts['machine']}, {facts['at']}",
        "",
        "| check | outcome | what was found |",
        "|---|---|---|",
        *(f"| {one.name} | {one.outcome} | {one.detail} |" for one in found),
    ]
    for one in found:
        for name, figure in one.figures.items():
            lines += ["", f"{one.name}, {name}: {figure}"]
    (folder / "report.txt").write_text("\n".join(lines) + "\n")


def _network(folder: Path) -> Path:
    """A dense network of random weights, 64 MiB, with one score a row."""
    rng = np.random.default_rng(3)
    nodes, weights = [], []
    for layer in range(LAYERS):
        values = (rng.random((WIDTH, WIDTH), np.float32) - 0.5) * np.float32(3 / WIDTH**0.5)
        weights.append(numpy_helper.from_array(values, f"w{layer}"))
        before = "x" if layer == 0 else f"h{layer - 1}"
        nodes.append(helper.make_node("MatMul", [before, f"w{layer}"], [f"m{layer}"]))
        nodes.append(helper.make_node("Tanh", [f"m{layer}"], [f"h{layer}"]))
    last = numpy_helper.from_array(rng.random((WIDTH, 1), np.float32) / WIDTH, "last")
    nodes.append(helper.make_node("MatMul", [f"h{LAYERS - 1}", "last"], ["odds"]))
    nodes.append(helper.make_node("Sigmoid", ["odds"], ["score"]))
    graph = helper.make_graph(
        nodes,
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, WIDTH])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
        [*weights, last],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def _median_ms(call: Callable[[], Any]) -> float:
    taken = []
    for _ in range(CALLS):
        began_s = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began_s)
    return round(float(np.median(taken)) * 1_000, 3)


def _pytest(environment: Mapping[str, str], *paths: str) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.xml"
        command = [sys.executable, "-m", "pytest", "-q", f"--junit-xml={result}", *paths]
        subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, timeout=LIMIT_S)
        if not result.exists():
            raise Failed(f"pytest wrote no result for {', '.join(paths)}")
        suite = next(ElementTree.parse(result).getroot().iter("testsuite"))
    counts = {name: int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")}
    failed = counts["failures"] + counts["errors"]
    passed = counts["tests"] - failed - counts["skipped"]
    return {"passed": passed, "failed": failed, "skipped": counts["skipped"]}


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    answer = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    if answer.returncode:
        raise Failed(f"{command[0]} ended with {answer.returncode}: {answer.stderr.strip()[-500:]}")
    return answer


def main() -> int:
    """0: nothing failed; 1: a check failed; 2: this machine has no such accelerator."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accelerator", choices=["cuda", "tensorrt", "cpu"], default="cuda")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build" / "gpu", help="folder of the report"
    )
    options = parser.parse_args()
    accelerator = cast(Hardware, options.accelerator)
    if accelerator != "cpu" and not has_gpu():
        print("this machine has no GPU of NVIDIA; --accelerator cpu tries the checks themselves")
        return 2
    found = report(accelerator, options.out)
    print(f"report: {options.out / 'report.txt'}")
    return int(any(one.outcome == "failed" for one in found))


if __name__ == "__main__":
    sys.exit(main())
