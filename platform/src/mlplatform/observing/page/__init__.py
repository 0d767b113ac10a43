"""The platform's own page: what matters, read-only, for a browser on this machine."""
