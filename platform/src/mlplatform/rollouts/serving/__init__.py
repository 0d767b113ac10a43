"""Which bundle versions are served, and whether they are ready: one service per version."""
