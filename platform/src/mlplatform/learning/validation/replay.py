"""The decisions of a bundle about recent requests, and so what to expect of it in service."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.onnx.onnx_file import ScoringSession
from mlplatform.learning.training_sets.dataset import Matrix, share_of_units
from mlplatform.learning.validation.gate_report import VolumeReplay
from mlplatform.learning.validation.replay_result import ReplayResult
from mlplatform.learning.validation.statistics import share_band
from mlplatform.model.bundle import AlertBand, Bundle
from mlplatform.model.policies.decision_scale import VolumeLimit
from mlplatform.model.policies.volume import DecisionVolume
from mlplatform.model.tensors.categories import Vocabularies
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.figures import percent
from mlplatform.runtime.units import DAY_MS


@dataclass(frozen=True, slots=True)
class Recent:
    """Recent requests with the inputs that serving read, and their source."""

    matrix: Matrix
    source: str

    def by(self, vocabularies: Vocabularies) -> Recent:
        """The requests by other vocabularies, as by `Matrix.by`."""
        return replace(self, matrix=self.matrix.by(vocabularies))

    def share(self, share: float) -> Recent:
        """The requests of a share of the customers."""
        if share >= 1:
            return self
        kept = self.matrix.rows(share_of_units(self.matrix.unit, share))
        return Recent(kept, f"{self.source}, {percent(share)} of the customers")


def replay(bundle: Bundle, model: ScoringSession, rows: Matrix) -> ReplayResult:
    """The answers of the bundle on the rows."""
    x = rows.of(bundle)
    scores = bundle.calibrate_many(model.scores(x))
    return ReplayResult(bundle.scale, scores, bundle.decide_many(scores, x).astype(np.int8))


def replay_volume(limit: VolumeLimit, result: ReplayResult, rows: Matrix) -> VolumeReplay:
    """The effect of a gateway's volume limit on the replayed decisions, in event time.

    An hour in which few people pay, and those few get alerts, can reach a limit that whole days
    keep to. Such a bundle would be stopped each night although nothing is wrong.
    """
    customers, bucket = np.unique(rows.unit, return_inverse=True)
    volume = DecisionVolume(limit, result.scale, len(customers))
    names = result.scale.names
    for row in np.argsort(rows.event_ms, kind="stable").tolist():
        at_ms = int(rows.event_ms[row])
        if volume.count(int(bucket[row]), names[result.decisions[row]], at_ms / 1000):
            return VolumeReplay(volume.stopped, at_ms)
    return VolumeReplay()


def predicted_band(alerts: NDArray[np.bool_], recent: Recent, *, factor: float) -> AlertBand:
    """The band in which the share of alerts is expected in service.

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
        f"replay of {band.rows:,} requests of {band.units:,} customers on {band.days:,} days "
        f"({recent.source}): alerts on {percent(band.low)} to {percent(band.high)} of a coming "
        f"day's requests, widened by a factor of {factor:g}"
    )
    return AlertBand(
        low=band.low / factor, high=min(1.0, band.high * factor), share=band.share, how=how
    )


def flip_share(changed: NDArray[np.bool_]) -> float:
    """The share of requests that two bundles decide differently; NaN without requests."""
    return float(np.mean(changed)) if len(changed) else float("nan")
