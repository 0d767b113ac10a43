"""Snapshots of features, as the platform's job leaves them in the online store."""

from __future__ import annotations

import pyarrow as pa

from mlplatform.learning.features.online import OnlineFeatures
from mlplatform.model.features.views import FeatureView, load_views
from mlplatform.model.folders import model_folder

TIME = pa.timestamp("us")
NOBODY = 0
"""The entity of a snapshot that is there for its time alone."""


def snapshot_row(view: FeatureView, key: int, at_ms: int, value: float = 5.0) -> pa.Table:
    """One entity's row, all its features of that value."""
    at = pa.array([at_ms * 1000], TIME)
    features = {name: pa.array([value]) for name in view.feature_names}
    return pa.table(
        {view.join_key: pa.array([key]), "event_timestamp": at, "created": at} | features
    )


def write_snapshots(online: OnlineFeatures, model: str, at_ms: int) -> None:
    """Of each view, which then is up to date: entities without a row are new ones."""
    for view in load_views(model_folder(model)):
        online.write(view.name, snapshot_row(view, NOBODY, at_ms))
