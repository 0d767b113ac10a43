"""The platform's own page: what matters, for a browser on this machine."""
