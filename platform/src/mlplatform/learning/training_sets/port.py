"""The join that makes training sets, whichever engine runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from mlplatform.model.features.views import FeatureView

if TYPE_CHECKING:  # a model's folder is read without pyarrow
    import pyarrow as pa

    from mlplatform.learning.features.offline import OfflineTable


class TrainingJoin(Protocol):
    """The features and windows of past requests, as each was answered with them.

    Every engine gives the same rows, bit for bit, so that a training set has the same digest.
    """

    def __call__(
        self, offline: OfflineTable, views: Sequence[FeatureView], events: pa.Table
    ) -> pa.Table:
        """The events, in their order, with every feature of the views and every window of the
        model.

        Args:
            events: rows with `event_time` and the views' join keys; other columns are kept. If the
                model has windows, they are requests of the offline table, with `request_id`.

        Raises:
            InputInvalid: a snapshot became available before its own time, or after a later one.
            ConfigInvalid: the engine or something it needs is not installed here.
            JobFailed: the engine ended without rows; the message has its error.
        """
        ...
