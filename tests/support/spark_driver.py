"""A retrain's join as a process of its own, which says how far Spark is.

    python -m tests.support.spark_driver OFFLINE RESULT

It prints `<done> of <tasks>` for each stage that runs, and writes the rows to RESULT.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.training_sets.spark_join import SparkJoin
from mlplatform.learning.training_sets.spark_session import spark_session
from mlplatform.model.features.views import load_views
from mlplatform.model.folders import model_folder
from support.windows_world import definition_with_windows

BUCKET_ROWS = 200
VIEWS = load_views(model_folder("fraud"))


def offline_at(folder: Path) -> OfflineTable:
    return OfflineTable(folder, definition_with_windows())


def requests_of(offline: OfflineTable) -> pa.Table:
    return offline.requests().order("event_time, request_id").to_arrow_table()


@contextmanager
def observed_session() -> Iterator[object]:
    with spark_session() as session:
        over = threading.Event()
        tracker = session.sparkContext.statusTracker()

        def observe() -> None:
            while not over.wait(0.05):
                for stage in map(tracker.getStageInfo, tracker.getActiveStageIds()):
                    if stage is not None:
                        print(f"{stage.numCompletedTasks} of {stage.numTasks}", flush=True)

        observer = threading.Thread(target=observe)
        observer.start()
        try:
            yield session
        finally:
            over.set()
            observer.join()


def main(folder: Path, result: Path) -> None:
    offline = offline_at(folder)
    found = SparkJoin(observed_session, BUCKET_ROWS)(offline, VIEWS, requests_of(offline))
    pq.write_table(found, result)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
