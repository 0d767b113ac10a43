"""The setting `MLPLATFORM_TRAINING_ENGINE` and the join that it chooses."""

from __future__ import annotations

import sys

import pytest

from mlplatform.learning.training_sets import join
from mlplatform.operations.compute.wiring import training_join
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.errors import ConfigInvalid


def test_duckdb_joins_training_sets_unless_a_setting_says_otherwise() -> None:
    assert load({}).training_engine == "duckdb"
    assert load({"MLPLATFORM_TRAINING_ENGINE": "spark"}).training_engine == "spark"
    assert training_join("duckdb") is join.training_join


def test_another_engine_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(
        ConfigInvalid, match=r"MLPLATFORM_TRAINING_ENGINE is 'ray'.*duckdb or spark"
    ):
        load({"MLPLATFORM_TRAINING_ENGINE": "ray"})


def test_spark_without_its_lock_is_refused_with_the_way_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "mlplatform.learning.training_sets.spark_join", raising=False)
    for name in ("pyspark", "pyspark.errors", "py4j", "py4j.protocol"):
        monkeypatch.setitem(sys.modules, name, None)
    said = r"MLPLATFORM_TRAINING_ENGINE is 'py(spark|4j)'.*`make train-spark`.*docs/training\.md"
    with pytest.raises(ConfigInvalid, match=said):
        training_join("spark")
