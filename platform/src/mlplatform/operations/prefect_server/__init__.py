"""Prefect's server behind its gate, the flows that it serves, and the runs that it starts."""
