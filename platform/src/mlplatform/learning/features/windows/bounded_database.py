"""Databases of joins whose rows may be more than fit memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Final

import duckdb

from mlplatform.runtime.processes.memory import memory_bytes
from mlplatform.runtime.units import MIB

SHARE: Final = 0.5
"""Share of the memory of this machine or container that one join may hold; its process holds the
events and the result besides."""
LEAST_BYTES: Final = 512 * MIB


@contextmanager
def bounded_database(threads: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """An empty database in memory. What is more than `SHARE` of all memory goes to a folder, in the
    folder of temporary files, that is removed with it."""
    limit = max(int(memory_bytes() * SHARE), LEAST_BYTES)
    with TemporaryDirectory(prefix="join-") as folder:
        config = {"threads": threads, "memory_limit": f"{limit}B", "temp_directory": folder}
        with duckdb.connect(":memory:", config=config) as db:
            db.execute("SET enable_progress_bar=false")
            yield db
