"""What MLflow needs beside a bundle to load it as a model: its description, as data.

Source: MLflow 3, model storage format (`MLmodel`) and `mlflow.types.schema`.
"""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Final

from mlplatform.model.bundle import MODEL_FILE, Bundle
from mlplatform.model.definition import WORDED
from mlplatform.model.tensors.categories import word_of

MLMODEL: Final = "MLmodel"
REQUIREMENTS: Final = "requirements.txt"
EXAMPLE: Final = "input_example.json"
FILES: Final = frozenset((MLMODEL, REQUIREMENTS, EXAMPLE))
"""They lie beside a bundle's files in the registry and are no part of it."""
LOADER: Final = "mlplatform.learning.registry.pyfunc"
"""Kept in every version that was registered: this module may not move."""
RAW_SCORE: Final = "raw_score"
SCORE: Final = "score"
DECISION: Final = "decision"
NEEDS: Final = ("numpy", "onnxruntime", "pandas")


def columns(bundle: Bundle) -> dict[str, str]:
    """Input → MLflow's type of its column, in the model's order: a category is its word, and all
    tokens of a text are one column, the text."""
    return {i.declared: "string" if i.kind in WORDED else "double" for i in bundle.inputs}


def model_description(
    bundle: Bundle, *, run_id: str, artifact: str, made_ms: int
) -> dict[str, Any]:
    """The content of `MLmodel`; JSON, which is YAML too.

    Args:
        artifact: folder of the bundle below the run's artifacts.
        made_ms: when the run began, epoch milliseconds.
    """
    taken = [
        {"type": kind, "name": name, "required": True} for name, kind in columns(bundle).items()
    ]
    outputs = {RAW_SCORE: "double", SCORE: "double", DECISION: "string"}
    returned = [{"type": kind, "name": name, "required": True} for name, kind in outputs.items()]
    made = datetime.fromtimestamp(made_ms / 1000, UTC)
    return {
        "artifact_path": artifact,
        "flavors": {
            "python_function": {
                "loader_module": LOADER,
                "python_version": platform.python_version(),
                "env": {"virtualenv": REQUIREMENTS},
            },
            "onnx": {
                "data": MODEL_FILE,
                "onnx_version": version("onnx"),
                "providers": ["CPUExecutionProvider"],
            },
        },
        "metadata": {"model": bundle.model, "bundle": bundle.digest},
        "mlflow_version": version("mlflow"),
        "run_id": run_id,
        "saved_input_example_info": {
            "artifact_path": EXAMPLE,
            "type": "dataframe",
            "pandas_orient": "split",
        },
        "signature": {
            "inputs": json.dumps(taken),
            "outputs": json.dumps(returned),
            "params": None,
        },
        "utc_time_created": made.strftime("%Y-%m-%d %H:%M:%S.%f"),
    }


def model_files(bundle: Bundle, described: dict[str, Any]) -> dict[str, bytes]:
    """File name → content of `FILES`."""
    needed = [f"mlplatform=={version('mlplatform')}"]
    needed += [f"{name}=={version(name)}" for name in NEEDS]
    return {
        MLMODEL: json.dumps(described, indent=1).encode(),
        REQUIREMENTS: ("\n".join(needed) + "\n").encode(),
        EXAMPLE: json.dumps(_example(bundle)).encode(),
    }


def _example(bundle: Bundle) -> dict[str, Any]:
    """Two rows that no customer has: each input's usual value, and nothing at all."""
    names, reference = list(columns(bundle)), bundle.reference
    usual = [
        word_of(reference.get(name), bundle.vocabularies[name])
        if name in bundle.vocabularies
        else reference[name]
        for name in names
    ]
    return {"columns": names, "data": [usual, [None] * len(usual)]}
