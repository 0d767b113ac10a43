"""Several fitted models as one, in one ONNX graph: their mean, or two stages."""

from __future__ import annotations

from collections.abc import Sequence

from mlplatform.authoring import Dataset, Fitted
from mlplatform.learning.onnx.compose import MeanModel, StackedModel, mean, stacked, stage_scores

__all__ = ["MeanModel", "StackedModel", "mean", "stacked", "stage_dataset"]


def stage_dataset(first: Sequence[Fitted], dataset: Dataset) -> Dataset:
    """The rows as a second stage learns from them: a column for each model of the first stage, or
    one for each class. They are the scores of the ONNX forms, so the second stage learns from what
    it is given in service, to the bit.

    Args:
        first: models that were fitted to other rows than these.

    Raises:
        ConfigInvalid: an ONNX form differs from its fitted model by more than 1e-5.
    """
    x = stage_scores(first, dataset.x)
    return dataset.of_columns(x, [f"stage.{number}" for number in range(x.shape[1])])
