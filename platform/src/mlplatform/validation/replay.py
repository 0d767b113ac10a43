"""What a bundle would have decided about recent payments, and so what to expect of it live."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlplatform.errors import InputInvalid
from mlplatform.registry.bundle import AlertBand, Bundle
from mlplatform.training.dataset import DAY_MS, Matrix, share_of_units
from mlplatform.training.onnx_file import OnnxFile
from mlplatform.validation.statistics import Band, share_band

if TYPE_CHECKING:
    import pyarrow as pa

    from mlplatform.decisions.log import DecisionLog
    from mlplatform.features.inputs import InputPlan

DAYS = 7
MAXIMUM_ROWS = 15_000
LOG_COLUMNS = ("decision_id", "event_ms", "unit", "payload")


@dataclass(frozen=True, slots=True)
class Recent:
    """Recent payments with their inputs as served, and where they are from."""

    matrix: Matrix
    source: str

    def share(self, share: float) -> Recent:
        """The payments of a share of the customers."""
        if share >= 1:
            return self
        kept = self.matrix.rows(share_of_units(self.matrix.unit, share))
        return Recent(kept, f"{self.source}, {share:g} of the customers")


class _Payload(msgspec.Struct):
    request: dict[str, msgspec.Raw]
    features: dict[str, float | None]


def recent_from_log(
    log: DecisionLog, plan: InputPlan, *, model: str, to_ms: int, days: int = DAYS
) -> Recent | None:
    """Logged decisions of the latest whole days; None where there are none.

    Of more than about MAXIMUM_ROWS a part of the customers is taken, whole. Inputs are filled from
    the features as served, never looked up again.
    """
    import pyarrow as pa

    from mlplatform.decisions.log import Span

    end = to_ms // DAY_MS * DAY_MS
    span = Span(model, ("decision",), from_ms=end - days * DAY_MS, to_ms=end, columns=LOG_COLUMNS)
    table = log.read(span).sort_by([("event_ms", "ascending"), ("decision_id", "ascending")])
    if table.num_rows == 0:
        return None
    chosen = share_of_units(_units(table), MAXIMUM_ROWS / table.num_rows)
    kept = table.filter(pa.array(chosen))
    return Recent(
        matrix_from_log(kept, plan), f"{kept.num_rows} of {table.num_rows} logged decisions"
    )


def matrix_from_log(table: pa.Table, plan: InputPlan) -> Matrix:
    """Inputs of logged decisions from what their payloads hold.

    Raises:
        InputInvalid: a payload without request or features.
    """
    decoder = msgspec.json.Decoder(_Payload)
    event_ms = table.column("event_ms").to_numpy()
    x = np.empty((table.num_rows, len(plan.names)), np.float32)
    for row, text in enumerate(table.column("payload").to_pylist()):
        try:
            payload = decoder.decode(text or "")
        except msgspec.DecodeError as error:
            raise InputInvalid("decision log", row, str(error)) from error
        request = {name: msgspec.json.decode(raw) for name, raw in payload.request.items()}
        x[row] = plan.row(request, int(event_ms[row]), payload.features)
    return Matrix(plan.names, x, event_ms, _units(table))


def strengths(bundle: Bundle, model: OnnxFile, rows: Matrix) -> NDArray[np.int8]:
    """The bundle's decision for each row: 0 approve, 1 review, 2 decline."""
    raw = model.scores(rows.columns(bundle.input_names))
    return bundle.decide_many(bundle.calibrate_many(raw)).astype(np.int8)


def alert_shares(decisions: NDArray[np.int8], rows: Matrix) -> Band | None:
    """Share of alerts among decisions, with the interval for a coming day."""
    return share_band(decisions > 0, rows.unit, rows.event_ms // DAY_MS)


def predicted_band(decisions: NDArray[np.int8], recent: Recent, *, factor: float) -> AlertBand:
    """Where the share of alerts is expected to stay live.

    The interval for a coming day, then its low end divided and its high end multiplied by
    `factor`: the days ahead differ from the days replayed by more than those differ among each
    other.

    Raises:
        InputInvalid: fewer than two days or customers to replay.
    """
    band = alert_shares(decisions, recent.matrix)
    if band is None:
        raise InputInvalid(recent.source, None, "a replay needs two days and two customers")
    how = (
        f"replay of {band.rows} payments of {band.units} customers on {band.days} days "
        f"({recent.source}): {band.low:.4f} to {band.high:.4f} for a coming day, "
        f"widened by a factor of {factor:g}"
    )
    return AlertBand(
        low=band.low / factor, high=min(1.0, band.high * factor), share=band.share, how=how
    )


def flip_share(candidate: NDArray[np.int8], champion: NDArray[np.int8]) -> float:
    """Share of payments that the two decide differently; NaN without payments."""
    return float(np.mean(candidate != champion)) if len(candidate) else float("nan")


def _units(table: pa.Table) -> NDArray[np.int64]:
    return np.array([u or 0 for u in table.column("unit").to_pylist()], np.int64)
