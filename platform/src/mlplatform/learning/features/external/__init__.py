"""Features that the bank already has: tables, imported and served as snapshots are."""
