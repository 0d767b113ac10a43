"""ONNX Runtime's execution providers, by the names of model.yaml."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
from pathlib import Path
from typing import Any, Final, Literal

import onnxruntime

from mlplatform.model.bundle import AS_ONNX, AS_THEY_ARE, NO_OTHER_FILE
from mlplatform.runtime.errors import Refused
from mlplatform.runtime.processes.gpus import DEVICES, has_gpu

Hardware = Literal["cpu", "cuda", "tensorrt"]
Accelerator = Literal["gpu"] | Hardware
"""The hardware that model.yaml asks for; `gpu` is a GPU where there is one, else the processor."""

_PROVIDERS: Final[dict[Hardware, tuple[str, ...]]] = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider",),
    # TensorRT passes operators without a kernel of its own to CUDA, on the same device.
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider"),
}


log = logging.getLogger(__name__)


def hardware(accelerator: Accelerator, devices: Path = DEVICES) -> Hardware:
    """The hardware that a model runs on here, which the log says where it is not what was asked."""
    if accelerator != "gpu":
        return accelerator
    lacking = "" if has_gpu(devices) else "this machine has no GPU of NVIDIA"
    if not (problem := lacking or accelerator_problem("cuda")):
        return "cuda"
    log.warning("accelerator gpu: the model runs on the processor, because %s", problem)
    return "cpu"


def accelerator_problem(accelerator: Hardware) -> str | None:
    """Why this runtime can't use the accelerator; None if it can."""
    available = onnxruntime.get_available_providers()
    lacking = [name for name in _PROVIDERS[accelerator] if name not in available]
    if not lacking:
        return None
    return f"{accelerator} needs {', '.join(lacking)}; this ONNX Runtime has {', '.join(available)}"


def session(
    onnx_path: Path,
    options: onnxruntime.SessionOptions,
    accelerator: Hardware,
    has_data: bool = False,
) -> onnxruntime.InferenceSession:
    """A session that runs the whole model on the accelerator, and no part of it elsewhere.

    ONNX Runtime would warn and continue on the CPU, for a provider that does not start and for
    operators that it lacks. The latency would then be another one.

    Args:
        has_data: whether its weights are in data files beside it, which are mapped.

    Raises:
        Refused: the runtime lacks the provider, or the provider does not start; the message lists
            the available ones.
        RuntimeFailure: the model can't be loaded, or has operators that the provider lacks.
    """
    if (reason := accelerator_problem(accelerator)) is not None:
        raise Refused(reason)
    wanted = _PROVIDERS[accelerator]
    options.add_session_config_entry(*(AS_THEY_ARE if has_data else NO_OTHER_FILE))
    options.add_session_config_entry(*AS_ONNX)
    if accelerator != "cpu":
        _load_libraries()
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    made: Any = onnxruntime.InferenceSession(str(onnx_path), options, providers=list(wanted))
    made.disable_fallback()
    if list(made.get_providers()[: len(wanted)]) != list(wanted):
        raise Refused(
            f"{accelerator} does not start on this machine: ONNX Runtime gave "
            f"{', '.join(made.get_providers())}"
        )
    return made


@functools.cache
def _load_libraries() -> None:
    """Load CUDA's libraries from the packages of `requirements/serve-gpu.txt`, where no loader
    looks for them; ONNX Runtime prints what it misses."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        onnxruntime.preload_dlls()
    for line in filter(None, printed.getvalue().splitlines()):
        log.warning("CUDA: %s", line)
