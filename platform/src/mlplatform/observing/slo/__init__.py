"""Service levels: the objectives, and the rules and alerts of Prometheus on them."""
