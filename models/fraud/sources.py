"""Where the fraud model's history comes from: one canonical table, generated or read from files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .generator import Population, generate
from .handbook import (
    COLUMNS,
    examine_transactions,
    read_transactions,
    with_pattern_change,
)

if TYPE_CHECKING:
    Column = pa.ChunkedArray[pa.Int64Scalar]

__all__ = [
    "COLUMNS",
    "Population",
    "examine_transactions",
    "generate",
    "read_transactions",
    "sample_customers",
    "with_pattern_change",
]


def sample_customers(table: pa.Table, share: float, *, salt: int = 0) -> pa.Table:
    """The payments of a share of the customers; who is in it depends on the id and salt alone.

    Customers stay whole, so that their features are those of the full table. Terminals see
    correspondingly fewer payments.

    Args:
        share: 0 to 1; a larger share holds everybody of a smaller one.
    """
    return table.filter(pa.array(customer_hash(table.column("customer_id"), salt) < share))


def customer_hash(customers: Column, salt: int) -> NDArray[np.float64]:
    """For each id a number from 0 to 1 (exclusive), the same wherever the id occurs.

    Source: the finalizer of SplitMix64 (Steele, Lea, Flood 2014).
    """
    mixed = customers.to_numpy().astype(np.uint64) + np.uint64(salt)
    with np.errstate(over="ignore"):
        mixed = (mixed + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53
