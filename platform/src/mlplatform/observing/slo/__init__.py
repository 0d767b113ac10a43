"""Service levels: what is promised, and the rules and alerts of Prometheus that watch over it."""
