"""The memory of a loaded model, estimated from the sizes of its files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from mlplatform.model.weights.data_files import data_names
from mlplatform.runtime.units import MIB

BASE_BYTES: Final = 192 * MIB
"""Memory of a predictor without a model: its libraries and its buffers."""
OF_GRAPH: Final = 3
"""Copies of a graph in memory: for a while it is held as bytes, parsed, and ready to run."""
OF_DATA: Final = 1.05
"""Factor for data files, which are mapped as they are; sums of a row and rounding to pages come on
top."""


def needed_bytes(graph_bytes: int, data_bytes: Iterable[int]) -> int:
    """The memory of a process that serves a model on a CPU with all of its weights, in bytes.

    Args:
        graph_bytes: size of the ONNX file.
        data_bytes: sizes of the data files beside it.
    """
    return BASE_BYTES + OF_GRAPH * graph_bytes + round(OF_DATA * sum(data_bytes))


def needed_mib(graph_bytes: int, data_bytes: Iterable[int]) -> int:
    """The needed memory in MiB, rounded up."""
    return -(-needed_bytes(graph_bytes, data_bytes) // MIB)


def folder_needs_mib(folder: Path) -> int | None:
    """The needed memory in MiB for a bundle's folder, or for a model's folder with a ready ONNX
    file; None without one.

    Files of a model's folder that no graph names also count, so the result may be too high, never
    too low.
    """
    graph = folder / "model.onnx"
    if not graph.is_file():
        return None
    beside = data_names(f.name for f in folder.iterdir() if f.is_file())
    sizes = [(folder / name).stat().st_size for name in beside]
    return needed_mib(graph.stat().st_size, sizes)


def shortage(needed: int, present: int, *, what: str, whose: str) -> str:
    """A sentence that a model does not fit; empty if it fits.

    Args:
        needed: number of bytes that are needed.
        present: number of bytes that exist.
        what: the thing that is loaded, as the subject of the sentence.
        whose: the owner of the memory, for the sentence.
    """
    if needed <= present:
        return ""
    return f"{what} needs {-(-needed // MIB):,} MiB of memory; {whose} has {present // MIB:,} MiB"
