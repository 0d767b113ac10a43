"""Fitting a model on the requests of an order: the job of a retrain, in its pool or pod."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mlplatform.learning.training import handover, retrain
from mlplatform.learning.training.folder import load_folder
from mlplatform.runtime.code_version import code_version
from mlplatform.runtime.errors import Refused

STUDIES: Final = "studies"
"""Folder beside the inputs of a fit with the trials of its search, which its next job continues."""


def fit(shared: Path, requests: Path, output: Path, model: str) -> Mapping[str, Any]:
    """Write the candidate's bundle below `output`, under its digest; returns a summary of the fit.

    Args:
        shared: folder with `order.json` and, if the order names recent requests, `recent.parquet`.
        requests: Parquet file with the training set.

    Raises:
        Refused: the order is for another model, or it was given by another version of the code or
            of the model's folder. The new version would then be recorded with code that did not
            make it.
        Corrupt: the rows are not those that the order names.
        InputInvalid: there is too little data to learn, to calibrate or to predict a band.
    """
    order = handover.read_order(shared)
    if order.model != model:
        raise Refused(f"an order to fit {order.model} came to a job of {model}")
    if order.code != (here := code_version()):
        raise Refused(
            f"this job runs mlplatform {here}, and {order.code} ordered the fit: give"
            " jobs the image"
            " of flow runs, or start the platform again"
        )
    folder = load_folder(model)
    if order.folder != folder.digest:
        raise Refused(
            f"the folder of {model} has content {folder.digest[:8]} here, and the fit was ordered"
            f" for content {order.folder[:8]}: it has changed since, or jobs read another copy."
            " Start the retrain again"
        )
    dataset, recent = handover.read(order, shared, requests)
    made = retrain.fit(
        folder,
        dataset,
        bundles=output,
        recent=recent,
        seed=order.seed,
        studies=shared.parent / STUDIES,
    )
    return handover.result(order, made)
