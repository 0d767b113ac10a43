"""Table batches: a version scores any table, one output row for each input row, in partitions that
are done once.

From the ground up: `plan` decides what is left to do, and `locations` reads where input and output
lie. `columns` and `request_rows` make requests of rows, which `input_files` and `postgres_table`
read; `sources` brings files from elsewhere, `imported_tables` those of features. `outputs` keeps
what is done. `row_features` and `row_decisions` score. `partitions` runs all of it, and `batch`
puts it together for a platform.
"""
