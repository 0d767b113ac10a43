"""Sessions of Spark for tests: configured by a file, as a user's are."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.train_libraries import needed

if TYPE_CHECKING:
    from mlplatform.learning.training_sets.spark_join import SparkJoin

SMALL = {"spark.sql.shuffle.partitions": "3", "spark.driver.memory": "600m"}
ROOT = Path(__file__).parents[2]


def configured(folder: Path, settings: Mapping[str, str]) -> Path:
    """A folder for `SPARK_CONF_DIR`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = (f"{name} {value}\n" for name, value in settings.items())
    (folder / "spark-defaults.conf").write_text("".join(lines))
    return folder


def python_path() -> str:
    """Where executors find the platform and the tests."""
    return os.pathsep.join([str(ROOT / "platform" / "src"), str(ROOT), str(ROOT / "tests")])


@contextmanager
def local_spark(folder: Path, bucket_rows: int) -> Iterator[SparkJoin]:
    """A join on two cores of this machine; its session serves all of them."""
    needed("pyspark")
    from mlplatform.learning.training_sets.spark_join import SparkJoin
    from mlplatform.learning.training_sets.spark_session import spark_session

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "SPARK_CONF_DIR", str(configured(folder, {"spark.master": "local[2]", **SMALL}))
        )
        patch.setenv("PYTHONPATH", python_path())
        with spark_session() as session:
            yield SparkJoin(lambda: nullcontext(session), bucket_rows)
