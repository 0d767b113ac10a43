"""A model card: everything on record about one version, for people responsible for its risk."""
