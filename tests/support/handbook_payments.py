"""Generated payments as a file in the Fraud Detection Handbook's schema, which users import."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.fraud.generator import Population, generate


def write_payments(folder: Path, *, start_ms: int, days: int, population: Population) -> None:
    """Write payments.parquet into a folder that exists.

    Args:
        start_ms: event time of the first midnight.
    """
    table = generate(seed=1, start_ms=start_ms, days=days, population=population)
    rows = table.num_rows
    seconds = (table["event_time"].cast(pa.int64()).to_numpy() - start_ms * 1000) // 1_000_000
    columns = {
        "TRANSACTION_ID": pa.array(np.arange(rows, dtype=np.int64)),
        "TX_DATETIME": table["event_time"].cast(pa.timestamp("ns")),
        "CUSTOMER_ID": table["customer_id"].cast(pa.int32()),
        "TERMINAL_ID": table["terminal_id"].cast(pa.int32()),
        "TX_AMOUNT": table["amount"],
        "TX_TIME_SECONDS": pa.array(seconds.astype(np.int32)),
        "TX_TIME_DAYS": pa.array((seconds // 86_400).astype(np.int32)),
        "TX_FRAUD": table["label"],
        "TX_FRAUD_SCENARIO": table["label"],
    }
    pq.write_table(pa.table(columns), folder / "payments.parquet")
