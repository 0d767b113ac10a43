"""The parts of a folder's `sources.py`: expected columns, refusals of rows, and reads of files.

`columns_of` and `examine_history` do all of it for files in the model's own columns. The others are
for files in columns of their own: `match_columns` finds these, `ParquetFiles` and `CsvFiles` read
them within a process of few rights, and a `Check` names each row that is not taken in.
"""

from mlplatform.learning.features.columns import (
    Check,
    ExpectedColumn,
    FileCheck,
    kept_refusals,
    match_columns,
    value_problem,
)
from mlplatform.learning.features.csv_files import CsvFiles
from mlplatform.learning.features.history_files import (
    columns_of,
    examine_history,
    matured_times,
)
from mlplatform.learning.features.input_files import (
    CSV_FILES,
    CSV_IN_FOLDERS,
    PARQUET,
    table_files,
)
from mlplatform.learning.features.parquet_files import ParquetFiles
from mlplatform.learning.features.rows import (
    in_order,
    is_missing,
    known_by,
    unique_values,
    within_bounds,
    within_calendar,
)

__all__ = [
    "CSV_FILES",
    "CSV_IN_FOLDERS",
    "PARQUET",
    "Check",
    "CsvFiles",
    "ExpectedColumn",
    "FileCheck",
    "ParquetFiles",
    "columns_of",
    "examine_history",
    "in_order",
    "is_missing",
    "kept_refusals",
    "known_by",
    "match_columns",
    "matured_times",
    "table_files",
    "unique_values",
    "value_problem",
    "within_bounds",
    "within_calendar",
]
