"""A profile is plain JSON, and its bins hold what was put into them."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlplatform.model import profile as profiles
from mlplatform.runtime.canonical import canonical_json
from mlplatform.runtime.errors import InputInvalid

RNG = np.random.default_rng(7)


def some_profile(rows: int = 2000) -> profiles.Profile:
    matrix = np.column_stack(
        [
            RNG.lognormal(3, 1, rows),
            RNG.poisson(2, rows),
            np.where(RNG.random(rows) < 0.1, np.nan, 1),
        ]
    ).astype(np.float32)
    scores = RNG.beta(1, 50, rows)
    return profiles.profile(
        matrix, ["amount", "count", "flag"], scores, scores > 0.1, RNG.integers(0, 99, rows)
    )


def test_rows_and_units_are_counted() -> None:
    made = some_profile(2000)
    assert (made.rows, made.units) == (2000, 99)


def test_continuous_input_has_ten_even_bins() -> None:
    shares = some_profile().inputs["amount"].shares
    assert shares == pytest.approx([0.1] * 10, abs=0.002)


def test_missing_values_are_counted_apart() -> None:
    column = some_profile().inputs["flag"]
    assert column.missing_share == pytest.approx(0.1, abs=0.03)
    assert sum(column.shares) == pytest.approx(1)


def test_a_constant_has_a_bin_of_its_own_between_two_empty_ones() -> None:
    assert profiles.column(np.full(100, 5.0), "x").shares == (0.0, 1.0, 0.0)


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 123456.7])
def test_last_digits_of_a_float32_do_not_move_a_value_to_another_bin(value: float) -> None:
    column = profiles.column(np.full(50, value, dtype=np.float32), "x")
    served = profiles.finite(np.array([value, np.nextafter(np.float32(value), np.float32(9e9))]))
    assert profiles.bin_counts(served, np.array(column.edges)).tolist() == [0, 2, 0]


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        np.float32,
        st.integers(1, 200),
        elements=st.floats(-1e6, 1e6, width=32) | st.sampled_from([0.0, 1.0, float("nan")]),
    )
)
def test_every_present_value_is_in_exactly_one_bin(values: np.ndarray) -> None:
    if not np.isfinite(values).any():
        with pytest.raises(InputInvalid, match="no value"):
            profiles.column(values, "x")
        return
    column = profiles.column(values, "x")
    assert sum(column.shares) == pytest.approx(1)
    assert list(column.edges) == sorted(set(column.edges))
    assert list(column.quantiles) == sorted(column.quantiles)
    canonical_json(column.quantiles)  # no NaN


def test_a_bundle_can_hold_it_as_it_is() -> None:
    made = some_profile()
    plain = json.loads(canonical_json(msgspec.to_builtins(made)))
    assert msgspec.convert(plain, profiles.Profile) == made


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputInvalid, match="names are 1"):
        profiles.profile(np.ones((3, 2)), ["a"], np.ones(3), np.ones(3, bool), np.arange(3))
    with pytest.raises(InputInvalid, match=r"\(3, 2, 3\)"):
        profiles.profile(np.ones((3, 1)), ["a"], np.ones(3), np.ones(2, bool), np.arange(3))
