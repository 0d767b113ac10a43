"""A model card: everything on record about one version, for who answers for its risk."""
