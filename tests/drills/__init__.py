"""Drills: faults on purpose, with what must still hold."""
