"""What a bundle would have decided about recent requests, and so what to expect of it live."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.onnx.onnx_file import Scoring
from mlplatform.learning.training_sets.dataset import DAY_MS, Matrix, share_of_units
from mlplatform.learning.validation.statistics import share_band
from mlplatform.model.bundle import AlertBand, Bundle
from mlplatform.model.tensors.categories import Vocabularies
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.figures import percent


@dataclass(frozen=True, slots=True)
class Recent:
    """Recent requests with the inputs that serving read, and where they are from."""

    matrix: Matrix
    source: str

    def by(self, vocabularies: Vocabularies) -> Recent:
        """As `Matrix.by`."""
        return replace(self, matrix=self.matrix.by(vocabularies))

    def share(self, share: float) -> Recent:
        """The requests of a share of the customers."""
        if share >= 1:
            return self
        kept = self.matrix.rows(share_of_units(self.matrix.unit, share))
        return Recent(kept, f"{self.source}, {percent(share)} of the customers")


def strengths(bundle: Bundle, model: Scoring, rows: Matrix) -> NDArray[np.int8]:
    """The bundle's decision for each row, by its place among `scale.names`."""
    raw = model.scores(rows.of(bundle))
    return bundle.decide_many(bundle.calibrate_many(raw)).astype(np.int8)


def predicted_band(alerts: NDArray[np.bool_], recent: Recent, *, factor: float) -> AlertBand:
    """Where the share of alerts is expected to stay live.

    The interval for a coming day, then its low end divided and its high end multiplied by
    `factor`: the days ahead differ from the days replayed by more than those differ among each
    other.

    Raises:
        InputInvalid: fewer than two days or customers to replay.
    """
    rows = recent.matrix
    band = share_band(alerts, rows.unit, rows.event_ms // DAY_MS)
    if band is None:
        raise InputInvalid(recent.source, None, "a replay needs two days and two customers")
    how = (
        f"replay of {band.rows} requests of {band.units} customers on {band.days} days "
        f"({recent.source}): {band.low:.4f} to {band.high:.4f} for a coming day, "
        f"widened by a factor of {factor:g}"
    )
    return AlertBand(
        low=band.low / factor, high=min(1.0, band.high * factor), share=band.share, how=how
    )


def flip_share(candidate: NDArray[np.int8], champion: NDArray[np.int8]) -> float:
    """Share of requests that the two decide differently; NaN without requests."""
    return float(np.mean(candidate != champion)) if len(candidate) else float("nan")
