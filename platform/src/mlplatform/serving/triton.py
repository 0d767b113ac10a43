"""A bundle's model for Triton: the configuration that its model.yaml implies, and its repository.

Triton takes what this platform's own predictor does for CPU bundles: batches across requests,
instances, warm-up. It knows nothing of tokens and golden rows; a bundle is tested before.
"""

from __future__ import annotations

import enum
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mlplatform.models.definition import ModelDefinition
from mlplatform.registry.bundle import INPUT_NAME, MODEL_FILE, OUTPUT_NAME
from mlplatform.serving.placement import gpu_of

CONFIG_FILE: Final = "config.pbtxt"
VERSION: Final = 1
"""Of the model within its repository. A service is one version for ever; its name says which."""

Message = Mapping[str, "Value"]
Value = str | bool | int | enum.Enum | Message | list[Any]


class DataType(enum.Enum):
    TYPE_FP32 = enum.auto()


class Kind(enum.Enum):
    KIND_CPU = enum.auto()
    KIND_GPU = enum.auto()


class Late(enum.Enum):
    """What becomes of a request that waited too long."""

    REJECT = enum.auto()


def config(definition: ModelDefinition, service: str) -> str:
    """The model's `config.pbtxt`, protobuf text of `inference.ModelConfig`.

    Args:
        service: its name, by which requests ask for it.

    Source: NVIDIA Triton Inference Server, model_config.proto.
    """
    width, rows = len(definition.inputs), definition.serving.batch_rows
    return text(
        {
            "name": service,
            "backend": "onnxruntime",
            "default_model_filename": MODEL_FILE,
            "max_batch_size": rows,
            "version_policy": {"specific": {"versions": [VERSION]}},
            "input": [{"name": INPUT_NAME, "data_type": DataType.TYPE_FP32, "dims": [width]}],
            # One number a row: the model's own output has no second dimension, and Triton's must.
            "output": [
                {
                    "name": OUTPUT_NAME,
                    "data_type": DataType.TYPE_FP32,
                    "dims": [1],
                    "reshape": {"shape": []},
                }
            ],
            "instance_group": [_instances(definition)],
            "dynamic_batching": {
                "max_queue_delay_microseconds": definition.serving.batch_delay_us,
                "default_queue_policy": {
                    "timeout_action": Late.REJECT,
                    "default_timeout_microseconds": round(definition.deadline_ms * 1000),
                    "max_queue_size": definition.serving.queue_requests,
                },
            },
            "model_warmup": [_warm_up(count, width) for count in sorted({1, rows})],
            **_accelerators(definition),
        }
    )


def _instances(definition: ModelDefinition) -> Message:
    """One on each GPU that the pod holds: within one, batches fill it better than instances."""
    kind = Kind.KIND_CPU if gpu_of(definition) is None else Kind.KIND_GPU
    return {"count": 1, "kind": kind}


def _warm_up(rows: int, width: int) -> Message:
    """The smallest batch and the largest: between them the provider makes no new plan."""
    row = {"data_type": DataType.TYPE_FP32, "dims": [width], "zero_data": True}
    return {
        "name": f"{rows} rows",
        "batch_size": rows,
        "inputs": [{"key": INPUT_NAME, "value": row}],
    }


def _accelerators(definition: ModelDefinition) -> Message:
    if definition.accelerator != "tensorrt":
        return {}
    # Half precision would move scores across the thresholds that were validated in single.
    precision = {"key": "precision_mode", "value": "FP32"}
    provider = {"name": "tensorrt", "parameters": [precision]}
    return {
        "optimization": {"execution_accelerators": {"gpu_execution_accelerator": [provider]}},
    }


def text(message: Message, indent: str = "") -> str:
    """Protobuf text: a list is a repeated field, a mapping a message, an enum its name."""
    lines = []
    for name, value in message.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, Mapping):
                lines.append(f"{indent}{name} {{\n{text(one, indent + '  ')}{indent}}}\n")
            else:
                lines.append(f"{indent}{name}: {_scalar(one)}\n")
    return "".join(lines)


def _scalar(value: str | bool | int | enum.Enum) -> str:
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def lay_out(definition: ModelDefinition, service: str, bundle: Path, into: Path) -> Path:
    """A model repository with this one model, for a runtime that mounts it at /mnt/models.

    Args:
        bundle: its folder, checked before.
        into: where repositories lie; one that is there already is left as it is.

    Returns:
        The repository's folder, `into`/`service`, which has a folder `service` of its own.
    """
    final = into / service
    if final.is_dir():
        return final
    into.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{service}-", dir=into))
    try:
        model = draft / service
        (model / str(VERSION)).mkdir(parents=True)
        (model / CONFIG_FILE).write_text(config(definition, service))
        shutil.copyfile(bundle / MODEL_FILE, model / str(VERSION) / MODEL_FILE)
        os.rename(draft, final)
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)
        # Somebody else was faster; what they laid out is the same.
        if not final.is_dir():
            raise
    return final
