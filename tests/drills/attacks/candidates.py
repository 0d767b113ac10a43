"""Models from outside: files that read others, that grow, that never end."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import psutil
from onnx import TensorProto, helper, numpy_helper
from tests.drills.attacks.attack import CANDIDATES, Attack, AttackResult, Target

from mlplatform.model.folders import load_definition

MOST_MIB: Final = 2048
"""What a job may take for a candidate: the confined process's 1 GiB, and libraries in both."""
MOST_S: Final = 120.0
ADDRESS_SPACE: Final = 6 << 30
BROUGHT: Final = """
import pathlib, sys, types
from mlplatform.operations import wiring
from mlplatform.runtime.errors import PlatformError
from mlplatform.operations.actions import training
from mlplatform.model.bundle import load_bundle
platform = wiring.platform()
arm = platform.rollouts.routes("fraud").champion
champion = types.SimpleNamespace(bundle=load_bundle(platform.bundle("fraud", arm)))
prepared = training.TrainingInputs(None, champion, None)
try:
    training.bring(platform, "fraud", pathlib.Path(sys.argv[1]), "eve", prepared)
except PlatformError as error:
    sys.exit(f"refused: {type(error).__name__}: {error}")
"""
"""As the flow `validate` takes a candidate; the model is loaded before the training set is used."""


def attacks() -> tuple[Attack, ...]:
    return (
        Attack(
            "candidate, external data that reads the API key",
            "high",
            "an ONNX model whose initializer lies in secrets/api.key, below the working directory",
            "refused; the error's text holds no byte of the file",
            external("secrets/api.key"),
            CANDIDATES,
            by_operator=True,
        ),
        Attack(
            "candidate, external data by .. and by an absolute path",
            "high",
            "the same with ../home/secrets/api.key and with /proc/self/environ",
            "refused; the error's text holds no byte of the file",
            external("../home/secrets/api.key", "/proc/self/environ", "file:secrets/api.key"),
            CANDIDATES,
            by_operator=True,
        ),
        Attack(
            "candidate, 225 bytes that take gigabytes",
            "medium",
            "an ONNX model that makes a tensor of 700 million numbers from a shape",
            f"refused within {MOST_S:g} s, with less than {MOST_MIB} MiB",
            bomb,
            CANDIDATES,
            by_operator=True,
        ),
        Attack(
            "candidate, a loop without end",
            "medium",
            "an ONNX Loop of 2^62 turns: it would hold the only heavy turn",
            f"refused within {MOST_S:g} s",
            loop,
            CANDIDATES,
            by_operator=True,
        ),
        Attack(
            "candidate, a file of 64 GiB that is all holes",
            "medium",
            "validate with the path of a sparse file, which is looked at before its size is",
            "refused by its size, unread",
            sparse,
            CANDIDATES,
            by_operator=True,
        ),
        Attack(
            "candidate, a path to what is no model",
            "medium",
            "validate with secrets/api.key, /proc/self/environ, /dev/zero, a FIFO, a folder's link",
            "refused; the error's text holds no byte of the file",
            not_a_model,
            CANDIDATES,
            by_operator=True,
        ),
    )


