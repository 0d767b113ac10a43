"""Requests of the last days in the log, decided again by another version."""
