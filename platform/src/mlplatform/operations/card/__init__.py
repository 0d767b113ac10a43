"""Model cards: everything on record about one version, for people responsible for its risk."""
