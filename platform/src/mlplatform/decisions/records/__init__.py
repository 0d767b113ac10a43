"""The record of the decision log, the log's port, and its tables."""
