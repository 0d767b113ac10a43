"""Model inputs: the row that serving fills and the matrix that training fills are the same."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplatform.model.definition import InputSpec
from mlplatform.model.features import transforms
from mlplatform.model.features.views import load_views
from mlplatform.model.folders import load_definition, model_folder
from mlplatform.model.inputs import InputPlan
from mlplatform.runtime.errors import ConfigInvalid

FRAUD = load_definition("fraud")
VIEWS = load_views(model_folder("fraud"))
PLAN = InputPlan(FRAUD, VIEWS)

times = st.integers(-(10**12), 4 * 10**12)
values = st.none() | st.floats(allow_nan=True, allow_infinity=True)


@settings(deadline=None)
@given(st.lists(times, min_size=1))
@pytest.mark.parametrize("kind", sorted(transforms.TIME_SCALAR))
def test_a_transform_of_time_gives_the_same_alone_and_in_a_column(
    kind: str, events: list[int]
) -> None:
    alone = [transforms.TIME_SCALAR[kind](e) for e in events]
    column = transforms.TIME_VECTOR[kind](np.array(events, dtype=np.int64))
    np.testing.assert_array_equal(alone, column)


@settings(deadline=None)
@given(st.lists(st.tuples(values, values), min_size=1))
def test_a_ratio_gives_the_same_alone_and_in_a_column(pairs: list[tuple[object, object]]) -> None:
    numerators = [transforms.number(n) for n, _ in pairs]
    denominators = [transforms.number(d) for _, d in pairs]
    alone = [transforms.ratio(n, d) for n, d in zip(numerators, denominators, strict=True)]
    column = transforms.ratios(np.array(numerators), np.array(denominators))
    np.testing.assert_array_equal(alone, column)
    assert not np.isinf(column).any()


@settings(deadline=None)
@given(
    st.integers(0, 4 * 10**12),
    st.none() | st.floats(0, 1e6),
    st.dictionaries(
        st.sampled_from([f for v in VIEWS for f in v.feature_names]), st.none() | st.floats(0, 1e6)
    ),
)
def test_a_row_equals_its_line_of_the_matrix(
    event_ms: int, amount: float | None, features: dict[str, float | None]
) -> None:
    row = PLAN.row({"amount": amount}, event_ms, features)
    columns = {f: pa.array([features.get(f)], pa.float64()) for v in VIEWS for f in v.feature_names}
    event_time = pa.array([event_ms * 1000], pa.timestamp("us"))
    table = pa.table(
        {"event_time": event_time, "amount": pa.array([amount], pa.float64()), **columns}
    )
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(np.array([row], dtype=np.float32), PLAN.matrix(table))


def test_inputs_stand_in_the_order_of_the_model_yaml() -> None:
    assert tuple(i.name for i in FRAUD.inputs) == PLAN.names
    assert PLAN.features == tuple(f for v in VIEWS for f in v.feature_names)


def test_an_unknown_entity_has_missing_features_and_a_known_request() -> None:
    row = dict(zip(PLAN.names, PLAN.row({"amount": 12.5}, 0, {}), strict=True))
    assert row["amount"] == 12.5
    assert math.isnan(row["customer_count_1d"])
    assert math.isnan(row["amount_to_mean_30d"])


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        (InputSpec(name="nobody", kind="view", of="customer_stats"), "nobody: of"),
        (InputSpec(name="customer_count_1d", kind="view", of="terminal_stats"), "count_1d: of"),
        (InputSpec(name="card", kind="field", of="card"), "card: of"),
        (InputSpec(name="who", kind="field", of="customer_id"), "who: of"),
        (InputSpec(name="share", kind="ratio", of="amount", to="nothing"), "share: to"),
    ],
    ids=[
        "a feature that no view has",
        "a feature of another view",
        "a field that requests do not have",
        "a pseudonym as a number",
        "a ratio to nothing",
    ],
)
def test_an_input_from_nowhere_is_refused_by_its_name(spec: InputSpec, wanted: str) -> None:
    with pytest.raises(ConfigInvalid, match=wanted):
        InputPlan(FRAUD, VIEWS, [spec])


def test_a_default_stands_for_a_missing_feature_in_training_and_serving_alike() -> None:
    views = load_views(model_folder("fraud"))
    plan = InputPlan(load_definition("fraud"), views, defaults={"customer_mean_30d": 2.0})
    request = {"customer_id": 1, "terminal_id": 2, "amount": 8.0}
    served = plan.row(request, 0, {})
    columns = {name: pa.array([None], pa.float64()) for v in views for name in v.feature_names}
    times = pa.array([0], pa.timestamp("ms"))
    table = pa.table({**{n: [v] for n, v in request.items()}, "event_time": times, **columns})
    trained = plan.matrix(table)[0].tolist()
    by_name = dict(zip(plan.names, served, strict=True))
    assert (by_name["customer_mean_30d"], by_name["amount_to_mean_30d"]) == (2.0, 4.0)
    assert math.isnan(by_name["customer_mean_7d"])
    np.testing.assert_array_equal(served, trained)
