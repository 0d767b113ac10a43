"""The models of this installation: one folder each, and nothing else knows them by name."""
