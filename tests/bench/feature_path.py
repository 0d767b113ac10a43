"""What real-time windows cost the scoring path: the same trees behind a gateway with 14 windows and
one without, measured in turn.

    python -m tests.bench.feature_path --seconds 5 --rounds 3

Each gateway has a core to itself and a log of its own; the predictors and the load share the other
core. The rate of a pair of runs is compared, and the CPU time of the gateway for a request.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import IO, Any, Final

import msgspec
from tests.bench import wrk
from tests.bench.contenders import ROOT, Bench
from tests.bench.windows import windows
from tests.support.model_folders import copied

from mlplatform.model.windows.declaration import as_written

MODEL: Final = "fraud"
CONNECTIONS: Final = 32
NAMES: Final = ("without", "with")


def folder_with_windows(root: Path) -> Path:
    """A folder of models whose fraud model reads 14 windows as its last inputs."""
    folder = copied(root, MODEL)
    model, reasons = folder / "model.yaml", folder / "reasons.yaml"
    last = "  - {name: amount_to_mean_30d, kind: ratio, of: amount, to: customer_mean_30d}\n"
    text = model.read_text()
    found = [msgspec.structs.replace(w, name=f"live_{w.name}") for w in windows()]
    assert last in text
    inputs = "".join(f"  - {{name: {w.name}, kind: window, of: {w.entity}}}\n" for w in found)
    declared = json.dumps(as_written(found)["windows"])
    model.write_text(text.replace(last, last + inputs) + f"\nwindows: {declared}\n")
    told = (
        f"{w.name}: {{code: {w.name.upper()}, customer: About {w.name}., analyst: See it.}}\n"
        for w in found
    )
    reasons.write_text(reasons.read_text() + "".join(told))
    return root


@dataclass
class _Path:
    """A gateway in a process of its own that measures it each time it is told to."""

    process: subprocess.Popen[str]

    def measured(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        out: IO[str] | None = self.process.stdout
        assert out is not None
        for line in out:
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        raise SystemExit("a gateway of the bench has ended; its error is above")


@contextmanager
def running(models: Path | None, seconds: float) -> Iterator[_Path]:
    environment = dict(os.environ)
    if models is not None:
        environment["MLPLATFORM_MODELS"] = str(models)
    command = [sys.executable, "-m", "tests.bench.feature_path", "--serve"]
    process = subprocess.Popen(
        [*command, "--seconds", str(seconds)],
        cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    path = _Path(process)
    try:
        path._answer()
        yield path
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)


def serve(seconds: float) -> None:
    """One gateway; a line of figures for each line that is read."""
    from tests.bench.scoring import online_path  # starts a world with the folder that is set

    with (
        tempfile.TemporaryDirectory() as root,
        online_path(Path(root), has_adverse=False) as online,
    ):
        bench = Bench(seconds, Path(root))
        headers = {"Content-Type": "application/json"}
        with online.world.client() as client:  # reasons of alerts would cost more than windows do
            online.contender.bodies = [
                body
                for body in online.contender.bodies
                if client.post("/score", content=body, headers=headers).json()["decision"]
                == "approve"
            ]
        print(json.dumps({"ready": True}), flush=True)
        for _ in sys.stdin:
            path = online.again()
            bench.measure("path", path, CONNECTIONS)
            with online.world.client() as client:
                sent = client.post("/score", content=path.bodies[0], headers=headers)
            answer = sent.json()
            if sent.status_code != 200:
                raise SystemExit(f"a request was refused: {answer}")
            found = bench.figures["path"]
            print(json.dumps({**found, "degraded": answer["degraded"]}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, default=Path("build/bench/feature_path.json"))
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.seconds)
        return
    wrk.required()
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in NAMES}
    with tempfile.TemporaryDirectory() as root, ExitStack() as until:
        models = {"without": None, "with": folder_with_windows(Path(root) / "models")}
        paths = {n: until.enter_context(running(models[n], options.seconds)) for n in NAMES}
        for number in range(options.rounds):
            for name in NAMES if number % 2 == 0 else reversed(NAMES):
                found[name].append(paths[name].measured())
    pairs = list(zip(found["with"], found["without"], strict=True))
    cpu = {n: median(f["cpu_us_per_request"]["gateway"] for f in found[n]) for n in NAMES}
    report = {
        "rps": {n: median(f["rps"] for f in found[n]) for n in NAMES},
        "ratio of rates, median of pairs": round(median(w["rps"] / o["rps"] for w, o in pairs), 3),
        "gateway CPU us": cpu,
        "ratio by CPU": round(cpu["without"] / cpu["with"], 3),
        "degraded": {n: any(f["degraded"] for f in found[n]) for n in NAMES},
        "goal": 0.9,
        "runs": found,
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps({k: v for k, v in report.items() if k != "runs"}, indent=2))


if __name__ == "__main__":
    main()
