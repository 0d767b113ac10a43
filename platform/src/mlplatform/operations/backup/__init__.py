"""Backups: the state of an installation as one folder or file, taken while it runs, and
restored."""