def external(*places: str) -> Callable[[Target], AttackResult]:
    def act(target: Target) -> AttackResult:
        secret = (target.home / "secrets" / "api.key").read_bytes().strip()
        said, refused = [], True
        for place in places:
            done = _loaded(_external_model(place, len(secret) // 4 * 4), target)
            told = secret[:12] in done.output
            refused = refused and done.refused and not told
            said.append(f"{place}: {done.text[:90]!r}")
        return AttackResult(refused, "; ".join(said))

    return act


def bomb(target: Target) -> AttackResult:
    return _bounded(_bomb_model(), target)


def loop(target: Target) -> AttackResult:
    return _bounded(_loop_model(), target)


def sparse(target: Target) -> AttackResult:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        with file.open("wb") as opened:
            opened.truncate(64 << 30)
        done = _run([str(file)], target)
    return AttackResult(done.refused and done.seconds < MOST_S, f"{done.text[:120]!r}")


def not_a_model(target: Target) -> AttackResult:
    secret = (target.home / "secrets" / "api.key").read_bytes().strip()
    refused, said = True, []
    with tempfile.TemporaryDirectory() as folder:
        fifo, link = Path(folder) / "fifo", Path(folder) / "link.onnx"
        os.mkfifo(fifo)
        link.symlink_to(target.home / "secrets" / "api.key")
        for path in (
            target.home / "secrets" / "api.key",
            "/proc/self/environ",
            "/dev/zero",
            fifo,
            link,
        ):
            done = _run([str(path)], target)
            refused = refused and done.refused and secret[:12] not in done.output
            said.append(f"{done.text[:70]!r}")
    return AttackResult(refused, "; ".join(dict.fromkeys(said)))


class ProcessEnd:
    """How a process ended that looked at a candidate."""

    def __init__(self, status: int, output: bytes, seconds: float, peak_mib: float) -> None:
        self.status, self.output, self.seconds, self.peak_mib = status, output, seconds, peak_mib

    @property
    def refused(self) -> bool:
        """Whether by an error of the platform's own, which says why."""
        return b"refused: " in self.output

    @property
    def text(self) -> str:
        lines = [li for li in self.output.decode(errors="replace").splitlines() if li.strip()]
        return lines[-1] if lines else ""


def _bounded(content: bytes, target: Target) -> AttackResult:
    done = _loaded(content, target)
    held = done.refused and done.seconds < MOST_S and done.peak_mib < MOST_MIB
    said = f"{len(content)} bytes, {done.seconds:.0f} s, {done.peak_mib:.0f} MiB"
    return AttackResult(held, f"{said}: {done.text[:100]!r}")


def _loaded(content: bytes, target: Target) -> ProcessEnd:
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        file.write(content)
        file.flush()
        return _run([file.name], target)


def _run(arguments: list[str], target: Target) -> ProcessEnd:
    """In the home's folder, where jobs run. The address space is bounded, so that this machine
    lives where the platform sets no bound."""
    command = f"ulimit -v {ADDRESS_SPACE >> 10}; exec {shlex.join([sys.executable, '-c', BROUGHT])}"
    began_s = time.monotonic()
    process = subprocess.Popen(
        ["/bin/bash", "-c", f'{command} "$@"', "load", *arguments],
        cwd=target.home,
        env={**os.environ, "MLPLATFORM_HOME": str(target.home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    peak = Peak(process.pid)
    try:
        output = process.communicate(timeout=MOST_S)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output = process.communicate()[0]
    return ProcessEnd(process.returncode, output, time.monotonic() - began_s, peak.end())


class Peak(threading.Thread):
    """The most memory that a process and its children had at any look, in MiB."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid, self._most, self._stopping = pid, 0, threading.Event()
        self.start()

    def run(self) -> None:
        while not self._stopping.wait(0.05):
            with contextlib.suppress(psutil.Error):
                root = psutil.Process(self._pid)
                tree = [root, *root.children(recursive=True)]
                self._most = max(self._most, sum(p.memory_info().rss for p in tree))

    def end(self) -> float:
        self._stopping.set()
        self.join()
        return self._most / (1 << 20)


def _external_model(place: str, size: int) -> bytes:
    width = len(load_definition("fraud").inputs)
    stolen = TensorProto(name="stolen", data_type=TensorProto.FLOAT, dims=[size // 4])
    stolen.data_location = TensorProto.EXTERNAL
    for key, value in (("location", place), ("offset", "0"), ("length", str(size))):
        stolen.external_data.add(key=key, value=value)
    nodes = [
        helper.make_node("ReduceSum", ["stolen"], ["one"], keepdims=0),
        helper.make_node("ReduceMean", ["inputs"], ["rows"], axes=[1], keepdims=0),
        helper.make_node("Add", ["rows", "one"], ["scores"]),
    ]
    graph = helper.make_graph(nodes, "external", [_rows(width)], [_scores()], [stolen])
    return _model(graph)


def _bomb_model() -> bytes:
    """ConstantOfShape of 700 million numbers, added up."""
    width = len(load_definition("fraud").inputs)
    shape = numpy_helper.from_array(np.array([700_000_000], np.int64), "s")
    nodes = [
        helper.make_node("ConstantOfShape", ["s"], ["b"]),
        helper.make_node("ReduceSum", ["b"], ["one"], keepdims=0),
        helper.make_node("ReduceMean", ["inputs"], ["rows"], axes=[1], keepdims=0),
        helper.make_node("Add", ["rows", "one"], ["scores"]),
    ]
    return _model(helper.make_graph(nodes, "b", [_rows(width)], [_scores()], [shape]))


def _loop_model() -> bytes:
    width = len(load_definition("fraud").inputs)
    turns = numpy_helper.from_array(np.array(1 << 62, np.int64), "turns")
    yes = numpy_helper.from_array(np.array(True), "yes")
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["goes_on"]),
            helper.make_node("Add", ["carried", "carried"], ["carried_on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, [None]),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried_on", TensorProto.FLOAT, [None]),
        ],
    )
    nodes = [
        helper.make_node("ReduceMean", ["inputs"], ["rows"], axes=[1], keepdims=0),
        helper.make_node("Loop", ["turns", "yes", "rows"], ["scores"], body=body),
    ]
    return _model(helper.make_graph(nodes, "loop", [_rows(width)], [_scores()], [turns, yes]))


def _rows(width: int) -> object:
    return helper.make_tensor_value_info("inputs", TensorProto.FLOAT, [None, width])


def _scores() -> object:
    return helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None])


def _model(graph: object) -> bytes:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content
